"""The loss of a batch and its gradient, with the sequences distributed over the threads.

If part i has n_i of the n tokens that count, the mean over all of them is the weighted mean of the parts:

    loss = Σ_i (n_i / n) loss_i        ∂loss/∂θ = Σ_i (n_i / n) ∂loss_i/∂θ

So the parts are independent until the final sum, and one thread computes everything in its part: not only the matrix
products and the attention core, which have threads of their own, but also all NumPy operations between them. The price
is memory: every thread holds a whole gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gta_ref import threads
from gta_ref.errors import check_shape
from gta_ref.lm import model
from gta_ref.ops import Array, embedding_forward
from gta_ref.ops.arrays import Params
from gta_ref.ops.cross_entropy import IGNORE


def loss_and_gradient(
    params: Params, ids: Array, targets: Array, config: model.Config, engine: str = "auto"
) -> tuple[float, dict[str, Array]]:
    """Mean cross-entropy of the next token, in nats, and its gradient by every parameter.

    Parameters
    ----------
    params : dict of str to array
    ids, targets : (B, N), integers
        As in :func:`gta_ref.lm.model.loss_forward`.
    config : model.Config
    engine : str
        Engine of the attention core. Default "auto".

    Returns
    -------
    loss : float
    grads : dict of str to array
        The same to the last bit in every call with the same number of threads. With "auto", a part may be so small that
        another engine computes it than would compute the whole batch.
    """
    check_shape("ids", ids, ("B", "N"))
    check_shape("targets", targets, ids.shape)
    counts = (targets != IGNORE).sum(axis=1)  # (B,)
    sequences = np.flatnonzero(counts)  # a part in which nothing counts has no mean
    workers = min(threads.get_threads(), len(sequences))
    # The batch is not divided if fewer than half of the threads would have a part, since they do more inside the
    # operations; nor if parameters have 16 bits, since gradients are rounded once, after the sum over all tokens; nor
    # on a GPU, which orders its work by the thread that submits it.
    deals = workers >= 2 and threads.get_threads() <= 2 * workers
    if not (deals and all(isinstance(p, np.ndarray) and p.itemsize > 2 for p in params.values())):
        loss, saved = model.loss_forward(params, ids, config, targets=targets, engine=engine)
        return float(loss), model.loss_backward(saved)
    parts = np.array_split(sequences, workers)

    def part(mine: Array) -> tuple[float, dict[str, Array]]:
        weight = float(counts[mine].sum() / counts.sum())
        loss, saved = model.loss_forward(params, ids[mine], config, targets=targets[mine], engine=engine)
        return weight * float(loss), model.loss_backward(saved, weight)

    found = sum_of_parts(part, parts)
    if len(sequences) < len(ids):
        # only for its check: a sequence that no part contains may have a wrong id
        embedding_forward(ids, params["embed"])
    return found


def sum_of_parts(
    part: Callable[[Array], tuple[Any, dict[str, Array]]], parts: Sequence[Array]
) -> tuple[Any, dict[str, Array]]:
    """Call `part` with each of the parts, in a thread of its own, and add up the losses and gradients that it returns.

    The first part's gradients are overwritten with the sums.
    """
    found: list[Any] = [None] * len(parts)

    def work(worker: int) -> None:
        found[worker] = part(parts[worker])

    with threads.blas.one_thread():
        threads.run(len(parts), work)
    losses, grads = zip(*found, strict=True)
    for more in grads[1:]:
        for name, grad in more.items():
            np.add(grads[0][name], grad, out=grads[0][name])
    return sum(losses), grads[0]
