"""The budget of an array: how far from the truth a right implementation may be, derived for each array of each case.

    budget = c·E + 2 ulp(S)

E is the worst error of the plain computation in the same precision over several orders of summation, measured when the
case is made. In float64, for which there is no more precise truth, it is the E of float32 scaled by 2⁻²⁹. S is the
largest term that enters the array, not the largest result, because terms can cancel to exactly 0 and still leave their
rounding in the result. c is 2 for a forward array and 3 for a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from gta_ref.ops.arrays import STORAGE_DTYPES, as_dtype, widen
from gta_ref.ops.products import Product, products_by, watched
from gta_ref.verify.truth import Arrays, Problem, config_of, draw, wide

GARBAGE = 10.0  # number of budgets by which a senseless result must be off


def budgets(problem: Problem, truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The budget of every array of a case.

    Parameters
    ----------
    problem : Problem
    truth : dict of str to float64 array

    Returns
    -------
    budgets : dict of str to float
        In units of the array itself.
    """
    dtype = problem.dtype
    if dtype == "float64":
        single = draw(problem.case, "float32")
        errors = {name: e * 2.0**-29 for name, e in plain_errors(single, single.compute(wide(single.inputs))).items()}
    else:
        errors = plain_errors(problem, truth)
    terms = largest_terms(problem, truth)
    return {name: (3 if name.startswith("d_") else 2) * errors[name] + 2 * ulp(terms[name], dtype) for name in truth}


def ulp(size: float, dtype: str) -> float:
    """Unit in the last place of a number of this size: its distance from the next number in `dtype`."""
    bits = {"float64": 52, "float32": 23, "bfloat16": 7, "float16": 10}[dtype]
    return 2.0 ** (math.floor(math.log2(size)) - bits) if size > 0 else 0.0


