"""The animation of the online softmax: it shows every tile, says in words what it shows, and bears any scores."""

import re
import warnings

import numpy as np
import pytest

from gta_ref.plots import online
from gta_ref.plots.online_parts import frames_of


def steps(length, tile):
    """Every tile of a causal map of random scores, with values of width 2."""
    rng = np.random.default_rng(0)
    S, V = rng.standard_normal((length, length)), rng.standard_normal((length, 2))
    S = np.where(np.tri(length, dtype=bool), S, -np.inf)
    for i in range(0, length, tile):
        rows = np.arange(i, i + tile)
        before = np.full(tile, -np.inf), np.zeros(tile), np.zeros((tile, 2))
        for j in range(0, i + tile, tile):
            m = S[rows, : j + tile].max(axis=1)
            P = np.exp(S[rows, : j + tile] - m[:, None])
            after = m, P.sum(axis=1), P @ V[: j + tile]
            yield online.Step(rows, np.arange(j, j + tile), S[rows, j : j + tile], before, after)
            before = after


def row(scores, tile=4):
    """Every tile of one row of scores, with the careless rule of the notebook; the values are unit vectors."""
    S, V = np.array([scores], dtype=float), np.eye(len(scores))
    m, total, out = np.array([-np.inf]), np.zeros(1), np.zeros((1, len(scores)))
    for j in range(0, len(scores), tile):
        keys = np.arange(j, min(j + tile, len(scores)))
        with np.errstate(invalid="ignore"):
            top = np.maximum(m, S[:, keys].max(axis=1))
            P, shrink = np.exp(S[:, keys] - top[:, None]), np.exp(m - top)
            after = top, shrink * total + P.sum(axis=1), shrink[:, None] * out + P @ V[keys]
        yield online.Step(np.array([0]), keys, S[:, keys], (m, total, out), after)
        m, total, out = after


def texts(html):
    return re.findall(r'<img alt="([^"]+)"', html)


def test_animation_needs_no_network():
    html = online.animation(list(steps(4, 2)), dpi=30)
    assert "<link" not in html
    assert re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html) is None
    assert "@import" not in html
    assert html.count("data:image/png;base64") == 8  # three tiles, two moments each, and two rows of tiles finished


def test_picture_is_a_frame():
    found = list(steps(4, 2))
    assert [frame.phase for frame in frames_of(found)] == [
        "scores", "update", "finish", "scores", "update", "scores", "update", "finish",
    ]  # fmt: skip
    map_, _, _, output, _ = online.picture(found, -1).axes
    assert (map_.get_xlim(), map_.get_ylim()) == ((-0.5, 3.5), (3.5, -0.5))
    np.testing.assert_allclose(output.images[0].get_array(), found[-1].after[2] / found[-1].after[1][:, None])


def test_every_frame_says_which_tile_it_shows():
    found = texts(online.animation(list(steps(4, 2)), dpi=30))
    assert len(set(found)) == 8
    assert found[3].startswith("queries 2–3, keys 0–1 (tile 1, 0). 1.")


def test_a_row_of_scores_is_told_in_numbers():
    found = texts(online.animation(list(row([0, 1, 3, 0])), dpi=30))
    assert [text.partition(".")[0] for text in found[:1]] == [
        "one query, keys 0–3 (tile 0): scores 0, 1, 3, 0; m = −∞, ℓ = 0"
    ]
    assert "m = 3, ℓ = 1.23" in found[1]
    assert "did not have to shrink" in found[1]
    late = texts(online.animation(list(row([0, 1, 3, 0, 23])), dpi=30))
    assert "m = 23, ℓ = 1." in late[3]
    assert "They had to shrink" in late[3]


def test_the_bars_are_the_row_of_the_map():
    scores = np.array([0.5, 2.0, -np.inf, 1.0, 0.0, 4.0])
    _, output, *_ = online.picture(list(row(scores)), -1).axes
    heights = [bar.get_height() for bar in output.patches[:6]]
    np.testing.assert_allclose(heights, np.exp(scores) / np.exp(scores).sum())


@pytest.mark.parametrize(
    "scores",
    [[2.0], [1.0] * 12, [-np.inf] * 8, [-np.inf] * 4 + [1.0] * 4, [1.0, np.inf, 2.0], [np.nan, 1.0], [1e300, -1e300],
     [-1234.5] * 40],
    ids=["one", "equal", "hidden", "hidden tile", "infinite", "nan", "huge", "many"],
)  # fmt: skip
def test_any_scores_can_be_typed(scores):
    found = list(row(scores, tile=max(4, len(scores) // 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = online.animation(found, dpi=20)
    assert len(texts(html)) == 2 * len(found) + 1
    broken = np.isnan(found[-1].after[1]).any()
    assert ("ℓ = NaN" in html) == broken
    assert ("∞ − ∞ has no value" in html) == broken


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps is empty; expected at least one tile"):
        online.animation([])
