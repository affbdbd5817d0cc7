"""16 bits: attention as kernels and eager code round it passes, and systematic errors smaller than a rounding do not."""

from dataclasses import dataclass

import numpy as np
import pytest

from gta_ref.ops import as_dtype
from gta_ref.verify import cases, vectors
from gta_ref.verify.compare import compare

F = np.float32


@dataclass
class Attention:
    """Attention in float32 with roundings to 16 bits where the options say so; lse is not returned."""

    low: np.dtype
    weights_16: bool = False  # the weights are rounded before they are multiplied by the values
    d_scores_16: bool = False
    row_sum_of_z: bool = False  # Σ d_z · z, with z as it was stored, in place of Σ P · dP
    eager: bool = False  # every result is rounded
    sums_16: bool = False  # partial sums are rounded
    log2e: float | None = None
    subtract_maximum: bool = True
    softcap: float | None = None
    factor: float = 1.0  # of every result
    smallest_to_0: float = 0.0  # this part of every result

    def r(self, x, do=True):
        return x.astype(self.low).astype(F) if do else x

    def product(self, a, b):
        if not self.sums_16:
            return self.r(a @ b, self.eager)
        total = np.zeros((*a.shape[:-1], b.shape[-1]), F)
        for i in range(a.shape[-1]):
            total = self.r(total + a[..., i : i + 1] * b[..., i : i + 1, :])
        return total

    def __call__(self, a, settings):
        q, k, v, d_z = (a[name].astype(F) for name in ("q", "k", "v", "d_z"))
        n_q, n, m = q.shape[1], q.shape[2], k.shape[2]
        slot, e = np.arange(m), self.eager
        used = (a["k_start"][:, None] <= slot) & (slot < a["k_stop"][:, None])
        n_k, n_v = k.shape[1], v.shape[1]
        k, v = (np.repeat(np.where(used[:, None, :, None], x, 0), n_q // x.shape[1], axis=1) for x in (k, v))
        seen = used[:, None, None] & (
            (slot <= (a["q_start"][:, None] + np.arange(n))[..., None])[:, None]
            if settings["mask"].get("causal", True)
            else True
        )
        scale = F(settings.get("scale") or q.shape[-1] ** -0.5)
        s = self.r(self.product(q, k.swapaxes(-1, -2)) * scale, e)
        if self.softcap:
            s = F(self.softcap) * np.tanh(s / F(self.softcap))
        s = np.where(seen, s, F(-np.inf))
        top = s.max(-1, keepdims=True, initial=-np.inf)
        top = np.where(np.isfinite(top) & self.subtract_maximum, top, F(0))
        p = np.exp2((s - top) * F(self.log2e)) if self.log2e else np.exp(s - top)
        total = p.sum(-1, keepdims=True)
        total = np.where(total == 0, F(1), total)
        p, weights = self.r(p / total, e), self.r(p, self.weights_16)
        z = self.product(p, v) if e or self.sums_16 else weights @ v / total
        d_p = self.product(d_z, v.swapaxes(-1, -2))
        row = d_z * self.r(z) if self.row_sum_of_z else p * d_p
        d_s = self.r(p * self.r(d_p - self.r(row.sum(-1, keepdims=True), e), e), e or self.d_scores_16)
        d_q, d_k = self.r(self.product(d_s, k) * scale, e), self.product(d_s.swapaxes(-1, -2), q) * scale
        d_v = self.product(self.r(p, self.weights_16).swapaxes(-1, -2), d_z)
        d_k, d_v = (x.reshape(len(x), h, -1, *x.shape[2:]).sum(2) for x, h in ((d_k, n_k), (d_v, n_v)))
        return {name: self.spoilt(x) for name, x in (("z", z), ("d_q", d_q), ("d_k", d_k), ("d_v", d_v))}

    def spoilt(self, x):
        if self.smallest_to_0 and x.size:
            x = np.where(np.abs(x) < np.quantile(np.abs(x), self.smallest_to_0), F(0), x)
        return (x * F(self.factor)).astype(self.low)


NAMES = (
    *("plain", "gqa-scale", "left-padded", "not-causal-padded", "gqa-decode", "decode-parts", "widths-192-128"),
    *("low-scores", "high-scores", "peaked", "sink"),
)
CASES = [cases.find(f"attention/{name}") for name in NAMES]
RIGHT = {
    "float32 inside": {},
    "weights in 16 bits": {"weights_16": True},
    "like FlashAttention": {"weights_16": True, "d_scores_16": True, "row_sum_of_z": True},
    "every result in 16 bits": {"eager": True},
}
WRONG = {
    "3.3 % too large": ({"factor": 1.033}, "slope"),
    "1.5 % too small": ({"factor": 0.985}, "slope"),
    "sums in 16 bits": ({"sums_16": True}, "rms"),
    "log2e is 1.44": ({"log2e": 1.44}, "slope"),
    "no maximum subtracted": ({"subtract_maximum": False}, "nonfinite"),
    "a softcap of 50": ({"softcap": 50.0}, "value"),
    "a fifth of the results 0": ({"smallest_to_0": 0.2}, "rms"),
}


def findings(dtype, options):
    attention = Attention(as_dtype(dtype), **options)
    for case in CASES:
        if dtype in case.dtypes:
            vector = vectors.make(case.name, dtype)
            with np.errstate(all="ignore"):
                yield from ((case.name, f) for f in compare(vector, attention(vector.inputs, vector.settings)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", RIGHT)
def test_right(name, dtype):
    wrong = [(case, f.text) for case, f in findings(dtype, RIGHT[name]) if f.kind != "ok"]
    assert not wrong


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong(name, dtype):
    options, kind = WRONG[name]
    found = [(case, f.kind) for case, f in findings(dtype, options) if f.kind != "ok"]
    assert found
    if dtype == "bfloat16":
        assert kind in {kind for _, kind in found}, found
