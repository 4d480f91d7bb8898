"""`triptych plan` as a subprocess: the port through which a running cluster asks for a plan."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.controller.replan.config import ReplanConfig
from services.controller.replan.machine import MakePlan, Planned
from services.core.wire import TrafficRow

SOURCE = "planner"


@dataclass(frozen=True, slots=True)
class PlanCommand:
    """Runs the planner on what was seen.

    Attributes:
        model: name of the planner's table, or folder of a model.
        ranks: tensor ranks by pool that run now; only replicas can be changed without a restart.
    """

    config: ReplanConfig
    model: str
    ranks: Mapping[str, int]

    async def plan(self, ask: MakePlan) -> Planned:
        """The plan, or why there is none; never raises for what the planner says."""
        with tempfile.TemporaryDirectory(prefix="triptych-replan-") as folder:
            trace = Path(folder) / "trace.jsonl"
            await asyncio.to_thread(write_trace, trace, ask.rows)
            process = await asyncio.create_subprocess_exec(
                *self.command(trace, Path(folder) / "planned", ask.rate),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    out, said = await process.communicate()
            except TimeoutError:
                return Planned(SOURCE, (), f"no plan within {self.config.timeout_s:g} s")
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if process.returncode:
            lines = said.decode(errors="replace").strip().splitlines()
            return Planned(SOURCE, (), f"no plan: {lines[-1] if lines else f'status {process.returncode}'}")
        return self.read(json.loads(out))

    def command(self, trace: Path, folder: Path, rate: float) -> list[str]:
        """What is run."""
        config = self.config
        return [
            *(sys.executable, "-m", "services.cli", "plan", "--json", "--processes", "1"),
            *("--model", self.model, "--hardware", str(config.hardware), "--slo", str(config.slo)),
            *("--trace", str(trace), "--objective", config.objective, "--rate", f"{rate:g}"),
            *("--requests", str(config.requests), "--out", str(folder)),
        ]

    def read(self, document: Mapping[str, Any]) -> Planned:
        """What a plan asks of the pools that run: the best placement that other numbers of workers reach.

        Placements come best first. Nothing, and why the winner is out of reach, where scaling reaches none.
        """
        winner = document["winner"]
        why = self._out_of_reach(winner)
        for each in (winner, *document.get("placements", ())):
            if not self._out_of_reach(each):
                wanted = tuple((pool["role"], pool["replicas"] * each["copies"]) for pool in each["pools"])
                better = f"; a restart would allow {words(winner)}, {why}" if why else ""
                return Planned(SOURCE, wanted, words(each) + better)
        return Planned(SOURCE, (), f"best is {words(winner)}, {why}")

    def _out_of_reach(self, placement: Mapping[str, Any]) -> str:
        """Why a running cluster cannot become it; "" when scaling its pools is enough."""
        pools = {pool["role"]: pool for pool in placement["pools"]}
        if pools.keys() != self.ranks.keys():
            return f"which is {placement['kind']}: other pools would have to be started for it"
        other = [role for role, pool in pools.items() if (pool["tp"], pool["pp"]) != (self.ranks[role], 1)]
        return f"whose {' and '.join(other)} ranks need a restart" if other else ""


def words(placement: Mapping[str, Any]) -> str:
    """A placement's workers."""
    return ", ".join(
        f"{pool['replicas'] * placement['copies']} {pool['role']} {pool['device']} tp{pool['tp']}"
        for pool in placement["pools"]
    )


def write_trace(path: Path, rows: Sequence[TrafficRow]) -> None:
    """Rows as a workload file; times count from the first."""
    rows = sorted(rows)
    with path.open("w", encoding="utf-8") as file:
        for unix_ms, inputs, outputs in rows:
            row = {"arrival_s": (unix_ms - rows[0][0]) / 1e3, "input_tokens": inputs, "output_tokens": outputs}
            file.write(json.dumps(row) + "\n")
