"""The language model's loss and gradient over several ranks: with sequences spread over them, or with batches.

Either way a rank's loss is the mean over its own n_r of n tokens that count, and

    loss = Σ_r (n_r / n) loss_r        ∂loss/∂θ = Σ_r (n_r / n) ∂loss_r/∂θ

All ranks end with the same sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gta_ref.distributed.ring import Ring
from gta_ref.lm import model
from gta_ref.lm.gradient import loss_and_gradient as of_batch
from gta_ref.ops import Array
from gta_ref.ops.arrays import Params, narrow, widen
from gta_ref.ops.cross_entropy import IGNORE


def context_parallel(
    params: Params, ids: Array, targets: Array, config: model.Config, ring: Ring
) -> tuple[float, dict[str, Array]]:
    """Mean cross-entropy and its gradient, with every sequence spread over the ranks of `ring`.

    Parameters
    ----------
    params : dict of str to array
        The same in all ranks.
    ids, targets : (B, N), integers
        The whole sequences; each rank computes its own tokens. Targets as of :func:`gta_ref.lm.model.loss_forward`.
    config : model.Config
    ring : Ring
        Made for the length N.

    Returns
    -------
    loss : float
    grads : dict of str to array
        The same in all ranks.
    """
    mine = ring.cut(targets)
    count, total = int((mine != IGNORE).sum()), int((targets != IGNORE).sum())
    positions = ring.positions(ids.shape[0])
    # a rank without a target that counts takes part all the same, because the others need its keys
    counted = mine if count else np.zeros_like(mine)
    loss, saved = model.loss_forward(params, ring.cut(ids), config, targets=counted, positions=positions, engine=ring)
    weight = count / total if total else 0.0
    grads = model.loss_backward(saved, weight)
    return added(ring.comm, weight * float(loss), grads)


def data_parallel(
    comm: Any, params: Params, ids: Array, targets: Array, config: model.Config, engine: str = "auto"
) -> tuple[float, dict[str, Array]]:
    """Mean cross-entropy and its gradient, with the sequences of a batch distributed over the ranks.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    params, ids, targets, config, engine
        As of :func:`gta_ref.lm.gradient.loss_and_gradient`, the same in all ranks; rank r computes every sequence
        number r, r + R, r + 2R …

    Returns
    -------
    loss : float
    grads : dict of str to array
        The same in all ranks.
    """
    rank, ranks = comm.Get_rank(), comm.Get_size()
    mine, total = slice(rank, None, ranks), int((targets != IGNORE).sum())
    count = int((targets[mine] != IGNORE).sum())
    if count:
        weight = count / total
        loss, grads = of_batch(params, ids[mine], targets[mine], config, engine)
        grads = {name: grad * grad.dtype.type(weight) for name, grad in grads.items()}
    else:
        weight, loss, grads = 0.0, 0.0, {name: np.zeros_like(p) for name, p in params.items()}
    return added(comm, weight * loss, grads)


def added(comm: Any, loss: float, grads: Mapping[str, Array]) -> tuple[float, dict[str, Array]]:
    """The sums of a number and of arrays over all ranks; 16-bit arrays are added in float32 and rounded once."""
    found = {}
    for name, grad in grads.items():
        total = np.ascontiguousarray(widen(grad))
        whole = np.empty_like(total)
        comm.Allreduce(total, whole)
        found[name] = narrow(whole, grad.dtype)
    return float(comm.allreduce(loss)), found
