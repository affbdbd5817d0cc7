"""What it costs to share maps in one layer alone, measured for each: by this one chooses the layers that share."""

from __future__ import annotations

from collections.abc import Iterator

from gta_ref.convert.distil import Original
from gta_ref.convert.layer import convert_layer
from gta_ref.convert.sizes import Sizes
from gta_ref.convert.whole import inputs_of_layers
from gta_ref.lm import block
from gta_ref.mechanisms import gqa, gta
from gta_ref.ops import Array, embedding_forward, kl_forward, linear_forward


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
    params, config = original
    layers = [block.select(params, f"layers.{i}.") for i in range(config.n_layers)]
    x, _ = embedding_forward(judged, params["embed"])
    wanted = _logits(original, layers, x, 0)
    for i, (layer, inputs) in enumerate(zip(layers, inputs_of_layers(params, config, ids), strict=True)):
        rows, attention = block.rows_by("auto", x), block.select(layer, "attention.")
        normed, _ = rows.rmsnorm_forward(x, layer["norm_1"], config.norm_eps)
        mixed, _ = gqa.forward(attention, normed, config.layer(i), need_saved=False)
        fitted, made, _ = convert_layer(attention, config.layer(i), sizes, *inputs)
        shared, _ = gta.forward(fitted, normed, made, need_saved=False)
        moved, _ = block.mlp_forward(layer, x + shared, config.norm_eps, rows)
        yield float(kl_forward(_logits(original, layers, moved, i + 1), wanted)[0])
        x, _ = block.mlp_forward(layer, x + mixed, config.norm_eps, rows)


def _logits(original: Original, layers: list[dict[str, Array]], x: Array, first: int) -> Array:
    """What the original predicts from the residual stream x before the layer `first`."""
    params, config = original
    for i in range(first, config.n_layers):
        x, _ = block.forward(layers[i], x, gqa, config.layer(i), config.norm_eps, need_saved=False)
    normed, _ = block.rows_by("auto", x).rmsnorm_forward(x, params["norm"], config.norm_eps)
    logits, _ = linear_forward(normed, params["embed"].T if config.tied else params["head"])
    return logits
