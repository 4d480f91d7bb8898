"""Log-probabilities against torch's own, and of prompts in chunks against the whole."""

import pytest
import torch

from services.core.batch import Row, SampleSpec, ScheduledBatch, ScoreSpec, TokenLogprob
from services.engine import model as model_module
from services.engine.kv_pool import PagedKvPool
from services.engine.layers import probe_rows
from services.engine.logprobs import token_logprob
from services.engine.model import Model
from services.engine.model_runner import ModelRunner

PROMPT = tuple((37 * position + 5) % 384 for position in range(40))


@pytest.mark.parametrize("vocab", [33, 49152])
def test_they_are_those_of_log_softmax_likeliest_first(vocab: int) -> None:
    for logits in probe_rows(3, vocab) * 5:
        wanted = logits.double().log_softmax(0)
        found = token_logprob(logits, 12, 20)
        assert found.logprob == pytest.approx(float(wanted[12]), abs=1e-5)
        values, ids = wanted.topk(20)
        assert [each for each, _ in found.top] == ids.tolist()
        assert [value for _, value in found.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_ties_and_ends() -> None:
    logits = torch.tensor([1.0, 2.0, 2.0, 1.0])
    assert [each for each, _ in token_logprob(logits, 0, 3).top] == [1, 2, 0]
    assert len(token_logprob(logits, 0, 20).top) == 4
    assert token_logprob(logits, 0, 0).top == ()


def runner_of(model: Model) -> ModelRunner:
    shape = model.shape
    return ModelRunner(model, PagedKvPool(shape.num_layers, 8, shape.kv_heads, 16, shape.head_dim, torch.float32))


def scored(model: Model, cuts: list[int]) -> tuple[list[TokenLogprob], TokenLogprob | None]:
    """Logprobs of the prompt, and of the token after it, when the prompt is computed up to each cut in turn."""
    runner = runner_of(model)
    found: list[TokenLogprob] = []
    start = 0
    for step, end in enumerate(cuts):
        spec = SampleSpec(0.0, 0, logprobs=3) if end == len(PROMPT) else None
        score = ScoreSpec(PROMPT[start + 1 : end + 1], 3)
        other = Row("other", (9, 8, 7), 0, (7,), SampleSpec(0.0, 0))
        row = Row("r", PROMPT[start:end], start, (0, 1, 2), spec, (), score)
        output = runner.execute(ScheduledBatch(step, (other, row) if step % 2 else (row, other)))
        assert output.error is None, output.error
        place = step % 2
        scores = output.scores or ((), ())  # a chunk of the last token alone has nothing to score
        assert scores[1 - place] == ()
        found += scores[place]
        start = end
    assert output.logprobs[1 - place] is None
    return found, output.logprobs[place]


@pytest.mark.parametrize("cuts", [[7, 8, 9, 40], [16, 32, 40], [39, 40]])
def test_a_prompt_in_chunks_is_scored_like_the_whole(
    tiny: Model, cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, last = scored(tiny, [40])
    assert [each.token_id for each in whole] == list(PROMPT[1:])
    monkeypatch.setattr(model_module, "SCORE_ROWS", 5)
    assert scored(tiny, cuts) == (whole, last)
    assert last is not None and last.token_id == last.top[0][0]


def test_every_position_is_the_models_own_distribution(tiny: Model) -> None:
    whole, _ = scored(tiny, [40])
    runner = runner_of(tiny)
    for position in (0, 17, 38):
        row = Row("r", PROMPT[: position + 1], 0, (0, 1, 2), SampleSpec(0.0, 0))
        with torch.inference_mode():
            logits = runner.forward(ScheduledBatch(1, (row,)))[0]
        assert whole[position] == token_logprob(logits, PROMPT[position + 1], 3)


def test_bad_targets_are_an_error_of_the_step(tiny: Model) -> None:
    for targets, reason in (((1, 2, 3), "3 targets for 2 tokens"), ((1, 384), "target is not within 0..383")):
        row = Row("r", (5, 6), 0, (0,), None, (), ScoreSpec(targets, 1))
        output = runner_of(tiny).execute(ScheduledBatch(1, (row,)))
        assert output.error is not None and reason in output.error
