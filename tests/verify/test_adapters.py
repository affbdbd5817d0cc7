"""The ready adapters: functions and modules of other libraries pass with a few lines, and wrong ones are found."""

import functools
import importlib.util
import math
from types import SimpleNamespace

import numpy as np
import pytest

from gta_ref.verify import adapters, vectors, verify
from gta_ref.verify.abilities import FEATURES, abilities
from gta_ref.verify.compare import compare
from gta_ref.verify.exchange import to_numpy

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
needs_mlx = pytest.mark.skipif(importlib.util.find_spec("mlx") is None, reason="MLX is not installed")


def wrong_arrays(impl, name, dtype="float32"):
    """Names of the arrays of a case that are wrong or, if they are required, missing."""
    vector = vectors.make(name, dtype)
    found = impl({key: np.array(x) for key, x in vector.inputs.items()}, vector.settings)
    given = {key: to_numpy(x, key) for key, x in found.items()}
    wanted = [key for key in vector.required if getattr(impl, "backward", True) or not key.startswith("d_")]
    return [finding.name for finding in compare(vector, given, wanted) if finding.kind != "ok"]


# ---- a function of NumPy arrays, forward and backward, in every convention ----------------------------------------


def forward(q, k, v, mask=None, scale=None, lse=False):
    """All heads apart and heads first; a row that sees nothing is 0."""
    scores = np.where(mask, np.einsum("bmid,bmjd->bmij", q, k) * q.dtype.type(scale), -np.inf)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    p = np.exp(scores - np.where(np.isfinite(top), top, 0)).astype(q.dtype)
    total = p.sum(-1, keepdims=True)
    p = np.divide(p, total, out=np.zeros_like(p), where=total > 0)
    with np.errstate(divide="ignore"):
        logarithm = (top + np.log(total))[..., 0]
    return p, np.einsum("bmij,bmjd->bmid", p, v), logarithm


def backward(d_z, q, k, v, p, scale, d_lse=0.0):
    d_p = np.einsum("bmid,bmjd->bmij", d_z, v)
    d_s = p * (d_p - (p * d_p).sum(-1, keepdims=True) + np.asarray(d_lse, q.dtype)[..., None]) * q.dtype.type(scale)
    d_q, d_k = np.einsum("bmij,bmjd->bmid", d_s, k), np.einsum("bmij,bmid->bmjd", d_s, q)
    return d_q, d_k, np.einsum("bmij,bmid->bmjd", p, d_z)


