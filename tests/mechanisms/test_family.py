"""What every mechanism other than GTA must do: agree with its definition in plain loops, decode, and return stages.

`CASES` has each mechanism with and without its options. MLA runs twice in every test, decompressed and absorbed.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from gta_ref.cache import KVCache
from gta_ref.core import Mask
from gta_ref.mechanisms import gha, gqa, gva, load, mha, mla
from tests.support import small_configs

MHA = mha.Config(24, 8, 4)
GQA = gqa.Config(24, 8, 4, n_k=2)
GVA = gva.Config(24, 8, 4, n_q=4)
GHA = gha.Config(24, 8, 4, n_q=4, n_k=2, n_v=4)  # r = 2 heads per map, s = 2 blocks
MLA = mla.Config(24, 4, latent_dim=10, nope_dim=6, rope_dim=4, value_dim=5, query_latent_dim=7)

CONFIGS: dict[str, Any] = {
    **{name: config for name, config in small_configs(24, 8, 4).items() if name != "gta"},
    "mha": MHA,
    "gqa": GQA,
    "mqa": dataclasses.replace(GQA, n_k=1),
    "gva": GVA,
    "gha": GHA,
    "gha, one block": dataclasses.replace(GHA, n_v=2),
    "gqa, gate and biases": dataclasses.replace(GQA, gate="sigmoid", bias=True, output_bias=True),
    "gha, gate and biases": dataclasses.replace(GHA, gate="silu", bias=True, output_bias=True),
    "gha, interleaved": dataclasses.replace(GHA, rope_pairing="interleaved", rope_theta=100.0),
    "gha, no rope": dataclasses.replace(GHA, rope_pairing="none", head_dim=3),
    "gqa, qk_norm": dataclasses.replace(GQA, qk_norm=True, norm_eps=0.01, bias=True),
    "gha, qk_norm, gate": dataclasses.replace(GHA, qk_norm=True, gate="sigmoid", rope_pairing="interleaved"),
    "gqa, own frequencies and scale": dataclasses.replace(
        GQA, rope_frequencies=(0.9, 0.2), rope_magnitude=1.2, score_scale=0.8
    ),
    "gqa, partial rope": dataclasses.replace(GQA, head_dim=5, rope_frequencies=(0.9, 0.2)),
    "mha, partial rope, interleaved": dataclasses.replace(
        MHA, rope_frequencies=(0.7,), rope_magnitude=1.2, rope_pairing="interleaved"
    ),
    "mla": MLA,
    "mla, queries from x": dataclasses.replace(MLA, query_latent_dim=None),
    "mla, gate and biases": dataclasses.replace(MLA, gate="sigmoid", bias=True),
    "mla, queries from x, biases": dataclasses.replace(MLA, query_latent_dim=None, gate="relu2", bias=True),
    "mla, no norm": dataclasses.replace(MLA, latent_norm=False),
    "mla, no rope": dataclasses.replace(MLA, rope_dim=0),
    "mla, interleaved": dataclasses.replace(MLA, rope_pairing="interleaved", rope_theta=100.0),
    "mla, own frequencies and scale": dataclasses.replace(
        MLA, rope_frequencies=(0.9, 0.2), rope_magnitude=1.2, score_scale=0.8
    ),
    "mla, one head": dataclasses.replace(MLA, n_heads=1, value_dim=1, nope_dim=1),
}
CASES = {}
for _name, _config in CONFIGS.items():
    if isinstance(_config, mla.Config):
        CASES[f"{_name}; decompressed"] = (mla, _config, {"absorb": False})
        CASES[f"{_name}; absorbed"] = (mla, _config, {"absorb": True})
    else:
        CASES[_name] = (load(_config.mechanism), _config, {})

# two orders of a float64 sum of some tens of terms of size 1 differ by less
SAME = dict(rtol=0, atol=1e-12)


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def make(mechanism, config, rng, batch=3, length=9, dtype="float64"):
    """Random parameters and x; biases and gains are random, too, because zeros and ones would hide a missing one."""
    params = mechanism.init(config, rng, dtype)
    for name, p in params.items():
        if not name.startswith("w_"):
            params[name] = (name.startswith("norm_") + 0.5 * rng.standard_normal(p.shape)).astype(dtype)
    return params, rng.standard_normal((batch, length, config.hidden_size)).astype(dtype)


def rope(v, position, c):
    turned, d = v.copy(), len(v)
    if c.rope_pairing == "none":
        return turned
    frequencies = c.rope_frequencies or [c.rope_theta ** (-2 * t / d) for t in range(d // 2)]
    pairs, m = len(frequencies), c.rope_magnitude
    for t, frequency in enumerate(frequencies):
        a, b = (t, t + pairs) if c.rope_pairing == "half" else (2 * t, 2 * t + 1)
        angle = position * frequency
        turned[a] = m * (v[a] * math.cos(angle) - v[b] * math.sin(angle))
        turned[b] = m * (v[b] * math.cos(angle) + v[a] * math.sin(angle))
    return turned


def plain_heads(p, x, position, c, head):
    """Query (N, d), keys (N, d) and values (N, d) of output head `head`, as each mechanism's docstring has them."""
    d = c.head_dim
    if isinstance(c, mha.Config):
        q_head, k_head, v_head = head, head, head
    elif isinstance(c, gqa.Config):
        q_head, k_head, v_head = head, head // (c.n_heads // c.n_k), head // (c.n_heads // c.n_k)
    elif isinstance(c, gva.Config):
        q_head = k_head = head // (c.n_heads // c.n_q)
        v_head = head
    else:
        r = c.n_heads // c.n_q
        s = c.n_v // r
        q_head = head // r
        k_head, v_head = q_head // (c.n_q // c.n_k), q_head // (c.n_q // s) * r + head % r

    def part(name, i):
        return x @ p[f"w_{name}"][:, i * d : (i + 1) * d] + p.get(f"b_{name}", np.zeros(99))[i * d : (i + 1) * d]

    q, k = part("q", q_head), part("k", k_head)
    if c.qk_norm:
        q, k = (
            y / np.sqrt((y * y).mean(-1, keepdims=True) + c.norm_eps) * p[name]
            for y, name in ((q, "norm_q"), (k, "norm_k"))
        )
    q = np.array([rope(row, n, c) for row, n in zip(q, position, strict=True)])
    k = np.array([rope(row, n, c) for row, n in zip(k, position, strict=True)])
    return q, k, part("v", v_head)


