"""Exactly-once token order under reordering, duplication and retries."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.core.actions import RequestOutput
from services.core.batch import TokenLogprob
from services.core.request import FinishReason
from services.frontdoor.stream import TokenStream


def output(attempt: int, index: int, ids: tuple[int, ...], finish: FinishReason | None = None) -> RequestOutput:
    return RequestOutput("r", attempt, index, ids, finish, cached_tokens=attempt * 16)


def token(attempt: int, index: int) -> int:
    """An id that says where it comes from."""
    return index * 10 + attempt


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, int, list[RequestOutput]]:
    """(attempts, length, outputs in order of arrival): earlier attempts send anything, the last one everything."""
    length = draw(st.integers(1, 12))
    attempts = draw(st.integers(1, 3))
    arrivals = []
    for attempt in range(1, attempts + 1):
        cuts = sorted(draw(st.sets(st.integers(1, max(length - 1, 1)), max_size=4)) - {length})
        edges = [0, *cuts, length]
        sent = [
            output(
                attempt, a, tuple(token(attempt, i) for i in range(a, b)), FinishReason.STOP if b == length else None
            )
            for a, b in itertools.pairwise(edges)
            if a < b
        ]
        if attempt < attempts:  # a worker died on the way: its end never came, and more may be missing
            sent = [one for one in sent if one.finish is None and draw(st.booleans())]
        arrivals.append(sent)
    late = [one for sent in arrivals[:-1] for one in sent]
    order = [
        *draw(st.permutations(late)),
        *draw(st.permutations([*arrivals[-1], *draw(st.lists(st.sampled_from(arrivals[-1]), max_size=4))])),
    ]
    strays = draw(st.lists(st.tuples(st.integers(0, len(order)), st.sampled_from(late)), max_size=4)) if late else []
    for place, stray in strays:
        order.insert(place, stray)
    return attempts, length, order


@given(runs())
def test_every_index_comes_exactly_once_and_in_order(run: tuple[int, int, list[RequestOutput]]) -> None:
    attempts, length, arrivals = run
    stream = TokenStream()
    got: list[int] = []
    for one in arrivals:
        assert stream.next_index == len(got)
        was_over, attempt = stream.end is not None, stream.attempt
        new = stream.push(one)
        assert not new or (not was_over and one.attempt >= attempt)
        got += new
    assert [found // 10 for found in got] == list(range(length))
    sources = [found % 10 for found in got]
    assert sources == sorted(sources)  # once a retry spoke, its predecessor is not heard again
    assert stream.attempt == attempts
    assert stream.end is not None
    assert stream.end.finish is FinishReason.STOP
    assert not stream.gap()


def test_tokens_wait_behind_a_gap_and_the_gap_is_known() -> None:
    stream = TokenStream()
    assert stream.push(output(1, 0, (1,))) == (1,)
    assert stream.push(output(1, 3, (4,))) == ()
    assert stream.gap() == range(1, 3)
    assert stream.push(output(1, 1, (2, 3))) == (2, 3, 4)
    assert not stream.gap()


def test_a_good_end_waits_for_the_tokens_before_it() -> None:
    stream = TokenStream()
    assert stream.push(output(1, 1, (2,), FinishReason.LENGTH)) == ()
    assert stream.end is None
    assert stream.gap() == range(0, 1)
    assert stream.push(output(1, 0, (1,))) == (1, 2)
    assert stream.end is not None


def test_an_end_without_tokens_can_leave_a_gap() -> None:
    stream = TokenStream()
    stream.push(output(1, 0, (1,)))
    stream.push(output(1, 2, (), FinishReason.STOP))
    assert stream.end is None
    assert stream.gap() == range(1, 2)


def test_a_bad_end_does_not_wait() -> None:
    stream = TokenStream()
    stream.push(output(1, 5, (), FinishReason.ERROR))
    assert stream.end is not None
    assert not stream.gap()
    assert stream.push(output(1, 0, (1,))) == ()
    assert stream.push(output(2, 0, (1,))) == ()


def test_a_retry_replaces_what_waited_and_keeps_what_was_passed_on() -> None:
    stream = TokenStream()
    assert stream.push(output(1, 0, (10,))) == (10,)
    stream.push(output(1, 2, (12,), FinishReason.STOP))
    assert stream.push(output(2, 0, (20,))) == ()
    assert stream.cached_tokens == 32
    assert not stream.gap()
    assert stream.push(output(1, 1, (11,))) == ()
    assert stream.push(output(2, 1, (21, 22), FinishReason.STOP)) == (21, 22)
    assert stream.end is not None


def told(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, -0.5)


def test_logprobs_come_with_their_tokens_whatever_the_order_of_arrival() -> None:
    stream = TokenStream()
    stream.push(RequestOutput("r", 1, 1, (2, 3), logprobs=(told(2), told(3))))
    assert (stream.take_logprobs(), stream.take_prompt_logprobs()) == ((), ())
    stream.push(RequestOutput("r", 1, 1, (2,), logprobs=(told(2),)))  # once more
    stream.push(RequestOutput("r", 1, 0, (1,), logprobs=(told(1),), prompt_logprobs=(told(8), told(9))))
    assert stream.take_logprobs() == (told(1), told(2), told(3))
    assert stream.take_prompt_logprobs() == (told(8), told(9))
    stream.push(RequestOutput("r", 1, 0, (1,), logprobs=(told(1),), prompt_logprobs=(told(8),)))
    assert (stream.take_logprobs(), stream.take_prompt_logprobs()) == ((), ())


def test_a_retry_forgets_the_logprobs_of_tokens_that_it_forgets() -> None:
    stream = TokenStream()
    stream.push(RequestOutput("r", 1, 1, (2,), logprobs=(told(2),)))
    stream.push(RequestOutput("r", 2, 0, (10,), logprobs=(told(10),)))
    stream.push(RequestOutput("r", 2, 1, (20,), logprobs=(told(20),)))
    assert stream.take_logprobs() == (told(10), told(20))
