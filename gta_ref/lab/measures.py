"""What a study measures of a finished run besides its loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.lm import block, model
from gta_ref.lm.train import Run

N_SEQUENCES = 256  # of retrieval's test
BINS = 4  # of distance


def accuracy(run: Run, source: Any) -> float:
    """Share of the asked keys whose value is the most likely token."""
    right, _ = _answers(run, source)
    return float(right.mean())


def accuracy_far(run: Run, source: Any) -> float:
    """The same among the most distant quarter of the pairs."""
    right, distances = _answers(run, source)
    return float(right[distances >= np.quantile(distances, 1 - 1 / BINS)].mean())


def accuracy_near(run: Run, source: Any) -> float:
    """The same among the nearest quarter of the pairs."""
    right, distances = _answers(run, source)
    return float(right[distances <= np.quantile(distances, 1 / BINS)].mean())


def _answers(run: Run, source: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of every asked key, whether the answer is right, and the distance to its pair."""
    rng = np.random.default_rng([20250617286, 1])
    right, distances = [], []
    for _ in range(N_SEQUENCES // run.settings.batch):
        ids, targets, distance = source.with_distances(rng, run.settings.batch, run.settings.length)
        logits, _ = model.forward(run.state.params, ids, run.config, need_saved=False)
        asked = targets >= 0
        right.append((logits.argmax(axis=-1) == targets)[asked])
        distances.append(distance[asked])
    return np.concatenate(right), np.concatenate(distances)


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


def rank_decoded(run: Run, source: Any) -> float:
    """Effective rank of the decoded values before the gate, mean over layers."""
    return _rank(run, source, "values")


def rank_gated(run: Run, source: Any) -> float:
    """Effective rank of what the heads put out, after the gate, mean over layers."""
    return _rank(run, source, "heads")


def _rank(run: Run, source: Any, stage: str) -> float:
    """Mean over layers of the effective rank of a stage's rows, one a token, on held-out sequences."""
    ((ids, _),) = source.held_out(4, run.settings.length, 4)
    ranks = []
    x = run.state.params["embed"][ids]  # (B, N, H)
    for i in range(run.config.n_layers):
        trace: dict[str, Any] = {}
        layer = block.select(run.state.params, f"layers.{i}.")
        c = run.config
        x, _ = block.forward(layer, x, c.module, c.attention, c.norm_eps, trace=trace, need_saved=False)
        ranks.append(effective_rank(trace[stage].reshape(-1, trace[stage].shape[-1])))
    return float(np.mean(ranks))
