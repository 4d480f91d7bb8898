"""Pools that were scaled stay so when the controller is replaced, until the configuration asks for something else."""

from __future__ import annotations

from pathlib import Path

from services.cluster.supervise import read_wanted, write_wanted

CONFIGURED = {"prefill": ("prefill-0",), "decode": ("decode-0", "decode-1")}
SCALED = {"prefill": ("prefill-0",), "decode": ("decode-0", "decode-1", "decode-2")}


def test_nothing_was_noted(tmp_path: Path) -> None:
    assert read_wanted(tmp_path / "none.json", CONFIGURED) == CONFIGURED


def test_what_was_scaled_is_remembered(tmp_path: Path) -> None:
    write_wanted(tmp_path / "folder" / "wanted.json", CONFIGURED, SCALED)
    assert read_wanted(tmp_path / "folder" / "wanted.json", CONFIGURED) == SCALED


def test_a_configuration_that_changed_wins(tmp_path: Path) -> None:
    write_wanted(tmp_path / "wanted.json", CONFIGURED, SCALED)
    fewer = {"prefill": ("prefill-0",), "decode": ("decode-0",)}
    assert read_wanted(tmp_path / "wanted.json", fewer) == fewer


def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "wanted.json").write_text('{"decode": ["decode-0"]}', encoding="utf-8")
    assert read_wanted(tmp_path / "wanted.json", CONFIGURED) == CONFIGURED