def mla_heads(p, x, position, c, head):
    def norm(y, name):
        return y / np.sqrt((y * y).mean(-1, keepdims=True) + c.norm_eps) * p[name] if c.latent_norm else y

    def columns(name, width):
        return p[name][:, head * width : (head + 1) * width]

    bias = {name: p.get(f"b_{name}", 0.0) for name in ("dq", "q", "qr", "dkv", "kr")}
    latent = norm(x @ p["w_dkv"] + bias["dkv"], "norm_c")
    if c.query_latent_dim is None:
        query = x
        q_nope = (x @ p["w_q"] + bias["q"])[:, head * c.nope_dim : (head + 1) * c.nope_dim]
    else:
        query = norm(x @ p["w_dq"] + bias["dq"], "norm_q")
        q_nope = query @ columns("w_uq", c.nope_dim)
    k_nope, v = latent @ columns("w_uk", c.nope_dim), latent @ columns("w_uv", c.value_dim)
    if not c.rope_dim:
        return q_nope, k_nope, v
    q_rope = (query @ p["w_qr"] + bias["qr"])[:, head * c.rope_dim : (head + 1) * c.rope_dim]
    k_rope = x @ p["w_kr"] + bias["kr"]
    q_rope = np.array([rope(row, n, c) for row, n in zip(q_rope, position, strict=True)])
    k_rope = np.array([rope(row, n, c) for row, n in zip(k_rope, position, strict=True)])
    return np.concatenate([q_nope, q_rope], -1), np.concatenate([k_nope, k_rope], -1), v


