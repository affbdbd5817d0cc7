"""Numba's simulator must be chosen before Numba is imported, so that only `make test-cudasim` collects its tests."""

import importlib
import os
import sys

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore = (
    ["test_compiled.py", "test_engine.py", "test_gpu.py", "test_gpu_bench.py", "test_without_numba_cuda.py"]
    if SIMULATED
    else [
        "test_backward_bf16.py",
        "test_backward_part.py",
        "test_ladder.py",
        "test_puzzles.py",
        "test_simulated.py",
        "test_simulated_edges.py",
        "test_simulated_engine.py",
        "test_simulated_memory.py",
        "test_simulated_tensor_cores.py",
    ]
)
if SIMULATED:
    # the simulator's main thread polls the threads of a block, and keeps each turn for Python's switch interval of 5 ms
    sys.setswitchinterval(2e-4)


@pytest.fixture
def watch(monkeypatch):
    """Fail if there is a race, a barrier that only some threads reach, or a read of memory that was not written.

    A copy that is not waited for fails as well.
    """
    # by its name: cuda/first_run.sh packs this file and all that it imports, but not what patches the simulator
    watch = importlib.import_module("tests.gta_cuda.watched").Watch(monkeypatch)
    yield watch
    assert not watch.faults
