"""The engine "numba" inside a larger program: its own threads and those of the program."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gta_ref import threads
from gta_ref.core import Mask, attention_forward
from gta_ref.core.cpu import engine as engine
from gta_ref.core.cpu import plan as plans
from gta_ref.core.cpu.memory import address, scratch
from tests.support import both_passes, random_inputs

SIZES = (1, 5, 1, 1, 400, 400, 32, 64)  # enough work to be divided among threads


@pytest.fixture(autouse=True)
def default_threads():
    yield
    threads.set_threads(None)


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
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(both_passes, cases * 5))
    for i, results in enumerate(together):
        for x, y in zip(results, alone[i % 4], strict=True):
            np.testing.assert_array_equal(x, y)


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


def test_the_engine_does_not_need_blas_to_have_one_thread():
    code = (
        "import numpy as np; from gta_ref import threads; from gta_ref.core import *\n"
        "def enter(*args): raise AssertionError('BLAS is limited')\n"
        "threads.BlasGuard._enter = enter\n"
        "q, k, v = (np.ones((1, n, 40, d), np.float32) for n, d in ((4, 8), (1, 8), (1, 16)))\n"
        "z, lse, saved = attention_forward(q, k, v, engine='numba')\n"
        "attention_backward(z, saved)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_an_error_of_a_worker_is_passed_on(rng, monkeypatch):
    arrays = random_inputs(rng, SIZES)

    def fail(*args):
        raise MemoryError("no memory for tiles")

    monkeypatch.setattr(engine, "scratch", fail)
    threads.set_threads(2)
    with pytest.raises(MemoryError, match="no memory for tiles"):
        attention_forward(*arrays[:3], engine="numba")


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


def test_scratch_memory_is_kept_and_on_a_line():
    first, at = scratch(100_000)
    assert at % 64 == 0
    assert address(first) <= at <= address(first) + first.size - 100_000
    assert scratch(50_000)[1] == at
    larger, at_larger = scratch(2 * first.size)
    assert larger is not first
    assert at_larger <= address(larger) + larger.size - 2 * first.size
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scratch, 10).result()[0] is not larger


def test_masked_call_from_a_thread_that_was_never_seen(rng):
    arrays = random_inputs(rng, (2, 4, 1, 1, 30, 30, 8, 8))
    found = []
    thread = threading.Thread(target=lambda: found.append(both_passes(arrays, Mask(k_start=[0, 3]))))
    thread.start()
    thread.join()
    for x, y in zip(found[0], both_passes(arrays, Mask(k_start=[0, 3])), strict=True):
        np.testing.assert_array_equal(x, y)


def test_two_threads_that_prepare_a_call_share_its_arrays(monkeypatch):
    """A prepared call keeps the addresses of the plan's arrays: those of the first thread must not be replaced."""
    q = np.zeros((1, 2, 40, 8), np.float32)
    cut = plans.plan(q, q[:, :1], q[:, :1], Mask(k_stop=39))
    share, others = plans.share, []

    def meanwhile(cost, workers):
        found = share(cost, workers)
        if not others:
            others.append(None)
            others[0] = cut.pieces_of(workers)  # as another thread would, before this one has finished
        return found

    monkeypatch.setattr(plans, "share", meanwhile)
    mine = cut.pieces_of(5)
    assert all(x is y for x, y in zip(mine, others[0], strict=True))
