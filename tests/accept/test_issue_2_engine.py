"""Issue 2, engine: 20 prompts and the conversion of the default model, both against the transformers library."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from services.engine.checkpoint import DEFAULT_MODEL, bundled_model, prepare_model
from services.engine.model import Model
from services.engine.weights import load_tensors
from tests.engine.one_request_loop import generate
from tests.engine.reference_rule import PROMPTS, Divergence, Reference, assert_rule

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
CACHE = Path(__file__).parents[2] / ".cache" / "models"


def test_twenty_prompts_agree_with_transformers() -> None:
    torch.set_num_threads(1)
    folder = prepare_model(DEFAULT_MODEL, CACHE)
    model, reference = Model(*load_tensors(folder), "float32"), Reference(folder)
    found: dict[str, list[Divergence]] = {}
    for text in PROMPTS:
        prompt = reference.chat_prompt(text)
        output = generate(model, prompt, 48, stop_token_ids=model.shape.eos_token_ids)
        found[text] = reference.divergences(prompt, output.tokens)
        print(f"{len(output.tokens):3} tokens, {len(found[text])} divergences: {text}", *found[text], sep="\n    ")
    assert_rule(found)


def test_the_default_model_is_converted_as_transformers_reads_it() -> None:
    folder, source = prepare_model(DEFAULT_MODEL, CACHE), bundled_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        theirs_tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        ours_tokenizer = AutoTokenizer.from_pretrained(folder)
    ours, theirs = load_file(folder / "model.safetensors"), model.state_dict()
    assert theirs.keys() - ours.keys() <= {"lm_head.weight"} and ours.keys() <= theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for text in (*PROMPTS, "  Tabs\tand\n\nlines, ΑΒΓ, 東京, 🙂‍↔️, 3.14159, don't, <|im_start|>x"):
        assert ours_tokenizer(text).input_ids == theirs_tokenizer(text).input_ids
    assert ours_tokenizer.chat_template == theirs_tokenizer.chat_template
