"""The figures: none is wider than a page, names do not cover each other, nothing wrong looks right."""

from itertools import combinations
from types import SimpleNamespace as Some

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation

from gta_ref.costs.frontier import Choice, choices
from gta_ref.costs.model import Model
from gta_ref.maps.compare import VIEWS, measure
from gta_ref.plots import cache, choosing, convert, costs, e2e, maps, sharing, speed, studies, verify
from gta_ref.plots.common import WIDTH, panels
from tests.plots.examples import conversions

RNG = np.random.default_rng(0)


def causal(*shape):
    x = np.tril(RNG.random(shape))
    return x / x.sum(axis=-1, keepdims=True)


def summary(sizes, means, steps=(100, 200)):
    """A study's summary of arms with these cache sizes and mean losses."""
    arms = {
        f"arm {i} with a long name": {
            "cache_elements": size,
            "loss": [mean - 0.02, mean + 0.02],
            "mean": mean,
            "validation": {str(step): mean for step in steps},
        }
        for i, (size, mean) in enumerate(zip(sizes, means, strict=True))
    }
    return {"arms": arms, "question": "What? " * 40, "seeds": [0, 1], "tokens": 10**6, "source": "standard library"}


def names(figure):
    """Where the notes of a figure's first panel are, by their text."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    notes = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    return {note.get_text(): note.get_window_extent(canvas.get_renderer()) for note in notes}


def wide():
    """The figures whose width could grow with what they show."""
    layers = [measure(causal(2, 4, 6, 6), RNG)] * 40
    yield "maps", maps.attention_maps(causal(12, 60, 60), ["token"] * 60, title="t " * 200)
    yield "shared", maps.attention_maps(causal(2, 8, 8), list("abcdefgh"), n_heads=4)
    yield "similarity", maps.similarity_by_layer(layers)
    yield "heads", maps.head_similarity(layers, [2] * 40)
    yield "needed", maps.maps_needed(dict.fromkeys(VIEWS, np.ones((60, 2), int)), (0.5, 0.9), [4] * 60)
    yield "study", studies.study(summary([8, 16, 32], [1.0, 1.1, 1.2]))
    case = {"kind": "decode", "contestants": {"numba": {"of_ceiling": 0.5}}}
    yield "speed", speed.core_speed([{**case, "name": f"N {i}"} for i in range(12)], "a machine, " * 30)
    case = {"models": {name: {"predicted": {"mlp": 1.0}, "measured": {"mlp": 2.0}} for name in ("gta", "gqa")}}
    yield "e2e", e2e.pass_times([{**case, "name": f"{i}"} for i in range(9)], {"MLP": ("mlp",)})
    grid = {name: 2 - RNG.random((3, 4)) for name in "abcd"}
    yield "frontier", costs.speed_up_frontier([1, 2, 4], [1, 2, 4, 8], grid)
    layers = {name: (Model.preset(name).structure, [0] * 20) for name in ("gta-1b", "gqa-1b")}
    yield "sharing", sharing.who_reads_what(layers)
    yield "family", cache.family({name: layer for name, (layer, _) in layers.items()})
    bytes_per_token = {"GTA-1B": 3, "GQA-1B": 10}
    yield "cache", cache.cache_growth(bytes_per_token, {name: [(1, n)] for name, n in bytes_per_token.items()})


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_labels_of_attention_maps_are_on_the_page(n):
    words = 2 * ["*", "Python", "for", "All", "in", "program", "represented", "objects", "between", *"abcdefg"]
    title = "a model, layer 1, reading a text\nheads of the same colour form a cluster"
    figure = maps.attention_maps(causal(n, 32, 32), words, clusters=[[0]], title=title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    for ax in figure.axes:
        for label in (ax.xaxis.label, ax.yaxis.label):
            box = label.get_window_extent(canvas.get_renderer())
            inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
            assert inside or not label.get_text(), label.get_text()


FIGURES = dict(wide())


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_is_wider_than_a_page(name):
    figure = FIGURES[name]
    assert figure.get_figwidth() <= WIDTH + 1e-9
    FigureCanvasAgg(figure).draw()
    if figure.get_suptitle():
        box = figure._suptitle.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_panels_that_are_not_wanted_are_left_out():
    figure, axes = panels((4, 4), 2, 3, 4)
    assert figure.axes == axes
    assert len(axes) == 4


def test_a_map_says_which_heads_read_it():
    titles = [ax.get_title() for ax in FIGURES["shared"].axes[:2]]
    assert titles == ["map 0: output heads 0–1", "map 1: output heads 2–3"]
    assert FIGURES["maps"].axes[11].get_title() == "head 11"


@pytest.mark.parametrize("sizes", [(1280, 20, 64, 4_096_000), (768, 12, 64, 1_474_560)], ids=["near", "equal"])
def test_letters_of_the_efficient_choices_do_not_cover_each_other(sizes):
    found = choices(*sizes)
    efficient = [c for c in found if c.efficient]
    shown = names(costs.design_space(found, sizes[-1]))
    assert "".join(sorted("".join(shown).replace(", ", ""))) == "abcdefghij"[: len(efficient)]
    assert not any(a.overlaps(b) for a, b in combinations(shown.values(), 2))


def test_a_far_choice_has_its_own_letter():
    found = [Choice(1, 1, 1, 32 * 2**i, 64 * 2**i, 4096 // 2**i, 10**6, True) for i in range(3)]
    assert set(names(costs.design_space(found, 1))) == {"a", "b", "c"}


@pytest.mark.parametrize("sizes", [[16, 32, 32, 32, 64], [32] * 5], ids=["by cache", "side by side"])
def test_names_of_arms_with_one_cache_do_not_cover_each_other(sizes):
    shown = names(studies.study(summary(sizes, [1.0, 1.100, 1.101, 1.102, 1.3])))
    assert len(shown) == 5
    assert not any(a.overlaps(b) for a, b in combinations(shown.values(), 2))


def test_a_difference_is_filled_if_its_interval_excludes_zero():
    found = summary([8, 8, 8], [1.0, 1.1, 1.2])
    for arm, interval in zip(found["arms"].values(), ([0, 0], [-0.1, 0.3], [0.1, 0.3]), strict=True):
        arm |= {"difference": sum(interval) / 2, "interval": interval, "verdict": "?"}
    ax = choosing.intervals(found | {"baseline": next(iter(found["arms"]))}).axes[0]
    fills = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() in "os^DvPX*"]
    assert [fill == "white" for fill in fills] == [True, False]


def test_the_conversions_show_each_loss_above_the_originals():
    found = conversions()
    figure = convert.study(found)
    for ax, kind in zip(figure.axes, ("prose", "code"), strict=False):
        marks = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_ydata())]
        hollow = {line.get_ydata()[0]: line.get_xdata()[0] for line in marks if line.get_markerfacecolor() == "white"}
        filled = {line.get_ydata()[0]: line.get_xdata() for line in marks if line.get_markerfacecolor() != "white"}
        whole = found["original"]["held_out"][kind]["loss"]
        points = sorted(found["points"], key=lambda point: point["cache_elements"])
        for row, point in enumerate(points):
            assert hollow[row] == point["held_out"][kind]["loss"] - whole
            healed = [one["held_out"][kind]["loss"] - whole for one in point["healed"]]
            np.testing.assert_array_equal(filled.get(row, []), healed)
    np.testing.assert_array_equal([bar.get_width() for bar in figure.axes[2].patches], found["sharing"]["divergence"])


def test_who_reads_what_says_the_sizes():
    texts = [text.get_text() for text in FIGURES["sharing"].axes[0].texts]
    assert {"gta-1b", "1 latent, 128 wide", "1 key, 64 wide", "192", "gqa-1b", "5 keys, 64 wide", "640"} <= set(texts)
    assert texts.count("20") == 2 + 1  # output heads of both, maps of GQA


def test_an_error_without_a_number_looks_like_the_worst():
    kinds = {"q": ("ok", 0.1), "k": ("value", 1e4), "z": ("nonfinite", np.inf), "out": ("missing", np.nan)}
    findings = [Some(name=name, kind=kind, ratio=ratio) for name, (kind, ratio) in kinds.items()]
    figure = verify.repairs({"first": Some(findings=findings, stage="k", cause=None)}, "a case")
    image = figure.axes[0].images[0].get_array()
    assert image.mask.tolist() == [[True, False, False, False]]
    assert image[0, 1:].tolist() == [1e4] * 3
