"""The response cache: names requests by every field that an answer depends on; finds, keeps and counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, fields, replace
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from services.core.clock import NS_PER_S, Clock
from services.core.lookup import CacheResult, StoreCache
from services.core.request import Request, SamplingParams
from services.core.seeds import stream
from services.frontdoor.auth import Identity
from services.frontdoor.beside import is_structured
from services.frontdoor.convert import ServedModel, conversation
from services.frontdoor.embedding import EmbeddingThread
from services.kvcache.block import NO_AUTH_SALT
from services.pb import inference_pb2 as pb
from services.semcache.ann import IndexedVectors, Vector
from services.semcache.cache import Hit, Miss, SemanticCache, compared
from services.semcache.category import Found, Shape, at_once, train_head
from services.semcache.config import OTHER, RedisConfig, SemcacheConfig
from services.semcache.control import HEADER, parse_control
from services.semcache.embedder import Embedder, Judge, MiniLm, PairJudge, Understood, bundled_embedder
from services.semcache.gate import Answer, Asked, hopeless
from services.semcache.index import Entry
from services.semcache.key import Origin, make_key, scope_digest
from services.semcache.store import SharedStore, redis_client
from services.telemetry import metrics
from services.telemetry.exporter import Exporter, Sample

CATEGORY_HEADER = "x-category"
IGNORED = frozenset(
    # Who asks, how urgently, and what is told beside the answer; the model is in the key by its digest.
    ("request_id", "model", "ttft_slo_ms", "tpot_slo_ms", "priority", "include_timeline")
)
"""Fields of GenerateRequest that no answer depends on. Any other field, also one added later, is in the key."""
APART = IGNORED | {"messages", "sampling"}
"""Fields of GenerateRequest that are named by themselves, or not at all."""
SAMPLING = tuple(each.name for each in fields(SamplingParams))
RESOLVED = frozenset(SAMPLING)
"""Of the sampling: what a client left out is filled in, so equal requests are equal."""
MAX_KNOWN = 1000
"""Questions whose vectors are kept: an equal question's category is known at once."""
INVALIDATED = (-1, -1)
"""Epochs of a request whose answer may be kept no more."""
ANSWER_CHARS = 250
"""Of answers that are compared; no text has more tokens than it has characters."""
MAX_CHARS = 2000
"""Of a question that is embedded; 256 tokens are rarely more, and longer texts are not even tokenized."""


