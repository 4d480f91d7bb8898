"""The response cache: names requests by every field that an answer depends on; finds, keeps and counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from google.protobuf.json_format import MessageToDict

from services.core.clock import NS_PER_S
from services.core.lookup import CacheResult, StoreCache
from services.core.request import Request
from services.core.seeds import stream
from services.frontdoor.auth import Identity
from services.frontdoor.convert import ServedModel, conversation
from services.kvcache.block import NO_AUTH_SALT
from services.pb import inference_pb2 as pb
from services.semcache.ann import FlatVectors
from services.semcache.cache import Hit, SemanticCache
from services.semcache.category import Found, Shape, at_once, train_head
from services.semcache.config import OTHER, SemcacheConfig
from services.semcache.control import HEADER, parse_control
from services.semcache.embedder import Embedder, MiniLm, bundled_embedder
from services.semcache.gate import Answer, Asked
from services.semcache.key import Origin, make_key, scope_digest
from services.telemetry import metrics
from services.telemetry.exporter import Sample

CATEGORY_HEADER = "x-category"
IGNORED = frozenset(
    # Who asks, how urgently, and what is told beside the answer; the model is in the key by its digest.
    ("request_id", "model", "ttft_slo_ms", "tpot_slo_ms", "priority", "include_timeline")
)
"""Fields of GenerateRequest that no answer depends on. Any other field, also one added later, is in the key."""


MAX_CHARS = 2000
"""Of a question that is embedded; 256 tokens are rarely more, and longer texts are not even tokenized."""


def make_response_cache(config: SemcacheConfig | None, model: ServedModel) -> ResponseCache | None:
    """The cache that a configuration asks for; reads the embedder's weights (91 MB) where it looks for meaning.

    Raises:
        ModelError: the embedder is not there.
    """
    if config is None or not config.enabled:
        return None
    return ResponseCache(config, model, MiniLm(bundled_embedder()) if config.semantic else None)


class ResponseCache:
    """Answers to requests that came before.

    Args:
        config: categories and limits.
        model: what is served; answers are of this model alone.
        embedder: for questions of the same meaning; None: only equal requests are found.
        draws_seed: of the choice among entries that one is evicted from.
    """

    def __init__(
        self, config: SemcacheConfig, model: ServedModel, embedder: Embedder | None = None, draws_seed: int = 0
    ) -> None:
        self._config = config
        self._model = model
        self._embedder = embedder
        self._head = None
        if embedder is not None:
            self._head = train_head(embedder.embed, config.categories, config.min_margin)
        dim = 1 if embedder is None else embedder.dim
        self.cache = SemanticCache(config, lambda: FlatVectors(dim), stream(draws_seed, "frontdoor/cache"))

    def asked(
        self, message: pb.GenerateRequest, request: Request, metadata: Mapping[str, str], identity: Identity
    ) -> Asked:
        """A checked request as the cache sees it; takes milliseconds, so it is called beside the event loop.

        Raises:
            InvalidRequestError: `x-cache-control` is wrong.
        """
        control = parse_control(metadata.get(HEADER, ""))
        turns = conversation(message.messages)
        shape = Shape(turns[-1]["content"] if turns else message.prompt)
        hint = metadata.get(CATEGORY_HEADER, "").strip().lower() if self._config.hints else ""
        found = at_once(shape, hint, self._config.categories)
        tokens, vector = self._embed(shape.text, found) if turns else (0, None)
        if found is None and vector is not None and self._head is not None:
            found = self._head.classify(vector)
        policy = self.cache.policies.policy((OTHER,) if found is None else found.categories)
        origin = Origin(scope_digest(policy.scope, identity.salt, identity.key_id), self._model.root_of(NO_AUTH_SALT))
        key = make_key(origin, key_fields(message, request), turns)
        return Asked(
            key=key,
            policy=policy,
            control=control,
            temperature=request.sampling.temperature,
            choices=message.sampling.n or 1,
            scored=request.sampling.logprobs is not None or request.sampling.prompt_logprobs is not None,
            question_tokens=tokens,
            epochs=self.cache.index.epochs(key.scope),
            vector=vector if policy.semantic else None,
        )

    def _embed(self, text: str, found: Found | None) -> tuple[int, Any]:
        """(tokens, vector) of a question; no vector where nothing depends on it, or where it would be cut."""
        if self._embedder is None or len(text) > MAX_CHARS:
            return 0, None
        if found is not None and not self.cache.policies.policy(found.categories).semantic:
            return 0, None
        tokens = self._embedder.count_tokens(text)
        return tokens, self._embedder.embed(text) if tokens <= self._config.max_tokens else None

    def find(self, now: int, source: str, request_id: str, asked: Asked) -> CacheResult:
        """What there is for a request."""
        found = self.cache.find_equal(now, asked)
        if not isinstance(found, Hit) and asked.vector is not None:
            found = self.cache.find_alike(now, asked, asked.vector)
        if isinstance(found, Hit):
            return CacheResult(source, request_id, found.answer.token_ids, found.tier)
        return CacheResult(source, request_id)

    def keep(self, now: int, asked: Asked, output: StoreCache, prompt_tokens: int, received_ns: int) -> None:
        """Keep a whole output, if nothing speaks against it."""
        seconds = (now - received_ns) / NS_PER_S
        answer = Answer(output.token_ids, output.finish, "", prompt_tokens, seconds)
        self.cache.keep(now, asked, answer, asked.vector)

    def count_failure(self, asked: Asked) -> None:
        """A look that failed is a miss, and is counted as what it is."""
        self.cache.counts["exact", "error", "failed", asked.policy.category] += 1

    def samples(self) -> Iterator[Sample]:
        """Metrics of this moment."""
        counts: dict[tuple[str, str, str], int] = {}
        for (tier, outcome, _, category), count in self.cache.counts.items():
            counts[tier, outcome, category] = counts.get((tier, outcome, category), 0) + count
        for labels, count in counts.items():
            yield Sample(metrics.CACHE_REQUESTS, labels, count)
        for reason, count in self.cache.skipped.items():
            yield Sample(metrics.CACHE_WRITE_SKIPPED, (reason,), count)
        for reason, count in self.cache.index.left.items():
            yield Sample(metrics.CACHE_EVICTIONS, (reason,), count)
        yield Sample(metrics.CACHE_ENTRIES, (), len(self.cache.index))
        yield Sample(metrics.CACHE_BYTES, (), self.cache.index.size_bytes)


def key_fields(message: pb.GenerateRequest, request: Request) -> dict[str, Any]:
    """Everything but the conversation that an answer depends on, with the defaults filled in."""
    fields = MessageToDict(message, preserving_proto_field_name=True)
    found = {name: value for name, value in fields.items() if name not in IGNORED | {"messages", "sampling"}}
    resolved = asdict(request.sampling)
    if not message.sampling.HasField("seed"):
        del resolved["seed"]  # drawn for this request alone
    if not message.sampling.HasField("max_tokens"):
        del resolved["max_tokens"]  # the room that this prompt leaves; outputs that it cut are not kept
    others = {name: value for name, value in fields.get("sampling", {}).items() if name not in resolved}
    others.pop("seed", None)
    return found | {"sampling": resolved | {f"client_{name}": value for name, value in others.items()}}