class Strict:
    """A function with the conventions that an adapter's options describe, which refuses any other arrays."""

    def __init__(self, heads="repeat", widths="as-is", order="heads-first", scale="scale", lse=None):
        self.heads, self.widths, self.order, self.scale, self.lse = heads, widths, order, scale, lse

    def first(self, *arrays):
        return [x.swapaxes(1, 2) if self.order == "token-major" else x for x in arrays]

    def inside(self, q, k, v, told):
        q, k, v = self.first(q, k, v)
        if self.heads == "grouped":
            assert k.shape[1] == v.shape[1]
        if self.heads in ("grouped", "as-is"):
            k, v = (x.repeat(q.shape[1] // x.shape[1], axis=1) for x in (k, v))
        assert q.shape[1] == k.shape[1] == v.shape[1]
        if self.widths != "as-is":
            assert q.shape[-1] == k.shape[-1] == v.shape[-1]
            assert self.widths == "pad" or q.shape[-1] in self.widths
        scale = q.shape[-1] ** -0.5 if self.scale is None else told[self.scale]
        return q, k, v, told["seen"], scale

    def forward(self, q, k, v, **told):
        _, z, lse = forward(*self.inside(q, k, v, told))
        (z,) = self.first(z)
        return z if self.lse is None else (z, lse.swapaxes(1, 2) if self.lse == "lse.T" else lse)

    def backward(self, d_z, q, k, v, z, *lse, d_lse=0.0, **told):
        heads = [self.first(x)[0].shape[1] for x in (q, k, v)]
        q, k, v, seen, scale = self.inside(q, k, v, told)
        p, _, _ = forward(q, k, v, seen, scale)
        d_lse = np.swapaxes(d_lse, 1, 2) if self.lse == "lse.T" and np.ndim(d_lse) else d_lse
        grads = backward(self.first(d_z)[0], q, k, v, p, scale, d_lse)
        summed = [
            g.reshape(g.shape[0], n, g.shape[1] // n, *g.shape[2:]).sum(2) for g, n in zip(grads, heads, strict=True)
        ]
        return self.first(*summed)

    @property
    def core(self):
        options = {"heads": self.heads, "widths": self.widths, "order": self.order, "scale": self.scale}
        returns = ("z",) if self.lse is None else ("z", self.lse)
        return adapters.numpy_core(self.forward, self.backward, mask="seen", returns=returns, **options)


CONVENTIONS = [
    Strict(),
    Strict("expand", "pad"),
    Strict("grouped", (24, 64), "token-major", "softmax_scale"),
    Strict("as-is", "pad", "token-major", None),
    Strict("repeat", (32,), "heads-first", None, "lse"),
    Strict("grouped", "as-is", "token-major", "scale", "lse.T"),
]


@pytest.mark.parametrize("strict", CONVENTIONS, ids=lambda s: f"{s.heads} {s.widths} {s.order} {s.scale} {s.lse}")
@pytest.mark.parametrize("name", ["heads-differ", "value-narrower", "both-padded", "blind-rows", "other-scale"])
def test_an_adapter_speaks_the_conventions_of_a_function(strict, name):
    assert wrong_arrays(strict.core, f"attention/{name}", "float64") == []


@pytest.mark.parametrize("strict", CONVENTIONS[-2:], ids=lambda s: s.lse)
def test_gradients_through_lse(strict):
    assert {"lse", "lse-gradient"} <= strict.core.capabilities
    assert wrong_arrays(strict.core, "attention/through-lse", "float64") == []
    without = CONVENTIONS[0].core
    assert not {"lse", "lse-gradient"} & without.capabilities
    with pytest.raises(NotImplementedError, match=r"^a gradient of lse \(d_lse\); lse is not returned$"):
        wrong_arrays(without, "attention/through-lse")


def test_a_wrong_function_stays_wrong():
    """An adapter mends nothing: neither a scale that is ignored, nor lse in another base, nor a gradient half as big."""
    right = Strict(lse="lse")

    def wrong(function, change):
        return lambda *arrays, **told: change(function(*arrays, **told))

    def core(change=lambda found: found, grads=lambda found: found):
        pair = wrong(right.forward, change), wrong(right.backward, grads)
        return adapters.numpy_core(*pair, mask="seen", returns=("z", "lse"))

    assert wrong_arrays(core(), "attention/other-scale", "float64") == []
    base = core(lambda found: (found[0], found[1] / math.log(2)))
    assert wrong_arrays(base, "attention/other-scale", "float64") == ["lse"]
    half = core(grads=lambda found: (found[0], found[1] / 2, found[2]))
    assert wrong_arrays(half, "attention/other-scale", "float64") == ["d_k"]
    unscaled = adapters.numpy_core(
        lambda q, k, v, seen, scale: forward(q, k, v, seen, q.shape[-1] ** -0.5)[1], mask="seen"
    )
    assert wrong_arrays(unscaled, "attention/other-scale", "float64") == ["z"]


def test_what_is_no_z_is_refused():
    """Not cut to size, unless it was padded."""
    for change, kind in ((lambda z: np.pad(z, [(0, 0)] * 3 + [(0, 8)]), "z"), (lambda z: z[0], "z")):
        core = adapters.numpy_core(lambda *a, change=change, **told: change(Strict().forward(*a, **told)), mask="seen")
        assert wrong_arrays(core, "attention/plain") == [kind]
    nothing = adapters.numpy_core(lambda *_, **__: None, mask="seen")
    with pytest.raises(ValueError, match=r"^z is None; expected an array$"):
        wrong_arrays(nothing, "attention/plain")


def test_a_forward_alone():
    core = adapters.numpy_core(Strict().forward, mask="seen")
    assert "backward" not in core.capabilities
    assert wrong_arrays(core, "attention/chunk") == []


# ---- what cannot be told to a function is skipped with a reason ----------------------------------------------------


def seen_by(name, **options):
    """What an adapter tells a function in a case."""
    told = {}

    def fn(q, k, v, **given):
        told.update(given)
        return np.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)

    vector = vectors.make(f"attention/{name}", "float32")
    adapters.numpy_core(fn, **options)(vector.inputs, vector.settings)
    return told


def test_the_flag_is_used_where_it_says_the_mask_and_the_mask_elsewhere():
    both = {"causal": "causal", "mask": "mask"}
    assert seen_by("plain", **both) == {"causal": True, "scale": 0.25}
    assert seen_by("not-causal", **both) == {"causal": False, "scale": 0.25}
    told = seen_by("chunk", **both)
    assert told.pop("causal") is False
    np.testing.assert_array_equal(told["mask"][0, 0], np.arange(50) <= np.arange(12)[:, None] + 25)
    assert "mask" not in seen_by("one-query", **both)
    assert "mask" in seen_by("one-query", **both, align="start")
    told = seen_by("right-padded", causal=True, k_stop="lengths", scale="factor")
    assert told.keys() == {"lengths", "factor"}
    assert told["lengths"].tolist() == [24, 9, 1]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("chunk", {"causal": "causal"}, "the case's q_start, for which fn has no argument"),
        ("both-padded", {"causal": "causal", "k_stop": "n"}, "the case's k_start, for which fn has no argument"),
        ("not-causal", {"causal": True}, "the case's causal, for which fn has no argument"),
        ("plain", {"causal": False}, "the case's causal, for which fn has no argument"),
        ("more-queries-than-keys", {"causal": "c", "align": "start"}, "the case's q_start, for which fn has no argument"),
        ("gta-1b-heads", {"mask": "m", "widths": (32, 64)}, "the width 128; fn has 32, 64"),
        ("blind-rows", {"mask": "m", "without": ("blind",)}, r"rows that see no key \(blind\)"),
        ("nan-in-unused-slots", {"mask": "m", "without": ("poison",)}, r"NaN in unused slots of k and v \(poison\)"),
        ("no-key", {"mask": "m", "without": ("empty",)}, r"no query or no key \(empty\)"),
    ],
)  # fmt: skip
def test_the_reason_for_a_skip(name, options, reason):
    with pytest.raises(NotImplementedError, match=f"^{reason}$"):
        seen_by(name, **options)


