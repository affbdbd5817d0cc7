"""Which packages the kernels need besides gta_ref, and how to install them. None of them is imported here."""

from __future__ import annotations

import importlib.util

PACKAGES = {
    "numba_cuda": "numba-cuda",
    "cupy": "CuPy",
    "cuda.core": "cuda-core",
    "cuda.bindings": "cuda-bindings",
}


def missing(*modules: str) -> str | None:
    """One line that names the first missing one of these modules (keys of PACKAGES) and how to install it, or None."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # its parent package is missing
            found = None
        if found is None:
            extras = "pip install 'gta-ref[cuda13]', or [cuda12] for older drivers"
            return f"{PACKAGES[module]} is not installed ({extras})"
    return None
