"""The ready adapters, around functions of NumPy arrays: every convention passes, and what is wrong is found."""

import math

import numpy as np
import pytest

from gta_ref.verify import adapters, vectors, verify
from gta_ref.verify.abilities import FEATURES, abilities
from tests.verify.wrong_arrays import wrong_arrays

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
