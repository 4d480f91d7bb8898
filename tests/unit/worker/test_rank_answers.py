"""Answers of several ranks become one: the last one's arrival tells it, and the worst of them is told."""

from __future__ import annotations

import pytest

from services.core.actions import CloseLink, LinkLost, LinkUp, ReceiveDone, SendDone
from services.core.peer import LinkKey
from services.core.request import WorkerRef
from services.worker.rank_answers import RankAnswers

LINK = LinkKey(WorkerRef("prefill-0", 1), WorkerRef("decode-0", 2), 1)


class Ranks:
    """Merged answers of three ranks."""

    def __init__(self) -> None:
        self.condemned: list[CloseLink] = []
        self.answers = RankAnswers(3, self.condemned.append)
        self.answers.opened(LINK)

    def all(self, *events: LinkUp | LinkLost | SendDone | ReceiveDone) -> list[object]:
        return [self.answers.take(event) for event in events]


def sent(error: str, part: int = 0) -> SendDone:
    return SendDone("w", LINK, "t", 1, part, error)


def test_a_link_is_up_when_it_is_up_everywhere() -> None:
    up = LinkUp("w", LINK)
    assert Ranks().all(up, up, up) == [None, None, up]


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        (("", "", ""), ""),
        (("", "checksum", ""), "checksum"),
        (("checksum", "", "link: gone"), "link: gone"),
        (("link: first", "checksum", "link: second"), "link: first"),
    ],
)
def test_a_post_is_answered_once_with_the_worst(errors: tuple[str, ...], told: str) -> None:
    assert Ranks().all(*(sent(error) for error in errors)) == [None, None, sent(told)]


def test_posts_are_told_apart() -> None:
    ranks = Ranks()
    got = ReceiveDone("w", LINK, "t", 1, 0, "")
    assert ranks.all(sent(""), got, sent("", part=1), sent(""), got) == [None] * 5
    assert ranks.all(got, sent("")) == [got, sent("")]


def test_a_link_that_breaks_at_one_rank_is_closed_at_all_and_lost_once() -> None:
    ranks = Ranks()
    first, later = LinkLost("w", LINK, "pair 0-1 broke"), LinkLost("w", LINK, "aborted")
    assert ranks.all(LinkUp("w", LINK), first, later) == [None, None, None]
    assert ranks.condemned == [CloseLink(LINK, "pair 0-1 broke")]
    assert ranks.answers.active == 1
    assert ranks.all(later) == [first]
    assert ranks.answers.active == 0


def test_posts_on_a_link_that_is_gone_are_answered_and_leave_nothing() -> None:
    ranks = Ranks()
    lost = LinkLost("w", LINK, "x")
    ranks.all(lost, lost, lost)
    refused = sent("link: not open")
    assert ranks.all(refused, refused, refused) == [None, None, refused]
    assert ranks.answers.active == 0
