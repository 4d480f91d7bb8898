"""The encode stage: shards of requests' images in, steps of a vision tower out, embeddings ready to be handed off.

A request's images may be spread over several workers; each has a shard of them, and whoever computes the prompt puts
the embeddings together in image order, in whatever order shards are ready (EPD, intra-request parallelism).
"""

from __future__ import annotations

from dataclasses import dataclass

from services.encode.batcher import Batcher, Image
from services.encode.config import EncodeConfig
from services.encode.embed_cache import EmbedCache


@dataclass(frozen=True, slots=True)
class Shard:
    """Some images of one attempt of a request.

    Attributes:
        first_image: place of the first of them in the prompt.
    """

    request_id: str
    attempt: int
    first_image: int
    images: tuple[Image, ...]


@dataclass(frozen=True, slots=True)
class EncodeStep:
    """Action: encode these images; answered by `done`."""

    step_id: int
    images: tuple[Image, ...]


@dataclass(frozen=True, slots=True)
class ShardReady:
    """Action: every embedding of a shard is here, pinned until `release`."""

    shard: Shard


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """Action: an image of a shard could not be encoded; nothing is held for it."""

    shard: Shard
    error: str


EncodeAction = EncodeStep | ShardReady | ShardFailed


class EncodeStage:
    """Shards of one worker: a shard waits for images that lack, or is ready and pins all of its own."""

    def __init__(self, config: EncodeConfig) -> None:
        self._batcher = Batcher(config)
        self.cache = EmbedCache(config.cache_tokens)
        self._waiting: dict[tuple[str, int], tuple[Shard, dict[bytes, None]]] = {}
        self._ready: dict[tuple[str, int], Shard] = {}
        self._running: EncodeStep | None = None
        self._next_step = 1

    @property
    def queued_tokens(self) -> int:
        """Embedding tokens that are to be computed, for reports."""
        return self._batcher.tokens + sum([image.tokens for image in self._running.images] if self._running else ())

    def submit(self, shard: Shard) -> list[EncodeAction]:
        """A shard arrives; one of a later place or attempt of the same request is another one."""
        key = (f"{shard.request_id}/{shard.attempt}", shard.first_image)
        if key in self._waiting or key in self._ready:
            return []
        lacking: dict[bytes, None] = {}
        for image in dict.fromkeys(shard.images):
            if image.digest in self.cache:
                self.cache.pin(image.digest)
            else:
                lacking[image.digest] = None
                if not self._runs(image.digest):
                    self._batcher.add(image)
        self._waiting[key] = (shard, lacking)
        return [*self._settle(), *self._begin()]

    def done(self, step_id: int, error: str = "") -> list[EncodeAction]:
        """A step ended; with an error, every shard that wants one of its images fails."""
        step, self._running = self._running, None
        assert step is not None and step.step_id == step_id, step_id
        actions: list[EncodeAction] = []
        for image in step.images:
            if not error:
                self.cache.insert(image.digest, image.tokens)
            for key, (shard, lacking) in list(self._waiting.items()):
                if image.digest not in lacking:
                    continue
                if error:
                    self._forget(key)
                    actions.append(ShardFailed(shard, error))
                else:
                    del lacking[image.digest]
                    self.cache.pin(image.digest)
        actions += self._settle()
        self.cache.shrink()
        return [*actions, *self._begin()]

    def release(self, request_id: str, attempt: int) -> list[EncodeAction]:
        """A request's shards were handed off, or it is over: nothing is held for it any more."""
        name = f"{request_id}/{attempt}"
        for key in [key for key in self._waiting if key[0] == name]:
            self._forget(key)
        for key in [key for key in self._ready if key[0] == name]:
            self._unpin(self._ready.pop(key), {})
        return self._begin()

    def _forget(self, key: tuple[str, int]) -> None:
        shard, lacking = self._waiting.pop(key)
        self._unpin(shard, lacking)
        wanted = {digest for _, others in self._waiting.values() for digest in others}
        for digest in lacking:
            if digest not in wanted:
                self._batcher.drop(digest)

    def _unpin(self, shard: Shard, lacking: dict[bytes, None]) -> None:
        for image in dict.fromkeys(shard.images):
            if image.digest not in lacking:
                self.cache.unpin(image.digest)

    def _settle(self) -> list[EncodeAction]:
        complete = [key for key, (_, lacking) in self._waiting.items() if not lacking]
        for key in complete:
            self._ready[key] = self._waiting.pop(key)[0]
        return [ShardReady(self._ready[key]) for key in complete]

    def _begin(self) -> list[EncodeAction]:
        """The next step, when none is running."""
        images = () if self._running else self._batcher.take()
        if not images:
            return []
        self._running = EncodeStep(self._next_step, images)
        self._next_step += 1
        return [self._running]

    def _runs(self, digest: bytes) -> bool:
        return self._running is not None and any(image.digest == digest for image in self._running.images)

    def state(self) -> object:
        """Everything that decides what is done next."""
        return {
            "waiting": [[*key, [digest.hex() for digest in lacking]] for key, (_, lacking) in self._waiting.items()],
            "ready": [list(key) for key in self._ready],
            "running": None if self._running is None else self._running.step_id,
            "queue": self._batcher.state(),
            "cache": self.cache.state(),
            "next_step": self._next_step,
        }

    def check(self) -> None:
        """What lacks is queued or computed, and what is pinned belongs to a shard."""
        self.cache.check()
        pins = 0
        for shard, lacking in [*self._waiting.values(), *[(shard, {}) for shard in self._ready.values()]]:
            pins += len({image.digest for image in shard.images}) - len(lacking)
        assert pins == self.cache.num_pins, (pins, self.cache.num_pins)
