"""Which packages the kernels need besides gta_ref, and how to install them."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from importlib.metadata import version

import numpy as np

from gta_ref.packages import no_simulator

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"  # Numba runs kernels as Python threads

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


def no_kernels() -> str | None:
    """Why the kernels can be neither simulated nor compiled here, in one line; None if they can.

    The simulator comes with Numba; the compiler, and a GPU, need numba-cuda.
    """
    if SIMULATED:
        return no_simulator()
    reason = missing("numba_cuda")
    return None if reason is None else f"{reason}; NUMBA_ENABLE_CUDASIM=1 simulates a GPU without it"


def cannot_compile() -> str | None:
    """Why the installed numba-cuda cannot compile any kernel with the installed NumPy, in one line; None if it can.

    numba-cuda 0.30.4 needs ``np.row_stack``, which NumPy 2.5 removed.
    """
    return None if hasattr(np, "row_stack") else _without_row_stack()


@cache
def _without_row_stack() -> str | None:
    try:
        importlib.import_module("numba.cuda.np.arrayobj")  # the compiler imports this module, which looks for the name
    except AttributeError as error:
        if "row_stack" in str(error):
            return (
                f"numba-cuda {version('numba-cuda')} cannot compile with NumPy {np.__version__}, which has no "
                "np.row_stack: install numpy<2.5, or use carried machine code (GTA_CUDA_PACK)"
            )
    return None
