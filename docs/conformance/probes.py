"""Small questions to an implementation whose answers are a word: which keys a row sees, what a blind row gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from docs.conformance.table import Implementation
from gta_ref.verify import vectors
from gta_ref.verify.attempt import Job, Outcome
from gta_ref.verify.run import inputs_for, judge

Call = Callable[[Job], Outcome]
OBJECT = "GTA_CONFORMANCE_OBJECT"
WIDTH = 16
NAMES = frozenset(("z", "lse", "d_q", "d_k", "d_v"))


def core(call: Call, one: Implementation, arrays: str, able: frozenset[str]) -> dict[str, Any]:
    """The answers of an attention core."""
    found: dict[str, Any] = {"float64": float64(call, arrays, "attention/a-head-each", able)}
    if one.told in ("flag", "module"):
        found["seen"] = {f"{n}x{m}": seen(call, arrays, n, m) for n, m in ((2, 4), (4, 2))}
    found["blind"] = blind(call, one, arrays, "backward" in able)
    return found


def layer(call: Call, arrays: str) -> dict[str, Any]:
    """The answers of a whole layer."""
    cases = ("layer/gqa", "layer/mla")  # a layer refuses the other mechanism
    words = [float64(call, arrays, case, frozenset(("backward",))) for case in cases]
    return {"float64": next((word for word in words if word != "refused"), "refused")}


def bare(call: Call, arrays: str) -> dict[str, str]:
    """What the library does by itself with fewer key heads than query heads, and with d_v that is not d_k."""
    grouped, wide = _numbers(4, 2, WIDTH), _numbers(2, 2, 24)
    by_run, tiled = (np.tile(np.arange(2), 2) if tile else np.repeat(np.arange(2), 2) for tile in (False, True))
    return {
        "grouped": _matches(call, arrays, grouped, {"own": by_run, "tiled": tiled}),
        "widths": _matches(call, arrays, wide, {"own": np.arange(2)}),
    }


def float64(call: Call, arrays: str, case: str, able: frozenset[str]) -> str:
    """Whether a result for float64 is as accurate as float64."""
    vector = vectors.make(case, "float64")
    behind = () if "backward" in able else ("backward",)
    names = [name for name in vector.expected if not behind or name not in vector.gradients]
    job = Job(inputs_for(vector, ()), vector.settings, arrays, 1, False, not behind, frozenset(names))
    outcome = call(job)
    if outcome.status is not None:
        return "refused"
    result = judge(vector, outcome.runs[0], [name for name in vector.required if name in names])
    if result.status == "pass":
        return "kept"
    return "returns another dtype" if result.kind == "dtype" else "float32 inside" if result.ratio > 1e4 else "inexact"


def seen(call: Call, arrays: str, n: int, m: int) -> list[str] | str:
    """The keys that each row sees by the library's own flag, "1" or "0" each: scores of 0 and the identity for v."""
    v = np.eye(m, WIDTH, dtype=np.float32)[None, None]
    zeros = [np.zeros((1, 1, rows, WIDTH), np.float32) for rows in (n, m)]
    for q_start in (m - n, 0):  # the one that the adapter takes for the flag alone
        outcome = _ask(call, arrays, zeros[0], zeros[1], v, q_start=q_start, backward=False)
        if outcome.status == "skip":
            continue
        if outcome.status is not None:
            return "refused"
        rows = outcome.runs[0]["z"][0, 0, :, :m].astype(np.float64)
        return ["".join("1" if x > 0 else "0" for x in row) if np.isfinite(row).all() else "NaN" for row in rows]
    return "refused"