def make_response_cache(
    config: SemcacheConfig | None,
    model: ServedModel,
    redis: RedisConfig | None = None,
    clock: Clock | None = None,
    exporter: Exporter | None = None,
) -> ResponseCache | None:
    """The cache that a configuration asks for; reads the embedder's weights (91 MB) where it looks for meaning.

    Raises:
        ModelError: the embedder is not there.
    """
    if config is None or not config.enabled:
        return None
    embedder = MiniLm(bundled_embedder()) if config.semantic else None
    judge = PairJudge(embedder) if embedder is not None and config.judge.enabled else None
    cache = ResponseCache(config, model, embedder, judge)
    if redis is not None and clock is not None:
        cache.share(redis, clock)
    cache.exporter = exporter
    return cache


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What it takes to complete a request whose question has no vector yet.

    Attributes:
        changes: of the index when the request came.
        found: its category, where it was known at once.
    """

    identity: Identity
    fields: dict[str, Any]
    turns: list[dict[str, str]]
    text: str
    changes: int
    found: Found | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """A question that was embedded before."""

    found: Found
    tokens: int
    vector: Vector


class ResponseCache:
    """Answers to requests that came before.

    Args:
        config: categories and limits.
        model: what is served; answers are of this model alone.
        embedder: for questions of the same meaning; None: only equal requests are found.
        judge: of questions that the lexical gate keeps apart; None: what it says holds.
        draws_seed: of the choice among entries that one is evicted from.

    Attributes:
        config: as given.
        exporter: is told the age and likeness of each hit; None: nobody is.
        saved: tokens that hits saved to compute, by kind.
        invalidated: calls of operators that ended answers, by what they chose them by.
    """

    def __init__(
        self,
        config: SemcacheConfig,
        model: ServedModel,
        embedder: Embedder | None = None,
        judge: Judge | None = None,
        draws_seed: int = 0,
    ) -> None:
        self.config = config
        self._model = model
        self._embedder = embedder
        self._thread = EmbeddingThread(embedder, judge) if embedder is not None else None
        self._shared: SharedStore | None = None
        self.exporter: Exporter | None = None
        self.saved: Counter[str] = Counter()
        self.invalidated: Counter[str] = Counter()
        self._known: dict[str, _Known] = {}
        self._head = None
        if embedder is not None:
            self._head = train_head(embedder.embed, config.categories, config.min_margin)
        dim = 1 if embedder is None else embedder.dim
        self.cache = SemanticCache(config, lambda: IndexedVectors(dim), stream(draws_seed, "frontdoor/cache"))

    def share(self, config: RedisConfig, clock: Clock) -> None:
        """Share answers with other front doors, where there is a Redis to do so."""
        if config.url is not None:
            self._shared = SharedStore(redis_client(config), self.cache.index, clock, config.prefix)
            self.cache.shared = self._shared

    @property
    def shared(self) -> SharedStore | None:
        """Where answers are shared with other front doors, if they are."""
        return self._shared

    def start(self) -> None:
        """Follow what other front doors keep; called on the event loop."""
        if self._shared is not None:
            self._shared.start()

    async def close(self) -> None:
        """Stop threads and tasks."""
        if self._shared is not None:
            await self._shared.close()
        if self._thread is not None:
            self._thread.close()

    def asked(
        self, message: pb.GenerateRequest, request: Request, metadata: Mapping[str, str], identity: Identity
    ) -> Asked:
        """A checked request as the cache sees it, but for its meaning (`understand`); called beside the event loop.

        Raises:
            InvalidRequestError: `x-cache-control` is wrong.
        """
        control = parse_control(metadata.get(HEADER, ""))
        turns = conversation(message.messages)
        shape = Shape(turns[-1]["content"] if turns else message.prompt, structured=is_structured(message))
        hint = metadata.get(CATEGORY_HEADER, "").strip().lower() if self.config.hints else ""
        meaning = _Meaning(identity, key_fields(message, request), turns, shape.text, self.cache.index.changes)
        found = at_once(shape, hint, self.config.categories)
        known = self._known.get(shape.text)
        asked = self._asked(
            Asked(
                key=None,
                policy=self.cache.policies.policy((OTHER,)),
                control=control,
                temperature=request.sampling.temperature,
                choices=message.sampling.n or 1,
                scored=request.sampling.logprobs is not None or request.sampling.prompt_logprobs is not None,
            ),
            meaning,
            found or (known.found if known else None),
        )
        if self._embedder is None or not turns or hopeless(asked) or not (found is None or asked.policy.semantic):
            return asked
        if known is not None:
            return replace(asked, question_tokens=known.tokens, vector=known.vector)
        if not shape.text or len(shape.text) > MAX_CHARS:
            return asked
        return replace(asked, meaning=replace(meaning, found=found))

    def category_of(self, message: pb.GenerateRequest, metadata: Mapping[str, str]) -> Found | None:
        """What is known of a request's category without embedding anything."""
        turns = conversation(message.messages)
        shape = Shape(turns[-1]["content"] if turns else message.prompt, structured=is_structured(message))
        hint = metadata.get(CATEGORY_HEADER, "").strip().lower() if self.config.hints else ""
        known = self._known.get(shape.text)
        return at_once(shape, hint, self.config.categories) or (known.found if known else None)

    def _asked(self, asked: Asked, meaning: _Meaning, found: Found | None) -> Asked:
        """With the policy and the key of a category."""
        policy = self.cache.policies.policy((OTHER,) if found is None else found.categories)
        identity = meaning.identity
        scope, key = scope_digest(policy.scope, identity.salt, identity.key_id), asked.key
        if key is None or key.scope != scope:
            origin = Origin(scope, self._model.root_of(NO_AUTH_SALT))
            key = make_key(origin, meaning.fields, meaning.turns)
        epochs = self.cache.index.epochs(key.scope, policy.category)
        judges = self._thread is not None and self._thread.judge is not None
        return replace(asked, key=key, policy=policy, epochs=epochs, judged={} if judges else None)

    def read(self, asked: Asked) -> asyncio.Future[Understood] | None:
        """Begin to read a request's question beside the event loop; None: too many wait, or it is known."""
        if asked.meaning is None:
            return None
        assert isinstance(asked.meaning, _Meaning) and self._thread is not None
        return self._thread.read(asked.meaning.text)

    async def understand(self, now: int, asked: Asked, reading: asyncio.Future[Understood] | None) -> Asked:
        """The same request, once its question is read, and judged beside those that it is near to."""
        if asked.meaning is not None:
            asked = await self._read(asked, reading)
        doubts = self._doubts(now, asked)
        if not doubts:
            return asked
        assert self._thread is not None and asked.key is not None and asked.key.question is not None
        assert doubts[0].features is not None, "it has a vector"
        known = [entry.features.text for entry in doubts if entry.features is not None]
        agreed = not compared(asked.key.question, doubts[0].features)
        sure = await self._thread.sureness(asked.key.question, known, not agreed)
        judged = {entry.entry_id: each for entry, each in zip(doubts, sure, strict=True)}
        return replace(asked, judged={**(asked.judged or {}), **judged})

    def in_doubt(self, now: int, asked: Asked) -> bool:
        """Whether more may be found for a request whose question is known, once it is judged."""
        return bool(self._doubts(now, asked))

    def _doubts(self, now: int, asked: Asked) -> list[Entry]:
        return [] if asked.vector is None else self.cache.doubts(now, asked, asked.vector)

    async def _read(self, asked: Asked, reading: asyncio.Future[Understood] | None) -> Asked:
        meaning = asked.meaning
        assert isinstance(meaning, _Meaning) and self._head is not None
        if reading is None:
            return replace(asked, meaning=None)
        read = await reading
        if read.vector is None or read.tokens > self.config.max_tokens:
            return replace(asked, question_tokens=read.tokens, meaning=None)
        found = meaning.found or self._head.classify(read.vector)
        self._remember(meaning.text, _Known(found, read.tokens, read.vector))
        complete = asked if meaning.found is not None else self._asked(asked, meaning, found)
        if meaning.changes != self.cache.index.changes:
            complete = replace(complete, epochs=INVALIDATED)
        return replace(complete, question_tokens=read.tokens, vector=read.vector, meaning=None)

    def _remember(self, text: str, known: _Known) -> None:
        """Nobody's question is embedded twice within a while."""
        self._known[text] = known
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def find(self, now: int, source: str, request_id: str, asked: Asked, before: Asked | None = None) -> CacheResult:
        """What there is for a request.

        Args:
            before: how it was asked for already; None: it was not.
        """
        found: Hit | Miss = Miss("exact", "absent")
        if before is None or before.key != asked.key:
            found = self.cache.find_equal(now, asked)
        # What a judge is about to read is not looked for before.
        if (
            not isinstance(found, Hit)
            and asked.vector is not None
            and (before is not None or not self._doubts(now, asked))
        ):
            found = self.cache.find_alike(now, asked, asked.vector)
        if isinstance(found, Hit):
            self._count_hit(asked, found)
            return CacheResult(source, request_id, found.answer.token_ids, found.tier)
        return CacheResult(source, request_id)

    def again(self, asked: Asked) -> Asked:
        """A request that waited for an equal one, as it is now: what was learned of its question meanwhile is known."""
        meaning = asked.meaning
        if isinstance(meaning, _Meaning):
            if (known := self._known.get(meaning.text)) is None:
                asked = replace(asked, meaning=replace(meaning, changes=self.cache.index.changes))
            else:
                read = replace(asked, question_tokens=known.tokens, vector=known.vector, meaning=None)
                asked = self._asked(read, meaning, meaning.found or known.found)
        if asked.key is None:
            return asked
        return replace(asked, epochs=self.cache.index.epochs(asked.key.scope, asked.policy.category))

    def keep(self, now: int, asked: Asked, output: StoreCache, prompt_tokens: int, received_ns: int) -> str:
        """Keep a whole output; "" or why not."""
        seconds = (now - received_ns) / NS_PER_S
        answer = Answer(output.token_ids, output.finish, "", prompt_tokens, seconds)
        refusal = self.cache.keep(now, asked, answer, asked.vector)
        if self._thread is not None and (work := self.cache.index.upkeep()) is not None:
            self._thread.run(work)
        return refusal

    def text(self, token_ids: tuple[int, ...]) -> str:
        """An output as its client reads it."""
        reader = self._model.tokenizer.detokenizer()
        return reader.push(token_ids[:-1]) + reader.flush()  # the last one only says that it ended

    async def similarity(self, one: str, other: str) -> float | None:
        """Cosine of two answers, by their beginnings that the embedder can read; None when too many texts wait."""
        assert self._thread is not None, "only where questions are embedded"
        reading = [self._thread.read(each[:ANSWER_CHARS]) for each in (one, other)]
        if reading[0] is None or reading[1] is None:
            return None
        first, second = await asyncio.gather(reading[0], reading[1])
        if first.vector is None or second.vector is None:
            return None
        return float(first.vector @ second.vector)

    def _count_hit(self, asked: Asked, hit: Hit) -> None:
        self.saved["prompt"] += hit.answer.prompt_tokens
        self.saved["output"] += len(hit.answer.token_ids)
        if self.exporter is not None:
            self.exporter.observe(metrics.CACHE_AGE, (hit.tier,), hit.age_s)
            if hit.tier == "semantic":
                self.exporter.observe(metrics.CACHE_SIMILARITY, (asked.policy.category,), hit.similarity)

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
        for kind, count in self.saved.items():
            yield Sample(metrics.CACHE_SAVED_TOKENS, (kind,), count)
        for selection, count in self.invalidated.items():
            yield Sample(metrics.CACHE_INVALIDATIONS, (selection,), count)
        for rule, count in self.cache.rejected.items():
            yield Sample(metrics.CACHE_GATE_REJECTS, (rule,), count)
        if self._thread is not None:
            yield Sample(metrics.CACHE_EMBEDDED, ("questions",), self._thread.embedded)
            yield Sample(metrics.CACHE_EMBEDDED, ("batches",), self._thread.batches)
            yield Sample(metrics.CACHE_EMBED_SECONDS, (), self._thread.seconds)
            yield Sample(metrics.CACHE_JUDGED, (), self._thread.judged)
        if self._shared is not None:
            yield Sample(metrics.CACHE_BACKEND_UP, (), float(self._shared.up))
            for event, count in self._shared.counts.items():
                yield Sample(metrics.CACHE_SHARED, (event,), count)
        yield Sample(metrics.CACHE_ENTRIES, (), len(self.cache.index))
        yield Sample(metrics.CACHE_BYTES, (), self.cache.index.size_bytes)


def key_fields(message: pb.GenerateRequest, request: Request) -> dict[str, Any]:
    """Everything but the conversation that an answer depends on, with the defaults filled in."""
    resolved = {name: getattr(request.sampling, name) for name in SAMPLING}
    if not message.sampling.HasField("seed"):
        del resolved["seed"]  # drawn for this request alone
    if not message.sampling.HasField("max_tokens"):
        del resolved["max_tokens"]  # the room that this prompt leaves; outputs that it cut are not kept
    others = _given(message.sampling, RESOLVED)
    found = _given(message, APART)
    return found | {"sampling": resolved | {f"client_{name}": value for name, value in others.items()}}


def _given(message: Message, but: Set[str]) -> dict[str, Any]:
    """Fields that a client gave, but for some."""
    if all(field.name in but for field, _ in message.ListFields()):
        return {}  # as nearly always
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in message.ListFields():
        if field.name in but:
            rest.ClearField(field.name)  # before they are told: a conversation, which the key has elsewhere, is long
    return MessageToDict(rest, preserving_proto_field_name=True)
