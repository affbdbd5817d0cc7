"""A student's function in a process of its own, and in this one where there is none: limits, ends and errors."""

import ctypes
import importlib.util
import itertools
import os
import sys
import threading

import numpy as np
import pytest

from gta_ref.exercises import apart, check, timer
from gta_ref.exercises.apart import Student
from gta_ref.exercises.foreign import Foreign

forks = pytest.mark.skipif(not apart.FORKS, reason="only Linux forks")
MIB = 2**20


@pytest.fixture(params=[pytest.param("apart", marks=forks), "here"])
def place(request, monkeypatch):
    """The process of the function: of its own, or this one."""
    monkeypatch.setattr(apart, "FORKS", request.param == "apart")
    return request.param


def outcome(function, *arguments, measure=False):
    parameters = ", ".join("xyz"[: len(arguments)])
    with Student(function, "answer", parameters) as student:
        return student.call(arguments, measure=measure)


def endless(x):
    while True:
        x = x + 1


def endless_though_interrupted(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


def endless_in_c(x):
    return sum(itertools.count())


def leaves(x):
    sys.exit(0)


def leaves_with_quit(x):
    raise SystemExit("bye")


def interrupted(x):
    raise KeyboardInterrupt


def calls_itself(x):
    return calls_itself(x)


def asks_for_too_much(x):
    return np.ones((2**30, 2**20))


@pytest.mark.parametrize(
    "function, words",
    [
        (endless, ("has not returned after 0.5 s. Does a loop never end?", "in endless: ")),
        (leaves, ("ends the program (sys.exit", "in leaves: sys.exit(0)")),
        (leaves_with_quit, ("ends the program (sys.exit",)),
        (interrupted, ("KeyboardInterrupt", "in interrupted")),
        (calls_itself, ("RecursionError: the function calls itself again and again", "return calls_itself(x)")),
        (asks_for_too_much, ("MemoryError", "more memory than there is")),
    ],
)
def test_an_end_that_is_none_is_told_in_words(function, words, place, monkeypatch):
    if function is endless:
        monkeypatch.setattr(apart, "SECONDS", 0.5)
    problem = outcome(function, np.ones(3)).problem
    for word in words:
        assert word in problem


@forks
@pytest.mark.parametrize("function", [endless_in_c, endless_though_interrupted])
def test_a_loop_that_nothing_in_python_can_stop(function, monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 0.5)
    problem = outcome(function, 1).problem
    assert "has not returned after 0.5 s" in problem
    assert f"in {function.__name__}: " in problem


@forks
def test_the_process_may_end_or_crash():
    ended = outcome(lambda x: os._exit(3), 1)
    assert ended.problem == "answer(…) ends the process (os._exit or similar); it has to return its result."
    crashed = outcome(lambda x: ctypes.string_at(0), 1)
    assert "crashed its process (SIGSEGV)" in crashed.problem
    assert "in <lambda>: crashed = outcome(" in crashed.problem


@forks
def test_a_process_that_is_lost_is_replaced_by_this_one(monkeypatch):
    """If the traceback of an endless call is within JAX, whose threads a fork loses, the function runs here."""
    monkeypatch.setattr(apart, "SECONDS", 0.5)
    parent = os.getpid()
    source = "def wait(x, parent):\n    import os\n    while os.getpid() != parent:\n        pass\n    return x\n"
    names = {}
    exec(compile(source, "/site-packages/jax/core.py", "exec"), names)
    assert outcome(names["wait"], 7, parent).answer == 7


def test_answers_come_back_as_they_are(place):
    class Own:
        pass

    answer = outcome(lambda x: (x, [1.5, None], {"a": np.float32(2)}, "text", Own(), np.array([Own()])), np.arange(3))
    x, pair, named, text, own, objects = answer.answer
    np.testing.assert_array_equal(x, np.arange(3))
    assert (pair, text) == ([1.5, None], "text")
    assert named["a"] == 2
    assert isinstance(named["a"], np.float32)
    assert own == Foreign("a tests.Own") or own.kind.endswith(".Own")
    assert objects == Foreign("an array of objects")


def test_inputs_are_copies_that_cannot_be_written(place):
    given = {"x": np.zeros(3)}

    def writes(x):
        x["x"][:] = 1

    def forces(x):
        x["x"] = x["x"] + 1

    assert "writes into one of its inputs" in outcome(writes, given).problem
    assert "answer changes its input x" in outcome(forces, given).problem
    assert not given["x"].any()


def test_what_is_printed_is_shown_up_to_a_limit(place, capsys):
    outcome(lambda x: print("one", x), 1)
    assert capsys.readouterr().out == "one 1\n"
    if place == "apart":
        outcome(lambda x: [print("many") for _ in range(10_000)] and None, 1)
        assert len(capsys.readouterr().out) == apart.SHOWN


def test_calls_share_what_the_function_remembers(place):
    seen = []

    def counts(x):
        seen.append(x)
        return len(seen)

    with Student(counts, "counts", "x") as student:
        assert [student.call((0,)).answer for _ in range(3)] == [1, 2, 3]
    assert len(seen) == (0 if place == "apart" else 3)


def test_memory_of_numpy(place):

    def holds(x):
        return sum(float(np.ones(MIB).sum()) for _ in range(4)) + len([np.ones(MIB) for _ in range(x)])

    for blocks in (4, 16):
        held = outcome(holds, blocks, measure=True).held / MIB
        assert 8 * blocks - 2 < held < 8 * blocks + 12


@forks
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_memory_of_every_library():
    import torch

    found = outcome(lambda x: float(torch.ones(8 * MIB).sum()), 1, measure=True)
    assert found.everything
    assert 31 < found.held / MIB < 44
    by_c = outcome(lambda x: len(ctypes.create_string_buffer(b"x" * (48 * MIB))), 1, measure=True)
    assert 90 < by_c.held / MIB < 110


def test_the_library_is_blocked_and_works_afterwards(place):
    from gta_ref.ops import softmax_forward

    problem = outcome(lambda x: softmax_forward(x)[0], np.zeros((1, 1, 1, 2))).problem
    assert problem.startswith("This exercise asks you to write it yourself: gta_ref.ops.softmax.softmax_forward")
    assert softmax_forward(np.zeros((1, 1, 1, 2)))[0][0, 0, 0, 0] == 0.5


def test_a_note_says_that_not_all_memory_was_counted(monkeypatch):
    def by_eq_8(a, c, w_p, gate):
        z = a @ np.repeat(c, a.shape[1] // c.shape[1], axis=1)
        return (z @ w_p).swapaxes(1, 2).reshape(gate.shape) * gate

    monkeypatch.setattr(apart, "FORKS", False)
    verdict = check("ex05", by_eq_8)
    assert verdict.passed
    assert verdict.hint.endswith("Of its memory, only NumPy's arrays could be counted here.")


def test_the_timer_stops_other_threads_as_well():
    found = []

    def run():
        try:
            timer.limited(endless, 0.3)(1)
        except timer.TooLong as late:
            found.append(str(late))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert found == ["The function has not returned after 0.3 s. Does a loop never end?"]


def test_an_interrupt_of_the_notebook_ends_the_process(monkeypatch):
    """KeyboardInterrupt while the check waits is the user's: it is raised, and no process is left."""
    with Student(lambda x: x, "answer", "x") as student:
        if not apart.FORKS:
            pytest.skip("there is no process")
        student.call((1,))
        pid = student._pid

        def stop(seconds):
            raise KeyboardInterrupt

        monkeypatch.setattr(student._channel, "poll", stop, raising=False)
        with pytest.raises(KeyboardInterrupt):
            student.call((1,))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
