"""What is installed, and which engines can run here: the facts that ``gta-ref doctor`` prints."""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path
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


NEEDED = 500  # MB that should be free for compiled kernels and what the notebooks write


def course() -> list[dict[str, Any]]:
    """Try everything that the notebooks and exercises need: packages, files, simulator, first compilation and disk.

    Returns
    -------
    findings : list of dict
        Keys: what, ready (bool), text.
    """
    checks = {
        "Jupyter": _jupyter, "course": _files, "CUDA simulator": _simulator, "CPU kernels": _compiles, "disk": _disk,
    }  # fmt: skip
    findings = []
    for what, check in checks.items():
        try:
            findings.append({"what": what, "ready": True, "text": check()})
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            findings.append({"what": what, "ready": False, "text": " ".join(str(error).split())})
    return findings


def _jupyter() -> str:
    versions = {name: version(name) for name in ("jupyterlab", "ipykernel")}
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        raise ImportError(f"{' and '.join(missing)} not installed: python -m pip install jupyterlab ipykernel")
    return ", ".join(f"{name} {found}" for name, found in versions.items())


def _files() -> str:
    from gta_ref.course.contents import contents
    from gta_ref.course.place import root

    return f"{len(contents(root()))} files, for: gta-ref course DIR"


def _simulator() -> str:
    import numpy as np

    from gta_ref.exercises import simulate

    if simulate(_twice, np.ones((1, 1)), np.ones((1, 1)), 2.0)[0, 0] != 2.0:
        raise RuntimeError("it runs, but a kernel's result is wrong")
    return "runs a kernel"


def _twice(q: Any, k: Any, out: Any, scale: Any) -> None:
    out[0, 0] = q[0, 0] * k[0, 0] * scale


def _compiles() -> str:
    import numpy as np

    from gta_ref.core import attention_forward

    x = np.ones((1, 1, 4, 8), np.float32)
    start = time.perf_counter()
    attention_forward(x, x, x, engine="numba")
    return f"ready after {time.perf_counter() - start:.1f} s"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 1e6
    if free < NEEDED:
        raise OSError(f"{free:,.0f} MB are free here; {NEEDED} MB are needed")
    return f"{free / 1000:,.0f} GB are free here"
