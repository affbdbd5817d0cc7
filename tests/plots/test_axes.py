"""The axes of attention maps: which way up, what the mask hides, which tokens are written."""

import numpy as np
import pytest

from gta_ref.plots import axes
from gta_ref.plots.common import contrast, panels


@pytest.fixture
def ax():
    return panels((3, 3))[1][0]


@pytest.mark.parametrize(
    "token, label", [("aβ ↵數x", "aβ ↵?x"), (" word", "word"), ("\n\t", "↵→"), ("  ", "··"), ("\x07", "?"), ("�", "?")]
)
def test_labels_have_only_what_the_font_can_draw(token, label):
    assert axes.token_label(token) == label


def test_queries_go_down_and_keys_to_the_right(ax):
    axes.map_axes(ax, 12, 20)
    assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, 19.5), (11.5, -0.5))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key", "query")
    assert ax.get_xticks().tolist() == [0, 3, 6, 9, 12, 15, 18]
    axes.map_axes(ax, 12, 20, every=10)
    assert ax.get_yticks().tolist() == [0, 10]


def test_what_the_mask_hides_is_not_drawn(ax):
    map_ = np.random.default_rng(0).random((5, 5))
    shown = axes.weights(ax, map_).get_array().filled(np.nan)
    np.testing.assert_array_equal(np.isnan(shown), np.triu(np.ones((5, 5), bool), 1))
    np.testing.assert_array_equal(shown[np.tri(5, dtype=bool)], map_[np.tri(5, dtype=bool)])


@pytest.mark.parametrize("n, every", [(21, 1), (22, 2), (200, 10)])
def test_many_tokens_are_thinned_out(ax, n, every):
    axes.token_axes(ax, [f"t{i}" for i in range(n)], 3.0, down=True, across=False)
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"t{i}" for i in range(0, n, every)]
    assert not any(label.get_text() for label in ax.get_xticklabels())
    assert ax.get_yticklabels()[0].get_fontsize() * len(ax.get_yticks()) <= 72 * 3


def test_a_block_covers_whole_cells(ax):
    axes.block(ax, (2, 5), (3, 4))
    (patch,) = ax.patches
    assert (patch.get_xy(), patch.get_width(), patch.get_height()) == ((4.5, 1.5), 4, 3)


def test_numbers_can_be_read_on_their_cells(ax):
    values = np.linspace(0, 1, 12).reshape(3, 4)
    image = ax.imshow(values, cmap="YlGnBu")
    axes.numbers(ax, values, "{:.2f}")
    assert {text.get_color() for text in ax.texts} == {"white", "black"}
    assert all(
        contrast(text.get_color(), cell[:3]) >= 4.5
        for text, cell in zip(ax.texts, image.to_rgba(values).reshape(-1, 4), strict=True)
    )
