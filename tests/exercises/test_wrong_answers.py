"""Wrong answers that a student may give, written independently of the checks, and what the check must say to each."""

import importlib.util
from typing import Any

import numpy as np
import pytest

from gta_ref.exercises import check
from gta_ref.ops import rope_angles, rope_forward

CASES: list[Any] = []


def wrong(exercise, *words):
    """Register a wrong answer and the words that its hint must contain."""

    def note(function):
        CASES.append(pytest.param(exercise, function, words, id=f"{exercise}-{function.__name__}"))
        return function

    return note


@pytest.mark.parametrize("exercise, function, words", CASES)
def test_hint(exercise, function, words):
    verdict = check(exercise, function)
    assert not verdict.passed
    for word in words:
        assert word in verdict.hint, verdict


def softmax(s, axis=-1):
    w = np.exp(s - s.max(axis, keepdims=True))
    return w / w.sum(axis, keepdims=True)


# --- ex01 -----------------------------------------------------------------------------------------------------


@wrong("ex01", "interleaved", "np.repeat")
def stacked(maps, values):
    n = values.shape[1] // maps.shape[1]
    return np.concatenate([maps] * n, axis=1) @ values


@wrong("ex01", "transposed")
def einsum_over_queries(maps, values):
    return np.einsum("bhqk,bhqd->bhkd", np.repeat(maps, values.shape[1] // maps.shape[1], 1), values)


@wrong("ex01", "every head reads map 0")
def first_map(maps, values):
    return np.stack([maps[:, 0] @ values[:, i] for i in range(values.shape[1])], 1)


@wrong("ex01", "heads has shape (2, 2, 5, 3)", "(B, n_h, N_q, d_h)")
def one_head_a_map(maps, values):
    return maps @ values[:, : maps.shape[1]]


# --- ex02 -----------------------------------------------------------------------------------------------------


@wrong("ex02", "interleaved (i % n_q)")
def modulo(n_h, n_q, n_k, n_c):
    return tuple([i % n_q % n for i in range(n_h)] for n in (n_q, n_k, n_c))


@wrong("ex02", "float64", "whole numbers")
def floats(n_h, n_q, n_k, n_c):
    m = np.floor(np.arange(n_h) / (n_h / n_q))
    return m, np.floor(m / (n_q / n_k)), np.floor(m / (n_q / n_c))


@wrong("ex02", "maps are interleaved over the key")
def keys_interleaved(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m % n_k, m % n_c


@wrong("ex02", "returns 2 values; expected 3")
def no_latent(n_h, n_q, n_k, n_c):
    m = np.arange(n_h) // (n_h // n_q)
    return m, m // (n_q // n_k)


# --- ex03 -----------------------------------------------------------------------------------------------------


def scores_of(q, k):
    return q @ np.repeat(k, q.shape[1] // k.shape[1], 1).swapaxes(-1, -2)


@wrong("ex03", "scale 1/√d_h is left out")
def no_scale(q, k, visible):
    return softmax(np.where(visible[:, None], scores_of(q, k), -1e30))


@wrong("ex03", "wrong axis, the queries")
def over_queries(q, k, visible):
    s = np.where(visible[:, None], scores_of(q, k) * q.shape[-1] ** -0.5, -np.inf)
    w = np.exp(s)
    return w / w.sum(-2, keepdims=True)


@wrong("ex03", "interleaved over the maps", "np.repeat")
def keys_tiled(q, k, visible):
    keys = np.concatenate([k] * (q.shape[1] // k.shape[1]), axis=1)
    s = np.einsum("bmqd,bmkd->bmqk", q, keys) * q.shape[-1] ** -0.5
    return softmax(np.where(visible[:, None], s, -1e30))


@wrong("ex03", "spread evenly", "sees nothing")
def minus_a_billion(q, k, visible):
    return softmax(np.where(visible[:, None], scores_of(q, k) * q.shape[-1] ** -0.5, -1e9))


@wrong("ex03", "0/0 = NaN", "sees nothing")
def blind_is_nan(q, k, visible):
    s = np.where(visible[:, None], scores_of(q, k) * q.shape[-1] ** -0.5, -np.inf)
    return softmax(s)


@wrong("ex03", "exp overflows", "thousands")
def no_shift(q, k, visible):
    w = np.exp(scores_of(q, k) * q.shape[-1] ** -0.5) * visible[:, None]
    return np.nan_to_num(w / w.sum(-1, keepdims=True)) if w.max() < np.inf else w / w.sum(-1, keepdims=True)


@wrong("ex03", "masked after the softmax")
def masked_late(q, k, visible):
    return np.where(visible[:, None], softmax(scores_of(q, k) * q.shape[-1] ** -0.5), 0)


@wrong("ex03", "The values are right, but map is float64 where the inputs are float32", "np.sqrt")
def widened(q, k, visible):
    s = np.where(visible[:, None], scores_of(q, k) / np.sqrt(q.shape[-1]), -np.inf)
    top = s.max(-1, keepdims=True)
    w = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = w.sum(-1, keepdims=True)
    return w / np.where(total == 0, 1, total)


# --- ex04 -----------------------------------------------------------------------------------------------------


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@wrong("ex04", "the gate's token is the key's")
def gated_before(a, v, x, w_g, b_g):
    batch, n_h, length, d_h = v.shape
    return a @ (v * sigmoid(x @ w_g + b_g).reshape(batch, length, n_h, d_h).transpose(0, 2, 1, 3))


@wrong("ex04", "mixes tokens and heads")
def reshaped_at_once(a, v, x, w_g, b_g):
    return a @ v * sigmoid(x @ w_g + b_g).reshape(v.shape)


@wrong("ex04", "bias b_G is left out")
def no_bias(a, v, x, w_g, b_g):
    batch, n_h, length, d_h = v.shape
    return a @ v * sigmoid(x @ w_g).reshape(batch, length, n_h, d_h).swapaxes(1, 2)


@wrong("ex04", "σ overflows", "thousands")
def overflowing_sigmoid(a, v, x, w_g, b_g):
    batch, n_h, length, d_h = v.shape
    e = np.exp(x @ w_g + b_g)
    return a @ v * (e / (e + 1)).reshape(batch, length, n_h, d_h).swapaxes(1, 2)


# --- ex05 -----------------------------------------------------------------------------------------------------


@wrong("ex05", "The values are right", "past values are decoded, as in Eq. 7")
def decoded_first(a, c, w_p, gate):
    values = np.repeat(c, a.shape[1] // c.shape[1], 1) @ w_p  # (B, n_q, N_k, width)
    return (a @ values).swapaxes(1, 2).reshape(gate.shape) * gate


@wrong("ex05", "latent heads are interleaved")
def latents_tiled(a, c, w_p, gate):
    z = a @ np.tile(c, (1, a.shape[1] // c.shape[1], 1, 1))
    return (z @ w_p).swapaxes(1, 2).reshape(gate.shape) * gate


@wrong("ex05", "swap the axes of maps and tokens first")
def not_swapped(a, c, w_p, gate):
    return (a @ np.repeat(c, a.shape[1] // c.shape[1], 1) @ w_p).reshape(gate.shape) * gate


@wrong("ex05", "gate is left out")
def no_gate(a, c, w_p, gate):
    return (a @ np.repeat(c, a.shape[1] // c.shape[1], 1) @ w_p).swapaxes(1, 2).reshape(gate.shape)


# --- ex06 -----------------------------------------------------------------------------------------------------


@wrong("ex06", "keys are counted twice")
def as_in_gqa(model, batch, tokens, itemsize):
    return 2 * model["n_k"] * model["d_h"] * model["layers"] * batch * tokens * itemsize


@wrong("ex06", "FlashAttention path", "192")
def padded_keys(model, batch, tokens, itemsize):
    width = model.get("d_l", model["d_h"])
    return (model["n_k"] + model.get("n_c", model["n_k"])) * width * model["layers"] * batch * tokens * itemsize


@wrong("ex06", "KeyError: 'n_c'", "line", 'model["n_c"]')
def latent_always(model, batch, tokens, itemsize):
    elements = model["n_k"] * model["d_h"] + model["n_c"] * model["d_l"]
    return elements * model["layers"] * batch * tokens * itemsize


@wrong("ex06", "one layer is counted")
def one_layer(model, batch, tokens, itemsize):
    values = model["n_c"] * model["d_l"] if "d_l" in model else model["n_k"] * model["d_h"]
    return (model["n_k"] * model["d_h"] + values) * batch * tokens * itemsize


# --- ex07 -----------------------------------------------------------------------------------------------------


def turn(x, positions):
    cos, sin = rope_angles(positions[:, None], x.shape[-1], dtype=x.dtype)
    return rope_forward(x, cos, sin)[0]


def step(q, k, c, held_k, held_c, pad, positions=None, shift=0, sees_padding=False, turn_c=False):
    held, new = held_k.shape[2], k.shape[2]
    if positions is None:
        positions = np.clip(held + np.arange(new)[None] - pad[:, None], 0, None)
    k = np.concatenate([held_k, turn(k, positions)], 2)
    c = np.concatenate([held_c, turn(c, positions) if turn_c else c], 2)
    j = np.arange(held + new)[None, None]
    seen = j <= (held + shift + np.arange(new))[None, :, None]
    if not sees_padding:
        seen = seen & (j >= pad[:, None, None])
    s = np.einsum("bmqd,bkd->bmqk", turn(q, positions), k[:, 0]) / q.shape[-1] ** 0.5
    s = np.where(seen[:, None], s, -np.inf)
    w = np.exp(s - np.nan_to_num(s.max(-1, keepdims=True), neginf=0))
    return w / np.maximum(w.sum(-1, keepdims=True), np.finfo(w.dtype).tiny) @ c, k, c


@wrong("ex07", "positions start at 0 in every step")
def positions_from_zero(q, k, c, held_k, held_c, pad):
    positions = np.zeros((len(pad), 1), int) + np.arange(k.shape[2])
    return step(q, k, c, held_k, held_c, pad, positions)


@wrong("ex07", "RoPE turns the latent C")
def latent_turned(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, turn_c=True)


@wrong("ex07", "does not see itself")
def only_the_past(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, shift=-1)


@wrong("ex07", "causal mask is missing")
def sees_later_tokens(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, shift=k.shape[2])


@wrong("ex07", "padding is visible", "2 slots of padding")
def padding_seen(q, k, c, held_k, held_c, pad):
    return step(q, k, c, held_k, held_c, pad, sees_padding=True)


@wrong("ex07", "padding counts as positions")
def padding_counted(q, k, c, held_k, held_c, pad):
    positions = np.zeros((len(pad), 1), int) + held_k.shape[2] + np.arange(k.shape[2])
    return step(q, k, c, held_k, held_c, pad, positions)


# --- ex08 -----------------------------------------------------------------------------------------------------


@wrong("ex08", "only the diagonal")
def like_sigmoid(d_map, map_):
    return (1 - map_) * map_ * d_map


@wrong("ex08", "wrong axis, the queries")
def summed_over_queries(d_map, map_):
    return map_ * (d_map - np.einsum("bmqk,bmqk->bmk", map_, d_map)[:, :, None])


@wrong("ex08", "wrong sign")
def negative(d_map, map_):
    return map_ * ((map_ * d_map).sum(-1, keepdims=True) - d_map)


# --- ex09 -----------------------------------------------------------------------------------------------------


def decoder(d_heads, z, w_p, a, copies, slope=lambda g: g * (1 - g), gate=True, residual="sum", total=True):
    (batch, n_q, length, d_l), width = z.shape, w_p.shape[2]
    g = sigmoid(a)
    u = np.einsum("bmnl,mlw->bnmw", z, w_p)
    if copies:
        u = u + np.tile(z, width // d_l).swapaxes(1, 2)
    d_u = (d_heads * (g if gate else 1)).reshape(batch, length, n_q, width)
    d_z = np.einsum("bnmw,mlw->bmnl", d_u, w_p)
    parts = d_u.reshape(batch, length, n_q, -1, d_l).swapaxes(1, 2) if copies else None
    if copies and residual == "sum":
        d_z = d_z + parts.sum(3)
    if copies and residual == "first":
        d_z = d_z + parts[:, :, :, 0]
    d_w = np.einsum("bmnl,bnmw->mlw" if total else "bmnl,bnmw->bmlw", z, d_u)
    return d_z, d_w, d_heads * u.reshape(a.shape) * slope(g)


@wrong("ex09", "gate is left out of the backward")
def ungated(d_heads, z, w_p, a, copies):
    return decoder(d_heads, z, w_p, a, copies, gate=False)


@wrong("ex09", "copies of Z pass no gradient", "with e=2 copies")
def no_residual(d_heads, z, w_p, a, copies):
    return decoder(d_heads, z, w_p, a, copies, residual="none")


@wrong("ex09", "only the first copy")
def first_slice(d_heads, z, w_p, a, copies):
    return decoder(d_heads, z, w_p, a, copies, residual="first")


@wrong("ex09", "not summed over the batch")
def weight_per_sequence(d_heads, z, w_p, a, copies):
    return decoder(d_heads, z, w_p, a, copies, total=False)


@wrong("ex09", "σ′ is left out of da")
def no_slope(d_heads, z, w_p, a, copies):
    return decoder(d_heads, z, w_p, a, copies, slope=lambda g: 1)


# --- ex10 -----------------------------------------------------------------------------------------------------


@wrong("ex10", "averaged")
def average(z1, lse1, z2, lse2):
    return (z1 + z2) / 2, np.logaddexp(lse1, lse2)


@wrong("ex10", "exp overflows", "lse near 1000")
def no_largest(z1, lse1, z2, lse2):
    a, b = np.exp(lse1)[..., None], np.exp(lse2)[..., None]
    return (a * z1 + b * z2) / (a + b), np.log(a + b)[..., 0]


@wrong("ex10", "−∞ − −∞", "saw nothing")
def blind_rows(z1, lse1, z2, lse2):
    share = np.exp(lse1 - np.logaddexp(lse1, lse2))[..., None]
    return share * z1 + (1 - share) * z2, np.logaddexp(lse1, lse2)


@wrong("ex10", "lse", "is the larger of the two")
def larger_lse(z1, lse1, z2, lse2):
    share = np.where(np.isneginf(lse1), 0, np.exp(lse1 - np.logaddexp(lse1, lse2)))[..., None]
    return share * z1 + (1 - share) * z2, np.maximum(lse1, lse2)


# --- ex11 -----------------------------------------------------------------------------------------------------


def tiled(q, k, v, tile, rescale=True, stop=None, first=None, start=-np.inf):
    n, keys = len(q), len(k)
    first = keys - n if first is None else first
    top, total, z = np.full((n, 1), start, q.dtype), np.zeros((n, 1), q.dtype), np.zeros((n, v.shape[1]), q.dtype)
    for j in range(0, keys if stop is None else stop(keys, tile), tile):
        s = q @ k[j : j + tile].T * q.shape[1] ** -0.5
        place = np.arange(j, min(j + tile, keys))
        s = np.where(place <= first + np.arange(n)[:, None], s, -np.inf)
        new = np.maximum(top, s.max(1, keepdims=True))
        safe = np.where(np.isneginf(new), 0, new)
        shrink, w = np.exp(top - safe), np.exp(s - safe)
        total = total * shrink + w.sum(1, keepdims=True)
        z = (z * shrink if rescale else z) + w @ v[j : j + tile]
        top = new
    return z / np.where(total > 0, total, 1), (top + np.log(total))[:, 0]


@wrong("ex11", "z is not multiplied by exp(old − new)")
def not_rescaled(q, k, v, tile):
    return tiled(q, k, v, tile, rescale=False)


@wrong("ex11", "after the last whole tile", "last tile has one key")
def whole_tiles(q, k, v, tile):
    return tiled(q, k, v, tile, stop=lambda keys, tile: keys // tile * tile)


@wrong("ex11", "aligned to the start")
def aligned_to_start(q, k, v, tile):
    return tiled(q, k, v, tile, first=0)


@wrong("ex11", "largest starts at 0", "−1000")
def largest_from_zero(q, k, v, tile):
    z, lse = tiled(q, k, v, tile, start=0.0)
    return z, lse


@wrong("ex11", "The values are right", "a whole map")
def whole_map(q, k, v, tile):
    seen = np.arange(len(k)) <= len(k) - len(q) + np.arange(len(q))[:, None]
    s = np.where(seen, q @ k.T * q.shape[1] ** -0.5, -np.inf)
    top = np.nan_to_num(s.max(1, keepdims=True), neginf=0)
    w = np.exp(s - top)
    total = w.sum(1, keepdims=True)
    return w @ v / np.where(total > 0, total, 1), (top + np.log(total))[:, 0]


# --- ex12: the simulator defines the names that the kernels use ------------------------------------------------

cuda = float32 = None
TILE = 4


def no_second_barrier(q, k, out, scale):
    tile_q = cuda.shared.array((TILE, TILE), float32)
    tile_k = cuda.shared.array((TILE, TILE), float32)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    i, j = cuda.blockIdx.y * TILE + y, cuda.blockIdx.x * TILE + x
    j_load = cuda.blockIdx.x * TILE + y
    total = float32(0)
    for start in range(0, q.shape[1], TILE):
        d = start + x
        tile_q[y, x] = q[i, d] if i < q.shape[0] and d < q.shape[1] else 0
        tile_k[y, x] = k[j_load, d] if j_load < k.shape[0] and d < q.shape[1] else 0
        cuda.syncthreads()
        for t in range(TILE):
            total += tile_q[y, t] * tile_k[x, t]
    if i < out.shape[0] and j < out.shape[1]:
        out[i, j] = total * scale


def no_tiles(q, k, out, scale):
    j, i = cuda.grid(2)
    if i < out.shape[0] and j < out.shape[1]:
        total = float32(0)
        for d in range(q.shape[1]):
            total += q[i, d] * k[j, d]
        out[i, j] = total * scale


def early_return(q, k, out, scale):
    tile_q = cuda.shared.array((TILE, TILE), float32)
    tile_k = cuda.shared.array((TILE, TILE), float32)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    i, j0 = cuda.blockIdx.y * TILE + y, cuda.blockIdx.x * TILE
    if i >= q.shape[0]:
        return
    total = float32(0)
    for start in range(0, q.shape[1], TILE):
        d = start + x
        tile_q[y, x] = q[i, d] if d < q.shape[1] else 0
        tile_k[y, x] = k[j0 + y, d] if j0 + y < k.shape[0] and d < q.shape[1] else 0
        cuda.syncthreads()
        for t in range(TILE):
            total += tile_q[y, t] * tile_k[x, t]
        cuda.syncthreads()
    if j0 + x < out.shape[1]:
        out[i, j0 + x] = total * scale


@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
@pytest.mark.parametrize(
    "kernel, words",
    [
        (no_second_barrier, ("A race", "cuda.syncthreads() is missing", "three tiles along d")),
        (no_tiles, ("reads 128 elements", "32 are enough", "no shared array")),
        (early_return, ("one thread passes 4 barriers and another 0",)),
    ],
)
def test_kernel(kernel, words):
    verdict = check("ex12", kernel)
    assert not verdict.passed
    for word in words:
        assert word in verdict.hint, verdict
