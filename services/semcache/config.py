"""Which answers the semantic cache may keep and give, for how long and how alike questions must be, by category.

`min_similarity` is always a cosine in 0..1: higher is stricter. The defaults follow arXiv 2510.26835 in kind; their
numbers are measured with the default embedder and the lexical gate.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from services.core.config import Strict

OTHER = "other"
"""The category of questions that nothing is known of; the strictest policy."""
MAX_CATEGORIES = 64
"""Categories are labels of metrics."""


class Scope(StrEnum):
    """Who may be given an answer that was made for somebody, from the narrowest to the widest."""

    KEY = "key"
    TENANT = "tenant"
    GLOBAL = "global"


class CategoryConfig(Strict):
    """What holds for one category."""

    exact: bool = Field(True, description="Answer equal requests from the cache; false: nothing of it is cached.")
    semantic: bool = Field(False, description="Answer requests of the same meaning from the cache, too.")
    first_turn_only: bool = Field(False, description="Semantic hits only for conversations of one turn.")
    min_similarity: float = Field(0.95, ge=0.7, le=1, description="Least cosine of two questions of one meaning.")
    judged: bool = Field(
        False, description="Whether the judge may accept wordings that the lexical gate does not know."
    )
    ttl_s: float = Field(3600.0, ge=0, description="Age at which an answer is given no more; hits do not prolong it.")
    quota_share: float = Field(0.05, ge=0, le=1, description="Share of the cache that other categories cannot take.")
    max_temperature: float = Field(0.3, ge=0, le=2, description="Requests that are sampled hotter are not cached.")
    scope: Scope = Field(Scope.TENANT, description="key, tenant or global: who is given the answers of whom.")
    adaptive: bool = Field(True, description="Whether load may lower min_similarity and prolong ttl_s.")

    @model_validator(mode="after")
    def _semantic_needs_exact(self) -> CategoryConfig:
        if self.semantic and not self.exact:
            raise ValueError("semantic without exact; set exact to true or semantic to false")
        return self


_ASKED_AGAIN = {
    "semantic": True,
    "judged": True,
    "min_similarity": 0.8,
    "ttl_s": 86400.0,
    "quota_share": 0.2,
    "max_temperature": 0.7,
}
_NEVER = {"exact": False, "ttl_s": 0.0, "quota_share": 0.0}
DEFAULT_CATEGORIES: dict[str, dict[str, Any]] = {
    "faq": _ASKED_AGAIN,
    "knowledge": _ASKED_AGAIN,
    "health": {"semantic": True, "min_similarity": 0.93, "adaptive": False},
    "chat": {
        "semantic": True,
        "min_similarity": 0.88,
        "first_turn_only": True,
        "max_temperature": 0.7,
        "quota_share": 0.1,
    },
    "code": {"quota_share": 0.1},
    "math": {"ttl_s": 86400.0},
    "document": {"ttl_s": 21600.0},
    "translation": {"ttl_s": 21600.0},
    "tool": {"ttl_s": 300.0, "max_temperature": 0.0, "scope": Scope.KEY, "adaptive": False},
    "volatile": _NEVER,
    "personal": _NEVER,
    "creative": _NEVER,
    OTHER: {"scope": Scope.KEY, "adaptive": False, "quota_share": 0.1},
}
"""Where a literal decides (code, math, documents, translations) only equal requests are hits; what is volatile,
personal or creative is never cached."""


class LoadConfig(Strict):
    """How load makes the cache more generous (arXiv 2510.26835, there a projection). Off by default."""

    enabled: bool = Field(False, description="Lower min_similarity and prolong ttl_s while the model is overloaded.")
    low: float = Field(0.8, ge=0, description="Load, as a share of what can be served, where it begins.")
    high: float = Field(1.0, gt=0, description="Load where it has its full effect.")
    full_queue_tokens: int = Field(2048, ge=1, description="Waiting prompt tokens of a prefill worker that are load 1.")
    full_decodes: int = Field(64, ge=1, description="Running requests of a decode worker that are load 1.")
    hysteresis: float = Field(0.05, ge=0, description="Load must fall this far before the effect becomes smaller.")
    similarity_drop: float = Field(0.02, ge=0, le=0.1, description="min_similarity is lowered by at most this.")
    sureness_drop: float = Field(0.0, ge=0, le=1, description="judge.min_sureness is lowered by at most this.")
    similarity_floor: float = Field(0.78, ge=0.7, le=1, description="min_similarity is never lowered below this.")
    ttl_gain: float = Field(10.0, ge=0, le=100, description="ttl_s is prolonged by at most this multiple of itself.")
    ttl_ceiling_s: float = Field(604800.0, ge=0, description="ttl_s is never prolonged beyond this.")

    @model_validator(mode="after")
    def _low_is_lower(self) -> LoadConfig:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class JudgeConfig(Strict):
    """A small model that reads two near questions side by side, beside the event loop.

    It gives answers to questions that only unknown words or another construction keep apart, and, where `veto_below` is
    set, keeps answers from some that the lexical gate takes for the same: half of the few that it should not.
    """

    enabled: bool = Field(True, description="Where semantic: ask it.")
    veto_below: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Where the lexical gate agrees: sureness of one answer that a hit needs; such hits take 4 ms more. "
        "0: it is not asked; 0.5 is a good value.",
    )
    min_sureness: float = Field(
        0.98, gt=0, le=1, description="Where it does not, in categories that are `judged`: the same."
    )
    most: int = Field(2, ge=1, le=16, description="Nearest questions that it reads for a request.")


class ShadowConfig(Strict):
    """Second opinions on semantic hits: some are computed as well, at the lowest priority, and compared."""

    share: float = Field(0.0, ge=0, le=1, description="Share of the semantic hits that are computed, too; 0: none.")
    max_running: int = Field(1, ge=1, le=64, description="So many at once; hits beyond are not computed.")
    timeout_s: float = Field(60.0, gt=0, le=3600, description="After which a second opinion is given up.")
    min_similarity: float = Field(0.85, ge=0, le=1, description="Least cosine of two answers that say the same.")


class RedisConfig(Strict):
    """One Redis, from 7 on, in which all front doors share their answers. It holds questions and answers."""

    url: str | None = Field(
        None,
        repr=False,
        description="redis:// or rediss:// address, with its password if any; null: nothing is shared.",
    )
    password_file: str | None = Field(None, description="File with the password, in place of one in the address.")
    prefix: str = Field("triptych", min_length=1, max_length=64, description="Of every key, one for each cluster.")
    timeout_s: float = Field(2.0, gt=0, le=60, description="After which a command to Redis has failed.")


class SemcacheConfig(Strict):
    """The semantic cache of a front door."""

    enabled: bool = Field(False, description="Answer repeated questions from a cache.")
    semantic: bool = Field(
        True, description="Where enabled: look for the same meaning too; false: equal requests only."
    )
    hints: bool = Field(True, description="Believe the client's x-category.")
    max_entries: int = Field(10_000, ge=1, le=1_000_000, description="Answers kept.")
    max_bytes: int = Field(64 * 2**20, ge=2**16, description="Size of the answers kept, with their vectors.")
    max_entry_bytes: int = Field(64 * 2**10, ge=2**8, description="Larger answers are not kept.")
    candidates: int = Field(4, ge=1, le=64, description="Nearest questions that the lexical gate looks at.")
    min_tokens: int = Field(4, ge=1, description="Shorter questions have too little meaning to compare.")
    max_tokens: int = Field(256, ge=8, le=256, description="Longer questions would be cut by the embedder.")
    min_margin: float = Field(0.12, ge=0, le=1, description="Two likeliest categories nearer than this: both hold.")
    singleflight_wait_s: float = Field(
        5.0, ge=0, le=600, description="Equal requests wait this long for one that is computed; 0: they never wait."
    )
    judge: JudgeConfig = JudgeConfig()
    load: LoadConfig = LoadConfig()
    shadow: ShadowConfig = ShadowConfig()
    categories: dict[str, CategoryConfig] = Field(
        {}, validate_default=True, description="By name: what differs from the built-in categories, and more of them."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Puts what is said of a category over its default."""
        given = data.get("categories", {}) if isinstance(data, dict) else {}
        if not isinstance(given, dict):
            return data
        merged: dict[str, Any] = {name: dict(fields) for name, fields in DEFAULT_CATEGORIES.items()}
        for name, fields in given.items():
            if isinstance(fields, CategoryConfig):
                merged[name] = fields
            else:
                merged[name] = {**merged.get(name, {}), **fields} if isinstance(fields, dict) else fields
        return {**data, "categories": merged}

    @model_validator(mode="after")
    def _quotas_fit(self) -> SemcacheConfig:
        if len(self.categories) > MAX_CATEGORIES:
            raise ValueError(f"{len(self.categories)} categories; at most {MAX_CATEGORIES}")
        total = sum(each.quota_share for each in self.categories.values())
        if total > 1 + 1e-9:
            raise ValueError(f"the quota_share of all categories is {total:g}; lower some until it is 1 or less")
        if self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens is above max_tokens")
        return self