def by_the_definition(params, x, c, mask):
    """The layer, computed one sequence, one head and one query at a time."""
    batch, length, _ = x.shape
    visible = np.broadcast_to(mask.to_dense(length, length), (batch, length, length))
    starts = mask.resolve(batch, length, length)[1]
    heads_of = mla_heads if isinstance(c, mla.Config) else plain_heads
    out = np.zeros_like(x)
    for b in range(batch):
        position = np.maximum(0, np.arange(length) - starts[b])
        heads = []
        for head in range(c.n_heads):
            q, k, v = heads_of(params, x[b], position, c, head)
            o = np.zeros_like(v)
            for t in range(length):
                seen = np.flatnonzero(visible[b, t])
                if seen.size:
                    scores = k[seen] @ q[t] * (c.score_scale or 1 / math.sqrt(q.shape[1]))
                    weights = np.exp(scores - scores.max())
                    o[t] = weights @ v[seen] / weights.sum()
            heads.append(o)
        heads = np.concatenate(heads, -1)  # (N, n_h·d)
        if c.gate != "none":
            a = x[b] @ params["w_g"] + params.get("b_g", 0.0)
            s = 1 / (1 + np.exp(-a))
            heads = heads * {"sigmoid": s, "silu": a * s, "relu2": np.maximum(a, 0) ** 2}[c.gate]
        out[b] = heads @ params["w_o"] + params.get("b_o", 0.0)
    return out


MASKS = {"causal": Mask(), "left padding": Mask(k_start=[0, 4, 9]), "ragged": Mask(k_stop=[9, 3, 0])}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_definition(case, mask, rng):
    mechanism, config, way = case
    params, x = make(mechanism, config, rng)
    out, _ = mechanism.forward(params, x, config, mask=mask, **way)
    np.testing.assert_allclose(out, by_the_definition(params, x, config, mask), **SAME)


@pytest.mark.parametrize("chunks", [[1] * 9, [9], [4, 1, 3, 1], [0, 5, 0, 4]], ids=str)
def test_decode_continues_forward(case, chunks, rng):
    mechanism, config, way = case
    k_start = np.array([0, 2, 9])  # the last sequence contains only padding
    params, x = make(mechanism, config, rng)
    want, _ = mechanism.forward(params, x, config, mask=Mask(k_start=k_start))
    cache = KVCache(mechanism.structure(config).cached, 3, 9, "float64", k_start)
    for a in cache.arrays.values():
        a[...] = np.nan  # slots that are not yet written must not matter
    outs = []
    for n in chunks:
        outs.append(mechanism.decode(params, x[:, cache.length : cache.length + n], cache, config, **way))
        for a in cache.arrays.values():
            a[1, :, : min(2, cache.length)] = np.nan  # nor must the content of the padding
    np.testing.assert_allclose(np.concatenate(outs, axis=1), want, **SAME)
    assert cache.length == 9


def test_failed_decode_leaves_the_cache_as_it_was(case, rng):
    mechanism, config, way = case
    params, x = make(mechanism, config, rng)
    cache = KVCache(mechanism.structure(config).cached, 3, 5, "float64")
    mechanism.decode(params, x[:, :4], cache, config, **way)
    with pytest.raises(ValueError, match="capacity=5 is too small"):
        mechanism.decode(params, x[:, 4:6], cache, config, **way)
    with pytest.raises(ValueError, match="engine='slow' must be one of"):
        mechanism.decode(params, x[:, 4:5], cache, config, engine="slow", **way)
    assert cache.length == 4
    want, _ = mechanism.forward(params, x[:, :5], config)
    np.testing.assert_allclose(mechanism.decode(params, x[:, 4:5], cache, config, **way), want[:, 4:], **SAME)


