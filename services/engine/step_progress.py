"""How far the running step is, for links that send its KV layer by layer."""

from __future__ import annotations

import threading
from collections import deque

from services.core.ports import LinkError

REMEMBERED_FAILURES = 64


class StepProgress:
    """Layers of the running step whose KV is in the pool. Written by the step thread, awaited by link threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._step_id = 0
        self._layers = 0
        self._ended = 0
        self._failed: deque[int] = deque(maxlen=REMEMBERED_FAILURES)

    def begin(self, step_id: int) -> None:
        """A step starts; ids ascend."""
        with self._changed:
            self._step_id, self._layers = step_id, 0

    def layers_done(self, count: int) -> None:
        """The KV of the first `count` layers is written."""
        with self._changed:
            self._layers = count
            self._changed.notify_all()

    def end(self, ok: bool) -> None:
        """The step is over; when not `ok`, its KV does not count as written."""
        with self._changed:
            self._ended = self._step_id
            if not ok:
                self._failed.append(self._step_id)
            self._changed.notify_all()

    def wait(self, step_id: int, layers: int, timeout_s: float) -> None:
        """Wait until `step_id` has written its first `layers` layers.

        Raises:
            LinkError: the step failed, or the time is up.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._reached(step_id, layers), timeout_s):
                raise LinkError(f"step {step_id} did not reach layer {layers} in time")
            if step_id in self._failed:
                raise LinkError(f"step {step_id} failed")

    def _reached(self, step_id: int, layers: int) -> bool:
        return self._ended >= step_id or (self._step_id == step_id and self._layers >= layers)
