"""How the work of one call is cut into tiles, and which worker does which.

Maps that read the same key head and the same value head form a block: a query tile takes the rows of all
maps of a block, position by position, so that both products of a tile are plain matrix products with
(positions · maps) rows, and the rows that see a key are the last ones of a tile.

An item is one query tile with the keys that it may see; where there are few queries, with a chunk of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array

ROWS = 480  # rows of a tile: together with its scores they fit a core's second-level cache
WIDEST = 2**22  # numbers of Q and O in a tile, which only heads of thousands reach
KEYS = 128  # keys of a tile, whole steps of tile.LINE
DIAGONAL = 64  # keys of a tile that not all of its rows see: what is computed for nothing is half of it
FEW = 12  # rows up to which the products are done without BLAS
CHUNK = 2048  # keys of an item where one query tile has all queries
UNITS_A_WORKER = 4  # sequences and heads that make it worth giving them out whole

# columns of an item
BATCH, MAP, Q_FIRST, Q_STOP, K_FIRST, K_STOP, SLOT = range(7)


class Sizes(NamedTuple):
    """Everything about a call that is a number, in the order in which the kernels take it."""

    maps: int  # of a block
    maps_per_k: int
    maps_per_v: int
    rows: int  # most of a tile
    keys: int  # most of a tile
    diagonal: int
    few: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The items of a call, and the tile sizes. Layers of a model share it, so its arrays are not to be written."""

    items: np.ndarray  # (n, 7) int64; whole: one a query tile
    pieces: np.ndarray  # the same, cut by keys where the queries are few; only the forward can use them
    slots: int  # partial results that the pieces leave to be merged; 0 where every piece finishes its rows
    merges: np.ndarray  # (m, 6) int64, what to merge: batch, map, q_first, q_stop, first slot, last slot + 1
    sizes: Sizes
    q_start: np.ndarray  # (B,) int64
    cost: int  # of all items
    _dealt: dict = field(default_factory=dict)

    def pieces_of(self, workers: int) -> list[np.ndarray]:
        """Indices of the pieces that each worker does in a forward."""
        if workers not in self._dealt:
            self._dealt[workers] = share(costs(self.pieces), workers)
        return self._dealt[workers]


def plan(q: Array, k: Array, v: Array, mask: Mask) -> Plan:
    """Cut a call into items; a call like one of the last is cut already."""
    # the same tiles forwards and backwards: BLAS adds in another order in tiles of another size, and with huge
    # scores the backward's map would no longer be the forward's
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
        # the kernels let each row see the keys up to its own position: without causality that is behind all keys
        q_start = np.full(batch, n_keys)
    columns = [b, m, first, stop, k_first, np.maximum(k_last, k_first), np.full_like(b, -1)]
    items = np.stack(columns, axis=1).astype(np.int64, copy=False)
    pieces, slots = _chunked(items) if n_queries <= step else (items, 0)
    sizes = Sizes(maps, maps_per_k, maps_per_v, step * maps, KEYS, DIAGONAL, FEW)
    cost = int(costs(items).sum())
    return Plan(items, pieces, slots, _merges(pieces), sizes, np.ascontiguousarray(q_start, np.int64), cost)


def _chunked(items: np.ndarray) -> tuple[np.ndarray, int]:
    """Cut the keys of every item; an item of more than one chunk gets a slot for each, in order."""
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
    """Pairs of query and key in each item, and a little for an item by itself."""
    return (items[:, Q_STOP] - items[:, Q_FIRST]) * (items[:, K_STOP] - items[:, K_FIRST] + 16)


def share(cost: np.ndarray, workers: int) -> list[np.ndarray]:
    """Deal items out from the dearest down, back and forth between the workers: one list of indices each."""
    order = np.argsort(-cost, kind="stable")
    turn, place = np.divmod(np.arange(len(order)), workers)
    dealt = np.where(turn % 2 == 0, place, workers - 1 - place)
    return [order[dealt == w] for w in range(workers)]


def share_units(cut: Plan, workers: int) -> list[np.ndarray] | None:
    """Deal items out so that no two workers add to the same dk or dv; None where there are too few such units.

    A unit is a sequence with the maps that have a key or a value head in common.
    """
    maps = math.lcm(cut.sizes.maps_per_k, cut.sizes.maps_per_v)
    if workers == 1:
        return [np.arange(len(cut.items))]
    # items come in the order of their units
    starts = np.any(np.diff(cut.items[:, (BATCH, MAP)] // (1, maps), axis=0) != 0, axis=1)
    unit = np.concatenate([[0], np.cumsum(starts)])
    if unit[-1] + 1 < UNITS_A_WORKER * workers:
        return None
    mine = share(np.bincount(unit, costs(cut.items)), workers)
    return [np.flatnonzero(np.isin(unit, units)) for units in mine]


def _merges(items: np.ndarray) -> np.ndarray:
    """The results to put together from slots; see Plan."""
    partial = items[items[:, SLOT] >= 0]
    first = np.flatnonzero(np.any(np.diff(partial[:, [BATCH, MAP]], axis=0, prepend=-1) != 0, axis=1))
    last = np.append(first, len(partial))[1:]
    found = np.column_stack([partial[first][:, [BATCH, MAP, Q_FIRST, Q_STOP]], first, last])
    return np.ascontiguousarray(found, dtype=np.int64)
