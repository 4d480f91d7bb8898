"""The inner protocol: every event a state machine may be told and every action it may ask for.

Events carry a `source`: the name of the process or part that saw them. What comes from another worker carries that
worker's incarnation and a sequence number. Times in events and actions are durations or this process's `now`.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.core.batch import ScheduledBatch, StepOutput
from services.core.lookup import CacheResult, LookupCache, StoreCache
from services.core.output import Output
from services.core.output import RequestOutput as RequestOutput
from services.core.peer import LinkKey, PeerBody
from services.core.peer import LinkRole as LinkRole
from services.core.quick import quick
from services.core.request import FinishReason, Request, WorkerRef
from services.core.worker_report import WorkerReport as WorkerReport

# --- events -----------------------------------------------------------------------------------------------------


@quick
@dataclass(frozen=True, slots=True)
class Submit:
    """A request arrived; `deadline_ns` is the client's deadline on this process's clock; `cached`: ask the cache."""

    source: str
    request: Request
    deadline_ns: int | None = None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a request and release everything it holds; attempts above `attempt` are left alone unless it is None."""

    source: str
    request_id: str
    finish: FinishReason
    reason: str
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; leases, deadlines and heartbeats are looked at."""

    source: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """The runner finished a step."""

    source: str
    output: StepOutput


@quick
@dataclass(frozen=True, slots=True)
class PeerMessage:
    """A message of another worker about a transfer."""

    source: WorkerRef
    sequence: int
    body: PeerBody


@quick
@dataclass(frozen=True, slots=True)
class SendDone:
    """A posted send ended; `error` is "" on success."""

    source: str
    link: LinkKey
    transfer_id: str
    attempt: int
    part: int
    error: str


@quick
@dataclass(frozen=True, slots=True)
class ReceiveDone:
    """A posted receive ended; `error` is "" when the data were checked and written to the reserved blocks."""

    source: str
    link: LinkKey
    transfer_id: str
    attempt: int
    part: int
    error: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A process group was made."""

    source: str
    link: LinkKey


@dataclass(frozen=True, slots=True)
class LinkLost:
    """A process group broke or was condemned; no posted operation of it is pending any more."""

    source: str
    link: LinkKey
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker process is gone: its actor died or its reports stopped."""

    source: str
    worker: WorkerRef
    reason: str


@dataclass(frozen=True, slots=True)
class Outputs:
    """Tokens from a worker, as they reach a front door."""

    source: WorkerRef
    outputs: tuple[RequestOutput, ...]


@dataclass(frozen=True, slots=True)
class StreamGap:
    """Items of a worker's stream were lost on the way to this front door; the worker itself is well."""

    source: str
    worker: WorkerRef


@dataclass(frozen=True, slots=True)
class FrontDoorLost:
    """A front door's subscription lease ran out; its requests have nobody to read them."""

    source: str
    front_door: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new request; finish what runs."""

    source: str


@dataclass(frozen=True, slots=True)
class DrainWorker:
    """The controller is asked to let a worker finish and end it: for good, unless another one is to `replace` it."""

    source: str
    worker_id: str
    replace: bool = False


@dataclass(frozen=True, slots=True)
class ScalePool:
    """An operator asks the controller for exactly these workers in a pool."""

    source: str
    pool: str
    worker_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A launched worker answered, or an earlier one was adopted by name."""

    source: str
    worker: WorkerRef
    pool: str


Event = (
    Submit
    | Cancel
    | Tick
    | StepDone
    | PeerMessage
    | SendDone
    | ReceiveDone
    | LinkUp
    | LinkLost
    | WorkerReport
    | WorkerLost
    | Outputs
    | StreamGap
    | FrontDoorLost
    | Drain
    | DrainWorker
    | ScalePool
    | WorkerStarted
    | CacheResult
)

# --- actions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunStep:
    """Compute a batch; answered by StepDone."""

    batch: ScheduledBatch


@dataclass(frozen=True, slots=True)
class Emit:
    """Give outputs to `destination`: a front door (from a worker) or a client stream (from the request flow)."""

    destination: str
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class SendPeer:
    """Send a control message to another worker; a failure comes back as WorkerLost."""

    to: WorkerRef
    body: PeerBody


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Make the process group; answered by LinkUp or LinkLost. Posts may follow without waiting.

    `peer_ranks` is the tensor parallelism of the other worker: which of its ranks holds which KV heads.
    """

    link: LinkKey
    role: LinkRole
    store_address: str
    peer_ranks: int = 1


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Condemn the group; pending posts end with an error, then LinkLost."""

    link: LinkKey
    reason: str


@quick
@dataclass(frozen=True, slots=True)
class PostSend:
    """Send these blocks of the pool, in order; answered by SendDone.

    Attributes:
        part: number of this part of the transfer; each (transfer, attempt, part) is sent once.
        blocks: local block ids.
        timeout_ns: from the moment the link turns to it.
        step_id: the step that computes these blocks; each layer group is sent when that step is past its layers.
            None: they are computed.
    """

    link: LinkKey
    transfer_id: str
    attempt: int
    part: int
    blocks: tuple[int, ...]
    timeout_ns: int
    step_id: int | None = None


DISCARD = -1
"""Stands for a block whose content nobody wants any more."""


@quick
@dataclass(frozen=True, slots=True)
class PostReceive:
    """Receive into these blocks of the pool, in order; answered by ReceiveDone.

    A block id of `DISCARD` takes a block off the link and drops it.
    """

    link: LinkKey
    transfer_id: str
    attempt: int
    part: int
    blocks: tuple[int, ...]
    timeout_ns: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Give a request to a worker; a failure comes back as WorkerLost. `placement` says why it runs there."""

    to: WorkerRef
    request: Request
    placement: str = ""


@dataclass(frozen=True, slots=True)
class CancelRemote:
    """Tell a worker that a request is over, or that its attempts up to `attempt` are."""

    to: WorkerRef
    request_id: str
    finish: FinishReason
    reason: str
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """End a client's request with an error from the tree in `errors.py` (by class name)."""

    request_id: str
    error: str
    reason: str
    message: str
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a worker of a pool; answered by WorkerStarted or WorkerLost."""

    worker_id: str
    pool: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End a worker process."""

    worker: WorkerRef
    reason: str


Action = (
    RunStep
    | Emit
    | SendPeer
    | OpenLink
    | CloseLink
    | PostSend
    | PostReceive
    | Dispatch
    | CancelRemote
    | Reject
    | Launch
    | Stop
    | LookupCache
    | StoreCache
)
