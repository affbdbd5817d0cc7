"""BLAS held to one thread, with the libraries that are loaded; and work given to threads when there may be none."""

import os
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from gta_ref import threads
from tests.support import python

START = """
    import os, threading
    import numpy, scipy.linalg
    from threadpoolctl import threadpool_info
    from gta_ref import threads
    def numbers():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    def elsewhere(work):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    own = numbers()
    assert own and min(own) > 1, own
    held = [1] * len(own)
"""


def blas(code, **environment):
    """Run code that uses the names of START, in a process in which each BLAS has several threads of its own."""
    for pool in threadpool_info():
        if pool["user_api"] == "blas" and (pool["internal_api"], pool.get("threading_layer")) != (
            "openblas",
            "pthreads",
        ):
            pytest.skip(f"{pool['internal_api']} ({pool.get('threading_layer')}) is loaded; these tests need OpenBLAS")
    return python(START + code, OPENBLAS_NUM_THREADS="2", **environment)


def test_from_a_second_thread():
    """threadpoolctl lets only the first thread that has set a number set one again."""
    found = blas(
        """
    seen = []
    def use():
        with threads.blas.one_thread():
            seen.append(numbers())
        seen.append(numbers())
    use()
    elsewhere(use)
    use()
    print(seen == [held, own] * 3)
    """
    )
    assert found == "True"


def test_users_that_overlap():
    found = blas(
        """
    seen, inside, go_on = [], threading.Event(), threading.Event()
    def use():
        with threads.blas.one_thread():
            inside.set()
            go_on.wait()
    def start():
        inside.clear(), go_on.clear()
        other = threading.Thread(target=use)
        other.start()
        inside.wait()
        return other
    with threads.blas.one_thread():  # this thread is the first to enter, and the other the last to leave
        other = start()
    seen.append(numbers())
    go_on.set(), other.join()
    seen.append(numbers())
    other = start()  # this thread enters and leaves while the other is there
    with threads.blas.one_thread():
        seen.append(numbers())
    seen.append(numbers())
    go_on.set(), other.join()
    seen.append(numbers())
    print(seen == [held, own, held, held, own])
    """
    )
    assert found == "True"


def test_after_an_error_and_beside_a_limit_of_the_user():
    found = blas(
        """
    from threadpoolctl import threadpool_limits
    with threadpool_limits(1, "blas"):
        with threads.blas.one_thread():
            pass
        one = numbers()
    try:
        with threads.blas.one_thread():
            raise MemoryError
    except MemoryError:
        print(one == held and numbers() == own)
    """
    )
    assert found == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_inside():
    """A child has no users but those of the thread that forked, and BLAS computes in it."""
    found = blas(
        """
    import warnings
    warnings.simplefilter("ignore")  # Python 3.12 and newer warn of every fork with threads
    x = numpy.ones((400, 400))
    def in_child(check):
        child = os.fork()
        if child == 0:
            right = check() and (x @ x == 400).all()
            os._exit(0 if right else 1)
        return os.waitpid(child, 0)[1] == 0
    inside, go_on = threading.Event(), threading.Event()
    def use():
        with threads.blas.one_thread():
            inside.set()
            go_on.wait()
    other = threading.Thread(target=use)
    other.start()
    inside.wait()
    right = [in_child(lambda: numbers() == own)]  # the other thread does not exist there
    with threads.blas.one_thread():
        right += [in_child(lambda: numbers() == held)]
    go_on.set(), other.join()
    print(right, numbers() == own)
    """
    )
    assert found == "[True, True] True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forks_while_another_thread_computes():
    """A BLAS with threads inside the engine would have the parent wait for them for ever."""
    found = blas(
        """
    import time, warnings
    warnings.simplefilter("ignore")
    x, stop = numpy.ones((300, 300)), threading.Event()
    def compute():
        while not stop.is_set():
            with threads.blas.one_thread():
                x @ x
    others = [threading.Thread(target=compute) for _ in range(2)]
    [other.start() for other in others]
    wrong = 0
    for i in range(60):
        time.sleep(0.0007 * (i % 7))
        child = os.fork()
        if child == 0:
            os._exit(0 if (x @ x == 300).all() else 1)
        wrong += os.waitpid(child, 0)[1] != 0
        wrong += not (x @ x == 300).all()
    stop.set()
    [other.join() for other in others]
    print(wrong, numbers() == own)
    """
    )
    assert found == "0 True"


class Library:
    """A BLAS without anything but its number of threads."""

    def __init__(self, n):
        self.n = n

    def get_num_threads(self):
        return self.n

    def set_num_threads(self, n):
        self.n = n


def test_a_second_use_at_every_step_of_the_first():
    """A signal handler may run between any two steps. Here a tracer uses the guard at each of them, one after another."""
    at = steps = 0

    def tracer(frame, event, _):
        nonlocal steps
        if frame.f_code.co_filename != threads.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == at:
                sys.settrace(None)
                with guard.one_thread():
                    assert [library.n for library in guard._libraries] == [1, 1]
                sys.settrace(tracer)
        return tracer

    before = sys.gettrace()
    while at <= steps:
        at, steps, guard = at + 1, 0, threads.BlasGuard()
        guard._libraries = [Library(2), Library(7)]
        sys.settrace(tracer)
        try:
            with guard.one_thread():
                sys.settrace(None)
                assert [library.n for library in guard._libraries] == [1, 1], at
                sys.settrace(tracer)
        finally:
            sys.settrace(before)
        assert [library.n for library in guard._libraries] == [2, 7], at
        assert (guard._users, guard._before) == ({}, None)
    assert at > 100


@pytest.fixture
def no_new_threads(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_work_is_done_without_threads(no_new_threads, monkeypatch):
    monkeypatch.setattr(threads, "_workers", threads._Workers())
    done = []
    threads.run(4, done.append)
    assert done == [0, 1, 2, 3]


def test_work_is_done_with_fewer_threads(monkeypatch, request):
    workers = threads._Workers()
    assert workers.grow(1)
    monkeypatch.setattr(threads, "_workers", workers)
    request.getfixturevalue("no_new_threads")
    done = []
    threads.run(5, done.append)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_work_within_the_start_of_a_thread():
    """A signal handler that interrupts the start of a thread computes alone."""
    workers, done = threads._Workers(), []
    start = threading.Thread.start

    def interrupted(thread):
        threads.run(3, done.append)
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "_workers", workers)
        patch.setattr(threading.Thread, "start", interrupted)
        threads.run(2, done.append)
    assert sorted(done) == [0, 0, 1, 1, 2]


def test_workers_keep_nothing(monkeypatch):
    """Neither the results nor the arrays of a call are kept until the next one."""
    import gc
    import weakref

    class Big(np.ndarray):
        pass

    array = np.zeros(1000).view(Big)
    gone = weakref.ref(array)
    threads.run(3, lambda i, array=array: array.sum())
    del array
    for _ in range(100):
        gc.collect()
        if gone() is None:
            break
        threading.Event().wait(0.02)
    assert gone() is None
