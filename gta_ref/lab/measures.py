"""What a study measures of a finished run besides its loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.lm import model
from gta_ref.lm.train import Run

N_SEQUENCES, BATCH = 256, 32  # sequences in the test of retrieval, and how many of them are run at once
NEAR = 0.25  # share of the questions that count as near; the same share counts as far


def retrieval(run: Run, source: Any) -> dict[str, float]:
    """Share of the questions to which the model's most likely token is the answer.

    Returns
    -------
    shares : dict
        ``found``: among all questions. ``near`` and ``far``: among the quarter of questions with the nearest and with
        the farthest records.
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
    """Effective rank (Roy and Vetterli, 2007): exp of the entropy of the singular values' shares in their sum.

    Parameters
    ----------
    matrix : (rows, columns)

    Returns
    -------
    rank : float
        r = exp(−Σ p_i ln p_i) with p_i = σ_i / Σ σ, from 1 to the smaller of the two sizes. If k singular values are
        equal and the others are 0, r is k.
    """
    singular = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def ranks(run: Run, source: Any) -> dict[str, float]:
    """Effective rank of the decoded values and of the gated heads, with tokens as rows; mean over layers.

    It is measured on four held-out sequences.

    Raises
    ------
    ValueError
        If the model's mechanism has no decoded values.
    """
    if run.config.mechanism != "gta":
        raise ValueError(f"the run's mechanism is {run.config.mechanism!r}; expected 'gta', which decodes its values")
    ((ids, _),) = source.held_out(4, run.settings.length, 4)
    found: dict[str, list[float]] = {"values": [], "heads": []}
    for trace in model.layer_traces(run.state.params, ids, run.config):
        for stage, of_layers in found.items():
            of_layers.append(effective_rank(trace[stage].reshape(-1, trace[stage].shape[-1])))
    return {"rank, decoded": float(np.mean(found["values"])), "rank, gated": float(np.mean(found["heads"]))}
