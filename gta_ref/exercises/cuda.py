"""Exercise 12: a CUDA kernel with tiles in shared memory, run in Numba's simulator in a separate process.

The simulator has to be chosen before Numba is imported. The kernel therefore runs in a separate process, which receives
the source of the student's function.
"""

from __future__ import annotations

import importlib.util
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
from gta_ref.exercises.exercise import normal
from gta_ref.exercises.student import not_callable
from gta_ref.exercises.verdict import Verdict

TILE = 4
MISSING = (
    "Numba's CUDA simulator is not installed here. It needs no GPU: "
    'python -m pip install "numba-cuda[cu13]>=0.30,<0.31" (not available for macOS).'
)
# N_q, N_k, d and the case in words
CASES = (
    (4, 4, 4, "one tile"),
    (8, 4, 12, "two blocks, three tiles along d"),
    (5, 7, 6, "N_q, N_k and d are not multiples of TILE"),
    (1, 1, 1, "one query, one key, one feature"),
)
SECONDS = 60


@dataclass(frozen=True)
class KernelExercise:
    """The exercise whose answer is a CUDA kernel."""

    name: str = "ex12"
    function: str = "tile_scores"
    parameters: str = "q, k, out, scale"

    def examine(self, function: Any) -> Verdict:
        """Run the kernel on all cases; values first, then races, then global reads."""
        function = getattr(function, "py_func", function)
        problem = not_callable(self.function, self.parameters, function) or _not_there()
        return Verdict(self.name, False, problem) if problem else self._run(function)

    def _run(self, function: Callable[..., Any]) -> Verdict:
        rng = np.random.default_rng(112)
        cases = [(normal(rng, n, d), normal(rng, m, d), float(d) ** -0.5) for n, m, d, _ in CASES]
        answer = _simulate(function, cases)
        if "error" in answer:
            return Verdict(self.name, False, answer["error"])
        for (q, k, scale), result, (_, _, d, what) in zip(cases, answer["results"], CASES, strict=True):
            truth = q.astype(np.float32).astype(np.float64) @ k.astype(np.float32).astype(np.float64).T * scale
            expected = Expected(truth, _tolerance(q, k, scale), np.dtype(np.float32), "N_q, N_k")
            out = np.array(result["out"], np.float32)
            case = f"\nCase: {what} (N_q={len(q)}, N_k={len(k)}, d={d}, TILE={TILE})."
            problem = _barriers(result) or _values(out, result, expected, scale) or _traffic(result, len(q), len(k), d)
            if problem:
                return Verdict(self.name, False, problem + case, _picture(out, expected))
        return Verdict(self.name, True, f"All {len(CASES)} hidden cases agree, without races or needless global reads.")


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
    problem = _not_there()
    answer: dict[str, Any] = (
        {"error": problem} if problem else _simulate(getattr(kernel, "py_func", kernel), [(q, k, scale)])
    )
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return np.array(answer["results"][0]["out"], np.float32).reshape(len(q), len(k))


def _not_there() -> str | None:
    return None if importlib.util.find_spec("numba_cuda") else MISSING


def _simulate(function: Callable[..., Any], cases: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> dict[str, Any]:
    """Send the source and the cases to the process and read its answer."""
    try:
        lines, line = inspect.getsourcelines(function)
    except (OSError, TypeError):
        return {"error": "The source of this function cannot be read; write it in a cell or in a file."}
    job = {
        "name": function.__name__,
        "source": textwrap.dedent("".join(lines)),
        "line": max(line, 1),
        "tile": TILE,
        "cases": [
            {"q": q.ravel().tolist(), "k": k.ravel().tolist(), "d": q.shape[1], "scale": scale} for q, k, scale in cases
        ],
    }
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "gta_ref.exercises.cuda_process"]
    text = json.dumps(job)
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
        return {"error": f"The simulator stopped: {done.stderr.strip().splitlines()[-1:]}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _tolerance(q: np.ndarray, k: np.ndarray, scale: float) -> float:
    """A bound on float32's rounding of d products and their sum, d ε Σ|q||k|, with a margin of 4 ε for the scale."""
    largest = float((np.abs(q) @ np.abs(k).T).max(initial=0.0)) * scale
    return float((q.shape[1] + 4) * np.finfo(np.float32).eps * largest)


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


def _values(out: np.ndarray, result: dict[str, Any], expected: Expected, scale: float) -> str | None:
    truth = expected.value
    if not result["writes"]:
        return "The kernel writes nothing to out."
    if comparing.agree(out, truth, expected.tolerance):
        return None
    if result["unfilled"]:
        return (
            f"out is wrong, and the kernel reads {result['unfilled']}, which no thread has filled: where a tile "
            "reaches beyond q or k, it has to hold 0."
        )
    if comparing.agree(out, truth / scale, expected.tolerance / scale):
        return "The scale is left out: out = scale · Q Kᵀ."
    return comparing.difference("out", out, expected)


def _traffic(result: dict[str, Any], n_queries: int, n_keys: int, d: int) -> str | None:
    """With tiles, each element of q is read once per block of keys, and each element of k once per block of queries."""
    needed = n_queries * d * -(-n_keys // TILE) + n_keys * d * -(-n_queries // TILE)
    if result["reads"] <= needed:
        return None
    without = "" if result["shared"] else " There is no shared array in it yet."
    return (
        f"The values are right, but the kernel reads {result['reads']} elements of q and k from global memory where "
        f"{needed} are enough: each thread loads one element of a tile, and all read it from shared memory.{without}"
    )


def _picture(out: np.ndarray, expected: Expected) -> Any:
    wrong = comparing.wrong_places(out, expected.value, expected.tolerance)
    if not wrong.any() or min(out.shape) < 2:
        return None

    def heat_maps() -> Any:
        from gta_ref.exercises import pictures

        return pictures.difference("out", "N_q, N_k", out, expected.value, comparing.worst(out, expected))

    return heat_maps


EXERCISES = (KernelExercise(),)