def test_layers_are_not_for_a_core():
    vector = vectors.make("layer/gqa", "float32")
    with pytest.raises(NotImplementedError, match="the level layer; this is an attention core"):
        adapters.numpy_core(forward, mask="mask")(vector.inputs, vector.settings)


def test_capabilities_follow_from_the_description():
    everything = adapters.numpy_core(forward, mask="mask").capabilities
    assert abilities(everything) == everything | abilities({"attention"}) - {"layer", "lm"}
    flag = adapters.numpy_core(forward, causal="causal", without={"empty"})
    assert FEATURES.keys() - flag.capabilities == {"offset", "empty"}
    assert "padding" not in flag.capabilities
    assert FEATURES.keys() - adapters.numpy_core(forward, causal=True).capabilities == {"offset", "noncausal"}
    report = verify(flag, cases="attention/right-padded,attention/no-key", capabilities=flag.capabilities)
    reasons = [result.text for result in report.results]
    assert sorted(reasons) == ["needs empty, not declared", "needs padding, not declared"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "mask and causal are None; expected the name of fn's argument for one of them"),
        ({"mask": "m", "heads": "tile"}, "heads='tile' must be one of 'repeat', 'expand', 'grouped', 'as-is'"),
        ({"mask": "m", "order": "BNHD"}, "order='BNHD' must be one of 'heads-first', 'token-major'"),
        ({"mask": "m", "widths": "wide"}, "widths='wide' must be one of 'as-is', 'pad'"),
        ({"mask": "m", "without": ("lse",)}, "without='lse' must be one of 'blind'"),
        ({"mask": "m", "without": "poison"}, "without='poison' must be a tuple of names"),
        ({"mask": "m", "returns": ("lse",)}, r"returns=\('lse',\) must name z"),
        ({"mask": "m", "fn": 3}, "fn=3 must be a function of q, k, v"),
    ],
)
def test_a_wrong_description_is_one_line(options, error):
    options = {"fn": forward, **options}
    with pytest.raises(ValueError, match=f"^{error}"):
        adapters.numpy_core(**options)


