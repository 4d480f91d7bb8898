"""Faults on purpose, for tests: a named point in a request's life and what goes wrong there (protocol section 10)."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass

from services.core.errors import ConfigError

POINTS = ("sending", "receiving", "offered", "granted", "committed", "released", "aborted", "token", "step", "probing")
FAULTS = ("kill", "stop", "stall", "drop", "corrupt", "store-death")
KEY = "testing.fault"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: where, at which value of the point, and what."""

    point: str
    value: int | None
    what: str
    seconds: float


def parse_fault(spec: str) -> tuple[Fault, str | None]:
    """`<point>[=<n>]:<fault>[=<seconds>][@<worker id>]` as a fault and the worker it is for; only a stall has seconds.

    Raises:
        ConfigError: what is wrong, and the known words.
    """
    text, _, worker = spec.partition("@")
    at, _, what = text.partition(":")
    point, _, value = at.partition("=")
    name, _, seconds = what.partition("=")
    if point not in POINTS or not what:
        raise ConfigError(KEY, spec, f"name a point, one of {', '.join(POINTS)}, then ':' and a fault")
    if name not in FAULTS:
        raise ConfigError(KEY, spec, f"name a fault, one of {', '.join(FAULTS)}")
    if (name == "stall") != bool(seconds):
        raise ConfigError(KEY, spec, "write `stall=<seconds>`; no other fault has a number")
    try:
        return Fault(point, int(value) if value else None, name, float(seconds or 0.0)), worker or None
    except ValueError:
        raise ConfigError(KEY, spec, "what stands after '=' is not a number") from None


class Faults:
    """The fault of one worker; fires once.

    Args:
        worker_id: faults for other workers are ignored.
        spec: from the configuration, or None.
        enabled: `testing.enabled`.
    """

    def __init__(self, worker_id: str, spec: str | None, enabled: bool) -> None:
        self._worker_id = worker_id
        self._enabled = enabled
        self._lock = threading.Lock()
        self._armed: Fault | None = None
        if spec is not None:
            self.arm(spec)

    def arm(self, spec: str) -> None:
        """Set the fault that fires next.

        Raises:
            ConfigError: faults are not enabled, or the spec is wrong.
        """
        if not self._enabled:
            raise ConfigError(KEY, spec, "faults are refused; set testing.enabled to true")
        fault, worker = parse_fault(spec)
        if worker is None or worker == self._worker_id:
            with self._lock:
                self._armed = fault

    def hit(self, point: str, value: int | None = None) -> str | None:
        """Pass a point, from any thread; an armed fault fires once.

        Kill, stop and stall happen here. Of the others the name is returned: the caller performs them.
        """
        if self._armed is None:  # this is passed for every token
            return None
        with self._lock:
            fault = self._armed
            if fault is None or fault.point != point or fault.value not in (None, value):
                return None
            self._armed = None
        if fault.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.what == "stall":
            threading.Event().wait(fault.seconds)
        else:
            return fault.what
        return None
