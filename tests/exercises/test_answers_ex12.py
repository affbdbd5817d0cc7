"""Exercise 12: kernels that a student may write, right ones in several styles and wrong ones, and what is said to each.

All of them run in one process of the simulator: starting it takes longer than running one of these kernels.
"""

# the simulator defines the names that the kernels use; many kernels differ in one place, so they are made from one text
# mypy: disable-error-code="union-attr"

import json
import linecache
import os
import subprocess
import sys
from typing import Any

import pytest

from gta_ref import packages
from gta_ref.exercises import check
from gta_ref.exercises import cuda as exercise

RIGHT = """
def tile_scores(q, k, out, scale):
    tile_q = cuda.shared.array((TILE, TILE), float32)
    tile_k = cuda.shared.array((TILE, TILE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    row, first_key = cuda.blockIdx.y * TILE + ty, cuda.blockIdx.x * TILE
    total = float32(0)
    for start in range(0, q.shape[1], TILE):
        column = start + tx
        tile_q[ty, tx] = q[row, column] if row < q.shape[0] and column < q.shape[1] else 0
        tile_k[ty, tx] = k[first_key + ty, column] if first_key + ty < k.shape[0] and column < k.shape[1] else 0
        cuda.syncthreads()
        for t in range(TILE):
            total += tile_q[ty, t] * tile_k[tx, t]
        cuda.syncthreads()
    if row < out.shape[0] and first_key + tx < out.shape[1]:
        out[row, first_key + tx] = total * scale
"""
ARRAYS = RIGHT[RIGHT.index("    tile_q = cuda") : RIGHT.index("    tx, ty")]
FILL_Q = RIGHT[RIGHT.index("        tile_q[ty") : RIGHT.index("        tile_k[ty")]
FILL_K = RIGHT[RIGHT.index("        tile_k[ty") : RIGHT.index("        cuda.sync")]
LOOP = "range(0, q.shape[1], TILE)"
SUM = "            total += tile_q[ty, t] * tile_k[tx, t]\n"
SECOND = "        cuda.syncthreads()\n    if row"
END = "out[row, first_key + tx] = total * scale"

NO_TILES = """
def tile_scores(q, k, out, scale):
    j, i = cuda.grid(2)
    if i < out.shape[0] and j < out.shape[1]:
        total = 0.0
        for d in range(q.shape[1]):
            total += q[i, d] * k[j, d]
        out[i, j] = total * scale
"""

# each replaces one piece of the right kernel; with None, the text is a kernel of its own
RIGHT_ONES = {
    "as it is": (RIGHT, RIGHT),
    "two arrays on one line": (
        ARRAYS, "    tile_q, tile_k = cuda.shared.array((TILE, TILE), float32), cuda.shared.array((TILE, TILE), float32)\n",
    ),
    "two statements on one line": (
        ARRAYS, "    tile_q = cuda.shared.array((4, 4), float32); tile_k = cuda.shared.array((4, 4), float32)\n",
    ),
    "rows of rows": (SUM, SUM.replace("[ty, t]", "[ty][t]").replace("[tx, t]", "[tx][t]")),
    "keywords, NumPy's dtype, a column of padding": (
        ARRAYS, ARRAYS.replace("(TILE, TILE), float32", "shape=(TILE, TILE + 1), dtype=np.float32"),
    ),
    "K is stored transposed": (
        FILL_K + "        cuda.syncthreads()\n        for t in range(TILE):\n" + SUM,
        FILL_K.replace("tile_k[ty, tx]", "tile_k[tx, ty]") + "        cuda.syncthreads()\n        for t in range(TILE):\n"
        + SUM.replace("tile_k[tx, t]", "tile_k[t, tx]"),
    ),
    "reads at the edge are clamped": (
        FILL_Q, "        inside = row < q.shape[0] and column < q.shape[1]\n"
        "        number = q[min(row, q.shape[0] - 1), min(column, q.shape[1] - 1)]\n"
        "        tile_q[ty, tx] = number if inside else 0\n",
    ),
    "a decorator, and a barrier before the tile is filled": (
        RIGHT, "\n@cuda.jit" + RIGHT.replace(SECOND, "    if row").replace(FILL_Q, "        cuda.syncthreads()\n" + FILL_Q),
    ),
    "two buffers need one barrier": (
        RIGHT, RIGHT.replace("((TILE, TILE)", "((2, TILE, TILE)").replace("tile_q[", "tile_q[start // TILE % 2, ")
        .replace("tile_k[", "tile_k[start // TILE % 2, ").replace(SECOND, "    if row"),
    ),
    "flat arrays": (
        RIGHT, RIGHT.replace("((TILE, TILE)", "(TILE * TILE").replace("[ty, tx]", "[ty * TILE + tx]")
        .replace("tile_q[ty, t]", "tile_q[ty * TILE + t]").replace("tile_k[tx, t]", "tile_k[tx * TILE + t]"),
    ),
}  # fmt: skip

