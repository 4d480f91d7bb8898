"""What outputs are to be: every form that clients may write it in, and every way in which it can be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import llguidance
import pytest

from services.core.errors import InvalidRequestError, UnsupportedFieldError
from services.engine.grammar import read_vocabulary
from services.frontdoor import structured
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.convert import Converter, ServedModel
from services.frontdoor.openai_convert import chat_message, in_clients_words
from services.frontdoor.openai_schema import ChatCompletionRequest
from services.frontdoor.openai_structured import structured_of
from services.frontdoor.sampling import sampling_params
from services.frontdoor.structured import MAX_BYTES, GrammarChecker, StructuredError, grammar_of
from services.frontdoor.tokenizer import Tokenizer
from services.pb import inference_pb2 as pb
from tests.unit.frontdoor.vocabularies import byte_fallback_folder, byte_level_folder

SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}'
END = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> llguidance.LLTokenizer:
    return read_vocabulary(folder, 261, END)


def accepts(vocabulary: llguidance.LLTokenizer, wanted: pb.Structured, text: str) -> bool:
    """Whether a whole output may be that text."""
    kind = wanted.WhichOneof("kind")
    assert kind is not None
    matcher = llguidance.LLMatcher(vocabulary, grammar_of(kind, wanted), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = vocabulary.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        (pb.Structured(json_schema=SCHEMA), ['{"a":1}', '{\n  "a": -20\n}'], ["{}", '{"a":"1"}', '{"a":1,"b":2}', ""]),
        (pb.Structured(json_object=True), ["{}", '{"é":[1,{"b":null}]}'], ["[]", "1", "{"]),
        (pb.Structured(regex=r"^\d{3}-[a-z]+$"), ["123-ab"], ["123-", "x123-ab", "123-ab "]),
        (pb.Structured(regex=r"a\$"), ["a$"], ["a", "a\\"]),
        (pb.Structured(choice=pb.Choices(texts=["yes", "no (ok)", "é|ü"])), ["yes", "no (ok)", "é|ü"], ["é", "no"]),
        (pb.Structured(choice=pb.Choices(texts=["a", "ab"])), ["a", "ab"], ["b", "aba"]),
        (pb.Structured(grammar='root ::= "x" in*\nin ::= [0-9] | "(" in ")"'), ["x((7))12", "x"], ["x((7)", "7"]),
        (pb.Structured(grammar='start: "x" inner\ninner: /[0-9]+/ | "(" inner ")"'), ["x((7))"], ["x((7)", "7"]),
    ],
    ids=lambda each: each.WhichOneof("kind") if isinstance(each, pb.Structured) else "",
)
def test_each_kind_is_the_language_that_it_describes(
    vocabulary: llguidance.LLTokenizer, wanted: pb.Structured, right: list[str], wrong: list[str]
) -> None:
    assert [text for text in right if not accepts(vocabulary, wanted, text)] == []
    assert [text for text in wrong if accepts(vocabulary, wanted, text)] == []


def test_white_space_is_bounded(vocabulary: llguidance.LLTokenizer) -> None:
    wanted = pb.Structured(json_schema=SCHEMA)
    assert accepts(vocabulary, wanted, "{" + " " * 16 + '"a":1}')
    assert not accepts(vocabulary, wanted, "{" + " " * 17 + '"a":1}')


WRONG: list[tuple[pb.Structured, str, str]] = [
    (pb.Structured(), "", "no kind"),
    (pb.Structured(json_schema="{"), "json_schema", "is not JSON"),
    (pb.Structured(json_schema="[1]"), "json_schema", "a JSON object is needed, found list"),
    (pb.Structured(json_schema='{"type":"king"}'), "json_schema", "king"),
    (pb.Structured(json_schema='{"$ref":"http://example.com/a.json"}'), "json_schema", "does not fetch"),
    (pb.Structured(json_schema='{"a":' * 500 + "1" + "}" * 500), "json_schema", "JSON"),
    (pb.Structured(json_schema='{"enum":[NaN]}'), "json_schema", "JSON"),
    (pb.Structured(json_schema='{"type":"string","pattern":"(?=a)b"}'), "json_schema", ""),
    (pb.Structured(json_object=False), "json_object", "set it to true"),
    (pb.Structured(regex=""), "regex", "is empty"),
    (pb.Structured(regex="(a"), "regex", ""),
    (pb.Structured(regex=r"(a)\1"), "regex", ""),
    (pb.Structured(regex="(" * 20_000 + ")" * 20_000), "regex", "invalid regex"),
    (pb.Structured(choice=pb.Choices()), "choice", "give one text or more"),
    (pb.Structured(choice=pb.Choices(texts=["a", ""])), "choice", "none of them empty"),
    (pb.Structured(grammar=" "), "grammar", "is empty"),
    (pb.Structured(grammar="start: missing"), "grammar", "missing"),
    (pb.Structured(grammar="start: " + "a{" * 20_000 + '"a"' + "}" * 20_000), "grammar", "at most 1000"),
    (pb.Structured(grammar="".join(f"a{n}: a{n + 1}\n" for n in range(4000))), "grammar", "at most 1000"),
]


@pytest.mark.parametrize(("wanted", "kind", "says"), WRONG)
def test_what_is_wrong_is_told_with_its_field(folder: Path, wanted: pb.Structured, kind: str, says: str) -> None:
    checker = GrammarChecker(folder, 261, (END,))
    for _ in range(2):
        with pytest.raises(StructuredError) as caught:
            checker.grammar(pb.Sampling(structured=wanted))
        assert caught.value.field == ("sampling.structured" + (f".{kind}" if kind else ""))
        assert says in caught.value.message and len(caught.value.message) < 600
    assert checker.counts == {(kind or "none", "invalid"): 2}


def test_a_grammar_is_compiled_once_and_counted_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(structured, "check_grammar", lambda grammar, vocabulary=None: checked.append(grammar))
    checker = GrammarChecker(folder, 261, (END,))
    sampling = pb.Sampling(structured=pb.Structured(json_schema=SCHEMA))
    assert checker.grammar(sampling) == checker.grammar(sampling)
    assert len(checked) == 1
    assert checker.grammar(pb.Sampling(temperature=1.0)) == ""
    assert checker.counts == {("json_schema", "accepted"): 2}
    assert [(sample.labels, sample.value) for sample in checker.samples()] == [(("json_schema", "accepted"), 2)]
    monkeypatch.setattr(structured, "MAX_KNOWN", 1)
    checker.grammar(pb.Sampling(structured=pb.Structured(regex="a")))
    checker.grammar(sampling)
    assert len(checked) == 3, "the oldest was forgotten"


def test_what_cannot_be_done_here_is_told_apart(folder: Path, tmp_path: Path) -> None:
    sampling = pb.Sampling(structured=pb.Structured(json_object=True))
    for checker, why, says in (
        (GrammarChecker(tmp_path, 261, (END,)), "unsupported", "tokenizer cannot be read"),
        (GrammarChecker(folder, 261, ()), "unsupported", "no token that ends"),
    ):
        with pytest.raises(StructuredError, match=says) as caught:
            checker.grammar(sampling)
        assert caught.value.why == why
    large = pb.Structured(json_schema='{"description":"' + "x" * MAX_BYTES + '"}')
    checker = GrammarChecker(folder, 261, (END,))
    with pytest.raises(StructuredError, match=f"at most {MAX_BYTES}"):
        checker.grammar(pb.Sampling(structured=large))
    assert checker.counts == {("json_schema", "too_large"): 1}


def test_a_sentencepiece_vocabulary_that_knows_more_than_its_model_is_read(tmp_path: Path) -> None:
    folder = byte_fallback_folder(tmp_path)
    assert GrammarChecker(folder, 200, (END,)).grammar(pb.Sampling(structured=pb.Structured(regex="a é?b")))


def test_ends_are_left_to_the_grammar(folder: Path) -> None:
    model = served(folder)
    structured_ = pb.Structured(json_object=True)
    plain = sampling_params(pb.Sampling(ignore_eos=True), 9, 261, (END,))
    assert (plain.stop_token_ids, plain.min_tokens) == ((), 0)
    sampling = converted(model, pb.Sampling(structured=structured_, ignore_eos=True, max_tokens=9)).sampling
    assert (sampling.stop_token_ids, sampling.min_tokens, bool(sampling.grammar)) == ((END,), 9, True)
    sampling = converted(model, pb.Sampling(structured=structured_, stop_token_ids=[7], min_tokens=3)).sampling
    assert (sampling.stop_token_ids, sampling.min_tokens) == ((END, 7), 3)
    with pytest.raises(StructuredError, match="leave one of them out") as caught:
        converted(model, pb.Sampling(structured=structured_, ignore_eos=True, stop_token_ids=[7]))
    assert (caught.value.field, caught.value.why) == ("sampling.ignore_eos", "contradictory")


def served(folder: Path) -> ServedModel:
    """The tiny model with a checker of its own."""
    tokenizer = Tokenizer(folder)
    vocab = tokenizer.vocab_size
    model = ServedModel("tiny", "float32", 128, vocab, (END,), tokenizer, lambda salt: b"root" + salt, 16)
    return replace(model, grammars=GrammarChecker(folder, vocab, (END,)))


def converted(model: ServedModel, sampling: pb.Sampling) -> Any:
    """A request with that sampling."""
    message = pb.GenerateRequest(request_id="r1", prompt="hello", sampling=sampling)
    return Converter(model, FrontDoorConfig(), "frontdoor-1").request(message, 0)


# ------------------------------------------------------------------ HTTP


def body(**fields: object) -> ChatCompletionRequest:
    """A right body but for `fields`."""
    return ChatCompletionRequest.model_validate(
        {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}
    )


OBJECT = {"type": "object", "properties": {"b": {}, "a": {}}}
OBJECT_TEXT = '{"type": "object", "properties": {"b": {}, "a": {}}}'
ASKED: list[tuple[dict[str, object], pb.Structured | None, str]] = [
    ({}, None, ""),
    ({"response_format": {"type": "text"}}, None, ""),
    ({"response_format": None, "guided_json": None}, None, ""),
    ({"response_format": {"type": "json_object"}}, pb.Structured(json_object=True), "response_format"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": OBJECT, "strict": True}}},
        pb.Structured(json_schema=OBJECT_TEXT),
        "response_format.json_schema.schema",
    ),
    ({"structured_outputs": {"json": OBJECT}}, pb.Structured(json_schema=OBJECT_TEXT), "structured_outputs.json"),
    ({"structured_outputs": {"json": "{}", "regex": None}}, pb.Structured(json_schema="{}"), "structured_outputs.json"),
    ({"structured_outputs": {"json_object": True}}, pb.Structured(json_object=True), "structured_outputs.json_object"),
    ({"structured_outputs": {"regex": "a+"}}, pb.Structured(regex="a+"), "structured_outputs.regex"),
    (
        {"structured_outputs": {"choice": ["a", "b"]}},
        pb.Structured(choice=pb.Choices(texts=["a", "b"])),
        "structured_outputs.choice",
    ),
    ({"structured_outputs": {"grammar": "start: X"}}, pb.Structured(grammar="start: X"), "structured_outputs.grammar"),
    ({"guided_json": OBJECT_TEXT}, pb.Structured(json_schema=OBJECT_TEXT), "guided_json"),
    ({"guided_regex": "a"}, pb.Structured(regex="a"), "guided_regex"),
    ({"guided_choice": []}, pb.Structured(choice=pb.Choices()), "guided_choice"),
    ({"guided_grammar": "start: X"}, pb.Structured(grammar="start: X"), "guided_grammar"),
]


@pytest.mark.parametrize(("fields", "wanted", "name"), ASKED)
def test_every_spelling_becomes_the_same_message(
    fields: dict[str, object], wanted: pb.Structured | None, name: str
) -> None:
    given = body(**fields)
    chat_message(given)  # none of them is refused
    found, names = structured_of(given)
    assert found == wanted
    if wanted is not None:
        kind = str(wanted.WhichOneof("kind"))
        for where in ("sampling.structured", f"sampling.structured.{kind}"):
            assert in_clients_words(StructuredError(where, "is wrong"), names).message == f"{name}: is wrong"


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "is not one of text"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "give a JSON Schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            *("response_format.json_schema.schema", "give a JSON Schema"),
        ),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "not supported"),
        (
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
            *("guided_regex", "is given together with response_format; give one of them"),
        ),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            *("structured_outputs.choice", "is given together with structured_outputs.regex"),
        ),
        ({"guided_json": {"enum": [float("inf")]}}, "guided_json", "cannot be written as JSON"),
    ],
)
def test_what_is_wrong_with_a_body_names_its_field(fields: dict[str, object], field: str, says: str) -> None:
    with pytest.raises((StructuredError, UnsupportedFieldError), match=says) as caught:
        structured_of(body(**fields))
    assert isinstance(caught.value, InvalidRequestError)
    assert caught.value.field == field


def test_an_echoed_prompt_contradicts() -> None:
    with pytest.raises(StructuredError, match="leave one of them out") as caught:
        structured_of(body(guided_regex="a"), echo=True)
    assert (caught.value.field, caught.value.kind, caught.value.why) == ("echo", "regex", "contradictory")
