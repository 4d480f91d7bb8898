"""What a front door and a worker say to each other on their connection (protocol section 6)."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.actions import Cancel, WorkerReport
from services.core.output import Output
from services.core.request import Request, WorkerRef

OTHERS_TOLD_S = 0.02
"""A dispatch of one front door is load that the others place by: they hear of it so soon, not at their next report."""

# --- a front door says ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The first message: which process is meant, who speaks, and from which item on it wants to be told."""

    to: WorkerRef
    front_door: str
    incarnation: int
    from_sequence: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The front door lives, and has every item up to `sequence`."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A request for the worker.

    Attributes:
        sequence: number of this dispatch among all of this front door to this worker process, from 1.
        budget_ms: what is left until the client's deadline; None: there is none.
    """

    sequence: int
    request: Request
    budget_ms: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """Something the worker must do, and answers.

    Attributes:
        number: grows with every call of this front door process; a call that is said again keeps it.
    """

    number: int
    body: Dispatched | Cancel


# --- a worker says ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """The call of that number was taken; `error` is "" unless the worker failed on it."""

    number: int
    error: str


@dataclass(frozen=True, slots=True)
class StreamItem:
    """One item of a subscription: everything a worker has to say to one front door at one moment.

    Attributes:
        subscription: id of this opening of the stream.
        sequence: counts items of the front door's subscription from 1 across re-openings.
        sent_ns: the worker's monotonic clock when the item was made; the marks in `outputs` are of the same clock.
        pid: the worker's process id.
        report: state of the worker, when there is news or the report period passed.
        outputs: new tokens and ends of this front door's requests.
        clock_domain: processes of which the worker's monotonic clock is shared; 0: unknown.
    """

    subscription: str
    sequence: int
    sent_ns: int
    worker: WorkerRef
    pid: int
    report: WorkerReport | None
    outputs: tuple[Output, ...]
    clock_domain: int = 0
