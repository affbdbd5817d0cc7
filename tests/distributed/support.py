"""Programs in several processes, for tests: more than this machine may have cores."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

MPIEXEC = Path(sys.executable).with_name("mpiexec")
ONE_THREAD = os.environ | {"OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or not MPIEXEC.exists(), reason="mpi4py or mpiexec is not installed"
)


def command(ranks, *words):
    """A Python program in this many ranks; with 0, in one process without MPI."""
    return [*([MPIEXEC, "-n", str(ranks)] if ranks else []), sys.executable, *words]


def run(ranks, *words, **options):
    """Run it, and return what subprocess.run does."""
    return subprocess.run(command(ranks, *words), capture_output=True, text=True, timeout=300, **options)