def test_positions_move_nothing_but_rope(case, rng):
    """Only distances matter: shifting all positions changes nothing; with RoPE, stretching them does."""
    mechanism, config, way = case
    params, x = make(mechanism, config, rng)
    default, _ = mechanism.forward(params, x, config, **way)
    moved, _ = mechanism.forward(params, x, config, positions=np.arange(9) + 5, **way)
    np.testing.assert_allclose(moved, default, **SAME)
    stretched, _ = mechanism.forward(params, x, config, positions=np.arange(9) * 2, **way)
    turns = config.rope_pairing != "none" and getattr(config, "rope_dim", 1) > 0
    assert (np.abs(stretched - default).max() > 1e-3) == turns


def test_stages(case, rng):
    """Every stage in the docstring has its shape and its place, and the backward's stages come in reverse order."""
    mechanism, c, way = case
    params, x = make(mechanism, c, rng, batch=2, length=5)
    forward, backward = {}, {}
    out, saved = mechanism.forward(params, x, c, trace=forward, **way)
    mechanism.backward(rng.standard_normal(out.shape), saved, trace=backward)
    if isinstance(c, mla.Config):
        n, joined = c.n_heads, c.nope_dim + c.rope_dim
        shapes = {
            "c_q_proj": (2, 5, c.query_latent_dim),
            "c_q": (2, 5, c.query_latent_dim),
            "q_nope": (2, n, 5, c.nope_dim),
            "q_rope_proj": (2, n, 5, c.rope_dim),
            "c_proj": (2, 1, 5, c.latent_dim),
            "c": (2, 1, 5, c.latent_dim),
            "k_rope_proj": (2, 1, 5, c.rope_dim),
            "q_rope": (2, n, 5, c.rope_dim),
            "k_rope": (2, 1, 5, c.rope_dim),
        }
        if way["absorb"]:
            shapes["q_latent"] = (2, n, 5, c.latent_dim)
            shapes |= {"q": (2, n, 5, c.latent_dim + c.rope_dim), "k": (2, 1, 5, c.latent_dim + c.rope_dim)}
        else:
            shapes |= {"k_nope": (2, n, 5, c.nope_dim), "v": (2, n, 5, c.value_dim)}
            shapes |= {"q": (2, n, 5, joined), "k": (2, n, 5, joined)}
        shapes |= {"scores": (2, n, 5, 5), "map": (2, n, 5, 5)}
        shapes["z"] = (2, n, 5, c.latent_dim if way["absorb"] else c.value_dim)
        width = n * c.value_dim
        shapes["values"] = (2, 5, width)
        absent = ["c_q_proj", "c_q"] if c.query_latent_dim is None else []
        absent += [name for name in shapes if "rope" in name] if not c.rope_dim else []
        for name in absent:
            del shapes[name]
    else:
        width, r = c.n_heads * c.head_dim, c.n_heads // c.n_q
        s = c.n_v // r
        shapes = {
            "q_proj": (2, c.n_q, 5, c.head_dim),
            "k_proj": (2, c.n_k, 5, c.head_dim),
            **({"q_normed": (2, c.n_q, 5, c.head_dim), "k_normed": (2, c.n_k, 5, c.head_dim)} if c.qk_norm else {}),
            "v": (2, s, 5, r * c.head_dim),
            "q": (2, c.n_q, 5, c.head_dim),
            "k": (2, c.n_k, 5, c.head_dim),
            "scores": (2, c.n_q, 5, 5),
            "map": (2, c.n_q, 5, 5),
            "z": (2, c.n_q, 5, r * c.head_dim),
        }
    if c.gate != "none":
        shapes["gate"] = (2, 5, width)
    shapes |= {"heads": (2, 5, width), "out": (2, 5, c.hidden_size)}
    assert [(name, a.shape) for name, a in forward.items()] == list(shapes.items())
    assert [(name, a.shape) for name, a in backward.items()] == [(f"d_{n}", s) for n, s in reversed(shapes.items())]
    assert forward["out"] is out
    documented = mechanism.__doc__.replace("\n", " ").partition("Stages that `trace` receives, in order")[2]
    assert all(name in documented for name in shapes)
