"""Turn a whole GQA language model into GTA, layer by layer, from the first to the last.

Both models read the same text. The layer in hand is fitted by what the original does with its own input and by what
the converted model, as far as it is made, gives to it. So a layer makes up, as far as it can, for what the layers
before it have lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gta_ref.convert.layer import Report, convert_layer, error_weights
from gta_ref.convert.sizes import Sizes
from gta_ref.errors import check_type
from gta_ref.lm import block, model
from gta_ref.mechanisms import gqa, gta
from gta_ref.ops import Array, embedding_forward
from gta_ref.ops.arrays import Params


def convert(
    params: Params,
    config: model.Config,
    sizes: Sizes | Sequence[Sizes],
    ids: Array,
    *,
    on_layer: Callable[[int, Report], Any] | None = None,
) -> tuple[dict[str, Array], model.Config, list[Report]]:
    """Convert a model by what it does on a text.

    Parameters
    ----------
    params : dict of str to array
        The original's.
    config : gta_ref.lm.model.Config
        Of mechanism "gqa".
    sizes : Sizes or sequence of Sizes
        One for all layers, or one for each.
    ids : (B, N), integers
        The text, at least 2 tokens. The more tokens, the better is the fit: at least 8,192 for a model of width 576.
    on_layer : callable, optional
        Called with the number of each layer and its report as soon as it is converted.

    Returns
    -------
    params : dict of str to array
    config : gta_ref.lm.model.Config
        Of mechanism "gta".
    reports : list of Report
        One per layer.

    Raises
    ------
    ValueError
        If the model is no plain GQA model, or the sizes do not fit it.
    """
    model.check_inputs(params, ids, config)
    check_type("config.attention", config.layer(0), gqa.Config, "GQA's Config")
    every = [sizes] * config.n_layers if isinstance(sizes, Sizes) else list(sizes)
    if len(every) != config.n_layers:
        raise ValueError(f"sizes has {len(every)} entries; expected one, or n_layers={config.n_layers}")
    attention = tuple(one.config(config.layer(i)) for i, one in enumerate(every))  # refused before the work begins
    made = replace(config, attention=attention, mechanism="gta")
    new = {name: w for name, w in params.items() if ".attention." not in name}
    reports = []
    x, _ = embedding_forward(ids, params["embed"])
    x_new = x
    for i, one in enumerate(every):
        layer = block.select(params, f"layers.{i}.")
        rows = block.rows_by("auto", x)
        normed, normed_new = (rows.rmsnorm_forward(a, layer["norm_1"], config.norm_eps)[0] for a in (x, x_new))
        original = block.select(layer, "attention.")
        mixed, _ = gqa.forward(original, normed, config.layer(i), need_saved=False)
        # what would bring the converted model's residual stream back to the original's
        target = mixed + (x - x_new)
        weights = error_weights(x + mixed, config.norm_eps)
        fitted, _, report = convert_layer(original, config.layer(i), one, normed, normed_new, target, weights)
        mixed_new, _ = gta.forward(fitted, normed_new, attention[i], need_saved=False)
        x, x_new = (block.mlp_forward(layer, h, config.norm_eps, rows)[0] for h in (x + mixed, x_new + mixed_new))
        new |= {f"layers.{i}.attention.{name}": w for name, w in fitted.items()}
        reports.append(report)
        if on_layer is not None:
            on_layer(i, report)
    return {name: new[name] for name in model.param_shapes(made)}, made, reports