# ---- PyTorch ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sdpa():
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def function(*arrays, **told):
        with sdpa_kernel(SDPBackend.MATH):
            return torch.nn.functional.scaled_dot_product_attention(*arrays, enable_gqa=True, **told)

    return function


@needs_torch
@pytest.mark.parametrize(
    ("dtype", "which"),
    [
        ("float32", None),  # all of the suite "attention"
        ("float64", ["gqa-heads", "through-lse", "other-scale"]),
        ("bfloat16", ["gqa-heads", "blind-rows", "chunk", "token-major"]),
    ],
)
def test_sdpa_passes_all_cases_that_it_claims(sdpa, dtype, which):
    mine = adapters.torch_core(sdpa, mask="attn_mask", heads="grouped", without=["poison"])
    chosen = {"suite": "attention"} if which is None else {"cases": [f"attention/{name}" for name in which]}
    report = verify(mine, dtype=dtype, capabilities=mine.capabilities, arrays="torch", **chosen)
    assert report.passed, report
    assert {result.text for result in report.results if result.status == "skip"} <= {"needs poison, not declared"}


@needs_torch
def test_a_flag_aligned_to_the_start_is_found(sdpa):
    """PyTorch's is_causal lets row 0 see key 0 alone, whatever N_q and N_k are."""
    mine = adapters.torch_core(sdpa, causal="is_causal", heads="grouped")
    for name in ("one-query", "more-queries-than-keys"):
        assert "z" in wrong_arrays(mine, f"attention/{name}")
    said = adapters.torch_core(sdpa, causal="is_causal", align="start", heads="expand", widths="pad")
    for name in ("plain", "not-causal", "value-narrower", "other-scale", "no-token"):
        assert wrong_arrays(said, f"attention/{name}") == []


@needs_torch
def test_a_torch_function_that_returns_lse(sdpa):
    import torch

    def with_lse(q, k, v, mask, scale, detach=False):
        scores = ((q @ k.mT) * scale).masked_fill(~mask, -math.inf)
        lse = scores.logsumexp(-1)
        return (scores - (lse.detach() if detach else lse)[..., None]).exp() @ v, lse.detach() if detach else lse

    mine = adapters.torch_core(with_lse, mask="mask", returns=("z", "lse"))
    assert wrong_arrays(mine, "attention/through-lse") == []
    dropped = adapters.torch_core(functools.partial(with_lse, detach=True), mask="mask", returns=("z", "lse"))
    with pytest.raises(
        ValueError, match=r"^lse has no gradient; expected one by autograd, or the option backward=False$"
    ):
        wrong_arrays(dropped, "attention/through-lse")
    few = adapters.torch_core(lambda q, k, v, mask, scale: torch.zeros(1), mask="mask", returns=("z", "lse"))
    with pytest.raises(ValueError, match=r"^fn returned 1 arrays; expected z, lse$"):
        wrong_arrays(few, "attention/plain")


@needs_torch
def test_a_device_gets_the_arrays_and_the_mask():
    """The device "meta" stands for a GPU here: it has no numbers, so that the function cannot return any."""

    def on_meta(q, k, v, mask, scale):
        assert {x.device.type for x in (q, k, v, mask)} == {"meta"}
        return q * scale

    mine = adapters.torch_core(on_meta, device="meta", mask="mask", backward=False)
    vector = vectors.make("attention/a-head-each", "float32")
    found = mine({name: np.array(x) for name, x in vector.inputs.items()}, vector.settings)
    with pytest.raises(ValueError, match=r"^z is a tensor of torch\.float32, torch\.strided, on meta, which NumPy"):
        to_numpy(found["z"], "z")


