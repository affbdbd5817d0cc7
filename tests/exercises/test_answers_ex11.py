"""Exercise 11: answers that a student may write, right ones in several styles and wrong ones, and what is said to each."""

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import scipy.special

from tests.exercises.answers import Answers

# imported here, so that a check does not import it in every process
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
ANSWERS = Answers("ex11")


def tiled(
    q, k, v, tile, *, scale=lambda d: d**-0.5, first=lambda n, keys: keys - n, start=-np.inf, total_shrinks=True,
    z_shrinks=True, power=1, late=False, stop=lambda keys, tile: keys, local=False, keep=True, every=False, end=True,
    lse=lambda top, total: top + np.log(total), care=True, tiles=lambda starts: starts,
):  # fmt: skip
    """The online softmax, with a wrong step where a test names one."""
    n, keys = len(q), len(k)
    top, total, z = np.full((n, 1), start, q.dtype), np.zeros((n, 1), q.dtype), np.zeros((n, v.shape[1]), q.dtype)
    for j in tiles(range(0, stop(keys, tile), tile)):
        s = q @ k[j : j + tile].T * scale(q.shape[1])
        place = np.arange(j, min(j + tile, keys)) - (j if local else 0)
        s = np.where(place <= first(n, keys) + np.arange(n)[:, None], s, -np.inf)
        new = s.max(1, keepdims=True)
        new = np.maximum(top, new) if keep else new
        safe = np.where(np.isneginf(new), 0, new) if care else new
        shrink, w = np.exp(power * (top - safe)), np.exp(s - safe)
        if late:
            total, z = (total + w.sum(1, keepdims=True)) * shrink, (z + w @ v[j : j + tile]) * shrink
        else:
            total = (total * shrink if total_shrinks else total) + w.sum(1, keepdims=True)
            z = (z * shrink if z_shrinks else z) + w @ v[j : j + tile]
        z = z / np.where(total > 0, total, 1) if every else z
        top = new
    return (z / (np.where(total > 0, total, 1) if care else total) if end else z), lse(top, total)[:, 0]


def by(**step):
    return lambda q, k, v, tile: tiled(q, k, v, tile, **step)


def by_query(q, k, v, tile):
    """A loop over queries and tiles, with numbers in place of columns; keys that are not seen are not read."""
    z, lse = np.zeros((len(q), v.shape[1]), q.dtype), np.full(len(q), -np.inf, q.dtype)
    for i in range(len(q)):
        stop = len(k) - len(q) + i + 1
        top, total, sums = -math.inf, 0.0, np.zeros(v.shape[1])
        for j in range(0, max(stop, 0), tile):
            s = k[j : min(j + tile, stop)] @ q[i] * q.shape[1] ** -0.5
            new = max(top, float(s.max()))
            w = np.exp(s - new)
            total = total * math.exp(top - new) + float(w.sum())
            sums = sums * math.exp(top - new) + w @ v[j : min(j + tile, stop)]
            top = new
        if total:
            z[i], lse[i] = sums / total, top + math.log(total)
    return z, lse


def by_lse(q, k, v, tile):
    """Each tile gives its own z and lse, which are merged as in exercise 10."""
    n, keys = len(q), len(k)
    z, lse = np.zeros((n, v.shape[1]), q.dtype), np.full(n, -np.inf, q.dtype)
    for j in range(0, keys, tile):
        place = np.arange(j, min(j + tile, keys))
        s = np.where(place <= (keys - n + np.arange(n))[:, None], q @ k[place].T / q.shape[1] ** 0.5, -np.inf)
        one = scipy.special.logsumexp(s, 1)
        both = np.logaddexp(lse, one)
        safe = np.where(np.isneginf(both), 0, both)
        z = np.exp(lse - safe)[:, None] * z + np.exp(s - safe[:, None]) @ v[place]
        lse = both
    return z, lse


def with_torch(q, k, v, tile):
    q, k, v = (torch.tensor(x) for x in (q, k, v))
    n, keys = len(q), len(k)
    top, total, z = (
        torch.full((n,), -math.inf, dtype=q.dtype),
        torch.zeros(n, dtype=q.dtype),
        q.new_zeros(n, v.shape[1]),
    )
    for part, (one_k, one_v) in enumerate(zip(k.split(tile), v.split(tile), strict=True)):
        seen = part * tile + torch.arange(len(one_k)) <= keys - n + torch.arange(n)[:, None]
        s = (q @ one_k.T / math.sqrt(q.shape[1])).masked_fill(~seen, -math.inf)
        new = torch.maximum(top, s.amax(1))
        safe = torch.where(torch.isinf(new), 0, new)
        total = (top - safe).exp() * total + (s - safe[:, None]).exp().sum(1)
        z = (top - safe).exp()[:, None] * z + (s - safe[:, None]).exp() @ one_v
        top = new
    z = torch.where(total[:, None] > 0, z / total[:, None], 0)
    return z.numpy(), (top + total.log()).numpy()


