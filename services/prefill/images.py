"""Prompts with images: embeddings are gathered from the workers that encode them, and regrouped in image order."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.core.actions import Action, Submit
from services.core.request import Request
from services.kvcache.block import num_blocks
from services.kvcache.block_manager import BlockManager
from services.kvcache.transfer import Transfers
from services.kvcache.transfer_entry import Committed, Offered


@dataclass(slots=True)
class Gathering:
    """One request and the embeddings that are here.

    Attributes:
        shards: blocks of each shard that came, by the place of its first image.
        arrived_ns: when the request came; it keeps its place in the order of prompts.
    """

    submit: Submit
    arrived_ns: int
    shards: dict[int, list[int]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Every shard came."""
        return len(self.shards) == len(self.submit.request.shards)

    @property
    def blocks(self) -> list[int]:
        """Embeddings in image order, whatever order they came in."""
        return [block for first in sorted(self.shards) for block in self.shards[first]]


class ImageIntake:
    """Embeddings of the requests of one worker: offered, granted, gathered, and kept until the request is over here.

    Offers are granted in the order of their requests while embeddings hold at most `share` of the pool, so that prompts
    have blocks, too; the oldest request may always have what is free, so that none waits for ever.

    Args:
        share: of the pool, for embeddings.
    """

    def __init__(self, share: float, blocks: BlockManager, transfers: Transfers) -> None:
        self._share, self._blocks, self._transfers = share, blocks, transfers
        self._gathering: dict[str, Gathering] = {}
        self._kept: dict[str, list[int]] = {}
        self._offers: dict[str, Offered] = {}
        self._granted: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._gathering)

    def add(self, now: int, event: Submit) -> None:
        """A prompt whose embeddings are on their way."""
        self._gathering[event.request.request_id] = Gathering(event, now)

    def offered(self, event: Offered) -> None:
        """A worker has a shard."""
        self._granted.pop(event.transfer_id, None)
        self._offers[event.transfer_id] = event

    def dropped(self, transfer_id: str) -> None:
        """An offer is over before its commit."""
        self._offers.pop(transfer_id, None)
        self._granted.pop(transfer_id, None)

    def committed(self, event: Committed, transfer_id: str) -> Gathering | None:
        """A shard is here; the request when it was the last one."""
        self._granted.pop(transfer_id, None)
        return self.embedded(event.request, event.request.shards[0].first, list(event.blocks))

    def embedded(self, request: Request, first: int, blocks: list[int]) -> Gathering | None:
        """Take over the references on a shard's blocks; the request when it was the last one."""
        found = self._gathering.get(request.request_id)
        if found is None or found.submit.request.attempt != request.attempt or first in found.shards:
            self._blocks.free(blocks)  # it is over, or this shard came twice
            return None
        found.shards[first] = blocks
        if not found.complete:
            return None
        del self._gathering[request.request_id]
        self._kept[request.request_id] = found.blocks
        return found

    def pump(self, now: int) -> list[Action]:
        """Grant what there is room for, in the order of the requests."""
        actions: list[Action] = []
        for request_id, found in self._gathering.items() if self._offers else ():
            oldest = request_id == next(iter(self._gathering))
            mine = [
                (key, offer)
                for key, offer in self._offers.items()
                if (offer.request.request_id, offer.request.attempt) == (request_id, found.submit.request.attempt)
            ]
            for transfer_id, offer in mine:
                size = num_blocks(offer.num_tokens, self._blocks.block_size)
                if not oldest and self.num_blocks + size > self._share * self._blocks.total:
                    return actions
                granted = self._transfers.grant(now, transfer_id)
                if granted is None:
                    return actions
                del self._offers[transfer_id]
                self._granted[transfer_id] = size
                actions += granted
        return actions

    @property
    def num_blocks(self) -> int:
        """Blocks that embeddings hold, or will."""
        return sum(self._granted.values()) + sum(map(len, self.owners()))

    @property
    def waits_for_room(self) -> bool:
        """An offer of a request that is here was not granted."""
        return any(offer.request.request_id in self._gathering for offer in self._offers.values())

    def drop(self, request_id: str) -> Request | None:
        """A request is over here: its embeddings go; the request if its prompt still waited for some."""
        self._blocks.free(self._kept.pop(request_id, ()))
        found = self._gathering.pop(request_id, None)
        if found is None:
            return None
        for blocks in found.shards.values():
            self._blocks.free(blocks)
        return found.submit.request

    def requests(self) -> list[Request]:
        """Those that wait for embeddings, oldest first."""
        return [each.submit.request for each in self._gathering.values()]

    def find(self, request_id: str) -> Request | None:
        """One of them."""
        found = self._gathering.get(request_id)
        return None if found is None else found.submit.request

    def owners(self) -> list[list[int]]:
        """The block references that embeddings hold."""
        return [blocks for each in self._gathering.values() for blocks in each.shards.values()] + [
            list(blocks) for blocks in self._kept.values()
        ]

    def state(self) -> object:
        """What came, what is kept, and what waits."""
        return {
            "gathering": [
                [request_id, each.arrived_ns, [[first, list(blocks)] for first, blocks in each.shards.items()]]
                for request_id, each in self._gathering.items()
            ],
            "kept": [[request_id, list(blocks)] for request_id, blocks in self._kept.items()],
            "offers": list(self._offers),
            "granted": [[transfer_id, size] for transfer_id, size in self._granted.items()],
        }
