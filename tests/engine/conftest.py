"""Models for the engine's tests: the default one, converted once into the repository's cache, and a tiny one."""

from pathlib import Path

import pytest
import torch

from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from services.engine.model import Model
from services.engine.tiny import save_tiny, tiny_model
from services.engine.weights import load_tensors
from tests.engine.reference_rule import Reference

CACHE = Path(__file__).parents[2] / ".cache" / "models"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests that change torch's threads do not change them for others."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The default model, ready to load; where its wheel is missing, the error says how to install it."""
    return prepare_model(DEFAULT_MODEL, CACHE)


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path) -> Model:
    """The default model in float32."""
    torch.set_num_threads(1)
    return Model(*load_tensors(smollm2_folder), "float32")


@pytest.fixture(scope="session")
def reference(smollm2_folder: Path) -> Reference:
    """The default model in the transformers library, float32."""
    return Reference(smollm2_folder)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers with its own tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def tiny() -> Model:
    """The tiny model in float32, without its folder."""
    return Model(*tiny_model(), "float32")
