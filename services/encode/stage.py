"""The encode stage: requests' images in, steps of a vision tower out, embeddings offered to the prompts' workers.

A request's images may be spread over several workers; each has a shard of them, and the prefill stage puts the
embeddings together in image order, in whatever order shards come (EPD, intra-request parallelism). Embeddings are in
blocks of the worker's one pool, so that their hand-off is that of KV: offer, grant, lease, commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.core.actions import Action, Submit
from services.core.batch import ImageRow, ScheduledBatch, StepOutput
from services.core.output import StepTokens
from services.core.request import Discipline, Image, Request, Shard, WorkerRef
from services.encode.batcher import Batcher
from services.encode.config import EncodeConfig
from services.encode.embed_cache import EmbedCache
from services.kvcache.block_manager import BlockManager
from services.kvcache.transfer import Transfers
from services.kvcache.transfer_entry import HandedOff, HandoffFailed
from services.scheduling.outputs import refuse
from services.scheduling.progress import Sampled
from services.scheduling.stages import StageEvent

NO_TOKEN = -1
"""What a hand-off of embeddings brings in place of a first output token."""

Embedded = Callable[[int, Request, int, list[int]], None]
"""Takes (now, request, place of the first image, blocks) where the prompt is computed on this worker, too."""


@dataclass(slots=True)
class _Job:
    """A shard of an attempt of a request that waits for its images.

    Attributes:
        blocks: of each embedding that is here, by digest; the shard has one reference on each block.
    """

    request: Request
    shard: Shard
    blocks: dict[bytes, list[int]] = field(default_factory=dict)

    @property
    def images(self) -> tuple[Image, ...]:
        """In order; one may be there more than once."""
        return self.request.images[self.shard.first : self.shard.first + self.shard.count]

    @property
    def lacking(self) -> dict[bytes, Image]:
        """Those whose embeddings are not here, by digest."""
        return {image.digest: image for image in self.images if image.digest not in self.blocks}


class EncodeStage:
    """Shards of one worker: a shard waits for images that lack, then it is handed off.

    Args:
        me: this process; it encodes the shard that names it.
        embedded: of the prefill stage that is hosted here, too.
    """

    def __init__(
        self,
        config: EncodeConfig,
        blocks: BlockManager,
        transfers: Transfers,
        me: WorkerRef,
        embedded: Embedded | None = None,
    ) -> None:
        self._config, self._blocks, self._transfers, self._me, self._embedded = config, blocks, transfers, me, embedded
        self._batcher = Batcher(config)
        self.cache = EmbedCache(config, blocks)
        self._waiting: dict[str, _Job] = {}
        self._handoffs: dict[str, Request] = {}
        self._running: dict[bytes, tuple[Image, list[int]]] = {}
        self._found = 0

    # --- a stage of the worker's core -----------------------------------------------------------------------------

    def handle(self, now: int, event: StageEvent) -> list[Action]:
        """A request whose images are to be encoded, or the end of a hand-off."""
        match event:
            case Submit():
                return self._submit(now, event.request)
            case HandedOff():
                self._handoffs.pop(event.request_id)
                return []
            case HandoffFailed():
                request = self._handoffs.pop(event.request_id, None)
                reason = f"the hand-off of embeddings failed: {event.reason}"
                return [] if request is None else [refuse(request, "KV_TRANSFER_FAILED", reason)]
        raise AssertionError(f"not for the encode stage: {event}")

    def advance(
        self, now: int, sampled: Sequence[Sampled], plain: tuple[str, StepTokens] | None = None
    ) -> list[Action]:
        """No token is sampled here."""
        raise AssertionError("the encode stage has no rows in a step")

    def pump(self, now: int) -> list[Action]:
        """Images wait for a step alone."""
        return []

    def drop(self, request_id: str) -> Request | None:
        """Forget a request that is over; its transfer was cancelled."""
        if request_id in self._waiting:
            return self._forget(request_id).request
        return self._handoffs.pop(request_id, None)

    def held(self) -> list[Request]:
        """Requests whose images are encoded or handed off here."""
        return [job.request for job in self._waiting.values()] + list(self._handoffs.values())

    def find(self, request_id: str) -> Request | None:
        """One of them."""
        job = self._waiting.get(request_id)
        return self._handoffs.get(request_id) if job is None else job.request

    def pressure(self) -> tuple[int, str]:
        """Requests whose images lack, and why."""
        return len(self._waiting), "images" if self._waiting else ""

    def counts(self) -> Mapping[str, int]:
        """How often an embedding was here already."""
        return {"embedding/found": self._found} if self._found else {}

    def owners(self) -> list[list[int]]:
        """Blocks of embeddings that shards wait with, or that are being computed."""
        held = [blocks for job in self._waiting.values() for blocks in job.blocks.values()]
        return held + [blocks for _, blocks in self._running.values()]

    # --- steps ----------------------------------------------------------------------------------------------------

    @property
    def step_running(self) -> bool:
        """A step was handed out and has not come back."""
        return bool(self._running)

    @property
    def queued_tokens(self) -> int:
        """Embedding tokens that are to be computed, for reports."""
        return self._batcher.tokens + sum([image.tokens for image, _ in self._running.values()])

    def schedule(self, step_id: int) -> ScheduledBatch | None:
        """The next step's images, as far as there is room for their embeddings; None when nothing waits or fits."""
        assert not self._running
        for image in self._batcher.next_ones():
            blocks = self.cache.reserve(image)
            if blocks is None:
                break
            self._batcher.drop(image.digest)
            self._running[image.digest] = (image, blocks)
        rows = [ImageRow(image.digest, image.tokens, tuple(blocks)) for image, blocks in self._running.values()]
        return ScheduledBatch(step_id, (), None, tuple(rows)) if rows else None

    def complete(self, now: int, output: StepOutput) -> list[Action]:
        """A step ended; with an error, every request that wants one of its images fails."""
        done, self._running = self._running, {}
        actions: list[Action] = []
        for digest, (image, blocks) in done.items():
            if output.error is None:
                self.cache.publish(image, blocks)
            for request_id, job in list(self._waiting.items()):
                if digest not in job.lacking:
                    continue
                if output.error is not None:
                    self._forget(request_id)
                    actions.append(refuse(job.request, "ENCODE_FAILED", output.error))
                else:
                    self._blocks.pin(blocks)
                    job.blocks[digest] = blocks
            self._blocks.free(blocks)
        return actions + self._settle(now)

    # --- shards ---------------------------------------------------------------------------------------------------

    def _submit(self, now: int, request: Request) -> list[Action]:
        shard = next((each for each in request.shards if each.worker == self._me), None)
        assert shard is not None, f"{request.request_id} has no images for {self._me}"
        job = _Job(request, shard)
        if len(self._waiting) >= self._config.max_waiting_requests:
            return [refuse(request, "OVERLOADED", f"images of {len(self._waiting)} requests wait on this worker")]
        if sum(map(self.cache.size, job.lacking.values())) > self._blocks.total:
            return [refuse(request, "CONTEXT_LENGTH_EXCEEDED", "the embeddings of its images do not fit the pool")]
        for digest, image in job.lacking.items():
            found = self.cache.find(image)
            if found is not None:
                job.blocks[digest] = found
                self._found += 1
            elif digest not in self._running:
                self._batcher.add(image)
        self._waiting[request.request_id] = job
        return self._settle(now)

    def _settle(self, now: int) -> list[Action]:
        """Hand off every shard that is complete."""
        actions: list[Action] = []
        for job in [job for job in self._waiting.values() if not job.lacking]:
            actions += self._handoff(now, job)
            self._forget(job.request.request_id)
        return actions

    def _handoff(self, now: int, job: _Job) -> list[Action]:
        """The transfer, or the stage beside this one, has references of its own on the blocks."""
        request = job.request
        blocks = [block for image in job.images for block in job.blocks[image.digest]]
        if request.prefill_on is None:
            assert self._embedded is not None, "only a worker that hosts prefill, too, is sent a whole request"
            self._blocks.pin(blocks)
            self._embedded(now, request, job.shard.first, blocks)
            return []
        self._handoffs[request.request_id] = request
        # Of the request, only what tells the receiver which images these are; nothing of it may be found as KV.
        told = replace(request, prompt=(), resume=(), block_hashes=(), hash_root=b"", shards=(job.shard,))
        tokens = len(blocks) * self._blocks.block_size
        return self._transfers.offer(now, told, blocks, tokens, request.prefill_on, Discipline.LATE, NO_TOKEN)

    def _forget(self, request_id: str) -> _Job:
        """A shard waits no more: its references go, and with them images that nobody else wants."""
        job = self._waiting.pop(request_id)
        for blocks in job.blocks.values():
            self._blocks.free(blocks)
        wanted = {digest for other in self._waiting.values() for digest in other.lacking}
        for digest in job.lacking:
            if digest not in wanted:
                self._batcher.drop(digest)
        return job

    def state(self) -> object:
        """Everything that decides what is done next."""
        return {
            "waiting": [
                [key, job.shard.first, [[digest, list(blocks)] for digest, blocks in job.blocks.items()]]
                for key, job in self._waiting.items()
            ],
            "handoffs": list(self._handoffs),
            "running": [[digest, list(blocks)] for digest, (_, blocks) in self._running.items()],
            "queue": self._batcher.state(),
            "found": self._found,
        }

    def check(self) -> None:
        """What lacks is queued or computed."""
        queued = {digest for digest, _ in self._batcher.state()} | {digest.hex() for digest in self._running}
        lacking = {digest.hex() for job in self._waiting.values() for digest in job.lacking}
        assert lacking <= queued, (lacking, queued)
