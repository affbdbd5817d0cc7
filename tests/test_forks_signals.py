"""The engines in real processes: Python threads, forks, signal handlers, the end of Python, and Numba without compiling."""

import os
import signal

import pytest

from tests.support import python

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
needs_alarm = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signals")

START = """
    import os, signal, sys, threading, time, warnings
    import numpy as np
    from gta_ref import threads
    from gta_ref.core import EngineError, attention_backward, attention_forward
    warnings.simplefilter("ignore")  # Python 3.12 and newer warn of every fork with threads
    threads.set_threads(2)
    rng = np.random.default_rng(0)
    def inputs(n):
        return [rng.standard_normal((1, h, n, d), np.float32) for h, d in ((5, 32), (1, 32), (1, 64))]
    def forward(arrays):
        z, lse, _ = attention_forward(*arrays, engine="numba", need_saved=False)
        return [z, lse]
    def both(arrays):
        z, lse, saved = attention_forward(*arrays, engine="numba")
        return [z, lse, *attention_backward(z, saved)]
    def same(found, expected):
        return len(found) == len(expected) and all(np.array_equal(x, y) for x, y in zip(found, expected))
"""


def test_threads_compute_together_what_each_computes_alone():
    """Also with the engine that each call chooses for itself, and while the results of others are thrown away."""
    found = python(
        START
        + """
    cases = [inputs(n) for n in (1, 63, 65, 200, 400)]
    alone = [both(arrays) for arrays in cases]
    wrong, start = [], threading.Barrier(6)
    def work(i):
        start.wait()
        for turn in range(15):
            case = (i + turn) % len(cases)
            if not same(both(cases[case]), alone[case]):
                wrong.append((i, turn))
            chosen, _, _ = attention_forward(*cases[case], need_saved=False)
            if not np.allclose(chosen, alone[case][0], rtol=0, atol=1e-5):
                wrong.append((i, turn, "auto"))
    others = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    [other.start() for other in others]
    [other.join() for other in others]
    print(wrong)
    """
    )
    assert found == "[]"


@needs_fork
@pytest.mark.parametrize("way", ["os.fork", "multiprocessing"])
def test_forks_while_another_thread_is_in_the_engine(way):
    """The child computes, the parent goes on, and so does its other thread."""
    found = python(
        START
        + """
    import multiprocessing
    arrays = inputs(400)
    alone = both(arrays)
    stop, wrong, calls = threading.Event(), [], 0
    def work():
        global calls
        while not stop.is_set():
            if not same(both(arrays), alone):
                wrong.append("the other thread")
            calls += 1
    def in_child():
        os._exit(0 if same(both(arrays), alone) and np.ones((300, 300)).dot(np.ones(300))[0] == 300 else 1)
    def fork():
        if sys.argv[1] == "os.fork":
            return os.fork() or in_child()
        child = multiprocessing.get_context("fork").Process(target=in_child)
        child.start()
        return child.pid
    other = threading.Thread(target=work)
    other.start()
    for i in range(12):
        time.sleep(0.003 * (i % 5))
        status = os.waitpid(fork(), 0)[1]
        if status:
            wrong.append(status)
        if not same(both(arrays), alone):
            wrong.append("the parent")
    stop.set()
    other.join()
    print(wrong, calls > 0)
    """,
        way,
    )
    assert found == "[] True"


@needs_alarm
def test_a_signal_handler_that_calls_the_engine():
    """It interrupts calls at any moment, also one that starts threads; each gives its own results."""
    found = python(
        START
        + """
    arrays, inner = inputs(300), inputs(130)
    alone, alone_inner = forward(arrays), forward(inner)
    both(arrays)
    wrong, handled = [], 0
    def handle(*_):
        global handled
        handled += 1
        if not same(forward(inner), alone_inner):
            wrong.append("the handler")
        both(inner)
    signal.signal(signal.SIGALRM, handle)
    end, calls = time.monotonic() + 4, 0
    while time.monotonic() < end or handled < 30:
        if calls % 2:
            threads._workers = threads._Workers()  # so that the next call starts threads
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + 0.0002 * (calls % 60))
        if not same(forward(arrays), alone):
            wrong.append("the interrupted call")
        signal.setitimer(signal.ITIMER_REAL, 0)
        calls += 1
    print(wrong, threads.blas._users)
    """
    )
    assert found == "[] {}"


@needs_alarm
def test_a_signal_handler_while_the_engine_is_imported():
    """The module is not complete then, and the call says so; "auto" computes with the reference."""
    found = python(
        START
        + """
    arrays, said = inputs(130), []
    def handle(*_):
        z, _, saved = attention_forward(*arrays)
        try:
            forward(arrays)
        except EngineError as error:
            said.append((saved.engine, str(error)))
    signal.signal(signal.SIGALRM, handle)
    def stop(event, arguments):
        if event == "import" and arguments[0] in ("gta_ref.core.cpu.plan", "numba.np.ufunc", "llvmlite.binding"):
            os.kill(os.getpid(), signal.SIGALRM)
    sys.addaudithook(stop)
    forward(arrays)
    for engine, message in sorted(set(said)):
        print(engine, message)
    """
    )
    lines = found.splitlines()
    assert lines
    for line in lines:
        assert line.startswith("reference engine 'numba' cannot run here: it "), line


@pytest.mark.parametrize("first", ["a call before", "no call before"])
def test_a_call_when_python_ends(first):
    found = python(
        START
        + """
    import atexit
    arrays = inputs(400)
    if sys.argv[1] == "a call before":
        forward(arrays)
    def last():
        try:
            print(np.isfinite(both(arrays)[0]).all())
        except EngineError as error:
            print(error)
    atexit.register(last)
    """,
        first,
    )
    assert found == "True" or (found.startswith("engine 'numba' cannot run here") and "\n" not in found)


def test_numba_is_told_not_to_compile():
    found = python(
        START
        + """
    arrays = inputs(400)
    print(attention_forward(*arrays)[2].engine)
    try:
        forward(arrays)
    except EngineError as error:
        print(error)
    from gta_ref.lm import block
    print(block.rows_by("auto", np.ones((200, 200), np.float32)).__name__)
    """,
        NUMBA_DISABLE_JIT="1",
    )
    message = "engine 'numba' cannot run here: NUMBA_DISABLE_JIT is set, and the engine's kernels have to be compiled"
    assert found.splitlines() == ["reference", message, "gta_ref.ops"]


@pytest.mark.parametrize("value", ["0", "", "yes"])
def test_numba_is_told_something_else(value):
    """Numba takes 0 and what is no number for its default, which is to compile."""
    found = python(START + "    print(len(forward(inputs(40))))", NUMBA_DISABLE_JIT=value)
    assert found.splitlines()[-1] == "2"
