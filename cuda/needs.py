"""What has to be installed beside gta_ref for the kernels, and how to install it. Imports none of it."""

from __future__ import annotations

import importlib.util

PACKAGES = {
    "numba_cuda": "numba-cuda",
    "cupy": "CuPy",
    "cuda.core": "cuda-core",
    "cuda.bindings": "cuda-bindings",
}


def missing(*modules: str) -> str | None:
    """The first of these modules (names of PACKAGES) that is not there and how to install it, in one line, or None."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # the package around it is missing
            found = None
        if found is None:
            extras = "pip install 'gta-ref[cuda13]', or [cuda12] for older drivers"
            return f"{PACKAGES[module]} is not installed ({extras})"
    return None
