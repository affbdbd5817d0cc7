"""Exercise 13: what the check says about solutions in which one place is changed."""

from pathlib import Path

import numpy as np
import pytest

from gta_ref.exercises import check
from gta_ref.ops import rope_angles, rope_backward, rope_forward

MASTER = Path(__file__).parents[2] / "notebooks" / "exercises" / "solutions" / "ex13_whole_layer.py"
FIRST = '    x, config = arrays["x"], settings["config"]\n'

CHANGES = {
    "only out": ('    return {"q": q', '    return {"out": out}\n    return {"q": q', "Still missing: d_w_q, d_b_q, d_w_k"),
    "nothing": ('    return {"q": q', '    return\n    return {"q": q', "gta_layer(…) returns None; expected a dict"),
    "no copies": (
        'copies = width // d_l if config.get("decoder_residual") else 0', "copies = 0", "decoder residual missing",
    ),
    "tiled": (
        "np.repeat(y, n_q // y.shape[1], axis=1)", "np.tile(y, (1, n_q // y.shape[1], 1, 1))", "key heads tiled",
    ),
    "narrow mask": ("(token <= token[:, None])", "(token < token[:, None])", "a query does not see itself"),
    "padding seen": ("(arrays[\"k_start\"][:, None] <= token)", "(0 <= token)", "Case: left padding: k_start"),
    "no slope": ("values * gate * (1 - gate)", "values * gate", "d_w_g["),
    "one sequence": ("@ d_u).sum(axis=0)", "@ d_u)[0]", "d_w_p["),
    "widens": ('config["head_dim"] ** -0.5', 'np.sqrt(1 / config["head_dim"])', "has dtype float64; expected float32"),
    "writes": (FIRST, FIRST + "    x += 1\n", "It writes into its input x"),
    "library": (FIRST, FIRST + "    import gta_ref.mechanisms.gta as g\n    g.forward(1, 2, 3)\n", "gta.forward was called"),
    "error": (FIRST, FIRST + '    config["depth"]\n', "KeyError: 'depth'\n  line"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_solution(change):
    old, new, words = CHANGES[change]
    text = MASTER.read_text(encoding="utf-8")
    text = text[text.index("def gta_layer") : text.index("# END SOLUTION")]
    assert text.count(old) == 1
    names = {"np": np, "rope_angles": rope_angles, "rope_forward": rope_forward, "rope_backward": rope_backward}
    exec(compile(text.replace(old, new), "student.py", "exec"), names)
    verdict = check("ex13", names["gta_layer"])
    assert not verdict.passed
    assert words in verdict.hint, verdict
