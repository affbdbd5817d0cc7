"""Every figure: mechanisms and parts have their colours, lines differ in more than colour, and all text can be read."""

import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.lines import Line2D
from matplotlib.text import Text

from gta_ref import plots
from gta_ref.plots import costs, drawings
from gta_ref.plots.common import MECHANISM_COLOURS, PART_COLOURS, SITE, contrast
from tests.plots.examples import ANSWERS, EXAMPLES

FOLDER = Path(plots.__file__).parent
IMAGES = FOLDER.parents[1] / "docs" / "images"
SHOWN = EXAMPLES | ANSWERS | {f"drawings.{name}": make for name, make in drawings.DRAWINGS.items()}
NOT_DRAWN_HERE = {"online.picture"}  # tests/plots/test_online.py
LEAST = 9  # pixels on the site


@pytest.fixture(scope="module", params=SHOWN)
def figure(request):
    drawn = SHOWN[request.param]()
    FigureCanvasAgg(drawn).draw()
    return drawn


def functions():
    """Every function of gta_ref.plots that returns a figure."""
    for module in pkgutil.iter_modules([str(FOLDER)]):
        if module.name not in ("__main__", "common", "drawings"):
            members = vars(import_module(f"gta_ref.plots.{module.name}"))
            for name, member in members.items():
                own = inspect.isfunction(member) and member.__module__ == f"gta_ref.plots.{module.name}"
                if own and not name.startswith("_") and member.__annotations__["return"] == "Figure":
                    yield f"{module.name}.{name}"


def test_every_figure_function_has_an_example():
    assert set(functions()) - NOT_DRAWN_HERE == set(EXAMPLES)


def pixels(points, width):
    """Size on the site of text in a figure, whose width is in points too."""
    natural = width * 96 / 72
    return points * 96 / 72 * min(1, SITE / natural)


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def test_no_text_is_too_small(figure):
    width = 72 * figure.get_figwidth()
    small = [text.get_text() for text in texts(figure) if pixels(text.get_fontsize(), width) < LEAST]
    assert small == []


def test_text_can_be_read_on_white(figure):
    """White text stands on a colour, which `numbers` and `readers` take into account."""
    faint = []
    for text in texts(figure):
        *colour, alpha = to_rgba(text.get_color(), text.get_alpha())
        seen = [alpha * c + 1 - alpha for c in colour]
        if contrast(seen) < 4.5 and min(seen) < 1:
            faint.append((text.get_text(), to_hex(seen)))
    assert faint == []


def colour_of(artist):
    """The colour of a line, a bar or the points of a scatter plot."""
    if isinstance(artist, Line2D):
        return to_hex(artist.get_color()).upper()
    if isinstance(artist, Collection):
        faces = artist.get_facecolor()
        return to_hex(faces[0] if len(faces) else artist.get_edgecolor()[0]).upper()
    return to_hex(artist.get_facecolor()).upper()


PARTS = {
    **PART_COLOURS,
    **{group: PART_COLOURS[costs._COLOUR_OF.get(group, group)] for group in costs.GROUPS},
    "values or latents": PART_COLOURS["values"],
    "values or latent": PART_COLOURS["values"],
    "copies, Python": PART_COLOURS["copies"],
}


def expected(label):
    """The colour that a label asks for, or None."""
    word = re.match(r"[A-Za-z]*", label)[0].lower()
    return MECHANISM_COLOURS.get(word) or PARTS.get(label)


def labelled(figure):
    for artist in figure.findobj(lambda one: isinstance(one, Artist) and not isinstance(one, Text)):
        label = str(artist.get_label())
        if artist.axes is not None and label and not label.startswith("_"):
            yield label, artist


def test_mechanisms_and_parts_have_their_colours(figure):
    wrong = {
        label: colour_of(artist)
        for label, artist in labelled(figure)
        if expected(label) and hasattr(artist, "get_color" if isinstance(artist, Line2D) else "get_facecolor")
        if colour_of(artist) != expected(label)
    }
    assert wrong == {}


def test_bars_named_after_mechanisms_have_their_colours():
    """Where a mechanism's name stands at the tick and not in a legend."""
    figure = EXAMPLES["cache.cache_growth"]()
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert [colour_of(bar) for bar in figure.axes[0].patches] == [expected(name) for name in names]
    ax = EXAMPLES["choosing.intervals"]().axes[0]
    rows = {tick.get_text(): i for i, tick in enumerate(ax.get_yticklabels())}
    for name, row in rows.items():
        own = [line for line in ax.lines if len(line.get_ydata()) and set(line.get_ydata()) == {row}]
        assert {colour_of(line) for line in own} == {expected(name)}


def test_lines_differ_in_more_than_their_colour(figure):
    for ax in figure.axes:
        styles = {}
        for line in ax.lines:
            style = line.get_marker(), line.get_linestyle(), str(line._unscaled_dash_pattern)
            if not str(line.get_label()).startswith("_") and style[:2] != ("None", "None"):  # which is not drawn
                assert style not in styles, (styles[style], line.get_label())
                styles[style] = line.get_label()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_colours_are_defined_in_one_place(path):
    """No figure has a colour of its own; greys, and the text of a drawing without a background, are not meant."""
    source = path.read_text(encoding="utf-8")
    own = re.findall(
        r"""["']#[0-9A-Fa-f]{3,8}["']|["'](?:C\d|tab:\w+)["']|\bcolou?r=["'](?!black|white|none|0\.)[^"']*["']""",
        source,
    )
    assert path.stem == "common" or own == []


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.svg")), ids=lambda path: path.stem)
def test_no_text_of_a_stored_drawing_is_too_small(path):
    root = ElementTree.parse(path).getroot()
    width = float(root.get("width").removesuffix("pt"))
    sizes = {float(size) for size in re.findall(r"font(?:-size)?:[^;\"]*?([\d.]+)px", path.read_text(encoding="utf-8"))}
    assert sizes
    assert min(pixels(size, width) for size in sizes) >= LEAST


def test_png_is_for_heat_maps_and_what_benchmarks_draw():
    drawn = {"maps-heads", "maps-layer", "maps-needed"}, {"core-speed", "e2e"}
    assert {path.stem for path in IMAGES.glob("*.png")} <= set.union(*drawn)


def test_losses_are_stated_per_byte():
    for name in ("studies.study", "choosing.intervals", "choosing.learning_curves"):
        words = " ".join(text.get_text() for text in texts(EXAMPLES[name]()))
        assert "nats per byte" in words
        assert not re.search(r"nats (a|per token)", words)
    words = " ".join(text.get_text() for text in texts(drawings.of_study("retrieval")))
    assert "nats per answer" in words  # a token is a record there, not a byte