WRONG_ONES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "no second barrier": (SECOND, "    if row", ("A race", "cuda.syncthreads() is missing", "three tiles along d")),
    "no first barrier": ("        cuda.syncthreads()\n        for", "        for", ("A race", "tile_", "one tile")),
    "no tiles": (RIGHT, NO_TILES, ("reads 128 elements", "32 are enough", "no shared array")),
    "only q in a tile": (
        SUM, SUM.replace("tile_k[tx, t]", "(k[first_key + tx, start + t] if first_key + tx < k.shape[0] and start + t < "
                         "k.shape[1] else 0)"), ("The values are right", "from global memory"),
    ),
    "the sum is kept in out": (
        RIGHT, RIGHT.replace("    for start", "    if row < out.shape[0] and first_key + tx < out.shape[1]:\n"
                             "        out[row, first_key + tx] = 0\n    for start").replace(
            SECOND, "            if row < out.shape[0] and first_key + tx < out.shape[1]:\n"
            "                out[row, first_key + tx] += tile_q[ty, t] * tile_k[tx, t] * scale\n" + SECOND,
        ).replace("        " + END, "        pass"), ("reads out", "in a variable of the thread"),
    ),
    "early return": (
        "    total = float32(0)\n", "    if row >= q.shape[0]:\n        return\n    total = float32(0)\n",
        ("one thread passes 4 barriers and another 0", "Every thread of a block"),
    ),
    "K copied by tx": (FILL_K, FILL_K.replace("first_key + ty", "first_key + tx"), ("K is copied by tx",)),
    "the last tile is lost": (
        LOOP, "range(0, q.shape[1] // TILE * TILE, TILE)", ("last tile along d is lost", "not multiples of TILE"),
    ),
    "one tile too few": (LOOP, "range(0, q.shape[1] - TILE, TILE)", ("last tile along d is lost",)),
    "no loop along d": (LOOP, "range(0, TILE, TILE)", ("only the first tile along d", "three tiles along d")),
    "no scale": (END, END.replace(" * scale", ""), ("the scale is left out",)),
    "scale in every tile": (SECOND, "        total *= scale\n" + SECOND, ("the scale is applied twice",)),
    "scale before the end": (
        RIGHT, RIGHT.replace(END, END.replace(" * scale", "")).replace(SECOND, "        total *= scale\n" + SECOND),
        ("again after every tile",),
    ),
    "axes of the tile of K": (SUM, SUM.replace("[tx, t]", "[t, tx]"), ("tile of K is read with its axes swapped",)),
    "axes of the tile of Q": (SUM, SUM.replace("[ty, t]", "[t, ty]"), ("tile of Q is read with its axes swapped",)),
    "computes with ty": (SUM, SUM.replace("tile_k[tx", "tile_k[ty"), ("should compute with key first_key + tx",)),
    "transposed block": (SUM, SUM.replace("ty", "t_").replace("tx", "ty").replace("t_", "tx"), ("transposed",)),
    "total starts again": (
        "        cuda.syncthreads()\n        for t", "        total = float32(0)\n        cuda.syncthreads()\n        for t",
        ("the sum starts again with every tile",),
    ),
    "total is replaced": (SUM, SUM.replace("+=", "="), ("+= instead of =",)),
    "start is left out": ("column = start + tx", "column = tx", ("start is left out", "Q and K")),
    "q without its block": (FILL_Q, FILL_Q.replace("row", "ty"), ("copies Q without its block",)),
    "K not filled": (
        FILL_K, FILL_K.replace("tile_k[ty", "if first_key + ty < k.shape[0] and column < k.shape[1]: tile_k[ty")
        .partition(" if first_key + ty < k.shape[0] and column < k.shape[1] else")[0] + "\n",
        ("which no thread has filled", "it has to hold 0"),
    ),
    "nothing is filled": (
        FILL_Q + FILL_K, "        if row < q.shape[0] and column < q.shape[1]:\n            tile_q[ty, tx] = q[row, column]\n"
        "        if first_key + ty < k.shape[0] and column < k.shape[1]:\n"
        "            tile_k[ty, tx] = k[first_key + ty, column]\n",
        ("last tile along d still holds", "copy 0 there"),
    ),
    "blocks exchanged": (
        "row, first_key = cuda.blockIdx.y * TILE + ty, cuda.blockIdx.x * TILE",
        "row, first_key = cuda.blockIdx.x * TILE + ty, cuda.blockIdx.y * TILE",
        ("16 of 32 elements of out are never written", "out[4, 0]"),
    ),
    "no check of q's rows": (
        FILL_Q, FILL_Q.replace("row < q.shape[0] and ", ""), ("IndexError in thread (", "is out of bounds for axis 0 with size 5"),
    ),
    "another cell's name": (END, END.replace("scale", "FACTOR"), ("NameError", "knows only cuda, float32, math, np")),
    "arithmetic of rows": (
        SUM, "            total += (q[row] * k[first_key + tx]).sum()\n", ("TypeError", "no arithmetic of whole rows"),
    ),
    "nothing": (END, "pass", ("writes nothing to out",)),
}  # fmt: skip


