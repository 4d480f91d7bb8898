"""Doctor's checks of the model and of what this processor computes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil

from services.cli import findings
from services.cli.checks import Outcome, Patient
from services.cli.findings import Finding
from services.core.errors import ModelError
from services.engine.checkpoint import prepare_model, read_shape

POOL_BYTES = 64 * 2**20
SPARE_BYTES = 512 * 2**20


def check_model(patient: Patient) -> Outcome:
    """The model's files, from their headers; a GGUF file is converted, as `up` would do."""
    try:
        folder = patient.model_folder = prepare_model(patient.config.model.path, patient.folder / "models")
        shape = read_shape(folder)
    except ModelError as error:
        return Outcome(patient.config.model.path, (Finding(findings.MODEL_FILES, error.message),))
    size = shape.weight_bytes(patient.config.model.dtype) >> 20
    return Outcome(f"{patient.config.model.served_name}: {shape.num_layers} layers, {size} MB of weights")


def check_exactness(patient: Patient) -> Outcome:
    """The self-test of float32, with the model itself where it fits beside what runs, else with a tiny one."""
    from services.engine.model_runner import load_runner  # torch takes seconds
    from services.engine.tiny import save_tiny

    with tempfile.TemporaryDirectory() as scratch:
        folder, what = patient.model_folder, patient.config.model.served_name
        available = psutil.virtual_memory().available - SPARE_BYTES - POOL_BYTES
        if folder is None or read_shape(folder).weight_bytes("float32") > available:
            folder, what = Path(scratch), "a tiny model"
            save_tiny(folder)
        runner = load_runner(folder, "float32", POOL_BYTES, patient.config.cache.block_size_tokens, threads=1)
        problems = runner.self_test()
    found = tuple(Finding(findings.NOT_EXACT, f"{what}: {problem}") for problem in problems)
    return Outcome(f"float32, {what}: {'bits differ' if found else 'equal bits in chunks and shared batches'}", found)
