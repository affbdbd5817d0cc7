"""Turn a whole GQA language model into GTA, layer by layer.

Every layer is fitted by what it does in the original, for a text and for some of its tokens alone
(:func:`gta_ref.convert.original.read_alone`). So no layer depends on how another one is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from gta_ref.convert.layer import Inputs, Report, convert_layer
from gta_ref.convert.original import EVERY, Original, error_weights, read_alone, reads
from gta_ref.convert.sizes import Sizes
from gta_ref.errors import check_type
from gta_ref.lm import block, model
from gta_ref.mechanisms import gqa
from gta_ref.ops import Array
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
    for i, (one, inputs) in enumerate(zip(every, inputs_of_layers(Original(params, config), ids), strict=True)):
        of_layer = block.select(params, f"layers.{i}.attention.")
        fitted, _, report = convert_layer(of_layer, config.layer(i), one, *inputs)
        new |= {f"layers.{i}.attention.{name}": w for name, w in fitted.items()}
        reports.append(report)
        if on_layer is not None:
            on_layer(i, report)
    return {name: new[name] for name in model.param_shapes(made)}, made, reports


def inputs_of_layers(original: Original, ids: Array) -> Iterator[list[Inputs]]:
    """What each layer of the original reads of the text ids (B, N), and of some of its tokens alone."""
    eps = original.config.norm_eps
    for text, alone in zip(reads(original, ids), reads(original, read_alone(ids)), strict=True):
        yield [
            Inputs(text.normed, error_weights(text, eps)),
            Inputs(alone.normed, EVERY * error_weights(alone, eps)),
        ]
