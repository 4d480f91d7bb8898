"""Issue 3, models: every family under every rotary kind against the transformers library, from folders and GGUF."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from services.engine.checkpoint import prepare_model
from services.engine.model import Model
from services.engine.weights import load_tensors
from tests.engine.families import FAMILIES, ROPES, expected_logits, logits_at_ends, prompt_of, save_family
from tests.engine.gguf_files import write_gguf
from tests.engine.one_request_loop import generate

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
LENGTH = 480
ENDS = [300, 301, 384, *range(385, LENGTH + 1)]
# llama.cpp's converter has no word for these.
NOT_IN_GGUF = ("dynamic", "longrope", "yarn-options", "yarn-mscale")


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_under_a_rotary_kind(tmp_path: Path, family: str, rope: str) -> None:
    torch.set_num_threads(1)
    theirs = save_family(tmp_path / "one", family, rope, max_shard_size="100KB")
    shape, tensors = load_tensors(tmp_path / "one")
    ids = prompt_of(LENGTH)
    expected = expected_logits(theirs, ids)[[end - 1 for end in ENDS]]
    model = Model(shape, tensors, "float32")
    folder = float((logits_at_ends(model, ids, ENDS) - expected).abs().max())
    output = generate(model, ids[:440], 32).tokens
    teacher = expected_logits(theirs, (*ids[:440], *output[:-1]))[439:]
    assert output == tuple(teacher.argmax(-1).tolist())
    from_gguf = None
    qwen_window = family.startswith("qwen") and shape.window is not None
    if rope not in NOT_IN_GGUF and not qwen_window:
        write_gguf(tmp_path / "model.gguf", shape, tensors)
        converted = load_tensors(prepare_model(tmp_path / "model.gguf", tmp_path / "cache"))
        found = logits_at_ends(Model(*converted, "float32"), ids, ENDS)
        from_gguf = float((found - expected).abs().max())
    print(f"\n{family} {rope}: largest difference {folder:.1e}, from GGUF {from_gguf}", end=" ")
    assert folder < 2e-4
    # A file keeps Llama 3's factors in float32: its frequencies are rounded twice, theirs once.
    assert (from_gguf or 0.0) < (1e-3 if rope == "llama3" else 2e-4)


def test_the_default_model_is_converted_in_less_memory_than_it_has(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from services.engine.checkpoint import bundled_model, prepare_model\n"
        f"folder = prepare_model(bundled_model(), Path({str(tmp_path)!r}))\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(int(peak.split()[1]) << 10, (folder / 'model.safetensors').stat().st_size)"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=root, timeout=120, capture_output=True, text=True
    )
    peak, size = map(int, ran.stdout.split())
    print(f"\nconversion of {size >> 20} MB of weights: peak {peak >> 20} MB, file and vocabulary included", end=" ")
    assert peak < 0.75 * size
