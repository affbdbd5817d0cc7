"""Wrong implementations of the attention core that the kit does not know, in plain NumPy.

Each is a function from an attention case to z, d_q, d_k and d_v. A test requires that the kit catches them and names no
cause, or one of those that ``TRUE`` lists because it says what is wrong in other words.
"""

import math

import numpy as np

ABLE = ("attention", "backward", "decode", "padding")  # the capabilities that they are verified with


class Case:
    """q, k, v with a head for each map, in the dtype of the case; the right mask; and what the steps need besides."""

    def __init__(self, arrays, settings):
        self.arrays, self.settings = arrays, settings
        self.q, self.d_z = arrays["q"], arrays["d_z"]
        self.n_queries, self.n_keys = self.q.shape[2], arrays["k"].shape[2]
        self.start, self.stop = (arrays[name][:, None, None] for name in ("k_start", "k_stop"))
        self.first = arrays["q_start"][:, None, None]
        self.key, self.row = np.arange(self.n_keys), np.arange(self.n_queries)[:, None]
        self.used = (self.key >= self.start) & (self.key < self.stop)  # (B, 1, N_k)
        self.causal = settings["mask"].get("causal", True)
        self.scale = settings.get("scale") or 1 / math.sqrt(self.q.shape[3])
        self.k, self.v = (self.per_map(self.clean(arrays[name])) for name in ("k", "v"))

    def clean(self, x):
        return np.where(self.used[:, 0, :, None][:, None], x, 0).astype(x.dtype)

    def per_map(self, x):
        return np.repeat(x, self.q.shape[1] // x.shape[1], axis=1)

    def mask(self):
        seen = np.broadcast_to(self.used, (self.q.shape[0], self.n_queries, self.n_keys))
        return seen & (self.key <= self.first + self.row) if self.causal else seen


def compute(case, mask=None, scores=lambda s: s, weights=None, z=lambda z: z, d_s=lambda d: d, q=None, k=None, v=None):
    """The right computation with some of its parts replaced."""
    seen = (case.mask() if mask is None else mask)[:, None]
    q, k, v = (getattr(case, name) if x is None else x for name, x in (("q", q), ("k", k), ("v", v)))
    s = scores((q @ k.swapaxes(-1, -2)) * q.dtype.type(case.scale))
    hidden = np.where(seen, s, -np.inf)
    top = hidden.max(-1, keepdims=True, initial=-np.inf)
    e = np.exp(hidden - np.where(np.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    p = (e / np.where(total > 0, total, 1)).astype(q.dtype)
    if weights is not None:
        p = weights(p).astype(q.dtype)
    d_p = case.d_z @ v.swapaxes(-1, -2)
    d = d_s(p * (d_p - (p * d_p).sum(-1, keepdims=True))) * q.dtype.type(case.scale)
    d_k, d_v = d.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ case.d_z

    def of_heads(x, n):
        return x.reshape(x.shape[0], n, x.shape[1] // n, *x.shape[2:]).sum(2)

    return {
        "z": z(p @ v),
        "d_q": d @ k,
        "d_k": of_heads(d_k, case.arrays["k"].shape[1]),
        "d_v": of_heads(d_v, case.arrays["v"].shape[1]),
    }


def _rows_shifted(case):
    return compute(case, z=lambda z: np.roll(z, 1, axis=2))


def _window(size):
    return lambda case: compute(case, mask=case.mask() & (case.key > case.first + case.row - size))


def _prefix(size):
    return lambda case: compute(case, mask=case.used & ((case.key <= case.first + case.row) | (case.key < size)))


def _softcap(case):
    return compute(case, scores=lambda s: 2 * np.tanh(s / 2))


def _extra_key(case):
    """A softmax with one more term of exp(0), the "sink"."""
    seen, s = case.mask()[:, None], (case.q @ case.k.swapaxes(-1, -2)) * case.q.dtype.type(case.scale)
    total = np.where(seen, np.exp(s), 0).sum(-1, keepdims=True)
    return compute(case, weights=lambda p: p * total / (1 + total))


def _alibi(case):
    return compute(case, scores=lambda s: s - 0.1 * np.abs(case.key - case.row).astype(s.dtype))


def _strided_mask(case):
    return compute(case, mask=case.mask() & ((case.first + case.row - case.key) % 2 == 0))


def _block_mask(case):
    return compute(case, mask=case.mask() & (case.key // 8 == (case.first + case.row) // 8))


def _inverted_without_bounds(case):
    return compute(case, mask=np.broadcast_to(case.key > case.first + case.row, case.mask().shape))


def _inverted_and_itself(case):
    return compute(case, mask=~case.mask() | (case.key == case.first + case.row))


def _inverted_if_padded(case):
    return compute(case, mask=case.mask() if case.used.all() else ~case.mask())


def _dropout(case):
    return compute(case, weights=lambda p: np.where(np.arange(p.size).reshape(p.shape) % 10, p / 0.9, 0))


def _square(case):
    return compute(case, weights=lambda p: p * p / np.maximum((p * p).sum(-1, keepdims=True), 1e-30))


def _relu(case):
    return compute(case, weights=lambda p: np.maximum(p - 0.01, 0))


def _top_keys(case):
    return compute(case, weights=lambda p: np.where(p >= np.sort(p, -1)[..., -4:][..., :1], p, 0) if p.shape[-1] else p)


def _heads_rolled(case):
    return compute(case, k=np.roll(case.k, 1, axis=1))


def _values_rolled(case):
    return compute(case, v=np.roll(case.v, 1, axis=2))


def _sequences_swapped(case):
    return compute(case, k=case.k[::-1], v=case.v[::-1])


def _scale_off(case):
    return compute(case, scores=lambda s: s * s.dtype.type(1.01))


def _keys_normalised(case):
    return compute(case, k=case.k / np.maximum(np.linalg.norm(case.k, axis=-1, keepdims=True), 1e-6))


def _last_row_wrong(case):
    return compute(case, z=lambda z: np.concatenate([z[:, :, :-1], 0 * z[:, :, -1:]], axis=2))


def _one_element(case):
    def damaged(z):
        z = z.copy()
        if z.size:
            z.reshape(-1)[z.size // 2] += 0.01
        return z

    return compute(case, z=damaged)


def _columns_swapped(case):
    return compute(case, z=lambda z: z[..., ::-1])


def _too_large(case):
    return compute(case, z=lambda z: z * z.dtype.type(1.001))


def _gradient_clipped(case):
    return compute(case, d_s=lambda d: np.clip(d, -0.05, 0.05))


def _gradient_shifted(case):
    return compute(case, d_s=lambda d: np.roll(d, 1, axis=-1))


def _gradient_without_diagonal(case):
    return compute(case, d_s=lambda d: np.where(case.key == case.first[:, None] + case.row, 0, d))


def _d_q_of_values(case):
    found = compute(case)
    return {**found, "d_q": found["d_q"] + found["d_q"].sum(2, keepdims=True) / max(case.n_queries, 1)}


def _narrow_and_unscaled(case):
    narrow = case.used & (case.key < case.first + case.row)
    return compute(case, mask=narrow, scores=lambda s: s / s.dtype.type(case.scale) * s.dtype.type(0.3))


def _wide_window(case):
    return compute(case, mask=case.used & (case.key <= case.first + case.row + 2))


def _window_both_ways(case):
    return compute(case, mask=case.used & (np.abs(case.key - case.first - case.row) <= 5))


def _noise(case):
    noise = np.random.default_rng(0).standard_normal
    return compute(case, z=lambda z: (z + 1e-3 * noise(z.shape)).astype(z.dtype))


WRONG = {name: f for name, f in list(globals().items()) if name.startswith("_") and callable(f)}
for made in ("_window", "_prefix"):
    del WRONG[made]
WRONG |= {"_window_7": _window(7), "_window_20": _window(20), "_prefix_3": _prefix(3), "_prefix_10": _prefix(10)}
