"""Stop strings: where they end a text does not depend on how the text was cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.batch import TokenLogprob
from services.core.request import FinishReason
from services.frontdoor.client_stream import Chunk
from services.frontdoor.output_text import OutputText, StopFinder
from services.frontdoor.tokenizer import Tokenizer
from tests.unit.frontdoor.vocabularies import byte_level_folder

SHORT = st.text("abc", max_size=12)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(byte_level_folder(tmp_path_factory.mktemp("level")))


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The rule letter by letter: the first stop that is complete ends the text; of several, the longest."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(text=SHORT, stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3), cut=st.data())
def test_the_first_complete_stop_ends_the_text_however_it_is_cut(text: str, stops: list[str], cut) -> None:
    finder, got, rest = StopFinder(stops), "", text
    while rest:
        size = cut.draw(st.integers(1, len(rest)))
        got += finder.push(rest[:size])
        rest = rest[size:]
        assert text.startswith(got)
    got += finder.rest()
    assert (got, finder.found) == expected(text, stops)


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    finder = StopFinder(["<end>"])
    assert [finder.push(part) for part in ("ab", "c<", "en", "x", "<", "end", ">tail")] == [
        *("ab", "c", "", "<enx", "", "", "")
    ]
    assert (finder.found, finder.rest(), finder.push("more")) == ("<end>", "", "")


def chunk(tokenizer: Tokenizer, text: str, finish: FinishReason | None = FinishReason.LENGTH) -> Chunk:
    ids = tokenizer.encode(text)
    return Chunk(0, ids, finish, tuple(TokenLogprob(each, -1.0) for each in ids))


def test_ids_and_logprobs_end_where_the_stop_is_complete(tokenizer: Tokenizer) -> None:
    piece = OutputText(tokenizer, ["lo w"]).take(chunk(tokenizer, "hello world"))
    assert (piece.text, piece.finish, piece.stop_text) == ("hel", FinishReason.STOP, "lo w")
    assert tokenizer.encode("hello w") == piece.token_ids
    assert len(piece.logprobs) == len(piece.offsets) == len(piece.token_ids)
    assert piece.offsets[:3] == (0, 2, 3)  # "he" is one id


def test_stops_are_not_looked_for_before_min_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("xaxaxa")
    text = OutputText(tokenizer, ["a"], min_tokens=4)
    assert text.take(Chunk(0, ids, None)).text == "xax"


def test_a_held_back_beginning_is_set_free_by_the_end(tokenizer: Tokenizer) -> None:
    text = OutputText(tokenizer, ["abc"])
    assert text.take(Chunk(0, tokenizer.encode("xab"), None)).text == "x"
    last = text.take(Chunk(3, (2,), FinishReason.STOP))
    assert (last.text, last.finish, last.stop_text, last.stop_token_id) == ("ab", FinishReason.STOP, None, 2)
    flushed = OutputText(tokenizer, ["\ufffd"])
    cut = flushed.take(Chunk(0, tokenizer.encode("é")[:1], FinishReason.LENGTH))
    assert (cut.text, cut.finish, cut.stop_text) == ("", FinishReason.STOP, "\ufffd")
