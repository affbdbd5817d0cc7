"""One colour per mechanism and per part, in every figure."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from gta_ref import mechanisms
from gta_ref.commands.bench_e2e import SHOWN
from gta_ref.costs.model import Model
from gta_ref.lm import small
from gta_ref.plots import cache, costs, e2e
from gta_ref.plots.common import (
    COLOURS,
    MECHANISM_COLOURS,
    PART_COLOURS,
    contrast,
    ink,
    mechanism_of,
    mechanism_styles,
    shaded,
)

DOCS = Path(__file__).parents[2] / "docs"


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
    assert contrast(PART_COLOURS[part], background) >= 3


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


def test_variants_of_one_mechanism_keep_its_colour():
    styles = mechanism_styles(["mha", *(f"gta {i}" for i in range(8)), "gqa"])
    assert {style.colour for name, style in styles.items() if "gta" in name} == {MECHANISM_COLOURS["gta"]}
    assert styles["gta 0"] == mechanism_styles(["gta"])["gta"]
    assert styles["gqa"] == mechanism_styles(["gqa"])["gqa"]


def test_no_two_labels_have_marker_and_line_in_common():
    labels = [*MECHANISM_COLOURS, *(f"gta {i}" for i in range(20))]
    styles = mechanism_styles(labels).values()
    assert len({style.marker for style in list(styles)[:7]}) == 7
    assert len({(style.marker, str(style.line)) for style in styles}) == len(labels)


def test_a_shade_is_between_the_colour_and_black_or_white():
    assert [shaded("#804020", s) for s in (-1, -0.5, 0, 1)] == ["#000000", "#402010", "#804020", "#ffffff"]


def test_contrast_is_that_of_wcag():
    assert contrast("black") == pytest.approx(21)
    assert contrast("#767676") == pytest.approx(4.54, abs=0.005)  # the known limit of grey on white
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("colour", COLOURS)
def test_ink_is_dark_enough_and_no_darker(colour):
    assert contrast(ink(colour)) >= 4.5
    assert ink(colour).upper() == colour or contrast(ink(colour)) < 4.7


def lab(rgb):
    """CIE L*a*b* of linear RGB, for a white of D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ rgb / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes (2009), at full strength
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.1522, 1.0526, -0.2048], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0519]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("table", [MECHANISM_COLOURS, PART_COLOURS], ids=["mechanisms", "parts"])
def test_colours_differ_for_the_colour_blind(kind, table):
    linear = np.array([to_rgb(colour) for colour in sorted(set(table.values()))])
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    seen = [lab(np.clip(np.asarray(BLINDNESS[kind]) @ rgb, 0, 1)) for rgb in linear]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12  # 2.3 is just noticeable


def test_figures_use_the_colours():
    figure = cache.cache_growth({"gqa-1b": 2, "gta-1b": 1}, {"gqa-1b": [(1, 2)], "gta-1b": [(1, 1)]})
    assert [bar.get_facecolor()[:3] for bar in figure.axes[0].patches] == [
        to_rgb(MECHANISM_COLOURS[name]) for name in ("gqa", "gta")
    ]
    bars = cache.family({"GTA": Model.preset("gta-1b").structure}).axes[0].patches
    assert [bar.get_facecolor()[:3] for bar in bars] == [to_rgb(PART_COLOURS[part]) for part in ("keys", "values")]


def variables(path):
    """The colours that a style sheet gives names to, for both themes: the last one counts, and there is only one."""
    found = re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", path.read_text(encoding="utf-8"))
    colours = {name: {colour for other, colour in found if other == name} for name, _ in found}
    return {name: one.pop() for name, one in colours.items() if len(one) == 1}


def test_the_explorer_has_the_same_colours():
    sheet = (DOCS / "explorer" / "explorer.css").read_text(encoding="utf-8")
    found = variables(DOCS / "explorer" / "explorer.css")
    names = {"heads": "output heads"}
    for name in ("keys", "maps", "heads", "values", "attention", "head", "elementwise"):
        assert found[name] == PART_COLOURS[names.get(name, name)].lower()
    shown = {"projections": "projections", "mlp": "MLP", "attention": "attention", "gate": "gate and decoder",
             "head": "head", "elementwise": "elementwise", "keys": "keys", "values": "values"}  # fmt: skip
    for name, part in shown.items():
        variable = re.search(rf"\.part-{name}\b[^{{]*{{ background: var\(--(\w+)\); color: var\(--\1\)", sheet)[1]
        assert found[variable] == PART_COLOURS[part].lower()


@pytest.mark.parametrize("colour", sorted(set(PART_COLOURS.values()) - {"#000000"}))  # copies are not in the explorer
def test_the_explorers_colours_can_be_seen_in_the_dark(colour):
    assert contrast(colour, "#1d2026") >= 3  # its cards


def test_what_is_strong_on_a_slide_has_the_colour_of_gta():
    assert variables(DOCS / "slides" / "slides.css")["strong"] == ink(MECHANISM_COLOURS["gta"])
