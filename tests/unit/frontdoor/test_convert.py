"""Every field of a client is checked, and its error names the field."""

from dataclasses import replace

import pytest

from services.core.errors import InvalidRequestError, ModelNotFoundError, PromptTooLongError
from services.core.request import SamplingParams
from services.core.timeline import MarkKind, Timeline
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.convert import Converter, ServedModel, timeline_events
from services.frontdoor.sampling import choices
from services.frontdoor.tokenizer import Tokenizer
from services.kvcache.block import NO_AUTH_SALT, prompt_block_hashes
from services.pb import inference_pb2 as pb
from tests.unit.frontdoor.vocabularies import byte_level_folder

NAN = float("nan")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    tokenizer = Tokenizer(byte_level_folder(tmp_path_factory.mktemp("model")))
    return ServedModel("tiny", "float32", 128, tokenizer.vocab_size, (2,), tokenizer, lambda salt: b"root" + salt, 16)


@pytest.fixture
def converter(model: ServedModel) -> Converter:
    return Converter(model, FrontDoorConfig(max_output_tokens=32), "frontdoor-1")


def ask(**fields: object) -> pb.GenerateRequest:
    """A request that is right but for `fields`."""
    return pb.GenerateRequest(**{"request_id": "r1", "prompt": "hello", **fields})


def turn(role: str = "user", *texts: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text) for text in texts])


@pytest.mark.parametrize("prompt", [{"prompt": "hello"}, {"prompt": "", "messages": [turn("user", "hello")]}])
def test_a_text_with_tokens_that_the_model_does_not_have_is_refused(
    model: ServedModel, prompt: dict[str, object]
) -> None:
    """The folder's tokenizer may know more tokens than its model: a worker would fail on them."""
    converter = Converter(replace(model, vocab_size=100), FrontDoorConfig(), "frontdoor-1")
    with pytest.raises(InvalidRequestError, match=r"\d+ is not below the vocabulary's 100") as caught:
        converter.request(ask(**prompt), None)
    assert caught.value.field == next(name for name, value in prompt.items() if value)


def test_a_whole_request(converter: Converter, model: ServedModel) -> None:
    sampling = pb.Sampling(max_tokens=7, temperature=0.8, seed=2**63 - 1, ignore_eos=True)
    message = pb.GenerateRequest(
        request_id="a.b_c:d-1",
        model="tiny",
        messages=[turn("user", "Hi", " there")],
        sampling=sampling,
        ttft_slo_ms=1,
        priority=-3,
    )
    request = converter.request(message, 1_000)
    assert (request.request_id, request.priority) == ("a.b_c:d-1", -3)
    assert request.prompt == model.tokenizer.encode_chat([{"role": "user", "content": "Hi there"}])
    assert request.block_hashes == prompt_block_hashes(model.root_of(NO_AUTH_SALT), request.prompt, 16)
    assert len(request.block_hashes) == len(request.prompt) // 16 > 0
    assert (request.sampling.max_tokens, request.sampling.temperature) == (7, 0.8)
    assert request.sampling.seed == 2**63 - 1
    assert request.sampling.stop_token_ids == ()  # the model's end is ignored
    assert (request.front_door, request.deadline_unix_ms, request.attempt) == ("frontdoor-1", 1_000, 1)


def test_defaults_are_greedy_and_bounded(converter: Converter) -> None:
    sampling = converter.request(ask(), 0).sampling
    assert sampling == SamplingParams(32, 0.0, sampling.seed, stop_token_ids=(2,))
    assert converter.request(ask(prompt="x" * 120), 0).sampling.max_tokens == 8  # what fits


def test_a_random_seed_differs_and_a_given_one_stays(converter: Converter) -> None:
    assert converter.request(ask(), 0).sampling.seed != converter.request(ask(), 0).sampling.seed
    assert converter.request(ask(sampling=pb.Sampling(seed=0)), 0).sampling.seed == 0


def test_every_sampling_field_arrives(converter: Converter) -> None:
    message = pb.Sampling(
        max_tokens=9, temperature=0.5, seed=7, top_k=3, top_p=0.8, min_p=0.1, repetition_penalty=1.2,
        presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={9: -100.0, 4: 2.5}, stop_token_ids=[8, 2],
        min_tokens=3, logprobs=0, prompt_logprobs=20,
    )  # fmt: skip
    assert converter.request(ask(sampling=message), 0).sampling == SamplingParams(
        9, 0.5, 7, (2, 8), 3, 0.8, 0.1, 1.2, 0.5, -0.5, ((4, 2.5), (9, -100.0)), 3, 0, 20
    )
    message.ignore_eos = True
    assert converter.request(ask(sampling=message), 0).sampling.stop_token_ids == (8, 2)


def test_the_outputs_of_one_request_differ_in_id_and_seed_alone(converter: Converter) -> None:
    request = converter.request(ask(sampling=pb.Sampling(seed=7, temperature=1, n=3, prompt_logprobs=1)), 0)
    first, *others = choices(request, 3)
    assert first is request
    assert [other.request_id for other in others] == ["r1#1", "r1#2"]
    assert len({each.sampling.seed for each in choices(request, 16)}) == 16
    assert choices(request, 3) == choices(request, 16)[:3]
    for other in others:
        assert other.sampling.prompt_logprobs is None
        assert replace(other, request_id="r1", sampling=request.sampling) == request