def blind(call: Call, one: Implementation, arrays: str, backward: bool) -> dict[str, str]:
    """What rows 0 and 1 give, which see none of the keys, and their gradient for d_z = 1 everywhere."""
    n_keys = 2 if one.told in ("flag", "module") else 4
    q, k, v = _numbers(1, 1, WIDTH, 4, n_keys)
    sees = np.tri(4, n_keys, n_keys - 4, dtype=bool) if n_keys == 2 else np.tri(4, dtype=bool) & (np.arange(4) >= 2)
    bounds = {"q_start": n_keys - 4, "k_start": 0 if n_keys == 2 else 2}
    outcome = _ask(call, arrays, q, k, v, **bounds, backward=backward)
    if outcome.status is not None:
        return {"z": "not asked" if outcome.status == "skip" else "refused"}
    run = {name: x.astype(np.float64) for name, x in outcome.runs[0].items()}
    weights = _softmax(q, k, sees)
    mean = np.where(sees.any(-1, keepdims=True), weights, 1 / n_keys)
    unmasked = np.where(sees.any(-1, keepdims=True), weights, _softmax(q, k, np.ones_like(sees)))
    rows = run["z"][0, 0, :2]
    told = {"0": weights, "mean of v": mean, "unmasked": unmasked}
    found = {
        "z": "NaN" if np.isnan(rows).any() else _first(rows, {name: (w @ v[0, 0])[:2] for name, w in told.items()})
    }
    if "d_v" in run:
        d_v = run["d_v"][0, 0]
        told["as if each weight were 1"] = np.where(sees.any(-1, keepdims=True), weights, 1.0)
        expected = {name: w.T @ np.ones((4, v.shape[-1])) for name, w in told.items()}
        found["gradient"] = (
            "NaN" if any(np.isnan(run[d]).any() for d in ("d_q", "d_k", "d_v")) else _first(d_v, expected)
        )
        if found["gradient"] == "NaN":
            again = _ask(call, arrays, q, k, v, **bounds, backward=True, hidden=2)
            stays = again.status is None and any(np.isnan(x.astype(np.float64)).any() for x in again.runs[0].values())
            found["gradient"] = "NaN, for d_z = 0 too" if stays else "NaN"
    return found


def _numbers(n_q: int, n_k: int, d_v: int, n: int = 5, m: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = ((1, n_q, n, WIDTH), (1, n_k, m, WIDTH), (1, n_k, m, d_v))
    q, k, v = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
    return q, k, v


def _softmax(q: np.ndarray, k: np.ndarray, sees: np.ndarray) -> np.ndarray:
    """The weights of the first head in float64; 0 where a row sees nothing."""
    scores = np.where(sees, q[0, 0].astype(np.float64) @ k[0, 0].T / WIDTH**0.5, -np.inf)
    weights = np.exp(scores - np.where(sees.any(-1, keepdims=True), scores.max(-1, keepdims=True, initial=-1e9), 0))
    total = weights.sum(-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _matches(call: Call, arrays: str, qkv: tuple[np.ndarray, ...], ways: dict[str, np.ndarray]) -> str:
    """Which of some ways to assign key heads to query heads the result agrees with."""
    q, k, v = qkv
    outcome = _ask(call, arrays, q, k, v, q_start=0, backward=False)
    if outcome.status is not None:
        return "refused"
    z, sees = outcome.runs[0]["z"].astype(np.float64), np.tri(q.shape[2], dtype=bool)
    expected = {
        name: np.stack([_softmax(q[:, [i]], k[:, [j]], sees) @ v[0, j] for i, j in enumerate(heads)])[None]
        for name, heads in ways.items()
    }
    return _first(z, expected)


def _first(found: np.ndarray, told: dict[str, np.ndarray]) -> str:
    """The name of the first array that agrees."""
    for name, want in told.items():
        if found.shape == want.shape and np.allclose(found, want, atol=0.02):
            return name
    return "other"


def _ask(
    call: Call, arrays: str, q: Any, k: Any, v: Any, *, q_start: int, k_start: int = 0, backward: bool, hidden: int = 0
) -> Outcome:
    """Ask for a causal attention in float32; the first `hidden` rows of d_z are 0, the others 1."""
    (_, n_q, n, d_k), (_, n_k, m, d_v) = q.shape, v.shape
    d_z = np.ones((1, n_q, n, d_v), np.float32)
    d_z[:, :, :hidden] = 0
    inputs = {"q": q, "k": k, "v": v, "d_z": d_z}
    inputs |= {"q_start": np.array([q_start]), "k_start": np.array([k_start]), "k_stop": np.array([m])}
    mask: dict[str, Any] = {"q_start": q_start, "k_start": [k_start]}
    if not k_start:
        del mask["k_start"]
    if q_start == m - n:
        del mask["q_start"]
    sizes = dict(
        zip(("B", "n_q", "n_k", "n_v", "N_q", "N_k", "d_k", "d_v"), (1, n_q, n_k, n_k, n, m, d_k, d_v), strict=True)
    )
    settings = {"level": "attention", "dtype": "float32", "sizes": sizes, "mask": mask}
    return call(Job(inputs, settings, arrays, 1, False, backward, NAMES))