def scaled_first(q, k, v, tile):
    """Keys are scaled and padded to whole tiles beforehand; finite numbers stand for −∞."""
    n, keys = len(q), len(k)
    whole = -(-keys // tile) * tile
    k, v = (np.concatenate([x, np.zeros((whole - keys, x.shape[1]), x.dtype)]) for x in (k * q.shape[1] ** -0.5, v))
    last = keys - n + np.arange(n)
    low = q.dtype.type(-1e30)
    top, total, z = np.full(n, low), np.zeros(n, q.dtype), np.zeros((n, v.shape[1]), q.dtype)
    for j in range(0, whole, tile):
        seen = np.arange(j, j + tile) <= last[:, None]
        s = np.where(seen, np.einsum("id,jd->ij", q, k[j : j + tile]), low)
        new = np.maximum(top, s.max(1))
        w = np.exp(s - new[:, None]) * seen
        shrink = np.exp(top - new)
        total, z, top = total * shrink + w.sum(1), z * shrink[:, None] + np.einsum("ij,jd->id", w, v[j : j + tile]), new
    blind = total == 0
    return z / np.where(blind, 1, total)[:, None], np.where(blind, -np.inf, top + np.log(total + blind)).astype(q.dtype)


def backwards(q, k, v, tile):
    """The tiles in the other order."""
    return tiled(q, k, v, tile, tiles=lambda starts: starts[::-1])


@pytest.mark.parametrize("answer", [by(), by_query, by_lse, with_torch, scaled_first, backwards])
def test_right(answer):
    if torch is None and answer is with_torch:
        pytest.skip("PyTorch is not installed")
    ANSWERS.accepted(answer)


def whole_map(q, k, v, tile):
    seen = np.arange(len(k)) <= len(k) - len(q) + np.arange(len(q))[:, None]
    s = np.where(seen, q @ k.T * q.shape[1] ** -0.5, -np.inf)
    top = np.nan_to_num(s.max(1, keepdims=True), neginf=0)
    w = np.exp(s - top)
    total = w.sum(1, keepdims=True)
    return w @ v / np.where(total > 0, total, 1), (top + np.log(total))[:, 0]


def whole_map_in_torch(q, k, v, tile):
    q, k, v = (torch.tensor(x) for x in (q, k, v))
    seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
    s = (q @ k.T * q.shape[1] ** -0.5).masked_fill(~seen, -math.inf)
    return torch.nan_to_num(torch.softmax(s, 1)).matmul(v).numpy(), torch.logsumexp(s, 1).numpy()


def whole_mask(q, k, v, tile):
    seen = np.arange(len(k)) <= len(k) - len(q) + np.arange(len(q))[:, None]
    z, lse = tiled(q, k, v, tile)
    return z, np.where(seen.any(1), lse, -np.inf).astype(q.dtype)


def row_by_row(q, k, v, tile):
    z, lse = np.zeros((len(q), v.shape[1]), q.dtype), np.full(len(q), -np.inf, q.dtype)
    for i in range(len(q)):
        stop = len(k) - len(q) + i + 1
        if stop > 0:
            s = k[:stop] @ q[i] * q.shape[1] ** -0.5
            w = np.exp(s - s.max())
            z[i], lse[i] = w @ v[:stop] / w.sum(), s.max() + np.log(w.sum())
    return z, lse


def apart(q, k, v, tile):
    parts = [tiled(q, k, v, tile, tiles=lambda starts, j=j: [j])[0] for j in range(0, len(k), tile)]
    return sum(parts) / len(parts), tiled(q, k, v, tile)[1]


WRONG: dict[str, tuple[Any, tuple[str, ...]]] = {
    "whole map": (whole_map, ("The values are right", "an array of all queries and keys")),
    "whole map in torch": (whole_map_in_torch, ("The values are right", "an array of all queries and keys")),
    "whole mask": (whole_mask, ("The values are right", "a map or its mask")),
    "row by row": (row_by_row, ("The values are right", "the size of the tile has no effect")),
    "z not rescaled": (by(z_shrinks=False), ("z is not multiplied by exp(old − new)",)),
    "sum not rescaled": (by(total_shrinks=False), ("the sum is not multiplied by exp(old − new)",)),
    "neither": (by(z_shrinks=False, total_shrinks=False), ("neither sum nor z",)),
    "exp(new − old)": (by(power=-1), ("it should be exp(old − new)",)),
    "rescaled late": (by(late=True), ("after the tile is added",)),
    "whole tiles": (by(stop=lambda keys, tile: keys // tile * tile), ("after the last whole tile", "one key")),
    "first tile": (by(tiles=lambda starts: starts[:1]), ("only the first tile is used",)),
    "aligned to the start": (by(first=lambda n, keys: 0), ("aligned to the start",)),
    "no mask": (by(first=lambda n, keys: keys), ("the causal mask is missing",)),
    "strict mask": (by(first=lambda n, keys: keys - n - 1), ("does not see its own key",)),
    "local mask": (by(local=True), ("compares a key's place in its tile",)),
    "no scale": (by(scale=lambda d: 1), ("the scale 1/√d is left out",)),
    "1/d": (by(scale=lambda d: 1 / d), ("divided by d instead of √d",)),
    "replaced maximum": (by(keep=False), ("maximum replaces the running one",)),
    "starts at 0": (by(start=0.0), ("largest starts at 0", "−1000")),
    "not divided": (by(end=False), ("z is not divided by the sum",)),
    "divided every time": (by(every=True), ("in every tile and at the end",)),
    "divided in every tile": (by(every=True, end=False), ("z is divided by the sum in every tile; divide once",)),
    "no care for blind rows": (by(care=False), ("−∞ − −∞",)),
    "log of the sum": (by(lse=lambda top, total: np.log(total)), ("logarithm of the sum alone",)),
    "largest": (by(lse=lambda top, total: top), ("log(sum) is missing",)),
    "base 2": (by(lse=lambda top, total: top + np.log2(total)), ("lse is in powers of 2",)),
    "mean of the tiles": (apart, ("own results are averaged",)),
    "z alone": (lambda q, k, v, tile: tiled(q, k, v, tile)[0], ("expected 2 arrays, z, lse",)),
    "lse as a column": (
        lambda q, k, v, tile: (tiled(q, k, v, tile)[0], tiled(q, k, v, tile)[1][:, None]), ("lse has shape (5, 1)",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name):
    if torch is None and "torch" in name:
        pytest.skip("PyTorch is not installed")
    ANSWERS.refused(*WRONG[name])