def plain_errors(problem: Problem, truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Worst error of each array over the orders of summation, in the problem's dtype."""
    orders: dict[str, Product] = {"blas": np.matmul, "one by one": one_by_one, "blocked": blocked}
    if problem.dtype in STORAGE_DTYPES:
        orders["rounded"] = rounded(problem.dtype)
    worst = dict.fromkeys(truth, 0.0)
    inputs = {name: x if x.dtype.kind in "iu" else watched(x) for name, x in problem.inputs.items()}
    for product in orders.values():
        with products_by(product), np.errstate(over="ignore", invalid="ignore"):
            found = problem.compute(inputs)
        for name, exact in truth.items():
            worst[name] = max(worst[name], largest_difference(np.asarray(found[name]), exact))
    return worst


def one_by_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A matrix product that adds its terms one by one."""
    total = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
    for i in range(a.shape[-1]):
        total += a[..., i : i + 1] * b[..., i : i + 1, :]
    return total


def blocked(a: np.ndarray, b: np.ndarray, size: int = 16) -> np.ndarray:
    """A matrix product that sums blocks of the inner dimension separately."""
    total: np.ndarray = a[..., :size] @ b[..., :size, :]
    for start in range(size, a.shape[-1], size):
        total = total + a[..., start : start + size] @ b[..., start : start + size, :]
    return total


def rounded(dtype: str) -> Product:
    """A matrix product whose operands and result are rounded to 16 bits, as in eager code without float32 inside."""
    low = as_dtype(dtype)

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wide_a, wide_b = (widen(x.astype(low)) for x in (a, b))
        return (wide_a @ wide_b).astype(low).astype(a.dtype)

    return product


def largest_difference(got: np.ndarray, want: np.ndarray) -> float:
    """Largest |got − want| where both are finite; 0 for empty arrays."""
    both = np.isfinite(want) & np.isfinite(got)
    return float(np.abs(got[both].astype(np.float64) - want[both]).max(initial=0.0))


def largest_terms(problem: Problem, truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    """S of every array: the largest term that enters it.

    A sum of many terms is rarely smaller than its largest term, so that the largest value can be used instead. The
    exception is everything after the softmax's backward, P ⊙ (dP − delta + dlse), whose terms cancel: there
    |P| (|dP| + |delta| + |dlse|) is propagated to the gradients of q and k and to what is computed from them.
    """
    finite = {name: np.where(np.isfinite(x), x, 0.0) for name, x in {**wide(problem.inputs), **truth}.items()}
    terms = {name: _largest(finite[name]) for name in truth}
    if "scores" not in terms:
        return terms
    # an absolute error of a score is a relative error of its weight, so that a weight P of a score s counts as
    # P·max(1, |s|). With 16-bit storage, scores are float32, and this is far below the rounding of stored values
    p = np.abs(finite["map"])
    if problem.dtype not in STORAGE_DTYPES:
        p = p * np.maximum(1.0, np.abs(finite["scores"]))
    terms["map"] = max(1.0, _largest(p))
    n_q = p.shape[1]
    values = finite.get("v", finite.get("c"))
    if values is not None and n_q % values.shape[1] == 0 and values.shape[3] == finite["z"].shape[3]:
        per_map = np.abs(np.repeat(values, n_q // values.shape[1], axis=1))
        terms["z"] = max(terms["z"], _largest_term(p, per_map))
    if "lse" in terms:
        terms["lse"] = max(terms["lse"], _largest(finite["scores"]))
    if "d_scores" in terms:
        dp = finite["d_map"]
        delta = np.abs((finite["map"] * dp).sum(axis=-1, keepdims=True))
        dlse = np.abs(finite["d_lse"])[..., None] if "d_lse" in finite else 0.0
        inside = p * (np.abs(dp) + delta + dlse)  # (B, n_q, N_q, N_k)
        terms["d_scores"] = max(terms["d_scores"], _largest(inside))
        carried_v = _largest_term(p.swapaxes(-1, -2), np.abs(finite["d_z"]))
        for name in ("d_v", "d_c"):
            if name in terms:
                terms[name] = max(terms[name], carried_v)
        scale = _scale(problem)
        q, k = np.abs(finite["q"]), np.abs(finite["k"])
        keys = np.repeat(k, n_q // k.shape[1], axis=1)
        carried_q = scale * _largest_term(inside, keys)
        carried_k = scale * _largest_term(inside.swapaxes(-1, -2), q)
        terms["d_q"] = max(terms["d_q"], carried_q)
        terms["d_k"] = max(terms["d_k"], carried_k)
        _carry(terms, finite, carried_q, carried_k)
    return terms


def _carry(terms: dict[str, float], finite: Mapping[str, np.ndarray], carried_q: float, carried_k: float) -> None:
    """Propagate S from d_q and d_k to all gradients that are linear in them.

    These are the gradients of the stages, weights and biases before the attention core, and of x.
    """
    carried = max(carried_q, carried_k)
    into = [finite[name] for name in ("x", "c", "c_q") if name in finite]
    for name in terms:
        behind = name.removeprefix("d_")
        if behind.startswith(("q_", "k_", "b_q", "b_k", "b_d")) and behind != "q":
            terms[name] = max(terms[name], carried)
        elif name.startswith("d_w_") and behind[2] in "qkdu":
            terms[name] = max(terms[name], carried * max(map(_largest, into), default=0.0))
        elif name == "d_x" or (name.startswith("d_c") and "k_nope" not in finite and "w_uk" in finite):
            weights = [_largest(x) for key, x in finite.items() if key.startswith(("w_q", "w_k", "w_d", "w_u"))]
            terms[name] = max(terms[name], carried * max(weights, default=0.0))


def _scale(problem: Problem) -> float:
    if problem.case.level == "attention":
        return float(problem.case.settings.get("scale") or problem.case.settings["sizes"]["d_k"] ** -0.5)
    return float(config_of(problem.case.settings).scale)


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max(initial=0.0))


def _largest_term(a: np.ndarray, b: np.ndarray) -> float:
    """Largest |a_ij b_jk| in a product a b: the maximum over j of max(column j of a) times max(row j of b)."""
    columns = a.max(axis=-2, initial=0.0)  # (…, inner)
    rows = b.max(axis=-1, initial=0.0)  # (…, inner)
    return _largest(columns * rows)


def check_sharp(problem: Problem, truth: Mapping[str, np.ndarray], budget: Mapping[str, float]) -> None:
    """Raise ValueError if a senseless result would pass or nearly pass, because such a case would be useless.

    Zeros, the mean over the tokens, and rows moved by one place must be off by at least ten budgets in every required
    array, unless they equal the truth.
    """
    for name in problem.required:
        exact = truth[name]
        for kind, make in SENSELESS.items():
            error = largest_difference(make(exact), exact)
            differs = error > 1e-6 * _largest(exact)
            if differs and error < GARBAGE * budget[name]:
                raise ValueError(
                    f"case {problem.case.name} in {problem.dtype}: {kind} for {name} is only "
                    f"{error / budget[name]:.1f} budgets off; expected at least {GARBAGE:g}"
                )


def _mean(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.mean(x, axis=-2, keepdims=True), x.shape) if x.ndim >= 2 and x.size else x


SENSELESS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "zeros": np.zeros_like,
    "the mean over the rows": _mean,
    "rows moved by one": lambda x: np.roll(x, 1, axis=-2) if x.ndim >= 2 else x,
}

__all__ = ["Arrays", "budgets", "check_sharp", "largest_difference", "largest_terms", "plain_errors", "ulp"]
