"""Structured logs: every line says which process wrote it, and for which request where there is one.

Prompts, outputs, API keys and tokens are never logged: call sites give ids, counts and reasons.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TextIO

from services.telemetry.config import TelemetryConfig

ROOT = "services"
"""Parent of every logger of ours; what libraries log stays with them."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(
    config: TelemetryConfig,
    role: str,
    process: str,
    stream: TextIO | None = None,
    context: Callable[[], Mapping[str, object]] = dict,
) -> None:
    """Write this process's log lines to a stream; a second call replaces the first.

    Args:
        role: what the process is: `prefill`, `decode`, `frontdoor`, `controller`.
        process: its name: a worker id, a front door's id.
        stream: stderr when it is None, which Ray keeps in its log folder.
        context: fields of whatever the running task does, as its request id; a call's own fields win.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter((JsonLines if config.log_format == "json" else HumanLines)(role, process, context))
    logger = logging.getLogger(ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(config.log_level.upper())
    logger.propagate = False


class _Lines(logging.Formatter):
    """What both formats know of a record."""

    def __init__(self, role: str, process: str, context: Callable[[], Mapping[str, object]]) -> None:
        super().__init__()
        self._context = context
        self._role = role
        self._process = process

    def _time(self, record: logging.LogRecord) -> str:
        """RFC 3339, UTC, milliseconds."""
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _extra(self, record: logging.LogRecord) -> dict[str, object]:
        """Fields of the running task, and those that the call site gave with `extra=`."""
        # Libraries put fields of their own into every record, as Ray its time; they begin with "_".
        known = {key: value for key, value in vars(record).items() if key not in _STANDARD and not key.startswith("_")}
        given = {key: value for key, value in known.items() if value is not None}
        return {**self._context(), **given}


class JsonLines(_Lines):
    """One JSON object a line: time, level, role, worker, logger, message, the call's fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, object] = {
            "time": self._time(record),
            "level": record.levelname.lower(),
            "role": self._role,
            "worker": self._process,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            **self._extra(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


class HumanLines(_Lines):
    """Time, level, process, message, then the call's fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and an exception below it."""
        extra = "".join(f" {key}={value}" for key, value in self._extra(record).items())
        name = self._process if self._role in self._process else f"{self._process} ({self._role})"
        line = f"{self._time(record)} {record.levelname.lower():<7} {name}: {record.getMessage()}{extra}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
