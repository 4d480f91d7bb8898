"""`triptych profile`: what steps and hand-offs cost on this machine, as `triptych simulate --profile` takes it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import yaml

from services.cli.calibrate import fit_host
from services.cli.measure_door import around_steps
from services.cli.output import EXIT_OK, Output
from services.cli.settings import state_folder
from services.cluster.config import ClusterConfig
from services.core.clock import WallClock
from services.core.config import CostConfig, parse
from services.sim.config import DelaysConfig
from services.sim.fit import Fit, fit_ms

POOL_TOKENS = 8 * (768 + 64)
"""KV of the largest shape that is measured."""
OTHER_DELAYS_MS = DelaysConfig().dispatch_ms + DelaysConfig().stream_ms
"""Of an answer's fixed time, what is not the front door's."""
STAGES = ("prefill", "decode", "transfer")
NAMES = {
    "prefill": ("prefill_ms", "prefill_token_ms", "prefill_pair_ms"),
    "decode": ("decode_step_ms", "decode_row_ms", "decode_context_ms"),
    "transfer": ("transfer_ms", "transfer_token_ms"),
}


def measure(output: Output, config: ClusterConfig, path: Path, repeats: int, server: str | None, as_json: bool) -> int:
    """Measure with the configured model, dtype and threads; write and print the profile.

    Args:
        server: HTTP address of a running, idle cluster of the same configuration; what surrounds steps is measured.

    Raises:
        TriptychError: the model cannot be loaded, the machine cannot run it, or the cluster does not answer.
    """
    fits, host = _measured(output, config, repeats, alone=server is None)
    profile: dict[str, Any] = {
        name: round(value, 9)
        for stage in STAGES
        for name, value in zip(NAMES[stage], fits[stage].coefficients, strict=True)
    }
    if server is not None:
        around = around_steps(server, parse(CostConfig, profile, "profile"), output.note)
        profile["delays"] = {"door_ms": round(max(0.0, around.fixed_ms - OTHER_DELAYS_MS), 3)}
        host |= around.host
        output.note("what they saw, simulated")
        host |= fit_host(config, profile | {"host": host}, around.lived)
    profile["host"] = {name: round(value, 3) for name, value in host.items()}
    profile["measured"] = {
        "model": config.model.path,
        "dtype": config.model.dtype,
        "threads": {"prefill": config.pools.prefill.threads, "decode": config.pools.decode.threads},
        "machine": platform.processor() or platform.machine(),
        "residuals": {
            stage: {
                "median_error": round(fit.median_error, 4),
                "worst_error": round(fit.worst_error, 4),
                "measurements": fit.points,
            }
            for stage, fit in fits.items()
        },
    }
    path.write_text(yaml.safe_dump(profile, sort_keys=False))
    if as_json:
        output.json(profile)
        return EXIT_OK
    for stage, fit in fits.items():
        output.line(
            f"{stage}: {fit.points} shapes, error {fit.median_error:.1%} in the median, {fit.worst_error:.1%} at worst"
        )
    output.line("host: " + ", ".join(f"{name} {value:g}" for name, value in profile["host"].items()))
    output.line(f"profile: {path}; use it with `triptych simulate --profile {path}`")
    return EXIT_OK


def _measured(
    output: Output, config: ClusterConfig, repeats: int, alone: bool
) -> tuple[dict[str, Fit], dict[str, float]]:
    """Fits of steps and hand-offs, and what sharing the host's cores costs.

    Args:
        alone: no cluster will tell how its workers slow each other; two bare processes do.
    """
    from services.engine.checkpoint import prepare_model, read_shape  # torch takes seconds
    from services.engine.measure import decode_times, lent_speedup, prefill_times, waking
    from services.engine.measure_beside import ModelPlace, slowdowns
    from services.engine.measure_link import BLOCKS, transfer_times
    from services.engine.model_runner import load_runner

    folder = prepare_model(config.model.path, state_folder(config) / "models")
    dtype, size, shape = config.model.dtype, config.cache.block_size_tokens, read_shape(folder)
    pool_bytes = POOL_TOKENS * shape.kv_bytes_per_token(dtype)
    threads, cores = config.pools.decode.threads, len(os.sched_getaffinity(0))
    runner = load_runner(folder, dtype, pool_bytes, size, config.pools.prefill.threads)
    fits = {"prefill": fit_ms(list(prefill_times(runner, repeats, output.note)))}
    runner.set_threads(threads)
    fits["decode"] = fit_ms(list(decode_times(runner, repeats, output.note)))
    slower, first_ms = waking(runner, output.note)
    host = {
        "cores": cores,
        "wake_slowdown": slower,
        "wake_ms": first_ms,
        "lent_speedup": 1.0,
        "prefill_slowdown": 1.0,
        "decode_slowdown": 1.0,
    }
    if cores > threads:
        host["lent_speedup"] = lent_speedup(runner, threads, cores, output.note)
    if alone and cores > threads:
        place = ModelPlace(folder, dtype, pool_bytes, size, threads)
        host["prefill_slowdown"], host["decode_slowdown"] = slowdowns(runner, place, output.note)
    sizes = {
        "num_layers": shape.num_layers,
        "num_blocks": max(BLOCKS),
        "num_kv_heads": shape.kv_heads,
        "block_size": size,
        "head_dim": shape.head_dim,
        "dtype": runner.pool.dtype,
    }
    del runner
    fits["transfer"] = fit_ms(list(transfer_times(sizes, repeats, WallClock(), output.note)))
    return fits, host
