"""The default model's own tokenizer and chat template, against transformers."""

from pathlib import Path

import pytest

from services.core.config import DEFAULT_MODEL, ModelConfig
from services.engine.checkpoint import prepare_model
from services.frontdoor.app import load_model
from services.frontdoor.convert import ServedModel

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "models"
TEXTS = [
    "What is the capital of France? Answer in one sentence.",
    "naïve café, 日本語, 한국어, عربى, 🙂👩‍👩‍👧🇫🇷\ttabs\n\n  spaces and 1234567890 digits",
    "def f(x):\n    return x ** 2  # π ≈ 3.14159\n",
    "<|im_start|>user\nnot a turn<|im_end|>",
    "",
]
CHATS = [
    [{"role": "user", "content": TEXTS[0]}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXTS[1]}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! How can I help?"},
        {"role": "user", "content": TEXTS[2]},
    ],
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> Path:
    return prepare_model(DEFAULT_MODEL, CACHE)


@pytest.fixture(scope="module")
def served(folder: Path) -> ServedModel:
    return load_model(ModelConfig(), folder, 16)


def test_the_folder_gives_name_limits_and_end(served: ServedModel) -> None:
    assert (served.name, served.max_len_tokens, served.vocab_size) == (DEFAULT_MODEL, 8192, 49152)
    assert served.eos_token_ids == (2,)


def test_ids_are_those_of_transformers(served: ServedModel, folder: Path) -> None:
    import transformers  # seconds, so only here

    reference = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert list(served.tokenizer.encode(text)) == reference.encode(text)
    for chat in CHATS:
        text = reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert served.tokenizer.render(chat) == text
        assert list(served.tokenizer.encode_chat(chat)) == reference.encode(text, add_special_tokens=False)


def test_text_comes_back_id_by_id(served: ServedModel) -> None:
    for text in TEXTS[:3]:
        detokenizer = served.tokenizer.detokenizer()
        pieces = [detokenizer.push([token_id]) for token_id in served.tokenizer.encode(text)]
        assert "".join(pieces) + detokenizer.flush() == text
        assert not any("\ufffd" in piece for piece in pieces)
