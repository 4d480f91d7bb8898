"""What operators ask of the response cache: what it holds, why it answers a request or not, and to forget."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from services.core.clock import NS_PER_S, Clock
from services.core.errors import FailedPreconditionError, InvalidRequestError, NotFoundError
from services.frontdoor.auth import Authenticator, Identity
from services.frontdoor.call import current_call
from services.frontdoor.convert import Converter
from services.frontdoor.response_cache import CATEGORY_HEADER, ResponseCache, key_fields
from services.frontdoor.view_calls import DEADLINE_MS, REQUEST_ID, turns_of
from services.pb import cluster_pb2 as pb
from services.pb import inference_pb2
from services.semcache.category import Found
from services.semcache.config import OTHER, Scope
from services.semcache.control import HEADER
from services.semcache.gate import Asked
from services.semcache.key import scope_digest
from services.semcache.operate import Candidate, delete, explain, invalidate
from services.semcache.policy import Policy

logger = logging.getLogger(__name__)

DEFAULT_CANDIDATES, MAX_CANDIDATES = 8, 64
DIGEST_CHARS = 64


class CacheCalls:
    """Answers of one front door.

    Args:
        cache: None: there is none, which is told.
        converter: checks and tokenizes prompts as for real requests.
        authenticator: knows the tenants.
        model: name of the served model.
        front_door: id of this one.
    """

    def __init__(
        self,
        cache: ResponseCache | None,
        converter: Converter,
        authenticator: Authenticator,
        clock: Clock,
        model: str,
        front_door: str,
    ) -> None:
        self._cache = cache
        self._converter = converter
        self._authenticator = authenticator
        self._clock = clock
        self._model = model
        self._front_door = front_door

    def _there(self) -> ResponseCache:
        if self._cache is None:
            message = "there is no response cache; set semcache.enabled to true and restart the front doors"
            raise FailedPreconditionError(message, reason="NO_CACHE")
        return self._cache

    # --- what there is ------------------------------------------------------------------------------------------

    def stats(self, front_doors: list[str]) -> pb.GetCacheStatsResponse:
        """What this front door's cache holds and did."""
        if self._cache is None:
            return pb.GetCacheStatsResponse(front_door=self._front_door, front_doors=front_doors)
        cache, shared = self._cache.cache, self._cache.shared
        return pb.GetCacheStatsResponse(
            front_door=self._front_door,
            front_doors=front_doors,
            enabled=True,
            shared=shared is not None,
            shared_up=shared is not None and shared.up,
            entries=len(cache.index),
            size_bytes=cache.index.size_bytes,
            load=cache.policies.ramp,
            categories=[self._category(name) for name in self._cache.config.categories],
            counts=self._counts(),
        )

    def _category(self, name: str) -> pb.CacheCategory:
        cache = self._there()
        told = policy_message(cache.cache.policies.policy((name,)))
        told.entries = cache.cache.index.entries(name)
        told.quota_share = cache.config.categories[name].quota_share
        return told

    def _counts(self) -> Iterator[pb.CacheCount]:
        cache = self._there().cache
        for (tier, outcome, reason, category), count in sorted(cache.counts.items()):
            yield pb.CacheCount(tier=tier, outcome=outcome, reason=reason, category=category, count=count)
        for outcome, counts in (("skipped", cache.skipped), ("left", cache.index.left), ("gate", cache.rejected)):
            for reason, count in sorted(counts.items()):
                yield pb.CacheCount(outcome=outcome, reason=reason, count=count)

    # --- why ----------------------------------------------------------------------------------------------------

    async def explain(self, message: pb.ExplainCacheRequest) -> pb.ExplainCacheResponse:
        """What the cache would do with a request.

        Raises:
            FailedPreconditionError: there is no cache.
            InvalidRequestError: it is no request.
            NotFoundError: there is no such tenant or key.
        """
        cache = self._there()
        if message.limit > MAX_CANDIDATES:
            raise InvalidRequestError("limit", f"{message.limit} is above {MAX_CANDIDATES}")
        identity = self._identity(message.tenant, message.key_id)
        asked, found, fields = await asyncio.to_thread(self._asked, message, identity)
        known = asked.meaning is None
        asked = await cache.understand(self._clock.now_ns(), asked, cache.read(asked))
        if not known:
            found = await asyncio.to_thread(lambda: cache.category_of(*request_of(message)))
        key, now = asked.key, self._clock.now_ns()
        assert key is not None, "whoever asks is known"
        most = message.limit or DEFAULT_CANDIDATES
        told = explain(cache.cache, cache.config, now, asked, asked.vector, most)
        return pb.ExplainCacheResponse(
            front_door=self._front_door,
            exact_key=key.exact,
            partition=key.partition,
            scope=asked.policy.scope.value,
            question=key.question is not None,
            turns=key.turns,
            fields=fields,
            categories=(OTHER,) if found is None else found.categories,
            category_source="nothing" if found is None else found.source,
            policy=policy_message(asked.policy),
            read_refused=told.read_refused,
            semantic_refused=told.semantic_refused,
            outcome=told.outcome,
            candidates=[candidate_message(each, now) for each in told.candidates],
        )

    def _identity(self, tenant: str, key_id: str) -> Identity:
        """Whose request it would be."""
        caller = current_call.get().identity
        if not tenant and not key_id:
            return caller
        found = self._authenticator.identities(tenant or caller.tenant)
        chosen = [each for each in found if key_id in ("", each.key_id)]
        if not chosen:
            raise NotFoundError(f"key_id: this tenant has no key {key_id[:80]!r}", kind="key", name=key_id)
        return chosen[0]

    def _asked(self, message: pb.ExplainCacheRequest, identity: Identity) -> tuple[Asked, Found | None, dict[str, str]]:
        """The request as the cache sees it, its category where that is known, and the fields of its key."""
        cache = self._there()
        generate, metadata = request_of(message)
        request = self._converter.request(generate, self._clock.unix_ms() + DEADLINE_MS, identity)
        fields: dict[str, Any] = key_fields(generate, request)
        told = {name: json.dumps(value, sort_keys=True) for name, value in fields.items()}
        return cache.asked(generate, request, metadata, identity), cache.category_of(generate, metadata), told

    # --- forget -------------------------------------------------------------------------------------------------

    def invalidate(self, message: pb.InvalidateCacheRequest, front_doors: list[str]) -> pb.InvalidateCacheResponse:
        """End answers, or count them.

        Raises:
            FailedPreconditionError: there is no cache.
            InvalidRequestError: nothing was chosen.
            NotFoundError: there is no such tenant, category or model.
        """
        cache, chosen = self._there(), message.WhichOneof("selection")
        category, scopes = "", None
        if chosen is None or not getattr(message, chosen):
            raise InvalidRequestError("selection", "name what ends, or set everything to true")
        if chosen == "exact_key":
            count = self._invalidate_one(message.exact_key, message.dry_run)
        else:
            if chosen == "model" and message.model != self._model:
                text = f"model: {message.model[:80]!r} is not served here; use {self._model!r}"
                raise NotFoundError(text, kind="model", name=message.model)
            if chosen == "category":
                category = self._known_category(message.category)
            elif chosen in ("tenant", "shared_by_all"):
                scopes = self._scopes(message.tenant) if chosen == "tenant" else [scope_digest(Scope.GLOBAL, b"", "")]
            count = invalidate(cache.cache, scopes, category, message.dry_run)
        if not message.dry_run:
            cache.invalidated[chosen] += 1
            value, key_id = getattr(message, chosen), current_call.get().identity.key_id
            logger.info("%d answers were invalidated by %s=%s, asked for by key %s", count, chosen, value, key_id)
        return pb.InvalidateCacheResponse(
            front_door=self._front_door,
            front_doors=front_doors,
            entries=count,
            shared=cache.shared is not None,
            dry_run=message.dry_run,
        )

    def _invalidate_one(self, exact: str, dry_run: bool) -> int:
        check_digest(exact)
        cache, now = self._there().cache, self._clock.now_ns()
        return int(cache.index.get(now, exact) is not None if dry_run else delete(cache, now, exact))

    def _known_category(self, name: str) -> str:
        categories = self._there().config.categories
        if name not in categories:
            text = f"category: there is no category {name[:80]!r}; there are {', '.join(categories)}"
            raise NotFoundError(text, kind="category", name=name)
        return name

    def _scopes(self, tenant: str) -> Sequence[bytes]:
        """A tenant's own scope, and those of its keys; what keys had that are gone reaches nobody."""
        found = self._authenticator.identities(tenant)
        keys = [scope_digest(Scope.KEY, each.salt, each.key_id) for each in found]
        return [scope_digest(Scope.TENANT, found[0].salt, ""), *keys]

    def delete(self, message: pb.DeleteCacheEntryRequest, front_doors: list[str]) -> pb.DeleteCacheEntryResponse:
        """End one answer, for good where it is wrong.

        Raises:
            FailedPreconditionError: there is no cache.
            InvalidRequestError: it is no digest.
        """
        cache = self._there()
        check_digest(message.exact_key)
        found = delete(cache.cache, self._clock.now_ns(), message.exact_key, message.wrong)
        cache.invalidated["wrong" if message.wrong else "exact_key"] += 1
        key_id = current_call.get().identity.key_id
        logger.info("answer %s was %s by key %s", message.exact_key, "judged" if message.wrong else "deleted", key_id)
        return pb.DeleteCacheEntryResponse(
            front_door=self._front_door, found=found, shared=cache.shared is not None, front_doors=front_doors
        )


