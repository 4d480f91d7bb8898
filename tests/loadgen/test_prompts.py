"""Prompts give back the sharing of a real trace, to the last block, and are the same bytes in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loadgen.arrivals import dithered
from loadgen.prompts import PromptMaker, block_chain, oracle_hits, plain_vocabulary
from loadgen.survey import PrefixTree
from loadgen.traces import Trace
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow

ROOT = Path(__file__).parents[2]
MOONCAKE = ROOT.parent / "shared" / "data" / "mooncake_fast25" / "conversation_trace.jsonl.gz"
ONE = (
    "import hashlib; from loadgen.prompts import *; from services.core.workload import WorkloadRow as R;"
    "m = PromptMaker(plain_vocabulary(), 7);"
    "print(hashlib.sha256(str(m.token_ids(R(0.0, 1300, 1, prefix=(5, 9), prefix_block_tokens=512), 'x')).encode())"
    ".hexdigest())"
)


def conversations() -> Trace:
    if not MOONCAKE.exists():
        pytest.skip("the public Mooncake conversation trace is not in ../shared/data: put it there")
    return Trace(MOONCAKE)


def test_dither_undoes_the_ticks_of_mooncake() -> None:
    def gap_cv(rows: list[WorkloadRow]) -> float:
        gaps = np.diff([row.arrival_s for row in rows])
        return float(gaps.std() / gaps.mean())

    rows = list(conversations())
    assert gap_cv(rows) == pytest.approx(3.034, abs=0.005)
    assert gap_cv(list(dithered(rows, 3.0, seed=0))) == pytest.approx(1.01, abs=0.03)


def test_oracle_of_mooncake() -> None:
    tree = oracle_hits(conversations())
    assert (tree.blocks, f"{tree.hit_rate:.2%}") == (288_500, "36.64%")


def test_token_ids_give_back_the_sharing_of_the_trace() -> None:
    rows = list(conversations())[:150]
    maker, ids, tokens = PromptMaker(plain_vocabulary()), PrefixTree(), PrefixTree()
    for index, row in enumerate(rows):
        prompt = maker.token_ids(row, str(index))
        assert len(prompt) == row.input_tokens
        assert tokens.add(block_chain(prompt, 512)) == ids.add(row.prefix)
    assert (tokens.hits, tokens.blocks) == (ids.hits, ids.blocks) and ids.hits > 100


def test_the_same_bytes_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", ONE], env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    row = WorkloadRow(0.0, 1300, 1, prefix=(5, 9), prefix_block_tokens=512)
    here = str(PromptMaker(plain_vocabulary(), 7).token_ids(row, "x"))
    assert found == {hashlib.sha256(here.encode()).hexdigest()}


def test_text_needs_a_tokenizer() -> None:
    with pytest.raises(ConfigError, match="--text"):
        PromptMaker(plain_vocabulary(), as_text=True)
