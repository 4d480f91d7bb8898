"""Fetches a model from the Hugging Face Hub into a folder that appears only once everything in it was verified."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from services.core.errors import ModelError
from services.engine.checkpoint import check_folder

FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer.model", "*.jinja", "*.txt", "LICENSE*")
"""What of a repository is fetched: no pickles, no code."""
CHUNK_BYTES = 16 * 2**20

Download = Callable[[str, str, Path], None]
"""Brings the `FILES` of (repository, revision) into a folder; what is there already is not fetched again."""


def fetch_model(
    repository: str, revision: str, into: Path, sha256: Mapping[str, str], download: Download | None = None
) -> bool:
    """Fetch a model once.

    Args:
        repository: `organisation/model`.
        revision: commit.
        into: the model's folder; a folder beside it keeps what an interrupted run fetched.
        sha256: expected digests in hex, by file.

    Returns:
        False when the folder was there already.

    Raises:
        ModelError: a file is missing or differs, or the model cannot be served.
    """
    if into.is_dir():
        check_folder(into)
        return False
    part = into.with_name(f"{into.name}.{revision[:12]}.part")
    part.mkdir(parents=True, exist_ok=True)
    (download or from_hub)(repository, revision, part)
    for name, expected in sha256.items():
        file = part / name
        if not file.is_file():
            raise ModelError(f"{repository} at {revision} has no file {name}; correct its name among the digests")
        if (found := digest(file)) != expected:
            file.unlink()
            raise ModelError(
                f"{name} of {repository} at {revision} has SHA-256 {found}, expected {expected}; it was removed. "
                "Fetch again, or correct the digest"
            )
    check_folder(part)
    shutil.rmtree(part / ".cache", ignore_errors=True)  # the hub's own notes
    part.rename(into)
    return True


def from_hub(repository: str, revision: str, folder: Path) -> None:
    """Download with `huggingface_hub`, which goes on where it was interrupted; it finds a token in HF_TOKEN."""
    from huggingface_hub import snapshot_download

    snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=list(FILES))


def digest(file: Path) -> str:
    """SHA-256 of a file in hex."""
    made = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            made.update(chunk)
    return made.hexdigest()
