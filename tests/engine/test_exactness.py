"""The default model, greedy in float32, against the transformers library."""

from services.engine.model import Model
from tests.engine.one_request_loop import generate
from tests.engine.reference_rule import PROMPTS, Divergence, Reference, assert_rule


def test_five_prompts_agree_with_transformers(smollm2: Model, reference: Reference) -> None:
    found: dict[str, list[Divergence]] = {}
    for text in PROMPTS[:5]:
        prompt = reference.chat_prompt(text)
        output = generate(smollm2, prompt, 24, stop_token_ids=smollm2.shape.eos_token_ids)
        found[text] = reference.divergences(prompt, output.tokens)
        if text == PROMPTS[0]:
            assert reference.tokenizer.decode(output.tokens) == "The capital of France is Paris.<|im_end|>"
    assert_rule(found)


def test_the_rule_catches_a_wrong_token(smollm2: Model, reference: Reference) -> None:
    prompt = reference.chat_prompt(PROMPTS[0])
    output = generate(smollm2, prompt, 4)
    wrong = (*output.tokens[:2], output.tokens[2] + 1, output.tokens[3])
    assert reference.divergences(prompt, wrong)[0].index == 2


def test_the_shape_is_the_default_models(smollm2: Model) -> None:
    shape = smollm2.shape
    assert (shape.num_layers, shape.hidden, shape.vocab, shape.rope.theta) == (30, 576, 49152, 100000.0)
    assert (shape.max_position, shape.eos_token_ids, shape.kv_bytes_per_token("float32")) == (8192, (2,), 46080)