def request_of(message: pb.ExplainCacheRequest) -> tuple[inference_pb2.GenerateRequest, dict[str, str]]:
    """An operator's question as a client's request, and its metadata."""
    generate = inference_pb2.GenerateRequest(
        request_id=REQUEST_ID,
        messages=turns_of(message.messages),
        prompt=message.prompt,
        sampling=inference_pb2.Sampling(
            max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
            temperature=message.temperature if message.HasField("temperature") else None,
        ),
    )
    return generate, {CATEGORY_HEADER: message.category, HEADER: message.cache_control}


def check_digest(exact: str) -> None:
    """Raises:
    InvalidRequestError: it is no key of an answer.
    """
    if len(exact) != DIGEST_CHARS or not set(exact) <= set("0123456789abcdef"):
        raise InvalidRequestError("exact_key", f"{exact[:80]!r} is no key; take one from ExplainCache")


def policy_message(policy: Policy) -> pb.CacheCategory:
    """What holds, for the wire."""
    return pb.CacheCategory(
        name=policy.category,
        exact=policy.exact,
        semantic=policy.semantic,
        min_similarity=policy.min_similarity,
        ttl_s=policy.ttl_ns / NS_PER_S,
        max_temperature=policy.max_temperature,
        scope=policy.scope.value,
    )


def candidate_message(candidate: Candidate, now: int) -> pb.CacheCandidate:
    """One near answer for the wire; what it says stays here."""
    entry = candidate.entry
    return pb.CacheCandidate(
        entry_id=entry.entry_id,
        exact_key=entry.exact,
        tier=candidate.tier,
        similarity=candidate.similarity,
        category=entry.category,
        age_s=(now - entry.written_ns) / NS_PER_S,
        expires_in_s=max(entry.written_ns + entry.ttl_ns - now, 0) / NS_PER_S,
        hits=entry.hits,
        refused_by=candidate.refused_by,
    )
