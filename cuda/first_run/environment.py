"""Step 0: what is on the machine: paths, versions, the GPU; and whether the engine says that it can run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata

from gta_cuda.first_run.results import attempt, record

PACKAGES = (
    *("numpy", "numba", "numba-cuda", "llvmlite", "ml_dtypes", "cupy-cuda13x", "cupy-cuda12x", "torch", "pytest"),
    *("cuda-bindings", "cuda-core", "nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-nvjitlink", "pytest-xdist"),
)
TOOLS = ("nvcc", "nvidia-smi", "compute-sanitizer", "ncu", "nvdisasm")
VARIABLES = ("CUDA_HOME", "CUDA_PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "GTA_CUDA_PACK", "CUDA_VISIBLE_DEVICES")


def main() -> None:
    """Record everything, each fact by itself."""
    record("0", "python", None, version=platform.python_version(), executable=sys.executable)
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    record("0", "packages", None, **versions)
    record("0", "tools", None, **{tool: shutil.which(tool) for tool in TOOLS})
    record("0", "variables", None, **{name: os.environ.get(name) for name in VARIABLES})
    with attempt("0", "nvidia-smi") as found:
        query = ["--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv,noheader"]
        done = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, timeout=20, check=True)
        found["gpu"] = done.stdout.strip()
    with attempt("0", "CuPy sees the GPU") as found:
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(0)
        found["device"] = properties["name"].decode()
        found["capability"] = f"{properties['major']}.{properties['minor']}"
        found["multiprocessors"] = properties["multiProcessorCount"]
        found["runtime"] = cupy.cuda.runtime.runtimeGetVersion()
        found["driver"] = cupy.cuda.runtime.driverGetVersion()
        found["sum"] = float(cupy.arange(10, dtype=cupy.float32).sum())
        found["ok"] = found["sum"] == 45
    with attempt("0", "engine cuda") as found:
        from gta_ref.core import engines

        found["why_not"] = engines.why_not("cuda")
        found["ok"] = found["why_not"] is None


if __name__ == "__main__":
    main()
