"""The puzzles: solutions pass, starters do not, and each kind of mistake is named. In Numba's simulator.

`NUMBA_ENABLE_CUDASIM=1 pytest tests/gta_cuda/test_puzzles.py`; `make test-cudasim` runs it.
"""

# many answers have the name of their puzzle's kernel, and use names that the check defines
# ruff: noqa: F811
# mypy: disable-error-code="no-redef, attr-defined, operator"

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

command = importlib.import_module("gta_cuda.puzzles.__main__")
PUZZLES = command.PUZZLES
cuda = float32 = int32 = uint16 = ldmatrix4 = math = None  # the check defines what the kernels below use


def source(function):
    """The source of a wrong answer, which has the name of its puzzle's kernel."""
    return textwrap.dedent(inspect.getsource(function))


@pytest.mark.parametrize("name", PUZZLES)
def test_the_solution_passes(name):
    puzzle = PUZZLES[name]
    assert puzzle.check(puzzle.solution_text) is None
    assert len(puzzle.hints) >= 2
    assert ast.get_docstring(ast.parse(puzzle.starter_text).body[0])  # the statement


@pytest.mark.parametrize("name", PUZZLES)
def test_the_starter_does_not(name):
    puzzle = PUZZLES[name]
    assert "SOLUTION" not in puzzle.starter_text
    problem = puzzle.check(puzzle.starter_text)
    words = {"p2": "a race: between two barriers thread", "p5": "name 'index' is not defined"}
    assert words.get(name, "numbers are wrong; out[0] is") in problem
    assert "\n  case: " in problem


# ---- wrong answers; each is found for the reason that it is wrong

WRONG = []


def wrong(name, *words):
    def note(function):
        WRONG.append(pytest.param(name, source(function).split("\n", 1)[1], words, id=f"{name}-{words[0]}"))
        return function

    return note


@wrong("p1", "not at row 0")
def copy_tile(array, start, stride, first, stop, columns, out):
    for e in range(cuda.threadIdx.x, len(out), cuda.blockDim.x):
        row, column = e // columns, e % columns
        out[e] = array[start + row * stride + column] if row < stop else 0


@wrong("p1", "numbers are wrong", "wider array")
def copy_tile(array, start, stride, first, stop, columns, out):
    for e in range(cuda.threadIdx.x, len(out), cuda.blockDim.x):
        out[e] = array[start + first * stride + e] if first + e // columns < stop else 0


