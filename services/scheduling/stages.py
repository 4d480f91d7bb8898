"""What a worker's core hosts: a stage for each phase of requests, and the encoder's steps beside the scheduler's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.core.actions import Action, Submit
from services.core.batch import ScheduledBatch, StepOutput
from services.core.output import StepTokens
from services.core.request import Request
from services.kvcache.transfer_entry import Notice
from services.scheduling.progress import Admitted, Sampled, Stepping

ENCODE, PREFILL, DECODE = "encode", "prefill", "decode"
IMAGES = "/images-"
"""In the name of a transfer of embeddings (`transfer_id_of`)."""

StageEvent = Submit | Admitted | Stepping | Notice


class Stage(Protocol):
    """What a worker does for one phase of requests; two stages on one worker share its blocks and its scheduler."""

    def handle(self, now: int, event: StageEvent) -> list[Action]:
        """Take a new request, progress of one, or news of a hand-off."""

    def advance(
        self, now: int, sampled: Sequence[Sampled], plain: tuple[str, StepTokens] | None = None
    ) -> list[Action]:
        """A step ended: the tokens of this stage's requests; `plain`: a front door, and those that only go out."""

    def pump(self, now: int) -> list[Action]:
        """Called before every step is scheduled: take in what there is room for."""

    def drop(self, request_id: str) -> Request | None:
        """Forget a request that is over; the request if this stage held it outside the scheduler."""

    def held(self) -> list[Request]:
        """Requests that this stage holds outside the scheduler."""

    def find(self, request_id: str) -> Request | None:
        """One of them."""

    def pressure(self) -> tuple[int, str]:
        """Requests that wait outside the scheduler to be taken in, and why the oldest of them waits ("": none does)."""

    def counts(self) -> Mapping[str, int]:
        """How often something was held back, by `kind/reason`."""

    def owners(self) -> list[list[int]]:
        """The block references that this stage holds itself, for `BlockManager.check`."""

    def state(self) -> object:
        """Declared state as plain values."""


class Encoder(Stage, Protocol):
    """The encode stage: its steps are its own, and one step of a worker runs at a time."""

    @property
    def step_running(self) -> bool:
        """A step was handed out and has not come back."""

    @property
    def queued_tokens(self) -> int:
        """Embedding tokens to compute."""

    def schedule(self, step_id: int) -> ScheduledBatch | None:
        """The next step's images; None when nothing waits, or nothing has room."""

    def complete(self, now: int, output: StepOutput) -> list[Action]:
        """Its step ended."""
