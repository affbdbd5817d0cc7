"""Exercise 12: a CUDA kernel with tiles in shared memory, run in Numba's simulator in a separate process.

The simulator has to be chosen before Numba is imported. The kernel therefore runs in a separate process, which receives
the source of the student's function.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.exercises import comparing
from gta_ref.exercises.comparing import Expected
from gta_ref.exercises.cuda_mistakes import MISTAKES
from gta_ref.exercises.student import not_callable
from gta_ref.exercises.trial import normal
from gta_ref.exercises.verdict import Verdict
from gta_ref.packages import no_simulator

TILE = 4
# N_q, N_k, d and the case in words
CASES = (
    (4, 4, 4, "one tile"),
    (8, 4, 12, "two blocks, three tiles along d"),
    (5, 7, 6, "N_q, N_k and d are not multiples of TILE"),
    (1, 1, 1, "one query, one key, one feature"),
)
SECONDS = 30


@dataclass(frozen=True)
class KernelExercise:
    """The exercise whose answer is a CUDA kernel."""

    name: str = "ex12"
    function: str = "tile_scores"
    parameters: str = "q, k, out, scale"

    def examine(self, function: Any) -> Verdict:
        """Run the kernel on all cases; values first, then races, then global reads."""
        function = getattr(function, "py_func", function)
        problem = not_callable(self.function, self.parameters, function) or no_simulator()
        return Verdict(self.name, False, problem) if problem else self._run(function)

    def _run(self, function: Callable[..., Any]) -> Verdict:
        answer = _simulate(function, launches())
        return Verdict(self.name, False, answer["error"]) if "error" in answer else self.judge(answer["results"])

    def judge(self, results: Sequence[dict[str, Any]]) -> Verdict:
        """Say what is wrong with what the threads did in :func:`launches`, up to the first case that fails."""
        cases = [
            _Case(*launch, result, what) for launch, result, (*_, what) in zip(launches(), results, CASES, strict=True)
        ]
        for case in cases:
            problem = _barriers(case.result) or _values(case, cases) or _traffic(case)
            if problem:
                sizes = f"N_q={len(case.q)}, N_k={len(case.k)}, d={case.q.shape[1]}, TILE={TILE}"
                return Verdict(self.name, False, f"{problem}\nCase: {case.what} ({sizes}).", _picture(case))
        return Verdict(self.name, True, f"All {len(CASES)} hidden cases agree, without races or needless global reads.")


def launches() -> list[tuple[np.ndarray, np.ndarray, float]]:
    """The arguments q, k and scale of every case; q and k are float32."""
    rng = np.random.default_rng(112)
    return [
        (normal(rng, n, d, dtype="float32"), normal(rng, m, d, dtype="float32"), float(np.float32(d**-0.5)))
        for n, m, d, _ in CASES
    ]


@dataclass(frozen=True, eq=False)
class _Case:
    """One launch and what came of it."""

    q: np.ndarray
    k: np.ndarray
    scale: float
    result: dict[str, Any]
    what: str

    @property
    def out(self) -> np.ndarray:
        return np.array(self.result["out"], np.float32).reshape(len(self.q), len(self.k))

    @property
    def expected(self) -> Expected:
        q, k = self.q.astype(np.float64), self.k.astype(np.float64)
        # float32's rounding of d products and their sum, d ε Σ|q||k|, with a margin of 4 ε for the scale
        largest = float((np.abs(q) @ np.abs(k).T).max(initial=0.0)) * self.scale
        tolerance = float((q.shape[1] + 4) * np.finfo(np.float32).eps * largest)
        return Expected(q @ k.T * self.scale, tolerance, np.dtype(np.float32), "N_q, N_k")

    def equals(self, wrong: np.ndarray) -> bool:
        """Whether out has these numbers, up to rounding in proportion to them."""
        one = self.expected
        grown = max(1.0, float(np.abs(wrong).max()) / float(np.abs(one.value).max())) if np.isfinite(wrong).all() else 1
        return comparing.agree(self.out, wrong, one.tolerance * grown)

    @property
    def right(self) -> bool:
        return comparing.agree(self.out, self.expected.value, self.expected.tolerance)


def simulate(kernel: Callable[..., Any], q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    """Run a kernel ``f(q, k, out, scale)`` in the simulator, in a separate process.

    Parameters
    ----------
    kernel : function
        Decorated with ``cuda.jit`` or not; it can use the names cuda, float32, math, np and TILE.
    q : (N_q, d)
    k : (N_k, d)
    scale : float

    Returns
    -------
    out : (N_q, N_k), float32
        NaN where the kernel wrote nothing.

    Raises
    ------
    RuntimeError
        If the kernel raises, or the simulator is not installed.
    """
    problem = no_simulator()
    answer: dict[str, Any] = (
        {"error": problem} if problem else _simulate(getattr(kernel, "py_func", kernel), [(q, k, scale)])
    )
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return np.array(answer["results"][0]["out"], np.float32).reshape(len(q), len(k))


def job(function: Callable[..., Any], cases: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> dict[str, Any]:
    """The kernel's source and the cases, as the process reads them.

    Raises
    ------
    OSError, TypeError
        If the function has no source.
    """
    lines, line = inspect.getsourcelines(function)
    return {
        "name": function.__name__,
        "source": textwrap.dedent("".join(lines)),
        "line": max(line, 1),
        "tile": TILE,
        "cases": [
            {"q": q.ravel().tolist(), "k": k.ravel().tolist(), "d": q.shape[1], "scale": scale} for q, k, scale in cases
        ],
    }


def _simulate(function: Callable[..., Any], cases: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> dict[str, Any]:
    """Send the source and the cases to the process and read its answer."""
    try:
        text = json.dumps(job(function, cases))
    except (OSError, TypeError):
        return {"error": "The source of this function cannot be read; write it in a cell or in a file."}
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "gta_ref.exercises.cuda_process"]
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"The kernel did not finish within {SECONDS} s."}
    if done.returncode != 0:
        return {"error": f"The simulator stopped: {(done.stderr.strip().splitlines() or ['without a message'])[-1]}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _barriers(result: dict[str, Any]) -> str | None:
    """What is wrong with the barriers, whether or not it showed in the values."""
    if result["uneven"]:
        return (
            f"Every thread of a block has to reach every cuda.syncthreads(), but {result['uneven']}. The simulator "
            "continues; a GPU may hang. Let threads outside q or k load zeros and wait like the others."
        )
    if result["race"]:
        return (
            f"A race: {result['race']}. A cuda.syncthreads() is missing, after a tile is filled or before the next one "
            "overwrites it."
        )
    return None


def _values(case: _Case, cases: Sequence[_Case]) -> str | None:
    """What is wrong with the numbers of a case, given all of them."""
    out, expected, result = case.out, case.expected, case.result
    if not result["written"]:
        return "The kernel writes nothing to out."
    if case.right:
        return None
    wrong = comparing.wrong_places(out, expected.value, expected.tolerance).ravel()
    unwritten = np.ones(out.size, bool)
    unwritten[result["written"]] = False
    if (unwritten & wrong).any():
        row, column = np.unravel_index(int((unwritten & wrong).argmax()), out.shape)
        return (
            f"{int(unwritten.sum())} of {out.size} elements of out are never written, such as out[{row}, {column}]: "
            "thread (tx, ty) of block (bx, by) writes row by·TILE + ty, column bx·TILE + tx."
        )
    cause = _recognise(case, cases)
    if cause:
        return f"out equals what comes out when {cause}."
    if result["unfilled"] and np.isnan(out.ravel()[wrong]).all():
        return (
            f"out is NaN where the kernel reads {result['unfilled']}, which no thread has filled: where a tile reaches "
            "beyond q or k, it has to hold 0."
        )
    return comparing.difference("out", out, expected)


def _recognise(case: _Case, cases: Sequence[_Case]) -> str | None:
    """The mistake that has all numbers of this case and of every right one; among several, that of most cases."""
    found = []
    for mistake in MISTAKES:
        same = [one.equals(mistake.answer(one.q, one.k, one.scale, TILE)) for one in cases]
        if same[cases.index(case)] and all(ok for one, ok in zip(cases, same, strict=True) if one.right):
            found.append((sum(same), mistake.hint))
    return max(found, key=lambda one: one[0])[1] if found else None


def _traffic(case: _Case) -> str | None:
    """With tiles, a block reads each element of its rows and keys once, or TILE² elements of a tile at the edge."""
    reads, d = case.result["reads"], -(-case.q.shape[1] // TILE) * TILE
    blocks = -(-len(case.q) // TILE) * -(-len(case.k) // TILE)
    needed = 2 * blocks * TILE * d
    if reads.get("out"):
        return (
            f"The values are right, but the kernel reads out {reads['out']} times from global memory: keep the sum in "
            "a variable of the thread, and write it once at the end."
        )
    count = reads.get("q", 0) + reads.get("k", 0)
    if count <= needed:
        return None
    without = "" if case.result["shared"] else " There is no shared array in it yet."
    return (
        f"The values are right, but the kernel reads {count} elements of q and k from global memory where "
        f"{needed} are enough: each thread loads one element of a tile, and all read it from shared memory.{without}"
    )


def _picture(case: _Case) -> Any:
    out, expected = case.out, case.expected
    if case.right or min(out.shape) < 2:
        return None

    def heat_maps() -> Any:
        from gta_ref.exercises import pictures

        return pictures.difference("out", "N_q, N_k", out, expected.value, comparing.worst(out, expected))

    return heat_maps


EXERCISES = (KernelExercise(),)
