"""Opens traces of any known format: rows in order of arrival, and a count of everything that was not a row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from loadgen.formats import CSV_FORMATS, JSON_FORMATS, BadRow, Fields, Format
from loadgen.session_files import DAMAGED, is_session_file, read_sessions
from services.core.clock import NS_PER_S
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow

NAMES = (*(each.name for each in (*CSV_FORMATS, *JSON_FORMATS)), "weka", "otel")
MAX_LINE_CHARS = 16 << 20
TEXTS = "texts left out"
"""Rows that carry a text: replayed as a trace, only its length counts."""


class Trace:
    """A trace file, or a folder or tar of session files; each iteration reads it anew, row by row.

    Args:
        path: of the file; `.gz` and `.xz` are unpacked on the way.
        name: of the format; None finds it by the columns.

    Attributes:
        format: name of the format.
        counts: of the last iteration: `read`, `kept`, and `dropped: <reason>`; read = kept + dropped.
        first: of the last iteration: for each reason the first row that was dropped for it, from 1; not of sessions.

    Raises:
        ConfigError: there is no such file, or it has the columns of no known format.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        if name is not None and name not in NAMES:
            raise ConfigError("--format", name, f"is not known; use one of {', '.join(NAMES)}")
        if not path.exists():
            raise ConfigError("--trace", str(path), "is not there")
        self._path = path
        self.counts: Counter[str] = Counter()
        self.first: dict[str, int] = {}
        self._sessions = path.is_dir() or is_session_file(path)
        self._format: Format | None = None
        if not self._sessions:
            self._format = self._detect(name)
        self.format = self._format.name if self._format is not None else "sessions"

    def __iter__(self) -> Iterator[WorkloadRow]:
        """Rows with arrivals relative to the first one."""
        self.counts, self.first = Counter(), {}
        fields = read_sessions(self._path, self.counts) if self._sessions else self._records()
        first: int | None = None
        last = 0
        sessions = _Sessions()
        for at, values in fields:
            if first is not None and at < last:
                self._drop("unsorted")
                continue
            first = at if first is None else first
            last = at
            self.counts["kept"] += 1
            yield sessions.row((at - first) / NS_PER_S, values)

    def summary(self) -> str:
        """The counts as a sentence."""
        dropped = {key.partition(": ")[2]: count for key, count in self.counts.items() if key.startswith("dropped")}
        first = {reason: f" (first: row {row})" for reason, row in self.first.items()}
        reasons = ", ".join(f"{count} {reason}{first.get(reason, '')}" for reason, count in sorted(dropped.items()))
        return f"{self.counts['read']} rows read, {self.counts['kept']} kept" + (
            f"; dropped: {reasons}" if dropped else ""
        )

    def _records(self) -> Iterator[Fields]:
        assert self._format is not None
        for record in self._raw():
            self.counts["read"] += 1
            try:
                if isinstance(record, str):
                    raise BadRow(record)
                yield self._format.parse(record)
                if "prompt" in record:
                    self.counts[TEXTS] += 1
            except BadRow as reason:
                self._drop(str(reason))

    def _drop(self, reason: str) -> None:
        self.counts[f"dropped: {reason}"] += 1
        if not self._sessions:
            self.first.setdefault(reason, self.counts["read"])

    def _raw(self) -> Iterator[dict[str, Any] | str]:
        """Records; text in place of one says why it is none."""
        try:
            with open_text(self._path) as lines:
                yield from (_csv_records if self._format in CSV_FORMATS else _json_records)(lines)
        except DAMAGED as error:
            yield f"damaged file ({type(error).__name__})"

    def _detect(self, name: str | None) -> Format:
        try:
            with open_text(self._path) as lines:
                head = lines.readline(MAX_LINE_CHARS)
        except DAMAGED as error:
            raise ConfigError("--trace", str(self._path), f"cannot be read: {error}") from None
        if head.lstrip().startswith("{"):
            record = _json(head)
            found, formats = (set(record) if isinstance(record, dict) else set()), JSON_FORMATS
        else:
            found, formats = set(_header(head)), CSV_FORMATS
        for each in formats:
            if each.columns <= found and name in (None, each.name):
                return each
        known = "; ".join(f"{each.name}: {', '.join(sorted(each.columns))}" for each in (*CSV_FORMATS, *JSON_FORMATS))
        asked = "no known format has these columns" if name is None else f"these are not the columns of {name}"
        raise ConfigError("--trace", f"{self._path}: {', '.join(sorted(found))[:200]}", f"{asked}; known are {known}")


class _Sessions:
    """What a row's place in its conversation says about it: turns, and pauses that the row before told of."""

    def __init__(self) -> None:
        self._turns: Counter[str] = Counter()
        self._waits: dict[str, float] = {}
        self._roots: dict[str, str] = {}

    def row(self, arrival_s: float, values: dict[str, Any]) -> WorkloadRow:
        values = dict(values)
        parent = values.pop("parent", None)
        wait_after = values.pop("wait_after_s", None)
        session = values.get("session", "")
        if parent is not None:  # a turn names the turn before; the first of a conversation names it all
            values["session"] = self._roots[session] = session = self._roots.get(parent, parent)
        if session and "turn" not in values:
            values["turn"] = self._turns[session]
        if session:
            self._turns[session] += 1
        if wait_after is not None:
            values["think_s"] = self._waits.get(session) if values.get("turn") else None
            self._waits[session] = wait_after
        return WorkloadRow(arrival_s, **values)


def open_text(path: Path) -> IO[str]:
    """A text file, unpacked where its name says so; bytes that are no UTF-8 become replacement characters."""
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    return io.TextIOWrapper(opener(path, "rb"), encoding="utf-8", errors="replace", newline="")


def _header(line: str) -> list[str]:
    """Names of columns; none where the line is no CSV."""
    try:
        return [each.strip() for each in next(csv.reader([line]), [])]
    except csv.Error:
        return []


def _csv_records(lines: IO[str]) -> Iterator[dict[str, Any] | str]:
    header = _header(lines.readline(MAX_LINE_CHARS))
    rows = csv.reader(lines)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield "not CSV"
            continue
        if row:
            yield dict(zip(header, row, strict=True)) if len(row) == len(header) else "wrong number of columns"


def _json_records(lines: IO[str]) -> Iterator[dict[str, Any] | str]:
    while line := lines.readline(MAX_LINE_CHARS):
        if line.strip():
            record = _json(line)
            yield record if isinstance(record, dict) else "not a JSON object"


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
