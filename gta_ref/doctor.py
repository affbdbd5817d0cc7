"""What is installed, and which engines can run here: the facts that ``gta-ref doctor`` prints."""

from __future__ import annotations

import os
import platform
from typing import Any

from gta_ref import __version__
from gta_ref.core import engines
from gta_ref.packages import OPTIONAL, REQUIRED, version


def examine() -> dict[str, Any]:
    """Collect versions, the number of CPU cores, the BLAS library and the state of every engine.

    Returns
    -------
    facts : dict
        Keys: gta_ref, python, platform, cores (those this process may use), packages (name → version or None), blas
        (a list of dicts), engines (name → None if the engine can run here, else the reason why not).
    """
    import numpy  # noqa: F401  loads the BLAS that is to be described
    from threadpoolctl import threadpool_info

    blas = [
        {key: pool.get(key) for key in ("internal_api", "version", "architecture", "num_threads")}
        for pool in threadpool_info()
        if pool.get("user_api") == "blas"
    ]
    return {
        "gta_ref": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: version(name) for name in (*REQUIRED, *OPTIONAL)},
        "blas": blas,
        "engines": {name: engines.why_not(name) for name in engines.MODULES},
    }


def kernels() -> list[dict[str, Any]]:
    """Compile the CUDA kernels for sm_80, sm_90 and sm_90a, without a GPU; see ``gta_cuda.resources.measure``.

    Raises
    ------
    ValueError
        If the packages that compile them are not installed; the message says how to install them.
    """
    from gta_cuda import resources

    reason = resources.why_not()
    if reason is not None:
        raise ValueError(f"the kernels cannot be compiled here: {reason}")
    found: list[dict[str, Any]] = resources.table()
    return found
