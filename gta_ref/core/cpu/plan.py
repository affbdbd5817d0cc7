"""How the work of one call is cut into items, and which worker does which.

Maps that read the same key head and the same value head form a block. A query tile holds the rows of all maps of a
block, position by position. Both products of a tile are then plain matrix products with (positions · maps) rows, and
the rows that see a key are the last ones of a tile.

An item is one query tile with all the keys that it may see or, if there are few queries, with a chunk of these keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array

ROWS = 480  # most rows per tile: with their scores they fit into a core's second-level cache
WIDEST = 2**22  # most numbers of Q and O per tile; only heads with a width of thousands reach it
KEYS = 128  # keys per tile of the forward, a multiple of lanes.ROWS: Sᵀ of a panel fits into the first-level cache
FEW = 12  # most rows per tile for which rows stay rows; see decode.py
CHUNK = 2048  # keys per item if one query tile holds all queries
UNITS_A_WORKER = 4  # units per worker (see share_units) from which each unit is given to one worker

# columns of an item
BATCH, MAP, Q_FIRST, Q_STOP, K_FIRST, K_STOP, SLOT = range(7)


class Sizes(NamedTuple):
    """The sizes of a call's blocks and tiles."""

    maps: int  # per block
    maps_per_k: int  # maps that share a key head
    maps_per_v: int  # maps that share a value head
    rows: int  # most rows per tile


@dataclass(frozen=True, eq=False)
class Plan:
    """The items of a call, and the sizes of its tiles. Layers share a plan, so its arrays must not be changed."""

    items: np.ndarray  # (n, 7) int64: one per query tile, with all its keys
    pieces: np.ndarray  # the same, with the keys cut into chunks if queries are few; for the forward only
    slots: int  # number of partial results that have to be merged; 0 if every piece finishes its rows
    merges: np.ndarray  # (m, 6) int64, one per merge: batch, map, q_first, q_stop, first slot, last slot + 1
    sizes: Sizes
    q_start: np.ndarray  # (B,) int64
    cost: int  # sum of the costs of all items
    _dealt: dict[int, list[np.ndarray]] = field(default_factory=dict)

    def pieces_of(self, workers: int) -> list[np.ndarray]:
        """For each worker, the indices of the pieces that it computes in a forward.

        Prepared calls keep their addresses, so the first arrays stay when two threads make some at the same time.
        """
        if workers not in self._dealt:
            self._dealt.setdefault(workers, share(costs(self.pieces), workers))
        return self._dealt[workers]


def plan(q: Array, k: Array, v: Array, mask: Mask) -> Plan:
    """Cut a call into items. The plans of the last 16 different calls are remembered."""
    most = ROWS // 2 if q.dtype.itemsize == 8 else ROWS
    most = min(most, max(FEW, WIDEST // (q.shape[3] + v.shape[3])))
    bounds = (b.tobytes() if isinstance(b, np.ndarray) else b for b in (mask.q_start, mask.k_start, mask.k_stop))
    return _plan(q.shape[:3], k.shape[1:3], v.shape[1], most, mask.causal, *bounds)


@lru_cache(maxsize=16)
def _plan(
    queries: tuple[int, ...], keys: tuple[int, ...], n_v: int, most: int, causal: bool, *bounds: bytes | int | None
) -> Plan:
    (batch, n_q, n_queries), (n_k, n_keys) = queries, keys
    mask = Mask(causal, *(np.frombuffer(b, np.int64) if isinstance(b, bytes) else b for b in bounds))
    q_start, k_start, k_stop = mask.resolve(batch, n_queries, n_keys)
    maps_per_k, maps_per_v = n_q // n_k, n_q // n_v
    maps = math.gcd(maps_per_k, maps_per_v)
    step = min(max(1, most // maps), max(1, n_queries))
    grid = (np.arange(batch), np.arange(0, n_q, maps), np.arange(0, n_queries, step))
    b, m, first = (x.ravel() for x in np.meshgrid(*grid, indexing="ij"))
    stop = np.minimum(first + step, n_queries)
    k_first, k_last = k_start[b], k_stop[b]
    if causal:
        k_last = np.minimum(k_last, q_start[b] + stop)
    else:
        # the kernels let each row see the keys up to its position, so without causality all positions are past the keys
        q_start = np.full(batch, n_keys)
    columns = [b, m, first, stop, k_first, np.maximum(k_last, k_first), np.full_like(b, -1)]
    items = np.stack(columns, axis=1).astype(np.int64, copy=False)
    pieces, slots = _chunked(items) if n_queries <= step else (items, 0)
    sizes = Sizes(maps, maps_per_k, maps_per_v, step * maps)
    cost = int(costs(items).sum())
    return Plan(items, pieces, slots, _merges(pieces), sizes, np.ascontiguousarray(q_start, np.int64), cost)


def _chunked(items: np.ndarray) -> tuple[np.ndarray, int]:
    """Cut the keys of every item into chunks. If an item has several chunks, each gets a slot, in order of the keys."""
    length = items[:, K_STOP] - items[:, K_FIRST]
    chunks = np.maximum(1, -(-length // CHUNK))
    if (chunks == 1).all():
        return items, 0
    owner = np.repeat(np.arange(len(items)), chunks)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    cut = items[owner]
    cut[:, K_FIRST] += number * CHUNK
    cut[:, K_STOP] = np.minimum(cut[:, K_FIRST] + CHUNK, cut[:, K_STOP])
    partial = chunks[owner] > 1
    cut[partial, SLOT] = np.arange(partial.sum())
    return cut, int(partial.sum())


def costs(items: np.ndarray) -> np.ndarray:
    """The cost of each item: its pairs of query and key, plus a small amount per query."""
    pairs: np.ndarray = (items[:, Q_STOP] - items[:, Q_FIRST]) * (items[:, K_STOP] - items[:, K_FIRST] + 16)
    return pairs


def share(cost: np.ndarray, workers: int) -> list[np.ndarray]:
    """Distribute items among workers, most expensive first, in serpentine order; one list of indices per worker."""
    order = np.argsort(-cost, kind="stable")
    turn, place = np.divmod(np.arange(len(order)), workers)
    dealt = np.where(turn % 2 == 0, place, workers - 1 - place)
    return [order[dealt == w] for w in range(workers)]


def share_units(cut: Plan, workers: int) -> list[np.ndarray] | None:
    """Distribute items so that no two workers add to the same dk or dv; None if there are too few units for that.

    A unit is a sequence with the maps that have a key or a value head in common.
    """
    maps = math.lcm(cut.sizes.maps_per_k, cut.sizes.maps_per_v)
    if workers == 1:
        return [np.arange(len(cut.items))]
    # items are in the order of their units
    starts = np.any(np.diff(cut.items[:, (BATCH, MAP)] // (1, maps), axis=0) != 0, axis=1)
    unit = np.concatenate([[0], np.cumsum(starts)])
    if unit[-1] + 1 < UNITS_A_WORKER * workers:
        return None
    mine = share(np.bincount(unit, costs(cut.items)), workers)
    return [np.flatnonzero(np.isin(unit, units)) for units in mine]


def _merges(items: np.ndarray) -> np.ndarray:
    """The table of merges; see Plan."""
    partial = items[items[:, SLOT] >= 0]
    first = np.flatnonzero(np.any(np.diff(partial[:, [BATCH, MAP]], axis=0, prepend=-1) != 0, axis=1))
    last = np.append(first, len(partial))[1:]
    found = np.column_stack([partial[first][:, [BATCH, MAP, Q_FIRST, Q_STOP]], first, last])
    return np.ascontiguousarray(found, dtype=np.int64)
