"""A seeded slice of tests/accept/test_issue_4_unicode.py: no cut character at either door."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.frontdoor.tokenizer import Tokenizer
from tests.api.harness import serving
from tests.api.unicode_texts import check_both_doors, texts
from tests.unit.frontdoor.vocabularies import byte_fallback_folder, byte_level_folder


@pytest.mark.parametrize("folder_of", [byte_level_folder, byte_fallback_folder])
async def test_texts_come_back_whole_one_token_in_a_step(tmp_path: Path, folder_of: Callable[[Path], Path]) -> None:
    async with serving(tmp_path, vocabulary=folder_of) as served:
        tokenizer = Tokenizer(tmp_path)
        short = [text for text in texts(seed=4, count=120) if 2 * len(tokenizer.encode(text)) <= 128][:50]
        assert len(short) == 50
        assert await check_both_doors(served, tokenizer, short) > 100
