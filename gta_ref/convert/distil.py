r"""The two losses by which a converted model is healed, with their gradients. The original is never changed.

**Layer by layer.** Every layer reads what the original's layer reads, and is to put out the same. With
:math:`h_l(t)` what the original's attention puts out at token t, and :math:`\hat h_l(t)` the converted layer's,

.. math::
    \mathcal L_\text{layers} = \sum_l
    \frac{\sum_t \omega_l(t) \|\hat h_l(t) - h_l(t)\|^2}{\sum_t \omega_l(t) \|h_l(t)\|^2}

where :math:`\omega_l(t)` is the inverse mean square of the residual stream after the attention: an error counts as much
as the next RMSNorm lets through. The sums go over all tokens of the texts, and over every eighth token once more, read
alone, with eight times the weight (:func:`gta_ref.convert.original.read_alone`). Layers do not wait for one another,
and no gradient goes through the MLPs.

**End to end.** The divergence of the converted model's prediction from the original's, averaged over all tokens,
:mod:`gta_ref.ops.kl`. The errors of all layers together decide, as far as they matter to the prediction. Too few
sequences begin in a batch for that to say what the first token of any text needs. So the errors at tokens that are read
alone are added: eight times the mean over tokens and features of :math:`\omega_l (\hat h_l - h_l)^2`, summed over the
layers.

In both, the sequences of a batch are distributed over the threads, as in :mod:`gta_ref.lm.gradient`.
"""

from __future__ import annotations

import numpy as np

from gta_ref import threads
from gta_ref.convert.original import EVERY, Original, error_weights, read_alone, reads
from gta_ref.errors import check_shape
from gta_ref.lm import block, model
from gta_ref.lm.gradient import sum_of_parts
from gta_ref.mechanisms import gta
from gta_ref.ops import Array, kl_backward, kl_forward
from gta_ref.ops.arrays import Params

Found = tuple[float, dict[str, Array]]  # a loss, and its gradient by every parameter that is trained


def by_layers(params: Params, config: model.Config, original: Original, ids: Array) -> Found:
    """The loss layer by layer, and its gradient by the parameters of the attention.

    Parameters
    ----------
    params, config
        The converted model.
    original : Original
    ids : (B, N), integers

    Returns
    -------
    loss : float
        The sum over the layers of the share of the output's mean square that is wrong.
    grads : dict of str to array
    """

    def part(some: Array) -> tuple[Array, dict[str, Array]]:
        sums, grads = _errors(params, config, original, some)
        more, of_alone = _errors(params, config, original, read_alone(some))
        return sums + EVERY * more, {name: grad + EVERY * of_alone[name] for name, grad in grads.items()}

    (lost, whole), grads = sum_of_parts(part, _parts(ids))
    for i in range(config.n_layers):
        for grad in block.select(grads, f"layers.{i}.").values():
            grad /= whole[i]
    return float((lost / whole).sum()), grads


def end_to_end(params: Params, config: model.Config, original: Original, ids: Array) -> Found:
    """The divergence from the original, in nats per token, and its gradient by all but MLPs, embedding and head.

    Parameters and results are those of :func:`by_layers`; the gains of the norms have gradients too.
    """

    def part(some: Array) -> Found:
        wanted, _ = model.forward(original.params, some, original.config, need_saved=False)
        logits, saved = model.forward(params, some, config)
        loss, divergence = kl_forward(logits, wanted)
        del logits, wanted
        share = len(some) / len(ids)  # the divergence is a mean over tokens, and all sequences have as many
        grads = model.backward(kl_backward(share, divergence), saved, frozen=True)
        alone = read_alone(some)
        (lost, _), more = _errors(params, config, original, alone)
        per_element = share * EVERY / (len(alone) * config.hidden_size)
        for name, grad in more.items():
            grads[name] += per_element * grad
        return share * float(loss) + per_element * float(lost.sum()), grads

    return sum_of_parts(part, _parts(ids))


def _errors(params: Params, config: model.Config, original: Original, ids: Array) -> tuple[Array, dict[str, Array]]:
    """Numerators and denominators of the loss of each layer, (2, L), and the numerators' gradients."""
    sums = np.zeros((2, config.n_layers))
    grads: dict[str, Array] = {}
    for i, read in enumerate(reads(original, ids)):
        omega = error_weights(read, original.config.norm_eps)[..., None].astype(read.out.dtype)  # (B, N, 1)
        out, saved = gta.forward(block.select(params, f"layers.{i}.attention."), read.normed, config.layer(i))
        error = out - read.out
        weighted = omega * error
        sums[:, i] = np.vdot(error, weighted), np.vdot(read.out, omega * read.out)
        _, of_layer = gta.backward(2 * weighted, saved)
        grads |= {f"layers.{i}.attention.{name}": grad for name, grad in of_layer.items()}
    return sums, grads


def _parts(ids: Array) -> list[Array]:
    """The sequences, divided among the threads."""
    check_shape("ids", ids, ("B", "N"))
    if ids.size == 0:
        raise ValueError(f"ids has shape {ids.shape}; expected at least one token")
    return np.array_split(ids, min(threads.get_threads(), len(ids)))
