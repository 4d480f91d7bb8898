"""Every part of a request is in its key; only the last user turn is compared softly."""

from __future__ import annotations

import pytest

from services.core.errors import InvalidRequestError
from services.semcache.config import Scope
from services.semcache.control import CacheControl, parse_control
from services.semcache.key import Origin, canonical, length_prefixed, make_key, scope_digest

ORIGIN = Origin(scope_digest(Scope.TENANT, b"salt", "k1"), b"model")
FIELDS = {"temperature": 0.0, "max_tokens": 16}


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def test_only_the_last_user_turn_is_soft() -> None:
    one, two = (make_key(ORIGIN, FIELDS, said("hi", "hello", text)) for text in ("What is tea?", "What's tea?"))
    assert one.exact != two.exact and one.partition == two.partition
    assert (one.question, one.turns) == ("What is tea?", 3)
    assert make_key(ORIGIN, FIELDS, said("hey", "hello", "What is tea?")).partition != one.partition
    assert make_key(ORIGIN, FIELDS, said("hi", "hello")).question is None


@pytest.mark.parametrize(
    ("origin", "fields"),
    [
        (Origin(scope_digest(Scope.TENANT, b"other", "k1"), b"model"), FIELDS),
        (Origin(scope_digest(Scope.KEY, b"salt", "k1"), b"model"), FIELDS),
        (Origin(ORIGIN.scope, b"model-2"), FIELDS),
        (Origin(ORIGIN.scope, b"model", template=b"t"), FIELDS),
        (Origin(ORIGIN.scope, b"model", adapter=b"t"), FIELDS),
        (ORIGIN, {**FIELDS, "temperature": 0.1}),
        (ORIGIN, {**FIELDS, "unheard_of": 1}),
    ],
)
def test_everything_else_is_hard(origin: Origin, fields: dict[str, object]) -> None:
    base, other = make_key(ORIGIN, FIELDS, said("tea?")), make_key(origin, fields, said("tea?"))
    assert other.exact != base.exact and other.partition != base.partition


def test_a_question_cannot_pose_as_the_place_of_one() -> None:
    keys = [make_key(ORIGIN, FIELDS, said(text)) for text in ("", "null", "None", "\x00")]
    assert not {key.exact for key in keys} & {key.partition for key in keys}


def test_scopes() -> None:
    assert scope_digest(Scope.TENANT, b"s", "a") == scope_digest(Scope.TENANT, b"s", "b")
    assert scope_digest(Scope.KEY, b"s", "a") != scope_digest(Scope.KEY, b"s", "b")
    assert scope_digest(Scope.GLOBAL, b"s", "a") == scope_digest(Scope.GLOBAL, b"t", "b")
    assert scope_digest(Scope.KEY, b"sa", "b") != scope_digest(Scope.KEY, b"s", "ab")


def test_canonical_form() -> None:
    assert canonical({"b": 1, "a": [1.0, -0.0, True]}) == canonical({"a": (1, 0, True), "b": 1.0})
    assert canonical({"a": 1}) != canonical({"a": True}) != canonical({"a": "1"})
    assert canonical("\u00e9") != canonical("e\u0301")  # other code points are other tokens
    assert length_prefixed(b"a", b"bc") != length_prefixed(b"ab", b"c")
    for bad in (float("nan"), float("inf"), b"x", {1: 2}, {"a"}):
        with pytest.raises(ValueError, match="cache key"):
            canonical(bad)


def test_control() -> None:
    assert parse_control("") == CacheControl()
    assert parse_control("no-cache") == CacheControl(read=False)
    assert parse_control(" No-Store , max-age=60") == CacheControl(write=False, max_age_s=60)
    assert parse_control("bypass") == CacheControl(read=False, write=False)
    assert parse_control("ttl=5,min-similarity=0.97") == CacheControl(ttl_s=5, min_similarity=0.97)


@pytest.mark.parametrize(
    "text", ["fresh", "max-age", "max-age=-1", "ttl=nan", "ttl=inf", "min-similarity=1.5", "bypass=1"]
)
def test_control_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="x-cache-control"):
        parse_control(text)
