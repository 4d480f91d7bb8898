"""A fetched model appears when it is complete and verified, and not before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from services.core.errors import ModelError
from services.engine.fetch_model import FILES, digest, fetch_model

REVISION = "c" * 40


class Hub:
    """A repository that is a folder, brought one file at a time; ends early after `fails_after` files."""

    def __init__(self, source: Path, fails_after: int | None = None) -> None:
        self.source, self.fails_after, self.brought = source, fails_after, 0

    def __call__(self, repository: str, revision: str, folder: Path) -> None:
        for file in sorted(self.source.iterdir()):
            if self.brought == self.fails_after:
                raise ConnectionError("the network is gone")
            if not (folder / file.name).exists():
                shutil.copy(file, folder)
                self.brought += 1


def test_it_appears_complete_and_is_fetched_once(tiny_folder: Path, tmp_path: Path) -> None:
    into, hub = tmp_path / "model", Hub(tiny_folder)
    weights = {"model.safetensors": digest(tiny_folder / "model.safetensors")}
    assert fetch_model("a/b", REVISION, into, weights, hub)
    assert sorted(file.name for file in into.iterdir()) == sorted(file.name for file in tiny_folder.iterdir())
    assert [folder.name for folder in tmp_path.iterdir()] == ["model"]
    assert not fetch_model("a/b", REVISION, into, weights, Hub(tiny_folder, fails_after=0))


def test_an_interrupted_fetch_is_gone_on_with(tiny_folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "model"
    with pytest.raises(ConnectionError):
        fetch_model("a/b", REVISION, into, {}, Hub(tiny_folder, fails_after=2))
    assert not into.exists()
    again = Hub(tiny_folder)
    assert fetch_model("a/b", REVISION, into, {}, again)
    assert again.brought == len(list(tiny_folder.iterdir())) - 2


def test_a_file_that_differs_is_refused_and_removed(tiny_folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "model"
    with pytest.raises(ModelError, match=r"model\.safetensors of a/b at c+ has SHA-256 .*, expected 0+"):
        fetch_model("a/b", REVISION, into, {"model.safetensors": "0" * 64}, Hub(tiny_folder))
    assert not into.exists()
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_digest_of_a_file_that_is_not_there_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no file weights\.safetensors"):
        fetch_model("a/b", REVISION, tmp_path / "model", {"weights.safetensors": "0" * 64}, Hub(tiny_folder))


def test_a_model_that_cannot_be_served_does_not_appear(tiny_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_folder, source)
    (source / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        fetch_model("a/b", REVISION, tmp_path / "model", {}, Hub(source))
    assert not (tmp_path / "model").exists()


def test_neither_pickles_nor_code_are_fetched() -> None:
    assert not any(
        Path(name).match(pattern) for name in ("model.bin", "model.pt", "modeling_x.py") for pattern in FILES
    )
