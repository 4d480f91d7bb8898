"""Limits by category: defaults, the strictest of several, what load changes, and what configuration refuses."""

from __future__ import annotations

import pytest

from services.core.clock import NS_PER_S
from services.core.config import parse
from services.core.errors import ConfigError
from services.semcache.category import Shape, at_once, by_structure
from services.semcache.config import DEFAULT_CATEGORIES, Scope, SemcacheConfig
from services.semcache.policy import PolicyTable


def config(**fields: object) -> SemcacheConfig:
    return parse(SemcacheConfig, fields, "semcache")


def test_a_category_keeps_what_is_not_said_of_it() -> None:
    made = config(categories={"faq": {"min_similarity": 0.9}, "legal": {"ttl_s": 5, "quota_share": 0}})
    assert made.categories["faq"].min_similarity == 0.9 and made.categories["faq"].semantic
    assert set(made.categories) == {*DEFAULT_CATEGORIES, "legal"}
    assert not config().enabled


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"categories": {"faq": {"min_similarity": 1.5}}}, r"semcache\.categories\.faq\.min_similarity = 1\.5"),
        ({"categories": {"faq": {"quota_share": 0.9}}}, "quota_share of all categories is"),
        ({"categories": {"volatile": {"semantic": True}}}, "semantic without exact"),
        ({"categories": {"faq": {"treshold": 1}}}, "unknown key"),
        ({"load": {"low": 1, "high": 1}}, "low must be below high"),
        ({"min_tokens": 300}, "min_tokens is above max_tokens"),
    ],
)
def test_configuration_that_cannot_be(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**fields)


def test_of_several_categories_the_strictest_holds() -> None:
    table = PolicyTable(config())
    both = table.policy(("faq", "health"))
    assert (both.category, both.min_similarity, both.ttl_ns) == ("faq", 0.93, 3600 * NS_PER_S)
    assert not table.policy(("faq", "code")).semantic
    assert not table.policy(("faq", "volatile")).exact
    assert table.policy(("faq", "tool")).scope is Scope.KEY and table.policy(("faq", "tool")).max_temperature == 0
    assert table.policy(()) == table.policy(("unheard of",)) == table.policy(("other",))


def test_load_lowers_similarity_to_a_floor_and_prolongs_ttl() -> None:
    table = PolicyTable(config(load={"enabled": True, "similarity_drop": 0.04, "ttl_gain": 0.5}))
    base = table.policy(("faq",))
    table.observe_load(0.9)
    half = table.policy(("faq",))
    assert half.min_similarity == pytest.approx(0.78) and half.ttl_ns == pytest.approx(1.25 * base.ttl_ns)
    table.observe_load(2.0)
    assert table.policy(("chat",)).min_similarity == pytest.approx(0.84)
    assert table.policy(("health",)).min_similarity == 0.93, "never where it is not adaptive"
    table.observe_load(0.97)
    assert table.ramp == 1, "a small fall changes nothing"
    table.observe_load(0.5)
    assert table.policy(("faq",)) == base
    assert table.state() == {"ramp": 0}


def test_load_is_ignored_unless_it_is_asked_for() -> None:
    table = PolicyTable(config())
    table.observe_load(5)
    assert table.ramp == 0


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("What is the weather in Oslo?", "volatile"),
        ("Who is the current president of Chile?", "volatile"),
        ("Why was my card declined?", "personal"),
        ("```python\nprint(1)\n```", "code"),
        ("Translate bread into Danish.", "translation"),
        ("What is 12 * 7?", "math"),
        ("Write a haiku on snow.", "creative"),
        ("word " * 300, "document"),
        ("How do volcanoes form?", None),
    ],
)
def test_structure(text: str, category: str | None) -> None:
    assert by_structure(Shape(text)) == category


def test_tools_come_first_and_hints_before_structure() -> None:
    assert by_structure(Shape("What is the weather?", tools=True)) == "tool"
    assert by_structure(Shape("Name three birds.", structured=True)) == "document"
    known = config().categories
    found = at_once(Shape("What is the weather?"), "faq", known)
    assert found is not None and (found.categories, found.source) == (("faq",), "hint")
    found = at_once(Shape("What is the weather?"), "unheard of", known)
    assert found is not None and (found.categories, found.source) == (("volatile",), "structure")
    assert at_once(Shape("How do volcanoes form?"), "", known) is None
