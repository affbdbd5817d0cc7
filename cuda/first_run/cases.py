"""The cases that the first run checks, and how a result is compared with float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.ops.arrays import Array, as_dtype


class Case(NamedTuple):
    """Sizes of the attention core, and a mask."""

    batch: int
    n_q: int
    n_k: int
    n_v: int
    n_queries: int
    n_keys: int
    d_k: int
    d_v: int
    mask: Mask = Mask()


CASES = {
    "GTA-1B": Case(2, 5, 1, 1, 200, 200, 64, 128),
    "GTA-1B, left padding": Case(2, 5, 1, 1, 130, 130, 64, 128, Mask(k_start=[0, 77])),
    "GTA-1B, decode": Case(3, 5, 1, 1, 1, 1500, 64, 128, Mask(k_start=[0, 3, 1400])),
    "GTA-1B, chunk over a long cache": Case(1, 5, 1, 1, 60, 4096, 64, 128),
    "GTA4, decode": Case(1, 10, 1, 1, 1, 700, 64, 256),
    "GQA-1B": Case(1, 20, 5, 5, 70, 150, 64, 64),
    "MLA, absorbed": Case(1, 4, 1, 1, 33, 40, 576, 512),
    "odd widths": Case(1, 4, 2, 1, 67, 99, 33, 150, Mask(causal=False)),
}
# small enough for Numba's simulator, whose threads are Python's
TINY = {
    "tiny": Case(1, 4, 2, 1, 5, 9, 6, 7, Mask(k_stop=8)),
    "tiny, rows that see nothing": Case(2, 2, 1, 1, 3, 10, 8, 16, Mask(q_start=[-2, 7], k_start=[0, 3])),
}
# norm of the error over norm of the result: float32 sums some hundred terms, the others round weights and results
ALLOWED = {"float32": 2.0**-18, "float16": 2.0**-10, "bfloat16": 2.0**-7}
LSE = 1e-5  # largest error of lse, absolute and relative

Forward = Callable[[Array, Array, Array, Mask, float], tuple[Array, Array]]
Backward = Callable[[Array, Array, Array, Array, Array, Array, Array, Mask, float], tuple[Array, Array, Array]]


def random_cases(n: int, seed: int) -> dict[str, Case]:
    """Random sizes and masks at the widths of GTA-1B and GQA-1B; one seed gives the same cases everywhere."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(n):
        n_k, n_v = (int(rng.choice([1, 2, 5])) for _ in range(2))
        n_q = 10 * int(rng.choice([1, 2]))
        n_queries, extra = int(rng.choice([1, 3, 17, 65, 130])), int(rng.integers(0, 300))
        n_keys, batch = n_queries + extra, int(rng.integers(1, 4))
        start = rng.integers(0, n_keys, batch)
        mask = [Mask(), Mask(k_start=start), Mask(causal=False, k_stop=start), Mask(q_start=start - n_queries)][i % 4]
        found[f"random {i}"] = Case(batch, n_q, n_k, n_v, n_queries, n_keys, 64, int(rng.choice([64, 128])), mask)
    return found


def make(case: Case, dtype: str, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """q, k and v with NaN in the slots that are not in use."""
    shapes = (
        (case.batch, case.n_q, case.n_queries, case.d_k),
        (case.batch, case.n_k, case.n_keys, case.d_k),
        (case.batch, case.n_v, case.n_keys, case.d_v),
    )
    q, k, v = (rng.standard_normal(shape).astype(as_dtype(dtype)) for shape in shapes)
    _, k_start, k_stop = case.mask.resolve(case.batch, case.n_queries, case.n_keys)
    for b in range(case.batch):
        for x in (k, v):
            x[b, :, : k_start[b]] = np.nan
            x[b, :, k_stop[b] :] = np.nan
    return q, k, v


def check(
    case: Case,
    dtype: str,
    forward: Forward,
    backward: Backward | None = None,
    move: Callable[[Array], Any] = lambda x: x,
    back: Callable[[Any], Array] = lambda x: x,
) -> dict[str, Any]:
    """Compute a case and compare everything with the definition in float64.

    Parameters
    ----------
    case : Case
    dtype : str
    forward : function of q, k, v, mask, scale that returns z and lse
    backward : function of q, k, v, z, lse, dz, dlse, mask, scale that returns dq, dk, dv, optional
    move, back : functions from NumPy's arrays to the device's and back

    Returns
    -------
    facts : dict
        ok; errors: array → norm of its error over norm of the truth; allowed; finite: whether the right places are
        finite.
    """
    rng = np.random.default_rng(0)
    q, k, v = make(case, dtype, rng)
    scale = case.d_k**-0.5
    wide = [x.astype(np.float64) for x in (q, k, v)]
    exact_z, exact_lse, saved = attention_forward(*wide, mask=case.mask, scale=scale, engine="reference")
    q, k, v = move(q), move(k), move(v)
    z, lse = forward(q, k, v, case.mask, scale)
    errors = {"z": distance(back(z), exact_z)}
    got_lse: Array = np.asarray(back(lse), np.float64)
    seen = np.isfinite(exact_lse)
    finite = bool((np.isfinite(got_lse) == seen).all() and not np.asarray(back(z), np.float64)[~seen].any())
    lse_error = float(np.abs(got_lse[seen] - exact_lse[seen]).max(initial=0)) if finite else float("nan")
    allowed = ALLOWED[dtype]
    ok = finite and errors["z"] <= allowed and lse_error <= LSE * (1 + np.abs(exact_lse[seen]).max(initial=0))
    if backward is not None:
        dz: Array = np.asarray(rng.standard_normal(exact_z.shape)).astype(as_dtype(dtype))
        dlse: Array = np.asarray(rng.standard_normal(exact_lse.shape)).astype(np.float32)
        grads = backward(q, k, v, z, lse, move(dz), move(dlse), case.mask, scale)
        exact = attention_backward(dz.astype(np.float64), saved, dlse=dlse.astype(np.float64))
        for name, got, truth in zip(("dq", "dk", "dv"), grads, exact, strict=True):
            errors[name] = distance(back(got), truth)
            ok = ok and errors[name] <= 2 * allowed  # z, and delta with it, is rounded before the backward
    return {"ok": bool(ok), "errors": {**errors, "lse": lse_error}, "allowed": allowed, "finite": finite}


def distance(got: Array, truth: Array) -> float:
    """Norm of the error over norm of the truth; NaN if a number that should be finite is not."""
    size = max(float(np.linalg.norm(truth)), 1e-3)
    return float(np.linalg.norm(np.asarray(got, np.float64) - truth)) / size
