"""The loss of a batch and its gradient, the sequences dealt out to the threads.

The mean over n counted tokens is the parts' means, weighted by how many tokens count in each:

    loss = Σ_i (n_i / n) loss_i        ∂loss/∂θ = Σ_i (n_i / n) ∂loss_i/∂θ

So the parts have nothing to tell each other before the end, and a thread does everything in its part: not only the
products and the attention core, which are threaded in themselves, but all that NumPy does between them. The price is a
whole gradient for every thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref import threads
from gta_ref.errors import check_shape
from gta_ref.lm import model
from gta_ref.ops import Array, embedding_forward
from gta_ref.ops.cross_entropy import IGNORE


def loss_and_gradient(
    params: model.Params, ids: Array, targets: Array, config: model.Config, engine: str = "auto"
) -> tuple[float, dict[str, Array]]:
    """Mean cross-entropy of the next token, in nats, and its gradient by every parameter.

    Parameters
    ----------
    params : dict of str to array
    ids, targets : (B, N), integers
        As in :func:`gta_ref.lm.model.loss_forward`.
    config : model.Config
    engine : str
        Of the attention core.

    Returns
    -------
    loss : float
    grads : dict of str to array
        The same to the last bit on the same number of threads. A part may be small enough for "auto" to take another
        engine than for the whole.
    """
    check_shape("ids", ids, ("B", "N"))
    check_shape("targets", targets, ids.shape)
    counts = (targets != IGNORE).sum(axis=1)  # (B,)
    sequences = np.flatnonzero(counts)  # a part in which nothing counts has no mean
    workers = min(threads.get_threads(), len(sequences))
    # where fewer than half of the threads would have a part, they do more inside the operations; 16-bit gradients are
    # rounded once, after the sum over all tokens; and a GPU orders its work by the thread that asks for it
    deals = workers >= 2 and threads.get_threads() <= 2 * workers
    if not (deals and all(isinstance(p, np.ndarray) and p.itemsize > 2 for p in params.values())):
        loss, saved = model.loss_forward(params, ids, config, targets=targets, engine=engine)
        return float(loss), model.loss_backward(saved)
    parts = np.array_split(sequences, workers)
    found: list[Any] = [None] * workers

    def work(worker: int) -> None:
        mine = parts[worker]
        weight = float(counts[mine].sum() / counts.sum())
        part, saved = model.loss_forward(params, ids[mine], config, targets=targets[mine], engine=engine)
        found[worker] = weight * float(part), model.loss_backward(saved, weight)

    with threads.blas.one_thread():
        threads.run(workers, work)
    if len(sequences) < len(ids):
        embedding_forward(ids, params["embed"])  # for its check: an id that no part had is wrong as well
    losses, grads = zip(*found, strict=True)
    for more in grads[1:]:
        for name, grad in more.items():
            np.add(grads[0][name], grad, out=grads[0][name])
    return sum(losses), grads[0]
