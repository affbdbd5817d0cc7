"""Fixtures for all tests: the authors' outputs, and a generator of random numbers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

OFFICIAL = Path(__file__).parent / "data" / "official"


@pytest.fixture
def rng():
    return np.random.default_rng(20250615)


@pytest.fixture(scope="session")
def official():
    """Read one file of the authors' outputs, with its tensors grouped by the part of their name before the first dot."""

    from gta_ref.files import read_tensors  # only these tests need the packages that it imports

    def load(name):
        tensors, metadata = read_tensors(OFFICIAL / f"{name}.safetensors")
        parts = {kind: {} for kind in ("input", "param", "output", "grad", "cache")}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition(".")
            parts[kind][rest] = tensor
        return SimpleNamespace(config=json.loads(metadata["config"]), **parts)

    return load
