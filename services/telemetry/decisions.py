"""Files of decision logs: one a machine and process, written line by line."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO


def open_log(folder: Path, name: str) -> TextIO:
    """A new log file; a killed process leaves at most its last line cut."""
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{name}.jsonl").open("w", buffering=1, encoding="utf-8")
