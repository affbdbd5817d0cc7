"""Exercise 13: layers that a student may write, right ones in several styles, and the solution with one step changed."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gta_ref.exercises import check
from gta_ref.ops import rope_angles, rope_backward, rope_forward

# imported here, so that a check does not import it in every process
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

MASTER = Path(__file__).parents[2] / "notebooks" / "exercises" / "solutions" / "ex13_whole_layer.py"
FIRST = '    x, config = arrays["x"], settings["config"]\n'
RETURN = 'return {"q": q, "k": k, "c": c, "map": map_, "z": z, "values": values, "out": out, "d_z": d_z, "d_x": d_x, **grads}'
REQUIRED = 'return {"out": out, "d_x": d_x, **grads}'


def changed(*changes):
    """The solution, which returns only what is required, with these pieces replaced."""
    text = MASTER.read_text(encoding="utf-8")
    text = text[text.index("def gta_layer") : text.index("# END SOLUTION")].replace(RETURN, REQUIRED)
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    names = {"np": np, "rope_angles": rope_angles, "rope_forward": rope_forward, "rope_backward": rope_backward}
    exec(compile(text, "student.py", "exec"), names)
    return names["gta_layer"]


def with_autograd(arrays, settings):
    """The forward in PyTorch, the gradients by autograd."""
    config = settings["config"]
    given = {k: torch.tensor(x, requires_grad=k[:2] in ("w_", "b_") or k == "x") for k, x in arrays.items()}
    x, (batch, length, _) = given["x"], arrays["x"].shape
    cos, sin = rope_angles(arrays["positions"][:, None], config["head_dim"], dtype=arrays["x"].dtype)
    cos, sin = torch.tensor(cos), torch.tensor(sin)

    def project(letter, heads):
        y = x @ given[f"w_{letter}"] + given.get(f"b_{letter}", 0)
        return y.reshape(batch, length, heads, -1).transpose(1, 2)

    def turn(y):
        half = y.shape[-1] // 2
        a, b = y[..., :half], y[..., half:]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    n_q, d_l, width = arrays["w_p"].shape
    q, k, c = turn(project("q", n_q)), turn(project("k", config["n_k"])), project("c", config["n_c"])
    k, c = (y.repeat_interleave(n_q // y.shape[1], 1) for y in (k, c))
    token = torch.arange(length)
    start, stop = given["k_start"][:, None, None, None], given["k_stop"][:, None, None, None]
    seen = (token >= start) & (token < stop) & (token <= token[:, None])
    scores = (q @ k.transpose(2, 3) / config["head_dim"] ** 0.5).masked_fill(~seen, -1e30)
    z = (torch.softmax(scores, -1) * seen.any(-1, keepdim=True)) @ c
    u = z @ given["w_p"] + (z.repeat(1, 1, 1, width // d_l) if config.get("decoder_residual") else 0)
    heads = u.transpose(1, 2).reshape(batch, length, -1)
    gate = torch.sigmoid(x @ given["w_g"] + given.get("b_g", 0))
    out = (heads * gate) @ given["w_o"]
    out.backward(given["d_out"])
    return {"out": out.detach().numpy()} | {f"d_{k}": y.grad.numpy() for k, y in given.items() if y.grad is not None}


def with_einsum(arrays, settings, loops=False):
    """Products by einsum; with `loops`, the attention one map of one sequence at a time."""
    config, x = settings["config"], arrays["x"]
    (batch, length, _), (n_q, d_l, width) = x.shape, arrays["w_p"].shape
    e = width // d_l if config.get("decoder_residual") else 0
    cos, sin = rope_angles(arrays["positions"][:, None], config["head_dim"], dtype=x.dtype)
    w_p = arrays["w_p"] + np.tile(np.eye(d_l, dtype=x.dtype), e) if e else arrays["w_p"]
    heads_of = {"q": n_q, "k": config["n_k"], "c": config["n_c"], "g": n_q}
    y = {}
    for letter, n in heads_of.items():
        weights = arrays[f"w_{letter}"].reshape(x.shape[2], n, -1)
        y[letter] = np.einsum("bnh,hmd->bmnd", x, weights)
        if f"b_{letter}" in arrays:
            y[letter] += arrays[f"b_{letter}"].reshape(n, 1, -1)
    (q, turned_q), (k, turned_k) = rope_forward(y["q"], cos, sin), rope_forward(y["k"], cos, sin)
    keys, latents, scale = np.arange(n_q) // (n_q // k.shape[1]), np.arange(n_q) // (n_q // y["c"].shape[1]), 0.0
    scale = config["head_dim"] ** -0.5
    place = np.arange(length)
    maps = np.zeros((batch, n_q, length, length), x.dtype)
    for b in range(batch):
        seen = (place >= arrays["k_start"][b]) & (place < arrays["k_stop"][b]) & np.tri(length, dtype=bool)
        for m in range(n_q):
            if loops:
                for i in range(length):
                    if seen[i].any():
                        s = k[b, keys[m]][seen[i]] @ q[b, m, i] * scale
                        maps[b, m, i, seen[i]] = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
            else:
                s = np.where(seen, q[b, m] @ k[b, keys[m]].T * scale, -1e30)
                w = np.exp(s - s.max(1, keepdims=True)) * seen
                maps[b, m] = w / np.maximum(w.sum(1, keepdims=True), 1e-30, dtype=x.dtype)
    c = y["c"]
    z = np.einsum("bmij,bmjl->bmil", maps, c[:, latents])
    u = np.einsum("bmil,mlw->bmiw", z, w_p)
    gate = 1 / (1 + np.exp(-y["g"]))
    w_o = arrays["w_o"].reshape(n_q, width, -1)
    out = np.einsum("bmiw,mwh->bih", u * gate, w_o)
    d = {"w_o": np.einsum("bmiw,bih->mwh", u * gate, arrays["d_out"]).reshape(arrays["w_o"].shape)}
    d_heads = np.einsum("bih,mwh->bmiw", arrays["d_out"], w_o)
    d_u, d_y = d_heads * gate, {"g": d_heads * u * gate * (1 - gate)}
    d["w_p"] = np.einsum("bmil,bmiw->mlw", z, d_u)
    d_z = np.einsum("bmiw,mlw->bmil", d_u, w_p)
    d_map = np.einsum("bmil,bmjl->bmij", d_z, c[:, latents])
    d_s = maps * (d_map - np.einsum("bmij,bmij->bmi", maps, d_map)[..., None]) * scale
    d_y |= {"k": np.zeros_like(k), "c": np.zeros_like(c)}
    for m in range(n_q):
        d_y["k"][:, keys[m]] += np.einsum("bij,bid->bjd", d_s[:, m], q[:, m])
        d_y["c"][:, latents[m]] += np.einsum("bij,bil->bjl", maps[:, m], d_z[:, m])
    d_y["q"] = rope_backward(np.einsum("bmij,bmjd->bmid", d_s, k[:, keys]), turned_q)
    d_y["k"] = rope_backward(d_y["k"], turned_k)
    d["x"] = np.zeros_like(x)
    for letter, n in heads_of.items():
        d["x"] += np.einsum("bmnd,hmd->bnh", d_y[letter], arrays[f"w_{letter}"].reshape(x.shape[2], n, -1))
        d[f"w_{letter}"] = np.einsum("bnh,bmnd->hmd", x, d_y[letter]).reshape(arrays[f"w_{letter}"].shape)
        if f"b_{letter}" in arrays:
            d[f"b_{letter}"] = d_y[letter].sum((0, 2)).ravel()
    return {"out": out} | {f"d_{name}": x for name, x in d.items()}


def with_loops(arrays, settings):
    return with_einsum(arrays, settings, loops=True)


RIGHT = {
    "the solution": changed((REQUIRED, RETURN)),
    "only what is required": changed(),
    "with d_map": changed((REQUIRED, 'return {"out": out, "d_x": d_x, "d_map": d_map, "d_scores": d_scores, **grads}')),
    "autograd": with_autograd,
    "einsum": with_einsum,
    "loops": with_loops,
    "float64 inside": lambda arrays, settings: {
        name: x.astype(arrays["x"].dtype)
        for name, x in changed()({k: _wide(y) for k, y in arrays.items()}, settings).items()
    },
}


def _wide(x):
    return x.astype(np.float64) if x.dtype.kind == "f" else x


@pytest.mark.parametrize("name", RIGHT)
def test_right(name):
    if torch is None and name == "autograd":
        pytest.skip("PyTorch is not installed")
    verdict = check("ex13", RIGHT[name])
    assert verdict.passed, verdict
    assert "Advice" not in verdict.hint


@pytest.mark.parametrize(
    "stage, value", [("d_map", "2 * d_map"), ("d_scores", "d_scores / scale"), ("map", "map_[:1]")]
)
def test_a_stage_that_is_not_required_only_advises(stage, value):
    layer = changed((REQUIRED, REQUIRED.replace("**grads", f'"{stage}": {value}, **grads')))
    verdict = check("ex13", layer)
    assert verdict.passed, verdict
    assert f"Advice: {stage}" in verdict.hint
    assert "This stage need not be returned" in verdict.hint


CHANGES = {
    "only out": (REQUIRED, 'return {"out": out}', "What you return so far is right. Still missing: d_w_q, d_b_q, d_w_k"),
    "nothing": (REQUIRED, "return", "gta_layer(…) returns None; expected a dict"),
    "a tuple": (REQUIRED, "return out, d_x", "returns a tuple; expected a dict"),
    "a list for an array": (REQUIRED, 'return {"out": out.tolist()}', "out is a list; expected a NumPy array"),
    "an unknown name": (REQUIRED, 'return {"y": out}', "Unknown: y."),
    "a wrong stage": (REQUIRED, 'return {"q": 2 * q}', "q["),
    "no copies": ('copies = width // d_l if config.get("decoder_residual") else 0', "copies = 0", "residual missing"),
    "tiled": (
        "np.repeat(y, n_q // y.shape[1], axis=1)", "np.tile(y, (1, n_q // y.shape[1], 1, 1))", "several key and latent",
    ),
    "narrow mask": ("(token <= token[:, None])", "(token < token[:, None])", "a query does not see itself"),
    "no mask": (" & (token <= token[:, None])", " & (token >= 0)", "causal mask missing"),
    "left padding seen": ('(arrays["k_start"][:, None] <= token)', "(0 <= token)", "left padding (k_start) ignored"),
    "right padding seen": ('(token < arrays["k_stop"][:, None])', "(token >= 0)", "(k_stop) ignored"),
    "padding ignored": (
        '(arrays["k_start"][:, None] <= token) & (token < arrays["k_stop"][:, None])', "np.ones((batch, length), bool)",
        "left padding (k_start) ignored",
    ),
    "no scale": ('config["head_dim"] ** -0.5', "1.0", "not scaled by 1/√d_k"),
    "RoPE on the queries missing": ("q, saved_q = rope_forward(project(\"q\", n_q), cos, sin)",
        "_, saved_q = rope_forward(project(\"q\", n_q), cos, sin); q = project(\"q\", n_q)", "RoPE missing on the queries"),
    "RoPE's backward missing": (
        "rope_backward(d_q, saved_q)), (\"k\", rope_backward(d_k, saved_k))", 'd_q), ("k", d_k)', "backward of RoPE missing.",
    ),
    "RoPE's backward missing for q": ("rope_backward(d_q, saved_q)", "d_q", "backward of RoPE missing on the queries"),
    "RoPE's backward missing for k": ("rope_backward(d_k, saved_k)", "d_k", "backward of RoPE missing on the keys"),
    "scale of d_q": ("d_q = d_scores @ spread(k) * scale", "d_q = d_scores @ spread(k)", "scale missing in d_q"),
    "no slope": ("values * gate * (1 - gate)", "values * gate", "d_w_g["),
    "one sequence": ("@ d_u).sum(axis=0)", "@ d_u)[0]", "d_w_p["),
    "copies' gradient": ("    if copies:\n        d_z = d_z +", "    if False:\n        d_z = d_z +", "with copies of Z"),
    "softmax's sum": ("(d_map - (map_ * d_map).sum(axis=-1, keepdims=True))", "d_map", "row-sum term missing"),
    "widens": ('config["head_dim"] ** -0.5', 'np.sqrt(1 / config["head_dim"])', "has dtype float64; expected float32"),
    "writes": (FIRST, FIRST + "    x += 1\n", "The function writes into one of its inputs"),
    "library": (FIRST, FIRST + "    import gta_ref.mechanisms.gta as g\n    g.forward(1, 2, 3)\n", "gta.forward was called"),
    "error": (FIRST, FIRST + '    config["depth"]\n', "KeyError: 'depth'\n  line"),
    "sys.exit": (FIRST, FIRST + "    raise SystemExit\n", "ends the program"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_solution(change):
    old, new, words = CHANGES[change]
    verdict = check("ex13", changed((old, new)))
    assert not verdict.passed
    assert words in verdict.hint, verdict


def test_two_mistakes_are_not_one():
    layer = changed(("rope_backward(d_q, saved_q)", "d_q"), ("@ d_u).sum(axis=0)", "@ d_u)[0]"))
    assert "recognises" not in check("ex13", layer).hint