# ---- JAX and MLX --------------------------------------------------------------------------------------------------


@needs_jax
def test_jax_nn():
    import jax

    attention = jax.jit(jax.nn.dot_product_attention, static_argnames=("scale", "is_causal"))
    options = {"heads": "grouped", "widths": "pad", "order": "token-major"}
    mine = adapters.jax_core(attention, mask="mask", **options)
    assert wrong_arrays(mine, "attention/heads-differ", "bfloat16") == []
    mine = adapters.jax_core(attention, mask="mask", backward=False, **options)
    assert wrong_arrays(mine, "attention/blind-rows") == ["z"]  # the mean of the values
    lengths = {"k_stop": "key_value_seq_lengths", "causal": "is_causal"}
    start = adapters.jax_core(attention, align="start", backward=False, **lengths, **options)
    assert wrong_arrays(start, "attention/right-padded") == []
    end = adapters.jax_core(attention, backward=False, **lengths, **options)
    assert wrong_arrays(end, "attention/one-query") == ["z"]


@needs_mlx
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mlx_fast(dtype):
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    fast = mx.fast.scaled_dot_product_attention
    mine = adapters.mlx_core(fast, mask="mask", heads="grouped")
    for name in ("plain", "heads-differ", "chunk", "right-padded", "other-scale", "one-query"):
        assert wrong_arrays(mine, f"attention/{name}", dtype) == [], name
    assert "z" in wrong_arrays(mine, "attention/blind-rows", dtype)


# ---- modules of PyTorch -------------------------------------------------------------------------------------------


