"""The drawing of the cache's columns and the roofline show the numbers that they are made from."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from gta_ref.costs import hardware
from gta_ref.costs.model import Model
from gta_ref.costs.operators import operators
from gta_ref.costs.roofline import time
from gta_ref.plots.cache_steps import cache_steps
from gta_ref.plots.roofline import roofline

MODELS = {name: Model.preset(name) for name in ("gta-1b", "gqa-1b")}


def test_every_column_is_as_tall_as_a_token_needs_elements():
    prompt, steps = 3, 2
    figure = cache_steps({name: model.structure for name, model in MODELS.items()}, prompt, steps)
    for i, ax in enumerate(figure.axes):
        layer, step = list(MODELS.values())[i // (steps + 1)].structure, i % (steps + 1)
        boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
        columns = {box.get_x() for box in boxes}
        assert len(columns) == prompt + step
        for x in columns:
            filled = [box for box in boxes if box.get_x() == x and box.get_fill()]
            assert sum(box.get_height() for box in filled) == layer.cache_elements
            assert len(filled) == sum(heads for heads, _ in layer.cached.values())
        framed = [box.get_x() for box in boxes if not box.get_fill()]
        assert framed == ([prompt + step - 1] if step else [])
        assert f"{(prompt + step) * layer.cache_elements:,} elements" in ax.get_title(loc="left")


@pytest.mark.parametrize("sizes", [(1, 4096, 0), (32, 1, 4096)])
def test_no_circle_is_above_the_roof_and_each_is_at_its_operators_rate(sizes):
    h100 = hardware.get("h100")
    passes = {"a pass": {name: operators(model, *sizes, fused=True) for name, model in MODELS.items()}}
    (ax,) = roofline(passes, h100).axes
    circles = [c.get_offsets()[0] for c in ax.collections if len(c.get_offsets())]
    for intensity, rate in circles:
        assert rate <= min(h100.peak, intensity * h100.bandwidth) * (1 + 1e-12)
    for found in passes["a pass"].values():
        attention = [operator for operator in found if operator.name == "attention"]
        seconds = time(attention, h100).seconds
        work, moved = sum(o.operations for o in attention), sum(o.bytes for o in attention)
        assert any(np.allclose(circle, (work / moved, work / seconds), rtol=1e-12) for circle in circles)