def kernel(text: str, name: str) -> Any:
    """The function of this text, which has a source that can be read."""
    file = f"<{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names: dict[str, Any] = {"cuda": _Decorators()}
    exec(compile(text, file, "exec"), names)
    return names["tile_scores"]


class _Decorators:
    @staticmethod
    def jit(function: Any) -> Any:
        return function


def text_of(old: str, new: str) -> str:
    assert RIGHT.count(old) == 1
    return RIGHT.replace(old, new)


@pytest.fixture(scope="module")
def answers():
    """What the threads of every kernel did, by its name."""
    texts = {name: text_of(*one[:2]) for name, one in (RIGHT_ONES | WRONG_ONES).items()}
    jobs = [exercise.job(kernel(text, name), exercise.launches()) for name, text in texts.items()]
    code = (
        "import json, sys; sys.setswitchinterval(2e-4); from gta_ref.exercises.cuda_process import run; "
        "print(json.dumps([run(job) for job in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], input=json.dumps(jobs), capture_output=True, text=True, check=True,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
    )  # fmt: skip
    return dict(zip(texts, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", RIGHT_ONES)
def test_right(answers, name):
    assert "error" not in answers[name], answers[name]
    verdict = exercise.KernelExercise().judge(answers[name]["results"])
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", WRONG_ONES)
def test_wrong(answers, name):
    answer = answers[name]
    hint = answer.get("error") or exercise.KernelExercise().judge(answer["results"]).hint
    assert hint != exercise.KernelExercise().judge(answers["as it is"]["results"]).hint
    for word in WRONG_ONES[name][2]:
        assert word in hint, hint


def test_one_line_of_two_arrays_in_a_process_of_its_own():
    verdict = check("ex12", kernel(text_of(*RIGHT_ONES["two arrays on one line"]), "one line"))
    assert verdict.passed, verdict


def test_endless_loop(monkeypatch):
    monkeypatch.setattr(exercise, "SECONDS", 2)
    endless = text_of("    total = float32(0)\n", "    total = float32(0)\n    while total == 0:\n        pass\n")
    assert "did not finish within 2 s" in check("ex12", kernel(endless, "endless")).hint


def test_a_cause_has_to_explain_every_number(answers):
    """A mistake with another one on top is described by its numbers, not by the cause of some of them."""
    results = [dict(result) for result in answers["K copied by tx"]["results"]]
    assert "K is copied by tx" in exercise.KernelExercise().judge(results).hint
    results[0]["out"] = [results[0]["out"][0] + 1, *results[0]["out"][1:]]
    hint = exercise.KernelExercise().judge(results).hint
    assert "copied by tx" not in hint
    assert "values of out are wrong" in hint


def test_numba_alone_has_a_simulator(monkeypatch):
    """Where numba-cuda is missing, as on macOS, Numba's own simulator is used; without either, a command is named."""
    there = packages.importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda name: None if name == "numba_cuda" else there(name)
    )
    assert packages.no_simulator() is None
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert "pip install" in packages.no_simulator()
