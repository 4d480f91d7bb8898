"""`triptych replay-decisions`: does a recorded run replay exactly?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from services.cli.output import EXIT_FAILED, EXIT_OK, Output
from services.cluster.replay import replay_file
from services.core.errors import StartupError


def show_replay(output: Output, logs: Sequence[Path], as_json: bool) -> int:
    """Replay each log and print what was found.

    Raises:
        StartupError: a file is missing or is no decision log.
    """
    rows = []
    for path in logs:
        try:
            result = replay_file(path)
        except (OSError, ValueError, KeyError, StopIteration) as error:
            raise StartupError(f"{path}: not a decision log that this version reads ({error})") from error
        rows.append({"log": str(path), **dataclasses.asdict(result)})
    if as_json:
        output.json(rows)
    for row in [] if as_json else rows:
        found = row["mismatch"]
        verdict = "matches" if found is None else f"MISMATCH in {found['what']} at entry {found['sequence']}"
        output.line(f"{row['log']}: {row['entries']} entries, {row['decisions']} decisions, {verdict}")
        if found is not None:
            output.line(f"  recorded {found['recorded']}\n  replayed {found['replayed']}")
    return EXIT_FAILED if any(row["mismatch"] for row in rows) else EXIT_OK
