"""Outputs of the default model that must be of a language are, however they are drawn and whoever computes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from services.core.batch import SampleSpec
from services.core.request import FinishReason, Request
from services.engine import grammar as grammar_module
from services.engine.grammar import GrammarError, Grammars, check_grammar
from services.engine.kv_pool import PagedKvPool
from services.engine.model import Model
from services.engine.model_runner import ModelRunner
from services.engine.sampler import sample
from services.frontdoor.sampling import sampling_params
from services.frontdoor.structured import GrammarChecker
from services.frontdoor.tokenizer import Tokenizer
from services.pb import inference_pb2 as pb
from tests.engine.one_worker import Served, Told, serve
from tests.factories import make_request

BLOCK_SIZE = 16
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["new", "old", "très"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
NESTED = {
    "anyOf": [{"$ref": "#/$defs/pair"}, {"type": "null"}],
    "$defs": {
        "pair": {"type": "array", "prefixItems": [{"const": 1.5}, {"type": "boolean"}], "minItems": 2, "items": False}
    },
}
COLOURS = ["red", "dark red", "light blue"]
PHONE = r"^\(\d{3}\) \d{3}-\d{4}$"
SUMS = 'start: term ("+" term){1,3}\nterm: /[1-9][0-9]{0,2}/ | "(" start ")"'


def is_json_of(schema: dict[str, Any]) -> Callable[[str], bool]:
    """Whether a text is JSON of that schema."""

    def check(text: str) -> bool:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
        return True

    return check


def is_sum(text: str) -> bool:
    """Whether a text is of SUMS, near enough."""
    return set(text) <= set("0123456789+()") and isinstance(eval(text), int) and "+" in text


FORMS: dict[str, tuple[pb.Structured, Callable[[str], object]]] = {
    "person": (pb.Structured(json_schema=json.dumps(PERSON)), is_json_of(PERSON)),
    "nested": (pb.Structured(json_schema=json.dumps(NESTED)), is_json_of(NESTED)),
    "phone": (pb.Structured(regex=PHONE), re.compile(PHONE).fullmatch),
    "colours": (pb.Structured(choice=pb.Choices(texts=COLOURS)), COLOURS.__contains__),
    "sums": (pb.Structured(grammar=SUMS), is_sum),
}
WRONG = '{"grammars":[{"json_schema":{"type":"king"}}]}'
QUESTION = "Describe Maria, who is 34 years old. Answer with her name, age and tags."


@pytest.fixture(scope="module")
def tokenizer(smollm2_folder: Path) -> Tokenizer:
    return Tokenizer(smollm2_folder)


@pytest.fixture(scope="module")
def checker(smollm2: Model, smollm2_folder: Path) -> GrammarChecker:
    return GrammarChecker(smollm2_folder, smollm2.shape.vocab, smollm2.shape.eos_token_ids)


@pytest.fixture
def runner(smollm2: Model, smollm2_folder: Path) -> ModelRunner:
    return make_runner(smollm2, smollm2_folder, 96)


def make_runner(model: Model, folder: Path, num_blocks: int) -> ModelRunner:
    """A runner as a worker has it, with digests."""
    shape = model.shape
    pool = PagedKvPool(shape.num_layers, num_blocks, shape.kv_heads, BLOCK_SIZE, shape.head_dim, torch.float32)
    made = ModelRunner(model, pool, testing_digests=True)
    made.grammars = Grammars(folder, shape.vocab)
    return made


Ask = Callable[..., Request]


@pytest.fixture(scope="module")
def ask(tokenizer: Tokenizer, checker: GrammarChecker, smollm2: Model) -> Ask:
    """Makes requests as the front door does."""
    prompt = tokenizer.encode_chat([{"role": "user", "content": QUESTION}])

    def make(name: str, form: pb.Structured | None = None, **fields: Any) -> Request:
        resume = fields.pop("resume", ())
        message = pb.Sampling(structured=form, **{"max_tokens": 100, "seed": 5, **fields})
        shape, most = smollm2.shape, message.max_tokens
        sampling = sampling_params(message, most, shape.vocab, shape.eos_token_ids, checker.grammar(message))
        request = make_request(name, prompt, block_size=BLOCK_SIZE, resume=resume)
        return replace(request, sampling=sampling, block_hashes=())

    return make


def all_forms(ask: Ask) -> list[Request]:
    """Each form once greedy and once drawn."""
    return [ask(f"{name} {warm}", form, temperature=warm) for name, (form, _) in FORMS.items() for warm in (0, 1)]


@pytest.fixture(scope="module")
def served(smollm2: Model, smollm2_folder: Path, ask: Ask) -> Served:
    """All forms in one batch, and two requests of no form."""
    runner = make_runner(smollm2, smollm2_folder, 200)
    plain = [ask("plain 0", max_tokens=12), ask("plain 1", max_tokens=12, temperature=1.0)]
    return serve(runner, [plain[0], *all_forms(ask), plain[1]])


def text_of(tokenizer: Tokenizer, told: Told) -> str:
    reader = tokenizer.detokenizer()
    return reader.push(tuple(told.tokens)) + reader.flush()


def test_every_output_is_of_its_form(served: Served, tokenizer: Tokenizer) -> None:
    for name, told in served.told.items():
        form = FORMS.get(name.split()[0])
        if form is not None:
            assert told.finish is FinishReason.STOP, (name, told)
            text = text_of(tokenizer, told)
            assert form[1](text), (name, text)
    texts = {name: text_of(tokenizer, told) for name, told in served.told.items()}
    assert texts["person 0"] != texts["person 1"], "one is greedy and one is drawn"


def test_who_shares_a_batch_with_a_form_is_as_if_alone(served: Served, runner: ModelRunner, ask: Ask) -> None:
    """Tokens and the logits that they were chosen from, bit by bit; of requests with a form, too."""
    for name, fields in (("plain 0", {}), ("plain 1", {"temperature": 1.0})):
        alone = serve(runner, [ask(name, max_tokens=12, **fields)]).told[name]
        assert alone == served.told[name] and alone.digests
    runner.grammars = None  # nobody asks it
    assert serve(runner, [ask("plain 0", max_tokens=12)]).told["plain 0"] == served.told["plain 0"]


def test_a_form_alone_is_as_beside_others(served: Served, runner: ModelRunner, ask: Ask) -> None:
    name = "colours 1"
    assert serve(runner, [ask(name, FORMS["colours"][0], temperature=1.0)]).told[name] == served.told[name]


def test_parsers_made_anew_for_every_token_give_the_same_tokens(
    served: Served, smollm2: Model, smollm2_folder: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "MAX_PARSERS", 0)
    forms = [request for request in all_forms(ask) if request.request_id in ("person 1", "nested 0", "phone 1")]
    again = serve(make_runner(smollm2, smollm2_folder, 96), forms)
    assert again.told == {request.request_id: served.told[request.request_id] for request in forms}


def test_a_preempted_output_and_a_continued_one_go_on_in_their_form(
    served: Served, smollm2: Model, smollm2_folder: Path, ask: Ask
) -> None:
    lengths = {name: len(served.told[name].tokens) for name in ("person 0", "person 1")}
    forms = [
        ask(name, FORMS["person"][0], temperature=warm, max_tokens=lengths[name]) for warm, name in enumerate(lengths)
    ]
    blocks = [-(-(len(each.prompt) + lengths[each.request_id]) // BLOCK_SIZE) for each in forms]
    for room in range(sum(blocks) - 1, max(blocks) - 1, -1):  # one may have ended before both are at their longest
        short = make_runner(smollm2, smollm2_folder, room)
        again = serve(short, forms)
        if again.preemptions:
            break
    assert again.preemptions
    for name, told in again.told.items():
        assert told.tokens == served.told[name].tokens, name
    whole = served.told["person 1"].tokens
    for known in (1, 7):  # another worker has the tokens and not the parser, or one that has read other ones
        given = {"temperature": 1, "max_tokens": len(whole), "resume": tuple(whole[:known])}
        resumed = ask("person 1", FORMS["person"][0], **given)
        assert serve(short, [resumed]).told["person 1"].tokens == whole[known:]


def test_a_request_that_cannot_be_followed_ends_alone(
    served: Served, smollm2: Model, smollm2_folder: Path, tmp_path: Path, ask: Ask
) -> None:
    runner = make_runner(smollm2, smollm2_folder, 96)
    fine = ask("plain 0", max_tokens=12)
    form = FORMS["phone"][0]
    broken = ask("broken", form)
    broken = replace(broken, sampling=replace(broken.sampling, grammar=WRONG))
    elsewhere = ask("elsewhere", form, resume=(1, 2, 3))  # what it has is no beginning of a phone number
    found = serve(runner, [broken, fine, elsewhere]).told
    assert (found["plain 0"].tokens, found["plain 0"].reason) == (served.told["plain 0"].tokens, "")
    for name, says in (("broken", "king"), ("elsewhere", "")):
        assert (found[name].finish, found[name].reason) == (FinishReason.ERROR, "GRAMMAR_FAILED")
        assert found[name].message and says in found[name].message
    nowhere = Grammars(tmp_path, smollm2.shape.vocab)
    for grammars, says in ((None, "no tokenizer"), (nowhere, "tokenizer cannot be read")):
        runner.grammars = grammars
        found = serve(runner, [ask("phone", form), replace(fine, request_id="fine")]).told
        assert says in found["phone"].message and found["fine"].tokens == served.told["plain 0"].tokens


# ------------------------------------------------------------------ one choice


END = 2
"""The default model's <|im_end|>."""


