"""What a study measures of a finished run besides its loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.lm import model
from gta_ref.lm.train import Run

N_SEQUENCES, BATCH = 256, 32  # of retrieval's test
NEAR = 0.25  # share of the questions that count as near, and as far


def retrieval(run: Run, source: Any) -> dict[str, float]:
    """Share of the questions whose answer is the most likely token.

    Returns
    -------
    shares : dict
        found, of all questions; near and far, of the quarter whose record is nearest, and farthest.
    """
    rng = np.random.default_rng([20250617286, 1])
    right, distances = [], []
    for _ in range(N_SEQUENCES // BATCH):
        ids, targets, distance = source.with_distances(rng, BATCH, run.settings.length)
        logits, _ = model.forward(run.state.params, ids, run.config, need_saved=False)
        asked = targets >= 0
        right.append((logits.argmax(axis=-1) == targets)[asked])
        distances.append(distance[asked])
    hit, far = np.concatenate(right), np.concatenate(distances)
    least, most = np.quantile(far, (NEAR, 1 - NEAR))
    return {
        "found": float(hit.mean()),
        "near": float(hit[far <= least].mean()),
        "far": float(hit[far >= most].mean()),
    }


def effective_rank(matrix: np.ndarray) -> float:
    """exp of the entropy of the singular values' shares (Roy and Vetterli, 2007): 1 … the smaller side.

    Parameters
    ----------
    matrix : (rows, columns)

    Returns
    -------
    rank : float
        r = exp(−Σ p_i ln p_i) with p_i = σ_i / Σ σ; r equal singular values and no others give r.
    """
    singular = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def ranks(run: Run, source: Any) -> dict[str, float]:
    """Effective rank of the decoded values and of the gated heads, rows being tokens; mean over layers.

    On four held-out sequences. ValueError where the model's mechanism has no decoded values.
    """
    if run.config.mechanism != "gta":
        raise ValueError(f"the run's mechanism is {run.config.mechanism!r}; expected 'gta', which decodes its values")
    ((ids, _),) = source.held_out(4, run.settings.length, 4)
    found: dict[str, list[float]] = {"values": [], "heads": []}
    for trace in model.layer_traces(run.state.params, ids, run.config):
        for stage, of_layers in found.items():
            of_layers.append(effective_rank(trace[stage].reshape(-1, trace[stage].shape[-1])))
    return {"rank, decoded": float(np.mean(found["values"])), "rank, gated": float(np.mean(found["heads"]))}
