"""Every field of a client is checked, and its error names the field."""

import pytest

from services.core.errors import InvalidRequestError, ModelNotFoundError, PromptTooLongError
from services.core.request import SamplingParams
from services.core.timeline import MarkKind, Timeline
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.convert import Converter, ServedModel, timeline_events
from services.frontdoor.tokenizer import Tokenizer
from services.kvcache.block import prompt_block_hashes
from services.pb import inference_pb2 as pb
from tests.unit.frontdoor.vocabularies import byte_level_folder

NAN = float("nan")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    tokenizer = Tokenizer(byte_level_folder(tmp_path_factory.mktemp("model")))
    return ServedModel("tiny", "float32", 128, tokenizer.vocab_size, (2,), tokenizer, b"root" * 4, 16)


@pytest.fixture
def converter(model: ServedModel) -> Converter:
    return Converter(model, FrontDoorConfig(max_output_tokens=32), "frontdoor-1")


def ask(**fields: object) -> pb.GenerateRequest:
    """A request that is right but for `fields`."""
    return pb.GenerateRequest(**{"request_id": "r1", "prompt": "hello", **fields})


def turn(role: str = "user", *texts: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text) for text in texts])


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
    assert request.block_hashes == prompt_block_hashes(model.root, request.prompt, 16)
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