def test_token_ids_are_taken_as_they_are(converter: Converter) -> None:
    assert converter.request(ask(prompt="", prompt_token_ids=[0, 5, 260]), 0).prompt == (0, 5, 260)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_id": ""}, "request_id"),
        ({"request_id": "a b"}, "request_id"),
        ({"request_id": "a\n"}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"prompt": ""}, "messages"),
        ({"messages": [turn("user", "Hi")]}, "messages"),
        ({"prompt_token_ids": [1]}, "messages"),
        ({"prompt": "", "prompt_token_ids": [1, 261]}, "prompt_token_ids[1]"),
        ({"prompt": "", "messages": [turn("tool", "Hi")]}, "messages[0].role"),
        ({"prompt": "", "messages": [turn("user", "Hi"), turn("user")]}, "messages[1].content"),
        (
            {"prompt": "", "messages": [pb.Message(role="user", content=[pb.ContentPart()])]},
            "messages[0].content[0]",
        ),
        ({"ttft_slo_ms": 0}, "ttft_slo_ms"),
        ({"priority": 101}, "priority"),
        ({"tpot_slo_ms": 0}, "tpot_slo_ms"),
        ({"sampling": pb.Sampling(max_tokens=0)}, "sampling.max_tokens"),
        ({"sampling": pb.Sampling(temperature=-0.1)}, "sampling.temperature"),
        ({"sampling": pb.Sampling(temperature=2.1)}, "sampling.temperature"),
        ({"sampling": pb.Sampling(temperature=NAN)}, "sampling.temperature"),
        ({"sampling": pb.Sampling(seed=2**63)}, "sampling.seed"),
        ({"sampling": pb.Sampling(top_p=0.0)}, "sampling.top_p"),
        ({"sampling": pb.Sampling(top_p=1.01)}, "sampling.top_p"),
        ({"sampling": pb.Sampling(min_p=NAN)}, "sampling.min_p"),
        ({"sampling": pb.Sampling(repetition_penalty=0.0)}, "sampling.repetition_penalty"),
        ({"sampling": pb.Sampling(presence_penalty=2.5)}, "sampling.presence_penalty"),
        ({"sampling": pb.Sampling(frequency_penalty=-2.5)}, "sampling.frequency_penalty"),
        ({"sampling": pb.Sampling(logit_bias={261: 1.0})}, "sampling.logit_bias[261]"),
        ({"sampling": pb.Sampling(logit_bias={5: 101.0})}, "sampling.logit_bias[5]"),
        ({"sampling": pb.Sampling(logit_bias={5: NAN})}, "sampling.logit_bias[5]"),
        ({"sampling": pb.Sampling(logit_bias=dict.fromkeys(range(301), 1.0))}, "sampling.logit_bias"),
        ({"sampling": pb.Sampling(stop_token_ids=[1, 261])}, "sampling.stop_token_ids[1]"),
        ({"sampling": pb.Sampling(stop_token_ids=[1] * 65)}, "sampling.stop_token_ids"),
        ({"sampling": pb.Sampling(max_tokens=4, min_tokens=5)}, "sampling.min_tokens"),
        ({"sampling": pb.Sampling(logprobs=21)}, "sampling.logprobs"),
        ({"sampling": pb.Sampling(prompt_logprobs=21)}, "sampling.prompt_logprobs"),
        ({"sampling": pb.Sampling(n=0)}, "sampling.n"),
        ({"sampling": pb.Sampling(n=17, temperature=1)}, "sampling.n"),
        ({"sampling": pb.Sampling(n=2)}, "sampling.n"),
    ],
)
def test_a_wrong_field_is_named(converter: Converter, fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        converter.request(ask(**fields), 0)
    assert caught.value.field == field
    assert caught.value.message.startswith(f"{field}: ")


def test_the_bounds_themselves_are_right(converter: Converter) -> None:
    for temperature in (0.0, 2.0):
        converter.request(ask(sampling=pb.Sampling(temperature=temperature)), 0)
    converter.request(ask(prompt="x" * 127, sampling=pb.Sampling(max_tokens=1)), 0)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "field", "got"),
    [
        ("x" * 128, None, "messages", "129"),
        ("x" * 120, 9, "sampling.max_tokens", "129"),
        ("x" * 500, 1, "messages", "501"),
    ],
)
def test_what_does_not_fit_the_window(
    converter: Converter, prompt: str, max_tokens: int | None, field: str, got: str
) -> None:
    with pytest.raises(PromptTooLongError) as caught:
        converter.request(ask(prompt=prompt, sampling=pb.Sampling(max_tokens=max_tokens)), 0)
    assert caught.value.field == field
    assert caught.value.metadata == {"field": field, "limit": "128", "got": got}


def test_another_model_is_not_found(converter: Converter) -> None:
    with pytest.raises(ModelNotFoundError, match="'big' is not served here; use 'tiny'"):
        converter.request(ask(model="big"), 0)
    with pytest.raises(ModelNotFoundError):
        converter.prompt(pb.CountTokensRequest(model="big", prompt="x"))


def test_a_timeline_is_sorted_and_counts_from_receipt() -> None:
    timeline = Timeline()
    timeline.add(MarkKind.RECEIVED, 1_000_000, "frontdoor-1", 7)
    timeline.add(MarkKind.FIRST_TOKEN, 9_000_000, "prefill-0", 8)
    timeline.add(MarkKind.QUEUED, 3_000_500, "prefill-0", 8)
    events = timeline_events(timeline)
    assert [event.name for event in events] == ["received", "queued", "first_token"]
    assert [event.offset_us for event in events] == [0, 2000, 8000]
    assert [event.worker for event in events] == ["frontdoor-1", "prefill-0", "prefill-0"]
