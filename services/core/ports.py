"""The small protocols through which everything outside is reached, and the one shape of every state machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.core.actions import Action, Event
from services.core.batch import ScheduledBatch, StepOutput
from services.core.peer import LinkKey


class Machine(Protocol):
    """A state machine: pure, synchronous, replayable."""

    def handle(self, now: int, event: Event) -> list[Action]:
        """Change state for `event` at monotonic time `now` (ns) and return what is to be done, in order."""

    def next_wake(self) -> int | None:
        """The time (ns) at which a Tick is wanted, or None."""

    def state(self) -> object:
        """All declared state as plain values (dicts, lists, numbers, strings), for the decision log's digest."""

    def check(self) -> None:
        """Assert every invariant."""


class Runner(Protocol):
    """The torch side of a worker. Called from its one step thread."""

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """Compute KV for every row's tokens, then sample where asked. Blocking.

        Never raises for a bad batch: the reason comes back in `StepOutput.error`.

        Raises:
            RunnerLost: no step can be run any more.
        """


class KvPool(Protocol):
    """Paged KV memory as a link sees it: blocks of one worker, cut into layer groups."""

    @property
    def num_layer_groups(self) -> int:
        """Pieces that one block range is sent in."""


class KvLink(Protocol):
    """One end of a 2-rank group. All calls block and are made by the link's own thread, but `abort`."""

    @property
    def key(self) -> LinkKey:
        """Which group this is."""

    def open(self, timeout_s: float) -> None:
        """Meet the other end.

        Raises:
            LinkError: the peer did not come, or its store is gone.
        """

    def send(
        self,
        transfer_id: str,
        attempt: int,
        part: int,
        blocks: Sequence[int],
        timeout_s: float,
        step_id: int | None = None,
    ) -> None:
        """Send blocks of the pool; with `step_id`, each layer group once that step has computed it.

        Raises:
            LinkError: the group is unusable from here on.
        """

    def receive(self, transfer_id: str, attempt: int, part: int, blocks: Sequence[int], timeout_s: float) -> None:
        """Receive into blocks of the pool; nothing is written unless header and checksum agree.

        `DISCARD` in place of a block id takes the block off the link and drops it.

        Raises:
            ChecksumError: the bytes are wrong but the group still works.
            LinkError: the group is unusable from here on.
        """

    def abort(self) -> None:
        """Break the group from any thread; a blocked call ends with LinkError. Idempotent."""


class RunnerLost(Exception):
    """The runner cannot go on, because a part of it in another process is gone; the worker must end. Says why."""


class LinkError(Exception):
    """A link operation failed and the group cannot be used again; the message says why."""


class ChecksumError(Exception):
    """Received bytes do not match their checksum."""
