"""The figures of a latent head: the tokens' rows, the borders of the heads, and the slider of one gate."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from gta_ref.plots import latents
from gta_ref.plots.common import ORANGE

RNG = np.random.default_rng(0)
VALUES, GATES = RNG.standard_normal(4), RNG.random((3, 4))


def test_latents_and_values_show_the_arrays():
    c, values = RNG.standard_normal((3, 2)), RNG.standard_normal((3, 16))
    left, right, *_ = latents.latents_and_values(c, values, "a b", 4, heads_per_map=2).axes
    np.testing.assert_array_equal(left.images[0].get_array(), c)
    np.testing.assert_array_equal(right.images[0].get_array(), values)
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "·", "b"]
    assert [line.get_xdata()[0] for line in right.lines] == [3.5, 7.5, 11.5]
    widths = [line.get_linewidth() for line in right.lines]
    assert widths[1] > widths[0] == widths[2]


@pytest.mark.parametrize("setting", [0.0, 0.35, 1.0])
def test_one_gate_scales_one_number(setting):
    figure = Figure()
    latents._draw_gate(figure, values=VALUES, gates=GATES, feature=2, setting=setting, tokens="abc")
    _, right = figure.axes
    out, before = right.patches[:4], right.patches[4:]
    want = np.where(np.arange(4) == 2, setting, GATES[-1]) * VALUES
    np.testing.assert_allclose([bar.get_height() for bar in out], want)
    np.testing.assert_allclose([bar.get_height() for bar in before], VALUES)
    orange = [i for i, bar in enumerate(out) if bar.get_facecolor() == right.patches[2].get_facecolor()]
    assert orange == [2]
    assert figure.axes[0].lines[1].get_color() == ORANGE
    assert set(figure.axes[0].lines[1].get_ydata()) == {setting}


def test_the_slider_goes_from_0_to_1_and_begins_at_the_tokens_own_gate():
    html = latents.one_gate(VALUES, GATES, 1, "abc")
    texts = re.findall(r'<img alt="([^"]+)" src="[^"]*"( hidden)?>', html)
    assert len(texts) == 21
    assert texts[0][0].startswith("Gate 0.00")
    assert texts[-1][0].startswith("Gate 1.00")
    (shown,) = [text for text, hidden in texts if not hidden]
    assert abs(float(shown.split()[1].rstrip(":")) - GATES[-1, 1]) <= 0.025 + 1e-9
    assert 'aria-label="Gate"' in html
