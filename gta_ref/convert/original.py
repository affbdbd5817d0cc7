"""The model that is converted, and what each of its layers reads and puts out.

Conversion, the choice of the layers that share maps, and healing all imitate the original layer by layer: on whole
texts, and on some of their tokens read alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gta_ref.lm import block, model
from gta_ref.mechanisms import gqa
from gta_ref.ops import Array, embedding_forward
from gta_ref.ops.arrays import Params

EVERY = 8  # see read_alone()


class Original(NamedTuple):
    """The model that is imitated.

    Attributes
    ----------
    params : dict of str to array
    config : gta_ref.lm.model.Config
        Of mechanism "gqa".
    """

    params: Params
    config: model.Config


class Read(NamedTuple):
    """What one layer of the original reads and puts out. All arrays have shape (B, N, H).

    Attributes
    ----------
    params : dict of str to array
        The layer's, by their names in :mod:`gta_ref.lm.block`.
    stream : array
        The residual stream before the layer.
    normed : array
        What the attention reads: the stream after the first RMSNorm.
    out : array
        What the attention puts out, before the residual.
    """

    params: Params
    stream: Array
    normed: Array
    out: Array


def reads(original: Original, ids: Array) -> Iterator[Read]:
    """Each layer's :class:`Read`, in order, on the texts ids (B, N)."""
    params, config = original
    x, _ = embedding_forward(ids, params["embed"])
    for i in range(config.n_layers):
        layer = block.select(params, f"layers.{i}.")
        rows = block.rows_by("auto", x)
        normed, _ = rows.rmsnorm_forward(x, layer["norm_1"], config.norm_eps)
        out, _ = gqa.forward(block.select(layer, "attention."), normed, config.layer(i), need_saved=False)
        yield Read(layer, x, normed, out)
        x, _ = block.mlp_forward(layer, x + out, config.norm_eps, rows)


def read_alone(ids: Array) -> Array:
    """Every eighth token of texts (B, N) as a text of its own, (T, 1).

    The first token of a text reads only itself, and all later tokens read it. Trained models rely on that: they give it
    a residual stream that is many times larger than any other, and much of the attention (Sun et al., arXiv 2402.17762;
    Xiao et al., arXiv 2309.17453). It is one token among hundreds, so that a fit to whole texts hardly sees it, and
    where it is lost, everything after it is. So the tokens that are read alone are weighted by EVERY: together they
    count as much as the texts.
    """
    return ids[:, ::EVERY].reshape(-1, 1)


def error_weights(read: Read, eps: float) -> Array:
    """ω, (B, N) float64: the inverse mean square of the residual stream after the attention.

    An error counts as much as the next RMSNorm lets through, so that the few tokens with a huge stream do not decide
    alone.
    """
    weights: Array = 1 / (np.square(read.stream + read.out).mean(axis=-1, dtype=np.float64) + eps)
    return weights
