"""Known wrong kernels of exercise 12, as functions of NumPy that compute the same numbers block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from gta_ref.exercises.trial import Mistake

Starts = Callable[[int, int], Iterable[int]]
Tiles = tuple[np.ndarray, np.ndarray]


def padded(x: np.ndarray, tile: int) -> np.ndarray:
    """The array with zeros up to a multiple of `tile` in both directions."""
    rows, columns = (-(-n // tile) * tile for n in x.shape)
    wide = np.zeros((rows, columns))
    wide[: x.shape[0], : x.shape[1]] = x
    return wide


def kernel(
    *,
    starts: Starts = lambda d, tile: range(0, d, tile),
    corner: Callable[[int, int, int], tuple[int, int, int, int]] = lambda row, key, start: (row, start, key, start),
    fill: Callable[[Tiles, Tiles, int], Tiles] = lambda new, old, inside: new,
    multiply: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda tile_q, tile_k: tile_q @ tile_k.T,
    add: Callable[[np.ndarray, np.ndarray, float], np.ndarray] = lambda total, product, scale: total + product,
    finish: Callable[[np.ndarray, float], np.ndarray] = lambda total, scale: total * scale,
) -> Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]:
    """The kernel with one of its steps replaced, as a function of q, k, scale and the tile's size.

    Parameters
    ----------
    starts : function
        The first columns of the tiles, from (d, tile).
    corner : function
        The first row and column of a tile of q and of one of k, from the block's first row and key and the start.
    fill : function
        What the two tiles hold, from the right tiles, those before, and how many of their columns are inside q and k.
    multiply, add, finish : function
        The product of two tiles, the sum so far with a product added, and what is written to out.
    """

    def answer(q: np.ndarray, k: np.ndarray, scale: float, tile: int) -> np.ndarray:
        wide_q, wide_k = padded(q, tile), padded(k, tile)
        out = np.zeros((len(wide_q), len(wide_k)))
        for row in range(0, len(wide_q), tile):
            for key in range(0, len(wide_k), tile):
                total = np.zeros((tile, tile))
                held = np.full((tile, tile), np.nan), np.full((tile, tile), np.nan)
                for start in starts(q.shape[1], tile):
                    a, b, c, d = corner(row, key, start)
                    new = wide_q[a : a + tile, b : b + tile], wide_k[c : c + tile, d : d + tile]
                    held = fill(new, held, min(tile, q.shape[1] - start))
                    total = add(total, multiply(*held), scale)
                out[row : row + tile, key : key + tile] = finish(total, scale)
        return out[: len(q), : len(k)]

    return answer


def _stale(new: Tiles, old: Tiles, inside: int) -> Tiles:
    """Tiles whose columns beyond d keep what the tile before left there."""
    return tuple(np.where(np.arange(len(n)) < inside, n, o) for n, o in zip(new, old, strict=True))  # type: ignore[return-value]


def _by_tx(new: Tiles, old: Tiles, inside: int) -> Tiles:
    """tile_k[ty, tx] = k[first_key + tx, start + tx]: every row of the tile holds its diagonal."""
    return new[0], np.tile(np.diag(new[1]), (len(new[1]), 1))


_LOST = "the last tile along d is lost: with d = 6 and tiles of 4 there are two, so round up"
_START = "start is left out: every tile of {} is a copy of the first, columns 0 to TILE − 1"
_COPY = "thread (tx, ty) copies {} without its block: it begins at {}·TILE"

MISTAKES = (
    Mistake("the scale is left out: out = scale · Q Kᵀ", kernel(finish=lambda total, scale: total)),
    Mistake("the sum is divided by scale; it should be multiplied by it",
            kernel(finish=lambda total, scale: total / scale)),
    Mistake("the scale is applied twice", kernel(finish=lambda total, scale: total * scale * scale)),
    Mistake("the scale is applied to the sum again after every tile: apply it once, at the end",
            kernel(add=lambda total, product, scale: (total + product) * scale, finish=lambda total, scale: total)),
    Mistake(
        "a key of K is copied by tx: thread (tx, ty) should copy key first_key + ty, and compute with key "
        "first_key + tx", kernel(fill=_by_tx),
    ),
    Mistake(
        "the tile of K is read with its axes swapped: copied as tile_k[ty, tx], key first_key + tx is its row tx",
        kernel(multiply=lambda tile_q, tile_k: tile_q @ tile_k),
    ),
    Mistake("the tile of Q is read with its axes swapped: copied as tile_q[ty, tx], the thread's query is its row ty",
            kernel(multiply=lambda tile_q, tile_k: tile_q.T @ tile_k.T)),
    Mistake("both tiles are read with their axes swapped: copied as [ty, tx], a query or a key is a row",
            kernel(multiply=lambda tile_q, tile_k: tile_q.T @ tile_k)),
    Mistake("a thread computes with key first_key + ty, which it copied; it should compute with key first_key + tx",
            kernel(multiply=lambda tile_q, tile_k: np.repeat((tile_q * tile_k).sum(1)[:, None], len(tile_q), 1))),
    Mistake("a thread computes with query tx of the tile; its query is row ty",
            kernel(multiply=lambda tile_q, tile_k: np.tile((tile_q * tile_k).sum(1), (len(tile_q), 1)))),
    Mistake("the block's result is transposed: thread (tx, ty) computes query row ty and key tx of its block",
            kernel(multiply=lambda tile_q, tile_k: tile_k @ tile_q.T)),
    Mistake(_LOST, kernel(starts=lambda d, tile: range(0, d // tile * tile, tile))),
    Mistake(_LOST, kernel(starts=lambda d, tile: range(0, d - tile, tile))),
    Mistake("only the first tile along d is summed; d may be larger than TILE",
            kernel(starts=lambda d, tile: [0])),
    Mistake("the sum starts again with every tile, so that only the last one is left: set total to 0 before the loop",
            kernel(add=lambda total, product, scale: product)),
    Mistake("total is replaced in the inner loop, where it should grow: += instead of =", kernel(
        multiply=lambda tile_q, tile_k: np.outer(tile_q[:, -1], tile_k[:, -1]),
        add=lambda total, product, scale: product,
    )),
    Mistake("the last column of every tile is left out: range(TILE) ends with TILE − 1",
            kernel(multiply=lambda tile_q, tile_k: tile_q[:, :-1] @ tile_k[:, :-1].T)),
    Mistake(_START.format("Q and K"), kernel(corner=lambda row, key, start: (row, 0, key, 0))),
    Mistake(_START.format("Q"), kernel(corner=lambda row, key, start: (row, 0, key, start))),
    Mistake(_START.format("K"), kernel(corner=lambda row, key, start: (row, start, key, 0))),
    Mistake(_COPY.format("Q", "row blockIdx.y"), kernel(corner=lambda row, key, start: (0, start, key, start))),
    Mistake(_COPY.format("K", "key blockIdx.x"), kernel(corner=lambda row, key, start: (row, start, 0, start))),
    Mistake("the last tile along d still holds numbers of the tile before, where it reaches beyond d: copy 0 there",
            kernel(fill=_stale)),
    Mistake("the sum starts at 1 instead of 0",
            kernel(finish=lambda total, scale: (total + 1) * scale)),
)  # fmt: skip
