"""One colour per mechanism and per part, in every figure."""

import pytest
from matplotlib.colors import to_rgb

from gta_ref import mechanisms
from gta_ref.commands.bench_e2e import SHOWN
from gta_ref.costs.model import Model
from gta_ref.lm import small
from gta_ref.plots import cache, costs, e2e
from gta_ref.plots.common import COLOURS, MECHANISM_COLOURS, PART_COLOURS, mechanism_of, mechanism_styles, shaded


def contrast(colour, background=(1, 1, 1)):
    """The ratio of luminances that WCAG 2 defines."""

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(to_rgb(colour)), luminance(background)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_mechanism_has_a_colour_that_no_other_has():
    assert set(mechanisms.NAMES) | set(small.NAMES) == set(MECHANISM_COLOURS)  # MQA is one of the laboratory's
    assert len(set(MECHANISM_COLOURS.values())) == len(MECHANISM_COLOURS)
    assert set(MECHANISM_COLOURS.values()) <= set(COLOURS)  # a set that is safe for the colour-blind


@pytest.mark.parametrize("colour", sorted({*MECHANISM_COLOURS.values(), *PART_COLOURS.values()}))
def test_a_colour_can_be_seen_on_white(colour):
    assert contrast(colour) > 2.2


@pytest.mark.parametrize("part", ["keys", "maps", "output heads", "values"])
@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"])
def test_the_parts_of_a_layer_can_be_seen_on_light_and_dark_pages(part, background):
    assert contrast(PART_COLOURS[part], to_rgb(background)) >= 3


def test_every_part_of_a_pass_has_a_colour():
    for group in SHOWN:
        assert e2e._colour(group) in PART_COLOURS.values()
    assert {costs._COLOUR_OF.get(group, group) for group in costs.GROUPS} <= set(PART_COLOURS)


@pytest.mark.parametrize(
    "label, mechanism",
    [("GTA-1B", "gta"), ("gqa, 2 key heads", "gqa"), ("MQA", "mqa"), ("mla without a gate", "mla"), ("n_q 2", "gta")],
)
def test_a_label_names_its_mechanism(label, mechanism):
    assert mechanism_of(label) == mechanism
    assert mechanism_styles([label])[label].colour.upper() == MECHANISM_COLOURS[mechanism]


def test_variants_of_one_mechanism_differ_and_keep_its_colour():
    two = mechanism_styles(["gta", "gqa", "gta, 4 maps"])
    assert two["gta"].colour == two["gta, 4 maps"].colour != two["gqa"].colour
    assert two["gta"][1:] != two["gta, 4 maps"][1:]
    many = mechanism_styles([f"gta {i}" for i in range(8)])
    assert len(set(many.values())) == len({style.colour for style in many.values()}) == 8
    assert all(contrast(style.colour) > 2 for style in many.values())


def test_a_shade_is_between_the_colour_and_black_or_white():
    assert [shaded("#804020", s) for s in (-1, -0.5, 0, 1)] == ["#000000", "#402010", "#804020", "#ffffff"]


def test_figures_use_the_colours():
    figure = cache.cache_growth({"gqa-1b": 2, "gta-1b": 1}, {"gqa-1b": [(1, 2)], "gta-1b": [(1, 1)]})
    assert [bar.get_facecolor()[:3] for bar in figure.axes[0].patches] == [
        to_rgb(MECHANISM_COLOURS[name]) for name in ("gqa", "gta")
    ]
    bars = cache.family({"GTA": Model.preset("gta-1b").structure}).axes[0].patches
    assert [bar.get_facecolor()[:3] for bar in bars] == [to_rgb(PART_COLOURS[part]) for part in ("keys", "values")]
