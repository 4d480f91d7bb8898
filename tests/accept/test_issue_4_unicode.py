"""2,000 strings of emoji, CJK, combining marks and right-to-left text through SmolLM2's tokenizer and byte fallback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.core.config import DEFAULT_MODEL
from services.engine.checkpoint import prepare_model
from services.frontdoor.tokenizer import Tokenizer
from tests.api.harness import serving
from tests.api.unicode_texts import check_both_doors, texts
from tests.unit.frontdoor.vocabularies import byte_fallback_folder

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "models"


def smollm2(_: Path) -> Path:
    return prepare_model(DEFAULT_MODEL, CACHE)


def byte_fallback(folder: Path) -> Path:
    """With room for longer texts than the unit tests need."""
    byte_fallback_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    return folder


@pytest.mark.parametrize("vocabulary", [smollm2, byte_fallback])
async def test_a_thousand_texts_come_back_whole(tmp_path: Path, vocabulary) -> None:
    async with serving(tmp_path, vocabulary=vocabulary) as served:
        held = await check_both_doors(served, Tokenizer(vocabulary(tmp_path)), texts(seed=40, count=1000))
        assert held > 1000  # so characters did span tokens
