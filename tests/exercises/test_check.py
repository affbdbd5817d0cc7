"""The check itself: what it blocks and restores, how it describes errors, and what its verdict shows."""

import functools
import importlib.util
import re
import sys

import numpy as np
import pytest

from gta_ref import ops
from gta_ref.core import Mask, attention_forward
from gta_ref.exercises import check, simulate
from gta_ref.exercises import cuda as cuda_exercise
from gta_ref.exercises.blocking import LibraryCalledError, blocked
from gta_ref.exercises.cuda_memory import SharedArray, Watch
from gta_ref.mechanisms import gta
from gta_ref.ops import softmax_backward as imported_by_name
from gta_ref.ops import softmax_forward
from tests.exercises.answers import solution

# --- the library is blocked -------------------------------------------------------------------------------------


def backward_by_attribute(d_map, map_):
    return ops.softmax_backward(d_map, map_)


def backward_by_name(d_map, map_):
    return imported_by_name(d_map, map_)


def backward_by_default(d_map, map_, f=imported_by_name):
    return f(d_map, map_)


def backward_by_late_import(d_map, map_):
    from gta_ref.ops.softmax import softmax_backward

    return softmax_backward(d_map, map_)


def backward_in_secret(d_map, map_):
    try:
        return imported_by_name(d_map, map_)
    except BaseException:
        return map_ * (d_map - (map_ * d_map).sum(-1, keepdims=True))


def closure():
    f = imported_by_name
    return lambda d_map, map_: f(d_map, map_)


@pytest.mark.parametrize(
    "function",
    [
        imported_by_name,
        functools.partial(imported_by_name, dlse=None),
        backward_by_attribute,
        backward_by_name,
        backward_by_default,
        backward_by_late_import,
        backward_in_secret,
        closure(),
    ],
    ids=["itself", "partial", "attribute", "name", "default", "late import", "caught", "closure"],
)
def test_calling_the_library_does_not_pass(function):
    if function is imported_by_name:  # this function accepts a third, optional argument
        assert "softmax_backward was called" in check("ex08", function).hint
        return
    verdict = check("ex08", function)
    assert not verdict.passed
    assert "asks you to write it yourself: gta_ref.ops.softmax.softmax_backward was called" in verdict.hint


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: attention_forward(*np.ones((3, 1, 1, 1, 1)), engine="reference"), "engines.attention_forward"),
        (lambda: ops.heads.repeat_heads(np.ones((1, 1, 1, 1)), 1), "heads.repeat_heads"),
        (lambda: Mask().to_dense(1, 1), "core.mask.Mask"),
        (lambda: gta.structure(None), "gta_config.structure"),  # type: ignore[arg-type]
        (lambda: gta.Config.preset("gta-1b"), "gta_config.Config.preset"),
        (lambda: __import__("gta_ref.lab.retrieval"), "gta_ref.lab"),
    ],
    ids=["engine", "helper", "method", "mechanism", "classmethod", "new import"],
)
def test_what_is_blocked(call, name, monkeypatch):
    for module in [m for m in sys.modules if m.startswith("gta_ref.lab")]:
        monkeypatch.delitem(sys.modules, module)
    with blocked() as called, pytest.raises(LibraryCalledError, match="blocked in this exercise"):
        call()
    assert name in called[0]


def test_what_is_allowed_works_and_all_is_restored():
    codes = {f: f.__code__ for f in (softmax_forward, attention_forward, gta.forward, Mask.resolve)}
    finders = list(sys.meta_path)
    x = np.arange(4.0).reshape(1, 1, 1, 4)
    with blocked(["gta_ref.ops.rope"]):
        ops.rope_forward(x, *ops.rope_angles(np.array([3]), 4))
        assert all(f.__code__ is not code for f, code in codes.items())
    with pytest.raises(KeyError), blocked():
        raise KeyError("inside")
    assert all(f.__code__ is code for f, code in codes.items())
    assert sys.meta_path == finders
    assert softmax_forward(x)[0].sum() == pytest.approx(1)


