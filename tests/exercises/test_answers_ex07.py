"""Exercise 7: what the check says to answers as students write them."""

import math

import numpy as np
import scipy.special

from gta_ref.ops import rope_angles, rope_forward
from tests.exercises.answers import Answers, softmax

ANSWERS = Answers("ex07")


def turn(x, positions):
    cos, sin = rope_angles(positions[:, None], x.shape[-1], dtype=x.dtype)
    return rope_forward(x, cos, sin)[0]


def places(held_k, k, pad):
    return np.maximum(0, held_k.shape[2] + np.arange(k.shape[2]) - pad[:, None])


def attend(q, k, c, pad, held, visible=None, scale=None, blind=0.0):
    slot = np.arange(k.shape[2])
    if visible is None:
        visible = (slot >= pad[:, None, None]) & (slot <= held + np.arange(q.shape[2])[:, None])
    s = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    s = np.where(visible[:, None], s, -np.inf)
    top = s.max(axis=-1, keepdims=True)
    w = np.exp(s - np.where(np.isneginf(top), 0, top))
    total = w.sum(axis=-1, keepdims=True)
    return w / np.where(total == 0, 1, total) @ c


def step(q, k, c, held_k, held_c, pad, positions=None, **changes):
    at = places(held_k, k, pad) if positions is None else positions
    new_k = np.concatenate([held_k, turn(k, at)], axis=2)
    new_c = np.concatenate([held_c, c], axis=2)
    return attend(turn(q, at), new_k, new_c, pad, held_k.shape[2], **changes), new_k, new_c


@ANSWERS.wrong("is not written yet")
def untouched(q, k, c, held_k, held_c, pad): ...


@ANSWERS.wrong("new_k", "cached before RoPE has turned them")
def raw_keys_cached(q, k, c, held_k, held_c, pad):
    z, _, new_c = step(q, k, c, held_k, held_c, pad)
    return z, np.concatenate([held_k, k], axis=2), new_c


@ANSWERS.wrong("cached before RoPE, and all keys are turned when they are read")
def all_turned_when_read(q, k, c, held_k, held_c, pad):
    new_k, new_c = np.concatenate([held_k, k], axis=2), np.concatenate([held_c, c], axis=2)
    everywhere = np.maximum(0, np.arange(new_k.shape[2]) - pad[:, None])
    z = attend(turn(q, places(held_k, k, pad)), turn(new_k, everywhere), new_c, pad, held_k.shape[2])
    return z, new_k, new_c


@ANSWERS.wrong("new tokens are put in front of the held ones")
def in_front(q, k, c, held_k, held_c, pad):
    at = places(held_k, k, pad)
    new_k = np.concatenate([turn(k, at), held_k], axis=2)
    new_c = np.concatenate([c, held_c], axis=2)
    return attend(turn(q, at), new_k, new_c, pad, held_k.shape[2]), new_k, new_c


@ANSWERS.wrong("1/√d_l, the latent's width")
def scaled_by_latent(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, scale=c.shape[-1] ** -0.5)


@ANSWERS.wrong("divided by d_l")
def divided_by_latent(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, scale=1 / c.shape[-1])


@ANSWERS.wrong("scale 1/√d_h is left out")
def no_scale(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, scale=1)


@ANSWERS.wrong("positions of padding are negative", "max(0, L + i − pad)")
def negative_positions(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, held_k.shape[2] + np.arange(k.shape[2]) - pad[:, None])


@ANSWERS.wrong("positions start at 0 in every step")
def from_zero(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, np.tile(np.arange(k.shape[2]), (len(q), 1)))


@ANSWERS.wrong("positions start at L + 1")
def from_one(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, places(held_k, k, pad) + 1)


@ANSWERS.wrong("padding counts as positions", "2 slots of padding")
def padding_counted(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, held_k.shape[2] + np.arange(k.shape[2]) + 0 * pad[:, None])


@ANSWERS.wrong("pad is added to the positions")
def padding_added(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, held_k.shape[2] + np.arange(k.shape[2]) + pad[:, None])


