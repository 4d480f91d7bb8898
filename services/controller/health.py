"""Who is alive: heartbeats of one worker, and how long its next restart has to wait."""

from __future__ import annotations

from dataclasses import dataclass

from services.controller.config import ControllerConfig
from services.core.clock import NS_PER_S


@dataclass(slots=True)
class Health:
    """One worker id's record across its restarts.

    Attributes:
        live_since_ns: when the present process became live.
        heard_ns: last sign of life of the present process.
        failures: losses in a row; a process that lived long enough clears them.
    """

    live_since_ns: int = 0
    heard_ns: int = 0
    failures: int = 0

    def started(self, now: int) -> None:
        """A process of this worker became live."""
        self.live_since_ns = self.heard_ns = now

    def heard(self, now: int) -> None:
        """The process answered a heartbeat."""
        self.heard_ns = now

    def silent_at(self, config: ControllerConfig) -> int:
        """The time (ns) from which the process counts as silent."""
        return self.heard_ns + int(config.ping_timeout_s * NS_PER_S)

    def lost(self, now: int, was_live: bool, config: ControllerConfig) -> int:
        """Count a loss.

        Returns:
            The time (ns) of the next launch: at once after the first loss, then after a wait that doubles.
        """
        longest = int(config.restart_backoff_max_s * NS_PER_S)
        if was_live and now - self.live_since_ns >= longest:
            self.failures = 0
        self.failures += 1
        if self.failures == 1:
            return now
        # Capped before it is scaled: a worker that fails for days must not raise 2 to the thousands.
        doublings = min(self.failures - 2, 32)
        return now + min(int(config.restart_backoff_s * NS_PER_S) << doublings, longest)
