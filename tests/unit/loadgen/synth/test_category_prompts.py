"""Questions by category: shares as set, labels that hold together, two halves with nothing in common."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from loadgen.synth.category_prompts import CATEGORIES, Category, Question, parse_mix, questions
from loadgen.synth.templates import HALVES, Family, load_half
from services.core.errors import ConfigError

KINDS = {"number", "unit", "entity", "direction", "negation", "antonym", "date", "language", "currency", "identifier"}


def ask(count: int, half: str = "a", seed: int = 1, **categories: Category) -> list[Question]:
    """So many questions, ten a second."""
    return list(questions([each / 10 for each in range(count)], load_half(half), categories or CATEGORIES, seed))


@pytest.fixture(scope="module", params=HALVES)
def asked(request: pytest.FixtureRequest) -> list[Question]:
    return ask(3000, request.param)


def test_labels_hold_together(asked: list[Question]) -> None:
    families = {family.category + "/" + family.name for half in HALVES for family in load_half(half)}
    texts: dict[str, str] = {}
    for index, each in enumerate(asked):
        family = each.cluster.rsplit("/", len(each.cluster.split("/")) - 2)[0]
        assert family in families and family.split("/")[0] == each.row.category
        assert texts.setdefault(each.prompt, each.cluster) == each.cluster  # one text, one question
        assert (each.trap in KINDS) == (each.kind == "trap") and (each.of is None) == (each.kind == "new")
        if each.of is None:
            continue
        other = asked[each.of]
        assert each.of < index and other.row.category == each.row.category
        assert (other.cluster == each.cluster) == (each.kind != "trap")
        assert (other.prompt == each.prompt) == (each.kind == "duplicate")


def test_there_are_enough_traps_of_every_kind_and_paraphrases(asked: list[Question]) -> None:
    kinds = Counter(each.trap for each in asked if each.kind == "trap")
    assert sum(kinds.values()) >= 200 and sum(each.kind == "paraphrase" for each in asked) >= 200
    assert {kind for half in HALVES for family in load_half(half) for _, kind in family.traps} == KINDS


@pytest.mark.parametrize("half", HALVES)
def test_a_half_has_every_kind_of_trap_and_every_category(half: str) -> None:
    families = load_half(half)
    assert {kind for family in families for _, kind in family.traps} == KINDS
    assert {family.category for family in families} == set(CATEGORIES)
    assert all(len(family.phrasings) >= 3 == len(set(family.phrasings[:3])) for family in families)
    for family in families:
        for phrasing in family.phrasings:
            assert all(f"{{{slot}}}" in phrasing for slot in family.slots), phrasing


def test_the_halves_have_nothing_in_common() -> None:
    def words(families: tuple[Family, ...]) -> set[str]:
        slots = [slot for family in families for slot in family.slots.values()]
        return {word for slot in slots for word in (*slot.words, *(side for pair in slot.pairs for side in pair))}

    a, b = load_half("a"), load_half("b")
    assert not words(a) & words(b)
    assert not {text for family in a for text in family.phrasings} & {text for family in b for text in family.phrasings}
    assert not {(each.category, each.name) for each in a} & {(each.category, each.name) for each in b}


@pytest.mark.parametrize("name", CATEGORIES)
def test_repeats_and_traps_have_the_shares_that_were_set(name: str) -> None:
    kinds = Counter(each.kind for each in ask(600, **{name: CATEGORIES[name]}))
    wanted = CATEGORIES[name]
    assert (kinds["duplicate"] + kinds["paraphrase"]) / 600 == pytest.approx(wanted.duplicate_rate, abs=0.06)
    assert kinds["trap"] / 600 == pytest.approx(wanted.trap_rate, abs=0.05)
    other = replace(wanted, duplicate_rate=min(0.9, wanted.duplicate_rate + 0.3), trap_rate=0.0)
    kinds = Counter(each.kind for each in ask(600, **{name: other}))
    assert (kinds["duplicate"] + kinds["paraphrase"]) / 600 != pytest.approx(wanted.duplicate_rate, abs=0.06)


def top_share(popularity: float) -> float:
    """Repeats that go to the tenth of clusters that gets most."""
    category = replace(CATEGORIES["code"], popularity=popularity, duplicate_rate=0.5)
    repeats = Counter(each.cluster for each in ask(2000, code=category) if each.kind in ("duplicate", "paraphrase"))
    clusters = 1000
    return sum(count for _, count in repeats.most_common(clusters // 10)) / sum(repeats.values())


def test_code_is_popular_by_a_power_law_and_chat_uniformly() -> None:
    assert CATEGORIES["code"].popularity > 1 and CATEGORIES["chat"].popularity == 0
    assert top_share(CATEGORIES["code"].popularity) > 0.8 > 0.6 > top_share(0.0)


def test_answers_to_news_age_and_others_do_not() -> None:
    news = ask(900, news=replace(CATEGORIES["news"], validity_s=20.0, duplicate_rate=0.8))
    first: dict[str, Question] = {}
    for each in news:
        before = first.setdefault(each.cluster, each)
        spans = (each.row.arrival_s - before.row.arrival_s) / 20
        assert abs(each.version - before.version - spans) < 1
    assert len({each.version for each in news}) >= 5 and len({each.version for each in news[:150]}) >= 2
    assert {each.version for each in ask(900) if each.row.category != "news"} == {0}


def test_a_category_does_not_depend_on_the_others_and_a_seed_gives_one_trace() -> None:
    alone = [each.prompt for each in ask(300, code=CATEGORIES["code"])]
    mixed = [each.prompt for each in ask(300) if each.row.category == "code"]
    assert mixed == alone[: len(mixed)] and len(mixed) > 40
    assert ask(100) == ask(100) != ask(100, seed=2)


def test_running_out_of_questions_and_bad_rates_are_named() -> None:
    with pytest.raises(ConfigError, match="raise --duplicate-rate"):
        ask(5000, news=replace(CATEGORIES["news"], duplicate_rate=0.0, trap_rate=0.0))
    for name, value in (("duplicate_rate", 1.0), ("duplicate_rate", -0.1), ("trap_rate", 0.9), ("validity_s", 0.0)):
        with pytest.raises(ConfigError, match="--" + name.replace("_", "-")):
            ask(1, news=replace(CATEGORIES["news"], **{name: value}))
    with pytest.raises(ConfigError, match="--half"):
        load_half("d")


@pytest.mark.parametrize("mix", ["", "code", "code=x", "poems=1", "code=-1", "code=0", "code=nan"])
def test_a_bad_mix_is_named(mix: str) -> None:
    with pytest.raises(ConfigError, match="--mix"):
        list(questions([0.0], load_half("a"), parse_mix(mix, CATEGORIES), 1))


def test_a_mix_names_all_that_is_asked() -> None:
    chosen = parse_mix("code=3, chat=1", CATEGORIES)
    found = Counter(each.row.category for each in ask(400, **chosen))
    assert set(found) == {"code", "chat"} and found["code"] / 400 == pytest.approx(0.75, abs=0.07)
