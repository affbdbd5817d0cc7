"""The engine "numba" inside a larger program: its own threads, the program's threads, and BLAS."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from gta_ref import threads
from gta_ref.core import Mask, attention_forward
from gta_ref.core.cpu import engine as engine
from tests.support import both_passes, random_inputs

SIZES = (1, 5, 1, 1, 400, 400, 32, 64)  # enough work to be divided among threads


@pytest.fixture(autouse=True)
def default_threads():
    yield
    threads.set_threads(None)


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.mark.parametrize("sizes", [SIZES, (9, 4, 2, 1, 150, 150, 32, 64), (2, 5, 1, 1, 1, 20000, 32, 64)])
def test_number_of_threads_does_not_matter(rng, sizes):
    arrays = random_inputs(rng, sizes)
    results = {}
    for n in (1, 2, 3):
        threads.set_threads(n)
        results[n] = both_passes(arrays)
    for n in (2, 3):
        for name, x, y in zip(("z", "lse", "dq", "dk", "dv"), results[n], results[1], strict=True):
            if name in ("z", "lse", "dq"):
                np.testing.assert_array_equal(x, y, err_msg=name)
            else:  # n partial sums instead of one
                np.testing.assert_allclose(x, y, rtol=0, atol=8 * n * np.finfo(np.float32).eps * np.abs(y).max())


def test_threads_are_really_used(rng, monkeypatch):
    seen = []
    monkeypatch.setattr(engine, "run", lambda count, work: (seen.append(count), [work(i) for i in range(count)]))
    threads.set_threads(3)
    both_passes(random_inputs(rng, SIZES))
    both_passes(random_inputs(rng, (2, 5, 1, 1, 1, 20000, 32, 64)))  # two items, of ten chunks each in the forward
    both_passes(random_inputs(rng, (1, 2, 1, 1, 5, 5, 4, 4)))
    assert seen == [3, 3, 3, 2, 1, 1]


def test_equal_from_run_to_run(rng):
    threads.set_threads(3)
    arrays = random_inputs(rng, SIZES)
    first = both_passes(arrays)
    for _ in range(5):
        for x, y in zip(both_passes(arrays), first, strict=True):
            np.testing.assert_array_equal(x, y)


def test_several_python_threads_at_once(rng):
    threads.set_threads(2)
    cases = [random_inputs(rng, SIZES) for _ in range(4)]
    alone = [both_passes(arrays) for arrays in cases]
    before = blas_threads()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(both_passes, cases * 5))
    for i, results in enumerate(together):
        for x, y in zip(results, alone[i % 4], strict=True):
            np.testing.assert_array_equal(x, y)
    assert blas_threads() == before


def test_set_threads(monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "5")
    assert threads.get_threads() == 5
    threads.set_threads(3)
    assert threads.get_threads() == 3
    threads.set_threads(None)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "many")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert threads.get_threads() == cores
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="n="):
            threads.set_threads(wrong)


def test_blas_of_the_kernels_is_held_even_if_nothing_has_loaded_it():
    code = (
        "import sys, numpy; from gta_ref import threads; assert 'scipy' not in sys.modules\n"
        "with threads.blas.one_thread():\n"
        "    import scipy.linalg.cython_blas; from threadpoolctl import threadpool_info\n"
        "    print({pool['num_threads'] for pool in threadpool_info()})"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout == "{1}\n", found.stderr


def test_blas_has_one_thread_inside_and_its_own_again_outside(rng, monkeypatch):
    arrays = random_inputs(rng, SIZES)
    both_passes(arrays)
    inside = []
    monkeypatch.setattr(engine, "run", lambda count, work: inside.append(blas_threads()))
    for limit in (2, 3):
        with threadpool_limits(limit, "blas"):
            before = blas_threads()
            attention_forward(*arrays[:3], engine="numba")
            assert blas_threads() == before
    assert inside == [[1] * len(before)] * 2


def test_blas_is_restored_after_an_error(rng, monkeypatch):
    arrays = random_inputs(rng, SIZES)

    def fail(*args):
        raise MemoryError("no memory for tiles")

    monkeypatch.setattr(engine, "workspace", fail)
    threads.set_threads(2)
    with threadpool_limits(2, "blas"):
        with pytest.raises(MemoryError, match="no memory for tiles"):
            attention_forward(*arrays[:3], engine="numba")
        assert set(blas_threads()) == {2}


class Library:
    """A stand-in for a BLAS library."""

    def __init__(self, n):
        self.n = n

    def get_num_threads(self):
        return self.n

    def set_num_threads(self, n):
        self.n = n


def test_guard_restores_when_the_last_of_overlapping_users_leaves():
    guard = threads.BlasGuard()
    guard._libraries = [Library(2), Library(7)]

    def state():
        return [library.n for library in guard._libraries]

    first, second = guard.one_thread(), guard.one_thread()
    first.__enter__()
    second.__enter__()
    assert state() == [1, 1]
    first.__exit__(None, None, None)
    assert state() == [1, 1]
    second.__exit__(None, None, None)
    assert state() == [2, 7]


def test_run_waits_for_everybody_and_passes_the_error_on():
    done = []

    def work(i):
        if i == 0:
            raise ValueError("the first")
        time.sleep(0.05)
        done.append(i)

    with pytest.raises(ValueError, match="the first"):
        threads.run(4, work)
    assert sorted(done) == [1, 2, 3]

    def late(i):
        if i == 2:
            raise ValueError("a later one")

    with pytest.raises(ValueError, match="a later one"):
        threads.run(3, late)


def test_workspace_is_kept_and_on_a_line():
    first = threads.workspace(1000, np.float32)
    assert first.size == 1000
    assert first.ctypes.data % 64 == 0
    assert threads.workspace(500, np.float64).ctypes.data == first.ctypes.data
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(threads.workspace, 10, np.float32).result().ctypes.data != first.ctypes.data


def test_masked_call_from_a_thread_that_was_never_seen(rng):
    arrays = random_inputs(rng, (2, 4, 1, 1, 30, 30, 8, 8))
    found = []
    thread = threading.Thread(target=lambda: found.append(both_passes(arrays, Mask(k_start=[0, 3]))))
    thread.start()
    thread.join()
    for x, y in zip(found[0], both_passes(arrays, Mask(k_start=[0, 3])), strict=True):
        np.testing.assert_array_equal(x, y)