@pytest.fixture(scope="module")
def grammars(smollm2: Model, smollm2_folder: Path) -> Grammars:
    return Grammars(smollm2_folder, smollm2.shape.vocab)


def grammar_of(checker: GrammarChecker, form: pb.Structured) -> str:
    return checker.grammar(pb.Sampling(structured=form))


def test_ends_are_allowed_where_the_language_ends_and_alone_where_nothing_follows(
    grammars: Grammars, checker: GrammarChecker, tokenizer: Tokenizer
) -> None:
    grammar = grammar_of(checker, pb.Structured(regex="ab?"))
    a, b = tokenizer.encode("a"), tokenizer.encode("b")
    spec = SampleSpec(0.0, 0, forbidden=(END, 7), forbidden_before=0, grammar=grammar)

    def following(outputs: tuple[int, ...], **fields: Any) -> set[int]:
        return set(grammars.allowed("r", replace(spec, **fields), 10 + len(outputs), outputs).nonzero()[0].tolist())

    assert not following(()) & {END, 7} and following(()) >= set(a)
    assert following(a) == {END, 7, *b}
    assert following(a, forbidden_before=13) == set(b), "min_tokens"
    assert following(a + b, forbidden_before=13) == {END, 7}, "what is whole is not prolonged"
    assert following((), forbidden=(a[0], END)) & set(a), "a stop token that the language has may be drawn"
    with pytest.raises(GrammarError, match="no token that could end"):
        following((), forbidden=())


