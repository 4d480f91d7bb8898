"""`triptych profile`: what steps and hand-offs cost on this machine, as `triptych simulate --profile` takes it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import yaml

from services.cli.output import EXIT_OK, Output
from services.cli.settings import state_folder
from services.cluster.config import ClusterConfig
from services.core.clock import WallClock
from services.sim.fit import Fit, fit_ms

POOL_TOKENS = 8 * (768 + 64)
"""KV of the largest shape that is measured."""


def measure(output: Output, config: ClusterConfig, path: Path, repeats: int, as_json: bool) -> int:
    """Measure with the configured model, dtype and threads; write and print the profile.

    Raises:
        TriptychError: the model cannot be loaded, or the machine cannot run it.
    """
    prefill, decode, transfer = _measured(output, config, repeats)
    names = (
        ("prefill_ms", "prefill_token_ms", "prefill_pair_ms"),
        ("decode_step_ms", "decode_row_ms", "decode_context_ms"),
        ("transfer_ms", "transfer_token_ms"),
    )
    fits = (prefill, decode, transfer)
    profile: dict[str, Any] = {
        name: round(value, 9)
        for each, fit in zip(names, fits, strict=True)
        for name, value in zip(each, fit.coefficients, strict=True)
    }
    profile["measured"] = {
        "model": config.model.path,
        "dtype": config.model.dtype,
        "threads": {"prefill": config.pools.prefill.threads, "decode": config.pools.decode.threads},
        "machine": platform.processor() or platform.machine(),
        "residuals": {
            name: {
                "median_error": round(fit.median_error, 4),
                "worst_error": round(fit.worst_error, 4),
                "measurements": fit.points,
            }
            for name, fit in zip(("prefill", "decode", "transfer"), fits, strict=True)
        },
    }
    path.write_text(yaml.safe_dump(profile, sort_keys=False))
    if as_json:
        output.json(profile)
        return EXIT_OK
    for name, fit in zip(("prefill", "decode", "transfer"), fits, strict=True):
        output.line(
            f"{name}: {fit.points} shapes, error {fit.median_error:.1%} in the median, {fit.worst_error:.1%} at worst"
        )
    output.line(f"profile: {path}; use it with `triptych simulate --profile {path}`")
    return EXIT_OK


def _measured(output: Output, config: ClusterConfig, repeats: int) -> tuple[Fit, Fit, Fit]:
    from services.engine.checkpoint import prepare_model, read_shape  # torch takes seconds
    from services.engine.measure import decode_times, prefill_times
    from services.engine.measure_link import BLOCKS, transfer_times
    from services.engine.model_runner import load_runner

    folder = prepare_model(config.model.path, state_folder(config) / "models")
    dtype, size, shape = config.model.dtype, config.cache.block_size_tokens, read_shape(folder)
    token_bytes = shape.kv_bytes_per_token(dtype)
    runner = load_runner(folder, dtype, POOL_TOKENS * token_bytes, size, config.pools.prefill.threads)
    prefill = fit_ms(list(prefill_times(runner, repeats, output.note)))
    runner.set_threads(config.pools.decode.threads)
    decode = fit_ms(list(decode_times(runner, repeats, output.note)))
    sizes = {
        "num_layers": shape.num_layers,
        "num_blocks": max(BLOCKS),
        "num_kv_heads": shape.kv_heads,
        "block_size": size,
        "head_dim": shape.head_dim,
        "dtype": runner.pool.dtype,
    }
    del runner
    return prefill, decode, fit_ms(list(transfer_times(sizes, repeats, WallClock(), output.note)))
