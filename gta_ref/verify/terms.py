"""The largest term that enters an array: terms can cancel to exactly 0 and still leave their rounding in the result."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gta_ref.ops.arrays import STORAGE_DTYPES
from gta_ref.verify.truth import Problem, config_of, wide


def largest_terms(problem: Problem, truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    """S of every array: the largest term that enters it.

    A sum of many terms is rarely smaller than its largest term, so that the largest value can be used instead. The
    exception is everything after the softmax's backward, P ⊙ (dP − delta + dlse), whose terms cancel: there
    |P| (|dP| + |delta| + |dlse|) is propagated to the gradients of q and k and to what is computed from them.
    """
    finite = {name: np.where(np.isfinite(x), x, 0.0) for name, x in {**wide(problem.inputs), **truth}.items()}
    terms = {name: largest(finite[name]) for name in truth}
    if "scores" not in terms:
        return terms
    # an absolute error of a score is a relative error of its weight, so that a weight P of a score s counts as
    # P·max(1, |s|). With 16-bit storage, scores are float32, and this is far below the rounding of stored values
    p = np.abs(finite["map"])
    if problem.dtype not in STORAGE_DTYPES:
        p = p * np.maximum(1.0, np.abs(finite["scores"]))
    terms["map"] = max(1.0, largest(p))
    n_q = p.shape[1]
    values = finite.get("v", finite.get("c"))
    if values is not None and n_q % values.shape[1] == 0 and values.shape[3] == finite["z"].shape[3]:
        per_map = np.abs(np.repeat(values, n_q // values.shape[1], axis=1))
        terms["z"] = max(terms["z"], _largest_term(p, per_map))
    if "lse" in terms:
        # a score near 0 is a sum of larger products, which cancel
        keys = np.repeat(np.abs(finite["k"]), n_q // finite["k"].shape[1], axis=1)
        products = scale_of(problem) * _largest_term(np.abs(finite["q"]), keys.swapaxes(-1, -2))
        terms["scores"] = max(terms["scores"], products)
        terms["lse"] = max(terms["lse"], terms["scores"])
    if "d_scores" in terms:
        dp = finite["d_map"]
        delta = np.abs((finite["map"] * dp).sum(axis=-1, keepdims=True))
        dlse = np.abs(finite["d_lse"])[..., None] if "d_lse" in finite else 0.0
        inside = p * (np.abs(dp) + delta + dlse)  # (B, n_q, N_q, N_k)
        terms["d_scores"] = max(terms["d_scores"], largest(inside))
        carried_v = _largest_term(p.swapaxes(-1, -2), np.abs(finite["d_z"]))
        for name in ("d_v", "d_c"):
            if name in terms:
                terms[name] = max(terms[name], carried_v)
        scale = scale_of(problem)
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
            terms[name] = max(terms[name], carried * max(map(largest, into), default=0.0))
        elif name == "d_x" or (name.startswith("d_c") and "k_nope" not in finite and "w_uk" in finite):
            weights = [largest(x) for key, x in finite.items() if key.startswith(("w_q", "w_k", "w_d", "w_u"))]
            terms[name] = max(terms[name], carried * max(weights, default=0.0))


def scale_of(problem: Problem) -> float:
    """The factor on the scores."""
    if problem.case.level == "attention":
        return float(problem.case.settings.get("scale") or problem.case.settings["sizes"]["d_k"] ** -0.5)
    return float(config_of(problem.case.settings).scale)


def largest(x: np.ndarray) -> float:
    """The largest finite magnitude; 0 if there is none."""
    return float(np.abs(x).max(initial=0.0, where=np.isfinite(x)))


def _largest_term(a: np.ndarray, b: np.ndarray) -> float:
    """Largest |a_ij b_jk| in a product a b: the maximum over j of max(column j of a) times max(row j of b)."""
    columns = a.max(axis=-2, initial=0.0)  # (…, inner)
    rows = b.max(axis=-1, initial=0.0)  # (…, inner)
    return largest(columns * rows)
