"""What Hugging Face's own code has computed, as make_transformers_data.py has kept it."""

import json
from pathlib import Path

import numpy as np

from gta_ref.files import read_tensors

DATA = Path(__file__).parents[1] / "data" / "transformers"
NAMES = sorted(path.stem for path in DATA.glob("*.safetensors"))


def read(name):
    """The tensors by kind and name, the parameters in float64, and the configuration."""
    tensors, metadata = read_tensors(DATA / f"{name}.safetensors")
    parts: dict[str, dict[str, np.ndarray]] = {"param": {}, "input": {}, "output": {}, "grad": {}}
    for key, x in tensors.items():
        kind, _, rest = key.partition(".")
        parts[kind][rest] = x.astype(np.float64) if x.dtype == np.float32 else x
    return parts, json.loads(metadata["config"])
