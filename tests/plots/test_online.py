"""The animation of the online softmax plays without a network, and shows every tile."""

import re

import numpy as np

from gta_ref.plots import online


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


def test_animation_needs_no_network():
    html = online.animation(list(steps(4, 2)), dpi=30)
    assert "<link" not in html
    assert re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html) is None
    assert "@import" not in html
    assert "fa-" not in html  # its buttons' signs would come from a font on the network
    assert html.count("data:image/png;base64") == 8  # three tiles, two moments each, and two rows of tiles finished


def test_picture_is_a_frame():
    found = list(steps(4, 2))
    assert [frame.phase for frame in online._frames(found)] == [
        "scores", "update", "finish", "scores", "update", "scores", "update", "finish",
    ]  # fmt: skip
    map_, _, _, output, _ = online.picture(found, -1).axes
    assert (map_.get_xlim(), map_.get_ylim()) == ((-0.5, 3.5), (3.5, -0.5))
    np.testing.assert_allclose(output.images[0].get_array(), found[-1].after[2] / found[-1].after[1][:, None])
