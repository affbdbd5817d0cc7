"""What it costs to share maps in one layer alone, measured for each: by this one chooses the layers that share."""

from __future__ import annotations

from collections.abc import Iterator

from gta_ref.convert.layer import convert_layer
from gta_ref.convert.original import Original, reads
from gta_ref.convert.sizes import Sizes
from gta_ref.convert.whole import inputs_of_layers
from gta_ref.lm import block, model
from gta_ref.mechanisms import gqa, gta
from gta_ref.ops import Array, kl_forward, linear_forward


def costs(original: Original, sizes: Sizes, ids: Array, judged: Array) -> Iterator[float]:
    """Convert one layer at a time, the others being the original's, and yield how far the predictions move.

    Parameters
    ----------
    original : Original
    sizes : Sizes
        Of the layer that is converted.
    ids : (B, N), integers
        The text to which it is fitted.
    judged : (B', N'), integers
        The text on which it is judged.

    Yields
    ------
    divergence : float
        KL(original ‖ model), in nats per token, of the model in which this layer alone is converted.
    """
    config = original.config
    wanted, _ = model.forward(original.params, judged, config, need_saved=False)
    layers = zip(reads(original, judged), inputs_of_layers(original, ids), strict=True)
    for i, (read, inputs) in enumerate(layers):
        fitted, made, _ = convert_layer(block.select(read.params, "attention."), config.layer(i), sizes, *inputs)
        out, _ = gta.forward(fitted, read.normed, made, need_saved=False)
        rows = block.rows_by("auto", read.stream)
        moved, _ = block.mlp_forward(read.params, read.stream + out, config.norm_eps, rows)
        yield float(kl_forward(_logits(original, moved, i + 1), wanted)[0])


def _logits(original: Original, x: Array, first: int) -> Array:
    """What the original predicts from the residual stream x before the layer `first`."""
    params, config = original
    for i in range(first, config.n_layers):
        layer = block.select(params, f"layers.{i}.")
        x, _ = block.forward(layer, x, gqa, config.layer(i), config.norm_eps, need_saved=False)
    normed, _ = block.rows_by("auto", x).rmsnorm_forward(x, params["norm"], config.norm_eps)
    logits, _ = linear_forward(normed, params["embed"].T if config.tied else params["head"])
    return logits
