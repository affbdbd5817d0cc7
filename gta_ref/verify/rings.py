"""Ring attention in one process, in steps that can be replaced, and wrong rings: this one with a step replaced.

R ranks are simulated one after the other, in float64. :mod:`gta_ref.verify.shards` compares a wrong result with the
results of the wrong rings to name its cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from gta_ref.core import Mask
from gta_ref.distributed.shards import Shards

Pair = tuple[np.ndarray, np.ndarray]


class SimulatedRing:
    """Ring attention over all ranks, one after the other; every method is a step.

    Parameters
    ----------
    arrays : mapping of str to array
        q, k, v, d_z and, where there is one, d_lse, of the whole sequences.
    shards : Shards
    mask : Mask
    scale : float
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], shards: Shards, mask: Mask, scale: float) -> None:
        q, k, v = (np.asarray(arrays[name], np.float64) for name in "qkv")
        self.shards, self.scale, self.causal, self.ranks = shards, scale, mask.causal, shards.ranks
        self.bounds = mask.resolve(q.shape[0], shards.length, shards.length)
        slot, (_, k_start, k_stop) = np.arange(shards.length), self.bounds
        used = (slot >= k_start[:, None]) & (slot < k_stop[:, None])
        k, v = (np.where(used[:, None, :, None], x, 0.0) for x in (k, v))  # unused slots may hold NaN
        self.heads = {"d_k": k.shape[1], "d_v": v.shape[1]}
        k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))  # a head for each map
        d_z = np.asarray(arrays["d_z"], np.float64)
        d_lse = np.asarray(arrays.get("d_lse", np.zeros(q.shape[:3])), np.float64)
        cut = {"q": q, "k": k, "v": v, "d_z": d_z, "d_lse": d_lse}
        self.of = [{name: shards.cut(x, rank, 2) for name, x in cut.items()} for rank in range(self.ranks)]

    def run(self) -> list[dict[str, np.ndarray]]:
        """z, lse, d_q, d_k and d_v of every rank."""
        results = [dict(zip(("z", "lse"), self.forward(rank), strict=True)) for rank in range(self.ranks)]
        parts: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        for rank, found in enumerate(results):
            d_q = np.zeros_like(self.of[rank]["q"])
            for step in range(self.ranks):
                owner = self.owner(rank, step)
                parts[rank, owner] = self.backward(rank, owner, found["z"], found["lse"])
                d_q = self.add_d_q(d_q, parts[rank, owner]["d_q"], step)
            found["d_q"] = d_q
        for owner, found in enumerate(results):
            for name, heads in self.heads.items():
                total = self.home(name, owner, parts)
                found[name] = total.reshape(total.shape[0], heads, -1, *total.shape[2:]).sum(2)
        return results

    def steps(self, rank: int) -> list[int]:
        """The steps in which a rank computes."""
        return list(range(self.ranks))

    def owner(self, rank: int, step: int) -> int:
        """Whose keys a rank holds in a step."""
        return (rank - step) % self.ranks

    def tokens(self, rank: int) -> np.ndarray:
        """The numbers of a rank's tokens."""
        return self.shards.tokens(rank)

    def visible(self, rank: int, owner: int) -> np.ndarray:
        """Which keys of `owner` the queries of `rank` see, (B, 1, local, local)."""
        return self.seen(self.tokens(rank), self.tokens(owner))

    def seen(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Which keys of these numbers the queries of those numbers see."""
        q_start, k_start, k_stop = (x[:, None, None] for x in self.bounds)
        seen = (k_start <= keys) & (keys < k_stop) & (queries[:, None] >= 0)
        if self.causal:
            seen = seen & (keys <= q_start + queries[:, None])
        return seen[:, None]

    def values(self, owner: int) -> np.ndarray:
        """The values that come with the keys of `owner`."""
        return self.of[owner]["v"]

    def scores(self, rank: int, owner: int) -> np.ndarray:
        """The scaled scores; −inf where nothing is seen."""
        s = self.scale * self.of[rank]["q"] @ self.of[owner]["k"].swapaxes(-1, -2)
        return np.where(self.visible(rank, owner), s, -np.inf)

    def softmax(self, s: np.ndarray) -> Pair:
        """The weights and lse of one step's scores."""
        top = s.max(-1, keepdims=True)
        weights = np.exp(s - np.where(np.isneginf(top), 0.0, top))
        total = weights.sum(-1, keepdims=True)
        with np.errstate(divide="ignore"):
            return weights / np.where(total > 0, total, 1), (top + np.log(total))[..., 0]

    def part(self, rank: int, owner: int) -> Pair:
        """z and lse over the keys of one owner."""
        p, lse = self.softmax(self.scores(rank, owner))
        return p @ self.values(owner), lse

    def forward(self, rank: int) -> Pair:
        """z and lse over all keys."""
        parts = [self.part(rank, self.owner(rank, step)) for step in self.steps(rank)]
        z, lse = (np.stack([part[i] for part in parts]) for i in (0, 1))
        return self.merge(z, lse)

    def merge(self, z: np.ndarray, lse: np.ndarray) -> Pair:
        """z and lse of the steps, merged."""
        total = np.logaddexp.reduce(lse, axis=0)
        weights = np.exp(lse - np.where(np.isneginf(total), 0.0, total))
        return (weights[..., None] * z).sum(0), total

    def weights(self, s: np.ndarray, lse: np.ndarray) -> np.ndarray:
        """The weights of one step's keys in the backward, which lse of all keys gives."""
        found: np.ndarray = np.exp(s - np.where(np.isneginf(lse), 0.0, lse)[..., None])
        return found

    def delta(self, rank: int, owner: int, z: np.ndarray) -> np.ndarray:
        """The row sum in the derivative of softmax."""
        row: np.ndarray = (self.of[rank]["d_z"] * z).sum(-1) - self.of[rank]["d_lse"]
        return row

    def backward(self, rank: int, owner: int, z: np.ndarray, lse: np.ndarray) -> dict[str, np.ndarray]:
        """d_q, d_k and d_v by the queries of `rank` and the keys of `owner`."""
        q, k, d_z = self.of[rank]["q"], self.of[owner]["k"], self.of[rank]["d_z"]
        p = self.weights(self.scores(rank, owner), lse)
        d_p = d_z @ self.values(owner).swapaxes(-1, -2)
        d_s = self.scale * p * (d_p - self.delta(rank, owner, z)[..., None])
        return {"d_q": d_s @ k, "d_k": d_s.swapaxes(-1, -2) @ q, "d_v": p.swapaxes(-1, -2) @ d_z}

    def add_d_q(self, total: np.ndarray, more: np.ndarray, step: int) -> np.ndarray:
        """d_q after one more step."""
        found: np.ndarray = total + more
        return found

    def home(self, name: str, owner: int, parts: Mapping[tuple[int, int], dict[str, np.ndarray]]) -> np.ndarray:
        """d_k or d_v as it is when it is back at its owner."""
        total: np.ndarray = np.sum([parts[rank, owner][name] for rank in range(self.ranks)], axis=0)
        return total


def _own_slots(self: SimulatedRing, rank: int, owner: int) -> np.ndarray:
    """A rank compares the places of queries and keys in their shards."""
    here = np.arange(self.shards.local)
    return self.seen(here, here)


def _bounds_in_each_shard(self: SimulatedRing, rank: int, owner: int) -> np.ndarray:
    """k_start and k_stop count from the first key of each shard."""
    keys = np.arange(self.shards.local)
    _, k_start, k_stop = (x[:, None, None, None] for x in self.bounds)
    whole = SimulatedRing.seen(self, self.tokens(rank), self.tokens(owner))
    whole = whole if self.causal else np.ones_like(whole)
    seen: np.ndarray = whole & (k_start <= keys) & (keys < k_stop)
    return seen


def _others_whole(self: SimulatedRing, rank: int, owner: int) -> np.ndarray:
    """Keys of another rank are all visible, except padding."""
    here, there = self.tokens(rank), self.tokens(owner)
    return self.seen(here if rank == owner else np.full_like(here, 2 * self.shards.length), there)


def _contiguous(self: SimulatedRing, rank: int) -> np.ndarray:
    return Shards(self.shards.length, self.ranks, "contiguous").tokens(rank)


def _skip_later_ranks(self: SimulatedRing, rank: int, owner: int) -> np.ndarray:
    return SimulatedRing.visible(self, rank, owner) & ((owner <= rank) | (not self.causal))


def _overflowing(self: SimulatedRing, z: np.ndarray, lse: np.ndarray) -> Pair:
    with np.errstate(all="ignore"):
        weights = np.exp(lse.astype(np.float32))
        total = weights.sum(0)
        return (weights[..., None] * z).sum(0) / total[..., None], np.log(total)


def _without_maximum(self: SimulatedRing, s: np.ndarray) -> Pair:
    """softmax of a row that sees nothing: −inf − (−inf)."""
    with np.errstate(all="ignore"):
        weights = np.exp(s - s.max(-1, keepdims=True))
        total = weights.sum(-1, keepdims=True)
        return weights / total, (s.max(-1, keepdims=True) + np.log(total))[..., 0]


def _homes(*names: str, choose: Callable[..., list[tuple[int, int]]]) -> Callable[..., np.ndarray]:
    """Of the gradients named, only some pairs of a rank and an owner are added up."""

    def home(
        self: SimulatedRing, name: str, owner: int, parts: Mapping[tuple[int, int], dict[str, np.ndarray]]
    ) -> np.ndarray:
        if name not in names:
            return SimulatedRing.home(self, name, owner, parts)
        total: np.ndarray = np.sum([parts[pair][name] for pair in choose(self.ranks, owner)], axis=0)
        return total

    return home


def _own(ranks: int, owner: int) -> list[tuple[int, int]]:
    return [(owner, owner)]


# what is wrong → the steps that are replaced
WRONG: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "results of the steps averaged instead of weighted by their lse": {
        "merge": lambda self, z, lse: (z.mean(0), np.logaddexp.reduce(lse, axis=0))
    },
    "results of the steps added without weights": {
        "merge": lambda self, z, lse: (z.sum(0), np.logaddexp.reduce(lse, axis=0))
    },
    "result of the last step instead of all": {"merge": lambda self, z, lse: (z[-1], lse[-1])},
    "lse of the last step kept": {"merge": lambda self, z, lse: (SimulatedRing.merge(self, z, lse)[0], lse[-1])},
    "largest lse of the steps instead of their sum": {
        "merge": lambda self, z, lse: (SimulatedRing.merge(self, z, lse)[0], lse.max(0))
    },
    "exp(lse) taken without subtracting the maximum": {"merge": _overflowing},
    "NaN from a row that sees nothing in a step": {"softmax": _without_maximum},
    "no exchange: each rank sees its own keys only": {"steps": lambda self, rank: [0]},
    "the last step left out": {"steps": lambda self, rank: list(range(max(self.ranks - 1, 1)))},
    "positions counted from the start of each shard": {"visible": _own_slots},
    "k_start and k_stop counted from the start of each shard": {"visible": _bounds_in_each_shard},
    "the causal mask applied to a rank's own keys only": {"visible": _others_whole},
    "positions of contiguous shards for a zigzag layout": {"tokens": _contiguous},
    "keys of later ranks skipped although the layout is zigzag": {"visible": _skip_later_ranks},
    "the mask of a ring that turns the other way": {
        "visible": lambda self, rank, owner: SimulatedRing.visible(self, rank, (2 * rank - owner) % self.ranks)
    },
    "values of the rank before that of the keys": {
        "values": lambda self, owner: self.of[(owner - 1) % self.ranks]["v"]
    },
    "lse of each step instead of all keys in the backward": {
        "weights": lambda self, s, lse: self.softmax(s)[0]
    },
    "row sum dz · z with z of each step": {
        "delta": lambda self, rank, owner, z: SimulatedRing.delta(self, rank, owner, self.part(rank, owner)[0])
    },
    "gradient of lse left out": {
        "delta": lambda self, rank, owner, z: (self.of[rank]["d_z"] * z).sum(-1)
    },
    "d_q overwritten in each step": {"add_d_q": lambda self, total, more, step: more},
    "d_q by a rank's own keys only": {"add_d_q": lambda self, total, more, step: total if step else more},
    "d_k and d_v dropped on their way back: only the owner's part remains": {
        "home": _homes("d_k", "d_v", choose=_own)
    },
    "d_k dropped on its way back": {"home": _homes("d_k", choose=_own)},
    "d_v dropped on its way back": {"home": _homes("d_v", choose=_own)},
    "the last rank's part of d_k and d_v left out": {
        "home": _homes("d_k", "d_v", choose=lambda n, owner: [((owner + i) % n, owner) for i in range(max(n - 1, 1))])
    },
    "d_k and d_v handed to the next rank": {
        "home": _homes("d_k", "d_v", choose=lambda n, owner: [(rank, (owner - 1) % n) for rank in range(n)])
    },
})  # fmt: skip


def wrong(cause: str) -> type[SimulatedRing]:
    """The wrong ring of a cause in `WRONG`."""
    return type("WrongRing", (SimulatedRing,), dict(WRONG[cause]))
