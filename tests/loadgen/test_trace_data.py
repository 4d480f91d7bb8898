"""The public traces themselves, where they lie beside the checkout: counts and statistics as published or measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.survey import survey
from loadgen.traces import Trace

DATA = Path(__file__).parents[3] / "shared" / "data"


def trace(name: str) -> Trace:
    """A trace of the collection; skips where that is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not beside the checkout (looked in {DATA.name}/): put the public trace there")
    return Trace(path)


def test_azure_conversations_of_2023() -> None:
    read = trace("azure_llm_2023/AzureLLMInferenceTrace_conv.csv")
    found = survey(read)
    assert (read.counts["read"], read.counts["kept"], found.rows) == (19_366, 19_366, 19_366)
    assert found.rate == pytest.approx(5.530, abs=0.001)
    assert found.gap_cv == pytest.approx(1.094, abs=0.001)
    assert found.dispersion["60"] == pytest.approx(16.1, abs=0.5)
    assert found.input_tokens["mean"] == pytest.approx(1155, abs=1)
    assert found.output_tokens["p99"] == pytest.approx(601, abs=1)


def test_azure_code_of_2023() -> None:
    found = survey(trace("azure_llm_2023/AzureLLMInferenceTrace_code.csv"))
    assert found.rows == 8_819
    assert found.gap_cv == pytest.approx(13.15, abs=0.01)


def test_mooncake_conversations_are_rounded_and_share_prefixes() -> None:
    found = survey(trace("mooncake_fast25/conversation_trace.jsonl.gz"))
    assert found.rows == 12_031
    assert found.gap_cv == pytest.approx(3.034, abs=0.001)
    assert found.block_hits is not None
    assert f"{found.block_hits:.2%}" == "36.64%"
    assert any("--dither-s 3" in warning for warning in found.warnings)


def test_agent_sessions_keep_their_turns() -> None:
    read = trace("agentic_claude_code_weka/weka_60_sessions.tar.xz")
    found = survey(read)
    assert (
        found.rows
        == read.counts["kept"]
        == read.counts["read"] - sum(count for reason, count in read.counts.items() if reason.startswith("dropped"))
    )
    assert found.sessions >= 60 and found.turns_per_session > 5
    assert found.block_hits is not None and found.block_hits > 0.8