def test_an_error_in_the_answer_restores_the_library():
    def broken(d_map, map_):
        raise ZeroDivisionError

    check("ex08", broken)
    np.testing.assert_array_equal(imported_by_name(np.ones(3), np.full(3, 1 / 3)), np.zeros(3))


# --- inputs belong to the caller --------------------------------------------------------------------------------


def test_writing_to_an_input_is_caught():
    def in_place(d_map, map_):
        d_map -= (map_ * d_map).sum(-1, keepdims=True)
        return map_ * d_map

    hint = check("ex08", in_place).hint
    assert "The function writes into one of its inputs" in hint
    assert "d_map -= (map_ * d_map).sum" in hint

    def forced(d_map, map_):
        d_map.flags.writeable = True
        return in_place(d_map, map_)

    assert "map_backward changes its input d_map" in check("ex08", forced).hint


# --- the words for what is wrong --------------------------------------------------------------------------------


def test_an_error_is_shown_with_the_line_of_the_answer():
    def mistaken(q, k, visible):
        return q @ k

    hint = check("ex03", mistaken).hint
    assert hint.startswith("ValueError: ")
    assert re.search(r"\n  line \d+, in mistaken: return q @ k\n", hint)
    assert "gta_ref" not in hint
    assert hint.endswith("\nCalled with q (2, 6, 5, 5), k (2, 2, 7, 5), visible (2, 5, 7).")
    assert hint.count("\n") == 3


@pytest.mark.parametrize(
    "function, words",
    [
        (
            lambda q, k: q,
            "The check calls shared_map(…) with 3 arguments, (q, k, visible): too many positional arguments.",
        ),
        (
            np.zeros(3),
            "This is a numpy.ndarray; expected the function itself, not its result: check(…, shared_map).",
        ),
        (lambda q, k, visible: None, "shared_map(…) returns None; expected an array (2, 6, 5, 7)."),
        (lambda q, k, visible: ..., "map is an ellipsis; expected a NumPy array."),
        (lambda q, k, visible: "map", "map is a str; expected a NumPy array."),
        (lambda q, k, visible: [[1.0], [1.0, 2.0]], "map is a list of unequal lengths"),
        (lambda q, k, visible: q.astype(complex), "map has dtype complex128"),
        (lambda q, k, visible: np.zeros((2, 5, 6, 7)), "The axes are right but in another order."),
        (lambda q, k, visible: np.zeros((2, 6, 5, 7, 1)), "an axis too many"),
        (lambda q, k, visible: np.zeros((2, 6, 35)), "a reshape or a transpose is missing"),
        (lambda q, k, visible: np.full((2, 6, 5, 7), np.inf), "map is infinite in 420 of 420 places"),
        (lambda q, k, visible: 2 * solution("ex03")(q, k, visible), "Every value is 2 times what is expected."),
        (lambda q, k, visible: -solution("ex03")(q, k, visible), "Every value has the wrong sign."),
        (
            lambda q, k, visible: solution("ex03")(q, k, visible)[:, [1, 0, 2, 3, 4, 5]],
            "The heads (axis 1) are right but in another order: [1, 0, 2, 3, 4, 5].",
        ),
    ],
)
def test_words(function, words):
    verdict = check("ex03", function)
    assert not verdict.passed
    assert words in verdict.hint, verdict


def test_an_error_without_a_line_of_the_answer_shows_none_of_ours():
    hint = check("ex03", np.where).hint  # a function without Python source
    assert hint.startswith("ValueError: ")
    assert "  line" not in hint


def test_what_is_not_written_yet_is_no_error():
    def later(q, k, visible):
        raise NotImplementedError

    def documented(q, k, visible):
        """Return all maps."""

    def dots(q, k, visible): ...

    def nothing(q, k, visible):
        return None

    assert "not written yet" in check("ex03", later).hint
    for function in (documented, dots):
        assert check("ex03", function).hint == "shared_map is not written yet: its body is still `...`."
    assert "shared_map(…) returns None; expected an array" in check("ex03", nothing).hint
    assert check("ex03", ...).hint == "This is `...`; expected the function itself: check(…, shared_map)."


def test_unknown_exercise():
    with pytest.raises(ValueError, match="exercise='ex99' must be one of 'ex01'"):
        check("ex99", check)