@ANSWERS.wrong("RoPE turns the latent C as well")
def latent_turned(q, k, c, held_k, held_c, pad):
    return step(q, k, turn(c, places(held_k, k, pad)), held_k, held_c, pad)


@ANSWERS.wrong("the queries are not turned")
def query_not_turned(q, k, c, held_k, held_c, pad):
    _, new_k, new_c = step(q, k, c, held_k, held_c, pad)
    return attend(q, new_k, new_c, pad, held_k.shape[2]), new_k, new_c


@ANSWERS.wrong("the cached keys are turned a second time")
def turned_twice(q, k, c, held_k, held_c, pad):
    past = np.maximum(0, np.arange(held_k.shape[2]) - pad[:, None])
    return step(q, k, c, turn(held_k, past), held_c, pad)


@ANSWERS.wrong("the causal mask is missing")
def sees_later(q, k, c, held_k, held_c, pad):
    slot = np.arange(held_k.shape[2] + k.shape[2])
    visible = np.broadcast_to(slot >= pad[:, None, None], (len(q), k.shape[2], len(slot)))
    return step(q, k, c, held_k, held_c, pad, visible=visible)


@ANSWERS.wrong("the causal mask starts at 0")
def mask_from_zero(q, k, c, held_k, held_c, pad):
    visible = np.tri(k.shape[2], held_k.shape[2] + k.shape[2], dtype=bool)
    return step(q, k, c, held_k, held_c, pad, visible=visible & (np.arange(visible.shape[1]) >= pad[:, None, None]))


@ANSWERS.wrong("does not see itself")
def only_the_past(q, k, c, held_k, held_c, pad):
    slot = np.arange(held_k.shape[2] + k.shape[2])
    last = held_k.shape[2] + np.arange(k.shape[2])[:, None]
    return step(q, k, c, held_k, held_c, pad, visible=(slot < last) & (slot >= pad[:, None, None]))


@ANSWERS.wrong("padding is visible", "2 slots of padding")
def padding_seen(q, k, c, held_k, held_c, pad):
    slot = np.arange(held_k.shape[2] + k.shape[2])
    visible = (slot <= held_k.shape[2] + np.arange(k.shape[2])[:, None])[None]
    return step(q, k, c, held_k, held_c, pad, visible=visible)


@ANSWERS.wrong("sees nothing is 0/0 = NaN")
def blind_is_nan(q, k, c, held_k, held_c, pad):
    z, new_k, new_c = step(q, k, c, held_k, held_c, pad)
    nothing = held_k.shape[2] + np.arange(k.shape[2]) < pad[:, None]
    return np.where(nothing[:, None, :, None], np.nan, z).astype(z.dtype), new_k, new_c


@ANSWERS.wrong("the cache has to hold the old ones as well")
def only_new(q, k, c, held_k, held_c, pad):
    z, _, _ = step(q, k, c, held_k, held_c, pad)
    return z, turn(k, places(held_k, k, pad)), c


@ANSWERS.wrong("the cache is returned unchanged")
def unchanged(q, k, c, held_k, held_c, pad):
    z, _, _ = step(q, k, c, held_k, held_c, pad)
    return z, held_k, held_c


@ANSWERS.wrong("returns a numpy.ndarray; expected 3 arrays, z, new_k, new_c")
def only_z(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad)[0]


@ANSWERS.right
def with_numpy(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad)


@ANSWERS.right
def with_scipy(q, k, c, held_k, held_c, pad):
    at = places(held_k, k, pad)
    new_k, new_c = np.append(held_k, turn(k, at), axis=2), np.append(held_c, c, axis=2)
    slot, last = np.arange(new_k.shape[2]), held_k.shape[2] + np.arange(k.shape[2])
    hidden = (slot > last[:, None]) | (slot < pad[:, None, None])
    s = np.einsum("bmtd,bzsd->bmts", turn(q, at), new_k) / math.sqrt(q.shape[3])
    s[np.broadcast_to(hidden[:, None], s.shape)] = -np.inf
    a = np.nan_to_num(scipy.special.softmax(s, axis=-1))
    return np.einsum("bmts,bzsl->bmtl", a, new_c), new_k, new_c