@wrong("p1", "IndexError", "two of four rows exist")
def copy_tile(array, start, stride, first, stop, columns, out):
    for e in range(cuda.threadIdx.x, len(out), cuda.blockDim.x):
        out[e] = array[start + (first + e // columns) * stride + e % columns]


@wrong("p2", "a race", "one tile")
def reverse_tiles(array, out):
    tile = cuda.shared.array(8, float32)
    t = cuda.threadIdx.x
    for first in range(0, len(array), 8):
        cuda.syncthreads()
        tile[t] = array[first + t]
        out[first + t] = tile[7 - t]


@wrong("p2", "every thread has to reach every barrier")
def reverse_tiles(array, out):
    tile = cuda.shared.array(8, float32)
    t = cuda.threadIdx.x
    for first in range(0, len(array), 8):
        tile[t] = array[first + t]
        cuda.syncthreads()
        out[first + t] = tile[7 - t]
        if t < 7:
            cuda.syncthreads()


@wrong("p2", "16 elements are read", "8 are enough")
def reverse_tiles(array, out):
    t = cuda.threadIdx.x
    for first in range(0, len(array), 8):
        out[first + t] = array[first + 7 - t] + 0 * array[first + t]


@wrong("p3", "have to be multiplied by exp(old − new)", "the scores grow")
def online(scores, values, out):
    largest, total, x = -math.inf, 0.0, 0.0
    for j in range(len(scores)):
        s = scores[j]
        largest = max(largest, s)
        w = math.exp(s - largest) if largest > -math.inf else 0.0
        total += w
        x += w * values[j]
    out[0] = x / total if total > 0 else 0.0
    out[1] = largest + math.log(total) if total > 0 else -math.inf


@wrong("p3", "9 elements are read", "6 are enough")
def online(scores, values, out):
    largest, total, x = -math.inf, 0.0, 0.0
    for j in range(len(scores)):
        largest = max(largest, scores[j])
    for j in range(len(scores)):
        w = math.exp(scores[j] - largest) if largest > -math.inf else 0.0
        total += w
        x += w * values[j]
    out[0] = x / total if total > 0 else 0.0
    out[1] = largest + math.log(total) if total > 0 else -math.inf


@wrong("p3", "out[0] is nan", "the first scores are hidden")
def online(scores, values, out):
    largest, total, x = float32(-math.inf), float32(0), float32(0)
    for j in range(len(scores)):
        s = scores[j]
        high = max(largest, s)
        shrink = math.exp(largest - high) if j else 0.0
        w = math.exp(s - high)
        total, x, largest = total * shrink + w, x * shrink + w * values[j], high
    out[0] = x / total if total == total and total > 0 else total
    out[1] = largest + math.log(total) if total > 0 else -math.inf


@wrong("p4", "a query sees its own key", "the diagonal")
def mask_tile(scores, q_start, first, j0, k_stop, columns, out):
    t = cuda.threadIdx.x
    for c in range(columns):
        hidden = j0 + c >= k_stop or j0 + c >= q_start + first + t
        out[t * columns + c] = -math.inf if hidden else scores[t * columns + c]


@wrong("p4", "numbers are wrong", "the last keys do not exist")
def mask_tile(scores, q_start, first, j0, k_stop, columns, out):
    t = cuda.threadIdx.x
    for c in range(columns):
        out[t * columns + c] = scores[t * columns + c] if j0 + c <= q_start + first + t else -math.inf


@wrong("p4", "numbers are wrong", "a chunk after 16 tokens")
def mask_tile(scores, q_start, first, j0, k_stop, columns, out):
    t = cuda.threadIdx.x
    seen = min(k_stop, q_start + first + t + 1)
    for c in range(columns):
        out[t * columns + c] = scores[t * columns + c] if c < seen else -math.inf


def fragments_with(index):
    """A wrong answer to p5: the solution with another index."""
    puzzle = PUZZLES["p5"]
    return puzzle.starter_text.replace("    ...\n", f"    index = {index}\n")


ROW = "(top + t % 8 + t // 16 * 8)"
for index, words in (
    (f"{ROW} * 64 + (left // 8 + t // 8 % 2) * 8", ("a tile that is not swizzled", "the tile's corner")),
    ("(top + t % 16) * 64 + ((left // 8 + t // 16) ^ (t % 8)) * 8", ("matrices 1 and 2 are exchanged",)),
    (f"{ROW} * 64 + (left // 8 + (t // 8 % 2 ^ t % 8)) * 8", ("IndexError", "columns 32 to 47")),
    (f"{ROW} * 64 + ((left // 8 + t // 8 % 2) ^ (t % 8)) * 8 + 1", ("not a multiple of 16 bytes",)),
):
    WRONG.append(pytest.param("p5", fragments_with(index), words, id=f"p5-{words[0]}"))


@wrong("p6", "the mean of the splits", "one of which has seen nothing")
def merge_splits(z_parts, lse_parts, splits, out):
    t, columns = cuda.threadIdx.x, cuda.blockDim.x
    total, x = 0.0, 0.0
    for s in range(splits):
        total += math.exp(lse_parts[s])
        x += z_parts[s * columns + t] / splits
    out[t] = x
    if t == 0:
        out[columns] = math.log(total)


@wrong("p6", "OverflowError", "lse of a thousand")
def merge_splits(z_parts, lse_parts, splits, out):
    t, columns = cuda.threadIdx.x, cuda.blockDim.x
    total, x = 0.0, 0.0
    for s in range(splits):
        share = math.exp(lse_parts[s])
        total += share
        x += share * z_parts[s * columns + t]
    out[t] = x / total
    if t == 0:
        out[columns] = math.log(total)


@wrong("p6", "no split has seen a key")
def merge_splits(z_parts, lse_parts, splits, out):
    t, columns = cuda.threadIdx.x, cuda.blockDim.x
    largest = -math.inf
    for s in range(splits):
        largest = max(largest, lse_parts[s])
    total, x = 0.0, 0.0
    for s in range(splits):
        share = math.exp(lse_parts[s] - largest)
        total += share
        x += share * z_parts[s * columns + t]
    out[t] = x / total
    if t == 0:
        out[columns] = largest + math.log(total)


@wrong("p7", "elements are read", "five maps")
def shared_scores(queries, keys, n_maps, out):
    t, n_keys = cuda.threadIdx.x, cuda.blockDim.x
    shared = cuda.shared.array(32, float32)
    for e in range(t, 4 * n_maps, n_keys):
        shared[e] = queries[e]
    cuda.syncthreads()
    for m in range(n_maps):
        s = 0.0
        for d in range(4):
            s += shared[4 * m + d] * keys[4 * t + d]
        out[m * n_keys + t] = s


@wrong("p7", "a race")
def shared_scores(queries, keys, n_maps, out):
    t, n_keys = cuda.threadIdx.x, cuda.blockDim.x
    shared = cuda.shared.array(32, float32)
    for e in range(t, 4 * n_maps, n_keys):
        shared[e] = queries[e]
    k0, k1, k2, k3 = keys[4 * t], keys[4 * t + 1], keys[4 * t + 2], keys[4 * t + 3]
    for m in range(n_maps):
        q = 4 * m
        out[m * n_keys + t] = shared[q] * k0 + shared[q + 1] * k1 + shared[q + 2] * k2 + shared[q + 3] * k3


@pytest.mark.parametrize("name, text, words", WRONG)
def test_a_wrong_answer_is_found(name, text, words):
    problem = PUZZLES[name].check(text)
    assert problem is not None
    for word in words:
        assert word in problem


def test_every_puzzle_has_wrong_answers():
    assert {param.values[0] for param in WRONG} == set(PUZZLES)
    assert len(PUZZLES) >= 6


# ---- the command


def test_the_command_checks_a_file(tmp_path, capsys):
    assert command.main([]) == 0
    assert re.findall(r"^(p\d)  \w", capsys.readouterr().out, re.M) == list(PUZZLES)
    file = tmp_path / "mine.py"
    for action, status, word in (("starter", 1, "p1: not yet. "), ("solution", 0, "p1: passed\n")):
        assert command.main([action, "p1"]) == 0
        file.write_text(capsys.readouterr().out, encoding="utf-8")
        assert command.main(["check", "p1", str(file)]) == status
        assert word in capsys.readouterr().out
    file.unlink()
    assert command.main(["starter", "p1", str(file)]) == 0
    assert (capsys.readouterr().out, file.read_text(encoding="utf-8")) == ("", PUZZLES["p1"].starter_text)
    file.write_text("an answer", encoding="utf-8")
    assert command.main(["starter", "p1", str(file)]) == 2
    assert capsys.readouterr().err == f"{file} exists already\n"
    assert file.read_text(encoding="utf-8") == "an answer"
    assert command.main(["hint", "p1", "2"]) == 0
    assert capsys.readouterr().out == PUZZLES["p1"].hints[1] + "\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["solve", "p1"], "'solve' must be one of starter, check, hint, solution"),
        (["check", "p9"], "puzzle 'p9' must be one of p1, p2, p3, p4, p5, p6, p7"),
        (["check", "p1"], "check p1 needs a file: python -m gta_cuda.puzzles check p1 FILE"),
        (["check", "p1", "none.py"], "[Errno 2] No such file or directory: 'none.py'"),
        (["hint", "p1", "3"], "hint '3' of p1 must be from 1 to 2"),
    ],
)
def test_what_the_command_refuses(arguments, message, capsys):
    assert command.main(arguments) == 2
    assert capsys.readouterr() == ("", message + "\n")


def test_what_is_not_python_and_what_has_another_name(tmp_path):
    assert PUZZLES["p1"].check("def copy_tile(:").startswith("SyntaxError: ")
    assert PUZZLES["p1"].check("def copy(): ...") == "there is no function copy_tile in it"


def test_the_page_lists_the_puzzles():
    page = (Path(__file__).parents[2] / "docs" / "exercises.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (p\d) \| ([^|]+) \|", page, re.M)
    assert rows == [(puzzle.name, puzzle.title) for puzzle in PUZZLES.values()]
