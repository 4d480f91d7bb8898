"""When the cache is looked at, and what may be kept: ordered rules, each with a label; "" where nothing speaks against.

Doubt about whose an answer is means no cache; everything else that speaks against it only costs a hit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.core.request import FinishReason
from services.semcache.config import SemcacheConfig
from services.semcache.control import DEFAULT_CONTROL, CacheControl
from services.semcache.key import CacheKey
from services.semcache.policy import Policy


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the cache sees it.

    Attributes:
        key: what it is compared by; None where the caller is not known, or the request cannot be named.
        policy: what holds for it.
        control: the client's wishes.
        temperature: of the sampling.
        choices: outputs that are asked for.
        scored: whether log-probabilities are asked for; they are not kept.
        question_tokens: length of the last question for the embedder.
        epochs: of the cache when the request came; an answer is not kept when they have changed since.
        vector: of the last question, of length 1; None where its meaning is not looked at, or not yet.
        judged: how sure a judge is of near entries, by their names, once it has read them; None where nobody judges.
        meaning: what it takes to learn the question's meaning; None where that is known or does not matter.
    """

    key: CacheKey | None
    policy: Policy
    control: CacheControl = DEFAULT_CONTROL
    temperature: float = 0.0
    choices: int = 1
    scored: bool = False
    question_tokens: int = 0
    epochs: tuple[int, int] = (0, 0)
    vector: Any = field(default=None, compare=False, repr=False)
    judged: Mapping[str, float] | None = field(default=None, compare=False, repr=False)
    meaning: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Attributes:
        token_ids: the whole output, its end token included; replayed through the encoder of live tokens.
        finish: why it ended.
        reason: of that end, where somebody other than the model ended it.
        prompt_tokens: of the request that it was computed for.
        seconds: that computing it took.
    """

    token_ids: tuple[int, ...]
    finish: FinishReason
    reason: str = ""
    prompt_tokens: int = 0
    seconds: float = 0.0

    @property
    def size_bytes(self) -> int:
        """Memory of it, roughly."""
        return 28 * len(self.token_ids) + 200


def read_refusal(asked: Asked) -> str:
    """Why no equal request is looked for."""
    if not asked.control.read:
        return "client"
    return _refusal(asked)


def semantic_refusal(asked: Asked, config: SemcacheConfig) -> str:
    """Why, beyond `read_refusal`, no request of the same meaning is looked for."""
    assert asked.key is not None, "read_refusal comes first"
    if not asked.policy.semantic:
        return "exact_only"
    if asked.key.question is None:
        return "no_question"
    if asked.policy.first_turn_only and asked.key.turns > 1:
        return "later_turn"
    if asked.question_tokens < config.min_tokens:
        return "short"
    if asked.question_tokens > config.max_tokens:
        return "long"
    return ""


def write_refusal(asked: Asked, answer: Answer, config: SemcacheConfig) -> str:
    """Why an answer is not kept."""
    refusal = request_refusal(asked, config)
    if refusal:
        return refusal
    if answer.finish is not FinishReason.STOP or answer.reason:
        return "unfinished"
    if len(answer.token_ids) < 2:  # an end token alone says nothing
        return "empty"
    return "size" if answer.size_bytes > config.max_entry_bytes else ""


def request_refusal(asked: Asked, config: SemcacheConfig) -> str:
    """Why no answer to a request is kept, whatever it will be."""
    if not asked.control.write:
        return "client"
    refusal = _refusal(asked)
    if refusal:
        return refusal
    if asked.control.ttl_s <= 0 or asked.policy.ttl_ns <= 0:
        return "ttl"
    return "quota" if config.categories[asked.policy.category].quota_share <= 0 else ""


def hopeless(asked: Asked) -> bool:
    """Whether nothing can be found or kept, whatever the question means."""
    return asked.key is None or asked.choices != 1 or asked.scored or not (asked.control.read or asked.control.write)


def _refusal(asked: Asked) -> str:
    """What speaks against both reading and writing."""
    if asked.key is None:
        return "no_identity"
    if not asked.policy.exact:
        return "category"
    if asked.temperature > asked.policy.max_temperature:
        return "temperature"
    if asked.choices != 1:
        return "choices"
    if asked.scored:
        return "logprobs"
    return ""