@ANSWERS.right
def query_by_query(q, k, c, held_k, held_c, pad):
    batch, n_q, new, d_h = q.shape
    held = held_k.shape[2]
    new_k = np.empty((batch, 1, held + new, d_h), k.dtype)
    new_c = np.empty((batch, 1, held + new, c.shape[3]), c.dtype)
    new_k[:, :, :held], new_c[:, :, :held] = held_k, held_c
    z = np.zeros((batch, n_q, new, c.shape[3]), q.dtype)
    for i in range(new):
        at = np.array([[max(0, held + i - p)] for p in pad])
        new_k[:, :, held + i : held + i + 1] = turn(k[:, :, i : i + 1], at)
        new_c[:, :, held + i] = c[:, :, i]
        query = turn(q[:, :, i : i + 1], at)
        for b in range(batch):
            first, last = pad[b], held + i + 1
            if first < last:
                s = query[b, :, 0] @ new_k[b, 0, first:last].T / math.sqrt(d_h)
                z[b, :, i] = softmax(s) @ new_c[b, 0, first:last]
    return z, new_k, new_c


@ANSWERS.right
def own_rope(q, k, c, held_k, held_c, pad):
    def rotate(x):
        half = x.shape[3] // 2
        frequency = x.dtype.type(10000.0) ** (-np.arange(half, dtype=x.dtype) / half)
        angle = (places(held_k, k, pad)[:, None, :, None].astype(x.dtype)) * frequency
        left, right = x[..., :half], x[..., half:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)

    new_k, new_c = np.concatenate([held_k, rotate(k)], 2), np.concatenate([held_c, c], 2)
    return attend(rotate(q), new_k, new_c, pad, held_k.shape[2]), new_k, new_c


@ANSWERS.right
def float64_inside(q, k, c, held_k, held_c, pad):
    wide = (x.astype(np.float64) for x in (q, k, c, held_k, held_c))
    return tuple(x.astype(q.dtype) for x in step(*wide, pad))


@ANSWERS.right
def list_and_large_negative(q, k, c, held_k, held_c, pad):
    at = places(held_k, k, pad)
    new_k, new_c = np.concatenate([held_k, turn(k, at)], 2), np.concatenate([held_c, c], 2)
    slot = np.arange(new_k.shape[2])
    visible = (pad[:, None, None] <= slot) & (slot <= held_k.shape[2] + np.arange(k.shape[2])[:, None])
    s = turn(q, at) @ new_k.transpose(0, 1, 3, 2) / float(np.sqrt(q.shape[3]))
    s += np.where(visible, 0, -1e30).astype(s.dtype)[:, None]
    return [softmax(s) * visible[:, None] @ new_c, new_k, new_c]


@ANSWERS.right_with("torch")
def in_torch(q, k, c, held_k, held_c, pad):
    import torch

    at = places(held_k, k, pad)
    new_k = torch.cat([torch.tensor(held_k), torch.tensor(turn(k, at))], dim=2)
    new_c = torch.cat([torch.tensor(held_c), torch.tensor(c)], dim=2)
    slot, first = torch.arange(new_k.shape[2]), torch.tensor(pad)[:, None, None]
    visible = (slot >= first) & (slot <= held_k.shape[2] + torch.arange(k.shape[2])[:, None])
    s = torch.tensor(turn(q, at)) @ new_k.mT * q.shape[3] ** -0.5
    a = s.masked_fill(~visible[:, None], -torch.inf).softmax(-1).nan_to_num()
    return (a @ new_c).numpy(), new_k.numpy(), new_c.numpy()


@ANSWERS.wrong_ones()
def test_wrong(function, words):
    ANSWERS.refused(function, words)


@ANSWERS.right_ones()
def test_right(function):
    ANSWERS.accepted(function)
