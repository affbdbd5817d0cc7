"""Exercise 3: what the check says to answers as students write them."""

import importlib
import math

import numpy as np
import scipy.special

from tests.exercises.answers import Answers, softmax

ANSWERS = Answers("ex03")


def scores_of(q, k):
    return q @ np.repeat(k, q.shape[1] // k.shape[1], 1).swapaxes(-1, -2) * q.shape[-1] ** -0.5


def masked_softmax(s, visible, axis=-1):
    s = np.where(visible[:, None], s, -np.inf)
    top = s.max(axis, keepdims=True)
    w = np.exp(s - np.where(np.isneginf(top), 0, top))
    total = w.sum(axis, keepdims=True)
    return w / np.where(total == 0, 1, total)


@ANSWERS.wrong("is not written yet")
def untouched(q, k, visible): ...


@ANSWERS.wrong("scale 1/√d_h is left out")
def no_scale(q, k, visible):
    return masked_softmax(np.einsum("bmqd,bmkd->bmqk", q, np.repeat(k, q.shape[1] // k.shape[1], 1)), visible)


@ANSWERS.wrong("divided by d_h instead of √d_h")
def scaled_by_width(q, k, visible):
    return masked_softmax(scores_of(q, k) / q.shape[-1] ** 0.5, visible)


@ANSWERS.wrong("multiplied by √d_h")
def multiplied(q, k, visible):
    return masked_softmax(scores_of(q, k) * q.shape[-1], visible)


@ANSWERS.wrong("1/√N_k")
def scaled_by_keys(q, k, visible):
    return masked_softmax(scores_of(q, k) * (q.shape[-1] / k.shape[2]) ** 0.5, visible)


@ANSWERS.wrong("interleaved over the maps (m % n_k)")
def keys_tiled(q, k, visible):
    keys = np.tile(k, (1, q.shape[1] // k.shape[1], 1, 1))
    return masked_softmax(q @ keys.swapaxes(-1, -2) * q.shape[-1] ** -0.5, visible)


@ANSWERS.wrong("every map reads key head 0")
def first_key_head(q, k, visible):
    return masked_softmax(q @ k[:, :1].swapaxes(-1, -2) * q.shape[-1] ** -0.5, visible)


@ANSWERS.wrong("wrong axis, the queries")
def over_queries(q, k, visible):
    return masked_softmax(scores_of(q, k), visible, axis=-2)


@ANSWERS.wrong("visible is not used")
def not_masked(q, k, visible):
    return softmax(scores_of(q, k))


@ANSWERS.wrong("wrong way round")
def mask_inverted(q, k, visible):
    return masked_softmax(scores_of(q, k), ~visible)


@ANSWERS.wrong("set to 0 instead of −∞")
def masked_by_zero(q, k, visible):
    return softmax(scores_of(q, k) * visible[:, None])


@ANSWERS.wrong("masked after the softmax")
def masked_late(q, k, visible):
    return softmax(scores_of(q, k)) * visible[:, None]


@ANSWERS.wrong("spread evenly over all keys", "sees nothing")
def large_negative(q, k, visible):
    return softmax(np.where(visible[:, None], scores_of(q, k), -1e30))


@ANSWERS.wrong("0/0 = NaN", "sees nothing")
def blind_is_nan(q, k, visible):
    return softmax(np.where(visible[:, None], scores_of(q, k), -np.inf))


@ANSWERS.wrong("exp overflows", "thousands")
def no_shift(q, k, visible):
    w = np.exp(scores_of(q, k)) * visible[:, None]
    total = w.sum(-1, keepdims=True)
    return w / np.where(total == 0, 1, total)


@ANSWERS.wrong("not divided by their sum")
def not_normalised(q, k, visible):
    s = np.where(visible[:, None], scores_of(q, k), -np.inf)
    return np.exp(s - np.nan_to_num(s.max(-1, keepdims=True), neginf=0))


@ANSWERS.wrong("without the softmax")
def only_scores(q, k, visible):
    return scores_of(q, k)


@ANSWERS.wrong("map is float64 where the inputs are float32", "np.sqrt(64)")
def widened(q, k, visible):
    s = q @ np.repeat(k, q.shape[1] // k.shape[1], 1).swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    return masked_softmax(s, visible)


@ANSWERS.wrong("map has shape (2, 6, 7, 5)", "in another order")
def keys_first(q, k, visible):
    return masked_softmax(scores_of(q, k), visible).swapaxes(-1, -2)


@ANSWERS.wrong_with("torch", "map is a torch.Tensor; expected a NumPy array", "Is .numpy() missing?")
def tensor(q, k, visible):
    return importlib.import_module("torch").zeros(2, 6, 5, 7)


@ANSWERS.right
def with_numpy(q, k, visible):
    return masked_softmax(scores_of(q, k), visible)


@ANSWERS.right
def with_scipy(q, k, visible):
    s = np.where(visible[:, None], scores_of(q, k), -np.inf)
    return np.nan_to_num(scipy.special.softmax(s, axis=-1)).astype(q.dtype)


@ANSWERS.right
def with_logsumexp(q, k, visible):
    s = np.where(visible[:, None], scores_of(q, k), -np.inf)
    lse = scipy.special.logsumexp(s, axis=-1, keepdims=True)
    return np.where(visible[:, None], np.exp(s - np.where(np.isfinite(lse), lse, 0)), 0).astype(q.dtype)


@ANSWERS.right
def row_by_row(q, k, visible):
    batch, n_q, n, d = q.shape
    out = np.zeros((batch, n_q, n, k.shape[2]), dtype=q.dtype)
    for b in range(batch):
        for m in range(n_q):
            for t in range(n):
                keys = np.flatnonzero(visible[b, t])
                if len(keys):
                    s = k[b, m // (n_q // k.shape[1]), keys] @ q[b, m, t] / math.sqrt(d)
                    w = np.exp(s - max(s))
                    out[b, m, t, keys] = w / sum(w)
    return out


@ANSWERS.right
def scaled_query_first(q, k, visible):
    batch, n_q, n, d = q.shape
    q = q * d**-0.25
    grouped = q.reshape(batch, k.shape[1], -1, n, d)
    s = np.einsum("bgrqd,bgkd->bgrqk", grouped, k * d**-0.25).reshape(batch, n_q, n, -1)
    return masked_softmax(s, visible).astype(q.dtype)


@ANSWERS.right
def float64_inside(q, k, visible):
    return masked_softmax(scores_of(q.astype(float), k.astype(float)), visible).astype(q.dtype)


@ANSWERS.right
def large_negative_and_masked_again(q, k, visible):
    s = scores_of(q, k)
    s[np.broadcast_to(~visible[:, None], s.shape)] = -1e30
    return np.where(visible[:, None], softmax(s), 0)


@ANSWERS.right_with("torch")
def in_torch(q, k, visible):
    import torch

    q, k, visible = torch.tensor(q), torch.tensor(k), torch.tensor(visible)
    s = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2) / q.shape[-1] ** 0.5
    s = s.masked_fill(~visible[:, None], float("-inf"))
    return torch.nan_to_num(torch.softmax(s, -1)).numpy()


@ANSWERS.wrong_ones()
def test_wrong(function, words):
    ANSWERS.refused(function, words)


@ANSWERS.right_ones()
def test_right(function):
    ANSWERS.accepted(function)
