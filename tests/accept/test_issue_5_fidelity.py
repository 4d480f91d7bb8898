"""Issue 5, fidelity: what is sent is the trace, on whole public traces; each of these checks can fail.

The traces are not part of the tree; they are looked for beside the checkout, in ../shared/data.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from loadgen.forecast import choose
from loadgen.plan import Lengths, Plan
from loadgen.prompts import PromptMaker, block_chain, plain_vocabulary, safe_vocabulary
from loadgen.survey import PrefixTree, dispersion, gap_cv
from loadgen.traces import Trace
from services.core.clock import NS_PER_S
from services.engine.checkpoint import DEFAULT_MODEL, prepare_model

pytestmark = [pytest.mark.accept, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
AZURE = ("azure_llm_2023/AzureLLMInferenceTrace_code.csv", "azure_llm_2023/AzureLLMInferenceTrace_conv.csv")
MOONCAKE = "mooncake_fast25/conversation_trace.jsonl.gz"
HITS, BLOCKS = 105_710, 288_500
US = 1000


def path_of(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not beside the checkout: put the public trace into ../shared/data")
    return DATA / name


def plan_of(name: str, **fields: object) -> Plan:
    return Plan(Trace(path_of(name)), PromptMaker(plain_vocabulary()).prompt, **fields)


def source(name: str) -> Iterator[tuple[float, int, int]]:
    """Time in microseconds and lengths of each row, read without any of the readers' code."""
    if name == MOONCAKE:
        with gzip.open(path_of(name), "rt") as lines:
            for row in map(json.loads, lines):
                yield row["timestamp"] * 1000, row["input_length"], row["output_length"]
        return
    with path_of(name).open(newline="") as file:
        for row in csv.DictReader(file):
            whole, fraction = row["TIMESTAMP"].split(".")
            second = datetime.fromisoformat(whole + "+00:00").timestamp()
            yield second * 1e6 + int(fraction) / 10, int(row["ContextTokens"]), int(row["GeneratedTokens"])


def times(plan: Plan) -> np.ndarray:
    return np.array([each.intended_ns for each in plan()], dtype=np.float64) / NS_PER_S


@pytest.mark.parametrize("name", [*AZURE, MOONCAKE])
def test_the_schedule_is_the_trace_to_a_microsecond(name: str) -> None:
    rows, requests = list(source(name)), list(plan_of(name)())
    off_us = [each.intended_ns / US - (at - rows[0][0]) for each, (at, _, _) in zip(requests, rows, strict=True)]
    print(f"{name}: {len(rows)} rows, at most {max(map(abs, off_us)):.3f} us off")
    assert max(map(abs, off_us)) <= 1
    assert [(each.input_tokens, each.output_tokens) for each in requests] == [row[1:] for row in rows]


@pytest.mark.parametrize("name", AZURE)
@pytest.mark.parametrize("speed", [0.25, 3.7])
def test_scaling_leaves_the_cv_and_moves_the_dispersion(name: str, speed: float) -> None:
    plain, scaled = times(plan_of(name)), times(plan_of(name, speed=speed))
    print(f"{name} at {speed}: CV {gap_cv(plain):.6f} and {gap_cv(scaled):.6f}")
    assert gap_cv(scaled) == pytest.approx(gap_cv(plain), rel=1e-6)
    for window_s in (1, 10, 60):
        # A nanosecond of rounding can move a row over a window's edge.
        assert dispersion(scaled, window_s / speed) == pytest.approx(dispersion(plain, window_s), rel=2e-3)


def test_dither_turns_the_ticks_of_mooncake_into_a_poisson_process() -> None:
    raw, dithered = times(plan_of(MOONCAKE)), times(plan_of(MOONCAKE, dither_s=3.0))
    print(f"CV raw {gap_cv(raw):.3f}, dithered {gap_cv(dithered):.3f}")
    assert gap_cv(raw) == pytest.approx(3.03, abs=0.005)
    assert gap_cv(dithered) == pytest.approx(1.01, abs=0.03)
    assert np.array_equal(dithered, times(plan_of(MOONCAKE, dither_s=3.0)))
    assert not np.array_equal(dithered, times(plan_of(MOONCAKE, dither_s=3.0, seed=1)))


def test_token_ids_give_back_every_block_hit_of_mooncake() -> None:
    """145 million tokens, one prompt at a time; the tree keeps a digest of 8 bytes for each block."""
    tree, tokens = PrefixTree(), 0
    for request in plan_of(MOONCAKE)():
        prompt = request.prompt()
        assert len(prompt) == request.input_tokens and not isinstance(prompt, str)
        tokens += len(prompt)
        tree.add(block_chain(prompt, 512))
    print(f"{tokens} tokens, {tree.hits} of {tree.blocks} blocks found: {tree.hit_rate:.6%}")
    assert (tree.hits, tree.blocks) == (HITS, BLOCKS)
    assert f"{tree.hit_rate:.2%}" == "36.64%"


def test_prompts_of_their_own_give_back_nothing() -> None:
    """The negative control of the test above: what is found there is found in the tokens."""
    tree = PrefixTree()
    maker = PromptMaker(plain_vocabulary())
    for index, row in enumerate(Trace(path_of(MOONCAKE))):
        if index == 300:
            break
        tree.add(block_chain(maker.token_ids(replace(row, prefix=()), str(index)), 512))
    assert tree.hits == 0 and tree.blocks > 3000


def test_the_oracle_is_told_before_sending_and_scaled_lengths_keep_it() -> None:
    trace = Trace(path_of(MOONCAKE))
    plan = Plan(trace, PromptMaker(plain_vocabulary()).prompt, dither_s=3.0, lengths=Lengths(1 / 32))
    _, found = choose(trace, plan)
    assert found.survey.block_hits == HITS / BLOCKS
    assert found.read == found.kept == found.survey.rows == 12_031


def test_text_gives_back_the_same_sharing_through_a_tokenizer() -> None:
    folder = prepare_model(DEFAULT_MODEL, ROOT / ".cache" / "models")
    maker = PromptMaker(safe_vocabulary(folder), as_text=True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    trace = Trace(path_of(MOONCAKE))
    plan = Plan(trace, maker.prompt, lengths=Lengths(1 / 32))
    ids, found = PrefixTree(), PrefixTree()
    for each, request in zip(plan.selected(Counter()), plan(), strict=True):
        text = request.prompt()
        assert isinstance(text, str)
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        assert len(tokens) == request.input_tokens
        assert found.add(block_chain(tokens, 16)) == ids.add(each.prefix)
    assert (found.hits, found.blocks) == (HITS, BLOCKS)
