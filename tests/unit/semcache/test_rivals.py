"""What no judge may overrule, and what one may."""

from __future__ import annotations

from itertools import combinations

import pytest

from services.semcache.rivals import GROUPS, RIVALS, excluded


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        ("Give me 18 reasons to run.", "Why should I run? Name 17 reasons.", "number"),
        ("What is a gift for less than 60 euros?", "Is there a present below 60 dinars?", "rivals"),
        ("How do I print the first line of a file?", "printing a file's last line", "rivals"),
        ("Which actor played Evita?", "Who was the actress in Evita?", "rivals"),
        ("Show how to convert JSON into YAML.", "How do I turn YAML into JSON?", "order"),
        ("Which foods should I eat with gout?", "With gout, what shouldn't I eat?", "negation"),
        ("Is my dog's growth normal?", "Is my dog's growth abnormal?", "place"),
        ("How do I pause my plan?", "How do I pause my plan for students?", "place"),
        ("I have 3 gallons. What is that in litres?", "How many gallons are in 3 litres?", "number"),
        ("Who may vote here?", "Are non-voters allowed to use the room to vote?", "negation"),
        ("Which foods have iron?", "What do I eat to avoid iron?", "negation"),
        ("What makes a deal legal?", "Can a deal be illegal, and why?", "negation"),
        ("What makes a claim valid?", "Can a claim be invalid, and why?", "negation"),
        ("Which paint is harmful?", "Name a harmless paint.", "negation"),
        ("What does error 36 on my oven mean?", "What does error 36 on my fridge mean?", "place"),
    ],
)
def test_what_no_judge_may_overrule(one: str, two: str, why: str) -> None:
    assert excluded(one, two) == excluded(two, one) == why


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("How long does shipping take?", "shipping duration"),
        ("How big is it in km?", "How many kilometres across is it?"),
        ("Where can I buy two tickets?", "I'd like to purchase 2 tickets, where?"),
        ("How do I delete my account?", "What are the steps for removing an account?"),
        ("I have 3 gallons. What is that in litres?", "What do 3 gallons make in litres?"),
        ("Is Monday or Friday better?", "Which day is better, Monday or Friday?"),
    ],
)
def test_what_a_judge_may_decide(one: str, two: str) -> None:
    assert excluded(one, two) == excluded(two, one) == ""


def test_joined_words_never_exclude_one_another_in_their_own_line() -> None:
    for text in GROUPS.strip().splitlines():
        places = [alike.split("=") for alike in text.split()]
        assert all(len(set(each)) == len(each) for each in places), text
        for one, two in combinations(places, 2):
            assert not set(one) & set(two), text
    assert all(line >= 0 and place >= 0 for found in RIVALS.values() for line, place in found)