# --- the verdict ------------------------------------------------------------------------------------------------


def test_verdict_in_python_and_in_a_notebook():
    passed, failed = check("ex08", solution("ex08")), check("ex08", lambda d_map, map_: map_ * d_map)
    assert passed
    assert not failed
    assert repr(passed) == "ex08: passed. All 7 hidden cases agree."
    assert repr(failed).startswith("ex08: not yet. Your result, d_scores, equals what comes out when the row's sum is")
    assert passed.figure() is None
    assert "data:image/png" not in passed._repr_html_()
    axes = failed.figure().axes[:3]
    assert [ax.get_title() for ax in axes] == ["yours", "expected", "|difference|"]
    assert axes[0].get_xlabel() == "key"
    assert axes[0].get_ylabel() == "query"
    yours, expected, off = (np.asarray(ax.images[0].get_array()) for ax in axes)
    np.testing.assert_allclose(off, np.abs(yours - expected))
    html = failed._repr_html_()
    assert "data:image/png;base64," in html
    assert "not yet" in html
    assert "<script" not in html


def test_hint_is_escaped_in_html():
    def angry(d_map, map_):
        raise ValueError("<b>5 < 3</b>")

    shown = check("ex08", angry)._repr_html_()
    assert shown.count("&lt;b&gt;5 &lt; 3&lt;/b&gt;") == 2  # once in the message and once in the line of the answer
    assert "<b>5" not in shown


def test_picture_of_readers_and_of_nan():
    lines = check("ex02", lambda n_h, n_q, n_k, n_c: 3 * (np.arange(n_h) % n_q,)).figure().axes[0].lines
    styles = [line.get_linestyle() for line in lines]
    assert len(styles) == 20
    assert styles.count("-") == 4  # i % 5 == i // 4 for 0, 6, 13 and 19
    nan = check("ex03", lambda q, k, visible: np.full((2, 6, 5, 7), np.nan))
    assert "not a finite number" in nan.figure().get_suptitle()


# --- the CUDA simulator -----------------------------------------------------------------------------------------


def test_missing_simulator_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    verdict = check("ex12", lambda q, k, out, scale: None)
    assert not verdict.passed
    assert 'python -m pip install "numba-cuda[cu13]>=0.30,<0.31"' in verdict.hint
    with pytest.raises(RuntimeError, match="not installed"):
        simulate(lambda q, k, out, scale: None, np.ones((1, 1)), np.ones((1, 1)), 1.0)


@pytest.mark.parametrize(
    "steps, race",
    [
        ("0w 1r", "thread (1, 0) reads memory[5] (the shared array in line 7), which thread (0, 0) writes"),
        ("0w 0r 0b 1b 1r 1b 0b 0w", None),
        ("0w 0b 1b 1r 0w", "thread (0, 0) writes memory[5] (the shared array in line 7), which thread (1, 0) reads"),
        ("0w 1w", "thread (1, 0) writes memory[5] (the shared array in line 7), which thread (0, 0) writes"),
        ("0w 0r 0w", None),
    ],
)
def test_race_in_either_order(steps, race):
    """Threads 0 and 1 write (w) and read (r) the same element and pass barriers (b) in the given order."""
    watch = Watch()
    memory = SharedArray(8, np.float32, watch, 7)
    for step in steps.split():
        thread = ((0, 0), (int(step[0]), 0))
        watch.thread = lambda thread=thread: thread
        if step[1] == "b":
            watch.barriers[thread] = watch.barriers.get(thread, 0) + 1
        elif step[1] == "w":
            memory[5] = 1.0
        else:
            assert memory[5] in (0.0, 1.0) or np.isnan(memory[5])
    assert watch.race == (race and f"between two barriers {race}")


def test_kernel_without_source(monkeypatch):
    monkeypatch.setattr(cuda_exercise, "no_simulator", lambda: None)
    names = {}
    # not "<string>": newer Pythons have a source under that name, of what follows -c
    exec(compile("def tile_scores(q, k, out, scale): out[0, 0] = 1", "<nowhere>", "exec"), names)
    assert "source of this function cannot be read" in check("ex12", names["tile_scores"]).hint