def test_a_mask_comes_after_bias_and_before_temperature(
    grammars: Grammars, checker: GrammarChecker, tokenizer: Tokenizer, smollm2: Model
) -> None:
    grammar = grammar_of(checker, pb.Structured(choice=pb.Choices(texts=["yes", "no"])))
    (yes,), (no,), (other,) = (tokenizer.encode(text) for text in ("yes", "no", "maybe"))
    logits = torch.zeros(1, smollm2.shape.vocab)
    logits[0, [other, yes, no]] = torch.tensor([20.0, 5.0, 4.0])

    def chosen(**fields: Any) -> int:
        spec = SampleSpec(**{"temperature": 0.0, "seed": 1, "forbidden": (END,), "grammar": grammar, **fields})
        before = logits.clone()
        (token,) = sample(logits, [spec], [3], [()], {0: grammars.allowed("r", spec, 3, ())})
        assert torch.equal(before, logits), "left as they are"
        return token

    assert chosen() == yes
    assert chosen(logit_bias=((no, 2.0), (other, 100.0))) == no
    assert chosen(temperature=1.0, top_k=1) == yes, "of those that may follow"
    assert chosen(temperature=2.0, top_p=0.01) == yes
    drawn = {tokenizer.spell(chosen(temperature=2.0, seed=seed))[0] for seed in range(40)}
    assert drawn <= {"y", "ye", "yes", "n", "no"}


def test_bounded_tables_forget_and_ids_are_used_again(
    grammars: Grammars, checker: GrammarChecker, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "MAX_PARSERS", 3)
    monkeypatch.setattr(grammar_module, "MAX_COMPILED", 2)
    languages = {text: grammar_of(checker, pb.Structured(regex=f"[{text}x][0-9]")) for text in "abcd"}
    (digit,) = tokenizer.encode("7")
    for _ in range(2):
        for text, grammar in languages.items():
            (first,) = tokenizer.encode(text)
            spec = SampleSpec(0.0, 0, forbidden=(END,), grammar=grammar)
            for request_id in (text, "the same"):  # an id that had another language, and another output
                assert grammars.allowed(request_id, spec, 1, ())[first]
                after = grammars.allowed(request_id, spec, 2, (first,))
                assert after[digit] and not after[first]
                assert grammars.allowed(request_id, spec, 1, ())[first], "an output that is shorter again"
    assert len(grammars._parsers) == 3 and len(grammars._compiled) == 2


def test_a_language_that_is_wrong_says_why() -> None:
    with pytest.raises(GrammarError, match="king"):
        check_grammar(WRONG)