def grouped_layer(c, wrong=None):
    """A GQA layer as other libraries write it, with their names."""
    import torch
    from torch import nn

    c = {"n_k": c["n_heads"], **c}
    n, n_k, d = c["n_heads"], c["n_k"], c["head_dim"]

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(c["hidden_size"], (n + 2 * n_k) * d, bias=c.get("bias", False))
            self.o_proj = nn.Linear(n * d, c["hidden_size"], bias=c.get("output_bias", False))

        def rope(self, x, positions):
            angle = positions[:, None, :, None] * 1e4 ** -(torch.arange(0, d, 2, dtype=torch.float64) / d)
            cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        def forward(self, x, attention_mask=None, position_ids=None):
            if position_ids is None:
                position_ids = torch.arange(x.shape[1])[None]
            q, k, v = self.qkv(x).unflatten(-1, (-1, d)).transpose(1, 2).split([n, n_k, n_k], 1)
            q, k = self.rope(q, position_ids), self.rope(k, position_ids)
            told = {"is_causal": True} if attention_mask is None else {"attn_mask": attention_mask}
            if wrong == "tiled heads":
                k, v = (y.repeat(1, n // n_k, 1, 1) for y in (k, v))
            z = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True, **told)
            return self.o_proj(z.transpose(1, 2).flatten(2)), None

    return Attention()


NAMES = {
    "qkv.weight": ("w_q.T", "w_k.T", "w_v.T"),
    "qkv.bias": ("b_q", "b_k", "b_v"),
    "o_proj.weight": "w_o.T",
    "o_proj.bias": "b_o",
}


@needs_torch
@pytest.mark.parametrize("mechanism", ["mha", "gqa"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_module_with_names_of_its_own(mechanism, dtype):
    for told in ({}, {"mask": "attention_mask", "positions": "position_ids"}):
        mine = adapters.torch_module(grouped_layer, NAMES, mechanism, **told)
        assert wrong_arrays(mine, f"layer/{mechanism}", dtype) == []
    wrong = adapters.torch_module(lambda c: grouped_layer(c, "tiled heads"), NAMES, "gqa")
    assert "out" in wrong_arrays(wrong, "layer/gqa")


@needs_torch
def test_a_module_is_verified_with_its_capabilities():
    mine = adapters.torch_module(grouped_layer, NAMES, "gqa", mask="attention_mask", positions="position_ids")
    assert mine.capabilities == {"layer", "gqa", "backward", "deterministic", "padding"}
    report = verify(mine, cases="layer/gqa,layer/gqa-decode,layer/mla", capabilities=mine.capabilities, arrays="torch")
    assert [(result.case, result.status) for result in report.results] == [
        ("layer/gqa", "pass"), ("layer/gqa-decode", "skip"), ("layer/mla", "skip"),
    ]  # fmt: skip


@needs_torch
def test_a_call_of_its_own_and_a_function_for_a_weight():
    import torch

    names = {**NAMES, "qkv.weight": lambda p: torch.cat([p["w_q"], p["w_k"], p["w_v"]], 1).T}
    mine = adapters.torch_module(
        grouped_layer, names, "gqa", mask="seen", call=lambda module, x, seen: module(x, attention_mask=seen)[0]
    )
    assert wrong_arrays(mine, "layer/gqa") == []
    forgets = {**NAMES, "qkv.weight": lambda p: torch.cat([p["w_q"], p["w_v"], p["w_v"]], 1).T}
    with pytest.raises(ValueError, match=r"^names does not use w_k, which the case has$"):
        wrong_arrays(adapters.torch_module(grouped_layer, forgets, "gqa"), "layer/gqa")


@needs_torch
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"o_proj.weight": "w_o"}, None),  # (48, 48) either way: the numbers tell
        ({"qkv.weight": "w_q.T"}, r"qkv.weight has shape \(80, 48\); w_q.T has \(48, 48\)"),
        ({"out.weight": "w_o.T"}, "names: the module has no parameter 'out.weight'; it has qkv.weight, o_proj.weight"),
        ({"o_proj.weight": "w_out.T"}, "names lacks the module's o_proj.weight"),
        ({"qkv.weight": ("w_q.T", "w_q.T", "w_v.T")}, r"qkv.weight has shape"),
        ({"qkv.weight": ("w_q.T", "w_v.T", "w_v.T")}, "names does not use w_k, which the case has"),
    ],
)
def test_wrong_names_are_one_line(change, error):
    mine = adapters.torch_module(grouped_layer, {**NAMES, **change}, "gqa")
    if error is None:
        assert "out" in wrong_arrays(mine, "layer/gqa")
        return
    with pytest.raises(ValueError, match=f"^{error}"):
        wrong_arrays(mine, "layer/gqa")


@needs_torch
def test_a_module_skips_what_it_cannot_be_told():
    mine = adapters.torch_module(grouped_layer, NAMES, "gqa")
    for name, reason in (("gqa-decode", "decoding from a cache"), ("mla", "mla; this module is gqa")):
        with pytest.raises(NotImplementedError, match=reason):
            wrong_arrays(mine, f"layer/{name}")
    vector = vectors.make("layer/gqa", "float32")
    for bound in ({"k_start": np.array([0, 3])}, {"k_stop": np.array([11, 3])}):
        padded = {**vector.inputs, **bound}
        with pytest.raises(NotImplementedError, match="the case's mask, for which the module has no argument"):
            mine({name: np.array(x) for name, x in padded.items()}, vector.settings)
    later = {**vector.inputs, "positions": vector.inputs["positions"] + 5}
    with pytest.raises(NotImplementedError, match="the case's positions, for which the module has no argument"):
        mine({name: np.array(x) for name, x in later.items()}, vector.settings)


def test_a_factory_is_a_function():
    with pytest.raises(ValueError, match=r"^factory=namespace\(\) must be a function from a config to a module$"):
        adapters.torch_module(SimpleNamespace(), NAMES, "gqa")
    with pytest.raises(ValueError, match=r"^mechanism='mqa' must be one of"):
        adapters.torch_module(grouped_layer, NAMES, "mqa")
