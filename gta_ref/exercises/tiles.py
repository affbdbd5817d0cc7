"""Exercise 11: attention in tiles, with the online softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.core import Mask, attention_forward
from gta_ref.exercises.apart import Student
from gta_ref.exercises.exercise import Exercise
from gta_ref.exercises.roundings import FEW, largest, product, softmax
from gta_ref.exercises.trial import Memory, Mistake, Trial, normal
from gta_ref.exercises.verdict import Verdict

_NOTHING = "−∞ − −∞ gives NaN in a row that has seen nothing so far; such a row has z = 0 and lse = −∞"


def _tile_trials() -> list[Trial]:
    rng = np.random.default_rng(111)

    def trial(
        what: str, n_queries: int, n_keys: int, tile: int, *, dtype: str = "float64", factor: float = 1.5,
        shift: float = 0.0,
    ) -> Trial:  # fmt: skip
        q, k = (normal(rng, n, 4, dtype=dtype, factor=factor) for n in (n_queries, n_keys))
        if shift:  # a feature that shifts all scores by about the same amount
            q[:, 0], k[:, 0] = shift, abs(shift) + rng.standard_normal(n_keys) / abs(shift)
        nan = f"Perhaps {_NOTHING}." if n_queries > n_keys else ""
        return Trial(what, (q, k, normal(rng, n_keys, 5, dtype=dtype), tile), nan)

    return [
        trial("5 queries, 12 keys, tiles of 4", 5, 12, 4),
        trial("7 queries, 13 keys, tiles of 4: the last tile has one key", 7, 13, 4),
        trial("65 queries and keys, tiles of 16", 65, 65, 16),
        trial("one query, one key, tiles of 8", 1, 1, 8),
        trial("8 queries, 5 keys: the first 3 queries see nothing", 8, 5, 2),
        trial("scores around 1000", 6, 9, 4, shift=45.0),
        trial("scores around −1000", 6, 9, 4, shift=-45.0),
        trial("float32, tiles of 1", 7, 9, 1, dtype="float32"),
    ]


def _tile_truth(q: np.ndarray, k: np.ndarray, v: np.ndarray, tile: int) -> tuple[np.ndarray, ...]:
    z, lse, _ = attention_forward(
        q[None, None], k[None, None], v[None, None], mask=Mask(), need_saved=False, engine="reference"
    )
    return z[0, 0], lse[0, 0]


def _tile_roundings(q: np.ndarray, k: np.ndarray, v: np.ndarray, tile: int) -> tuple[float, float]:
    """The scores' own roundings pass through the softmax; each tile rescales what came before, with a few more."""
    n, n_keys, scale = len(q), len(k), q.shape[1] ** -0.5
    visible = np.arange(n_keys) <= n_keys - n + np.arange(n)[:, None]
    off = scale * product(q, k.T) + FEW  # in roundings of each score
    scores = np.where(visible, scale * (q @ k.T), -np.inf)
    tiles = -(-n_keys // tile)
    weights = softmax(scores, off + 4 * np.abs(np.where(visible, scores, 0.0)))
    most = largest(np.where(visible, off + np.abs(scores), 0.0))
    return largest(weights @ np.abs(v)) + FEW * tiles * largest(np.abs(v)), 4 * most + n_keys + FEW * tiles


def _tile_by(
    *,
    scale: Any = lambda d: d**-0.5,
    first: Any = lambda n_queries, n_keys: n_keys - n_queries,
    whole: bool = False,
    start: float = -np.inf,
    shrink_sum: bool = True,
    shrink_z: bool = True,
    keep_largest: bool = True,
    grow: bool = False,
    late: bool = False,
    tiles: Any = lambda starts: starts,
    place: Any = lambda keys, j: keys,
    divide_always: bool = False,
    divide: bool = True,
    lse: Any = lambda largest, total: largest + np.log(total),
    guard: bool = True,
) -> Any:
    """The online softmax with one of its steps replaced."""

    def answer(q: np.ndarray, k: np.ndarray, v: np.ndarray, tile: int) -> tuple[np.ndarray, ...]:
        (n, d), n_keys = q.shape, len(k)
        largest, total, z = np.full(n, start), np.zeros(n), np.zeros((n, v.shape[1]))
        row = first(n, n_keys) + np.arange(n)[:, None]
        for j in tiles(range(0, n_keys // tile * tile if whole else n_keys, tile)):
            keys = np.arange(j, min(j + tile, n_keys))
            s = np.where(place(keys, j) <= row, q @ k[keys].T * scale(d), -np.inf)
            new = s.max(1)
            if keep_largest:
                new = np.maximum(largest, new)
            base = np.where(np.isfinite(new), new, 0.0) if guard else new
            shrink, w = np.exp((base - largest) if grow else (largest - base)), np.exp(s - base[:, None])
            if late:
                total, z = (total + w.sum(1)) * shrink, (z + w @ v[keys]) * shrink[:, None]
            else:
                total = total * (shrink if shrink_sum else 1) + w.sum(1)
                z = z * (shrink[:, None] if shrink_z else 1) + w @ v[keys]
            if divide_always:
                z = np.divide(z, total[:, None], out=np.zeros_like(z), where=total[:, None] > 0)
            largest = new
        if divide:
            seen = total != 0
            z = np.divide(z, total[:, None], out=np.zeros_like(z), where=seen[:, None]) if guard else z / total[:, None]
        return z, lse(largest, total)

    return answer


def _apart(q: np.ndarray, k: np.ndarray, v: np.ndarray, tile: int) -> tuple[np.ndarray, ...]:
    """The mean of the tiles' own results, with the right lse."""
    parts = [_tile_by(tiles=lambda starts, j=j: [j])(q, k, v, tile)[0] for j in range(0, len(k), tile)]
    return np.mean(parts, 0), _tile_by()(q, k, v, tile)[1]


def _tile_memory() -> Memory:
    """Sizes for which a whole mask, of one byte each, is too much, and copies of all keys and values are not."""
    rng, n, n_keys, tile = np.random.default_rng(211), 256, 65536, 512
    arguments = (normal(rng, n, 4), normal(rng, n_keys, 4), normal(rng, n_keys, 5), tile)
    hint = (
        "an array of all queries and keys, a map or its mask, is formed somewhere. Only one tile's scores, and the "
        "running maximum, sum and z of every query, have to exist at the same time."
    )
    return Memory(Trial(f"{n} queries, {n_keys:,} keys, tiles of {tile}", arguments), n * n_keys, hint)


@dataclass(frozen=True)
class TiledExercise(Exercise):
    """An exercise whose last argument is the size of a tile, which has to have an effect.

    A sum in tiles is rounded in another order than a sum over all keys. If not one of hundreds of numbers changes its
    last bits with the tile, the tile was not used.
    """

    def _examine(self, student: Student) -> Verdict:
        verdict = super()._examine(student)
        if not verdict.passed:
            return verdict
        rng = np.random.default_rng(311)
        q, k, v = normal(rng, 65, 4), normal(rng, 300, 4), normal(rng, 300, 7)
        small, large = (student.call((q, k, v, tile)) for tile in (1, 300))
        if small.problem or large.problem:
            return Verdict(self.name, False, f"{small.problem or large.problem}\nCase: 65 queries on 300 keys.")
        if all(np.array_equal(x, y) for x, y in zip(small.answer, large.answer, strict=True)):
            hint = (
                "The values are right, but the size of the tile has no effect, not even on the last digits: the "
                "softmax is not computed in tiles, or not in tiles of that size. A sum over all keys of a query needs "
                "all its scores at once; the online softmax needs only those of a tile."
            )
            return Verdict(self.name, False, f"{hint}\nCase: 65 queries on 300 keys, tiles of 1 and of 300.")
        return verdict


EX11 = TiledExercise(
    name="ex11",
    function="attention_in_tiles",
    parameters="q, k, v, tile",
    results={"z": "N_q, d_v", "lse": "N_q"},
    trials=_tile_trials,
    truth=_tile_truth,
    roundings=_tile_roundings,
    memory=_tile_memory,
    mistakes=(
        Mistake("z is not multiplied by exp(old − new) when a tile brings a larger score", _tile_by(shrink_z=False)),
        Mistake("the sum is not multiplied by exp(old − new) when a tile brings a larger score",
                _tile_by(shrink_sum=False)),
        Mistake("neither sum nor z is multiplied by exp(old − new) when a tile brings a larger score",
                _tile_by(shrink_sum=False, shrink_z=False)),
        Mistake("z is not divided by the sum at the end", _tile_by(divide=False)),
        Mistake("the scale 1/√d is left out", _tile_by(scale=lambda d: 1.0)),
        Mistake("the scores are divided by d instead of √d", _tile_by(scale=lambda d: 1 / d)),
        Mistake("the scores are multiplied by √d instead of divided by it", _tile_by(scale=lambda d: d**0.5)),
        Mistake("z and sum are multiplied by exp(new − old); it should be exp(old − new), which is at most 1",
                _tile_by(grow=True)),
        Mistake("z and sum are multiplied by exp(old − new) after the tile is added; only what was there before it is",
                _tile_by(late=True)),
        Mistake("z is divided by the sum in every tile; divide once, at the end",
                _tile_by(divide_always=True, divide=False)),
        Mistake("z is divided by the sum in every tile and at the end; divide once, at the end",
                _tile_by(divide_always=True)),
        Mistake("only the first tile is used", _tile_by(tiles=lambda starts: starts[:1])),
        Mistake("only the last tile is used, or counts", _tile_by(tiles=lambda starts: starts[-1:])),
        Mistake("the tiles' own results are averaged; each should be weighted by its sum", _apart),
        Mistake("the mask compares a key's place in its tile; it should be its place among all keys, start + t",
                _tile_by(place=lambda keys, j: keys - j)),
        Mistake("the causal mask is missing: a query sees later keys", _tile_by(first=lambda n, n_keys: 10**6)),
        Mistake(
            "the causal mask is aligned to the start: query i sees the keys up to i; it sees them up to N_k − N_q + i",
            _tile_by(first=lambda n, n_keys: 0),
        ),
        Mistake("a query does not see its own key: j ≤ N_k − N_q + i includes it",
                _tile_by(first=lambda n, n_keys: n_keys - n - 1)),
        Mistake("the keys after the last whole tile are dropped", _tile_by(whole=True)),
        Mistake("the last tile's maximum replaces the running one: it should be max(old, the tile's)",
                _tile_by(keep_largest=False)),
        Mistake("lse is the logarithm of the sum alone; the largest score was subtracted and has to be added back",
                _tile_by(lse=lambda largest, total: np.log(total))),
        Mistake("lse is the sum itself, not its logarithm", _tile_by(lse=lambda largest, total: largest + total)),
        Mistake("lse is the largest score; log(sum) is missing", _tile_by(lse=lambda largest, total: largest)),
        Mistake("lse is in powers of 2; it is a natural logarithm",
                _tile_by(lse=lambda largest, total: largest + np.log2(total))),
        Mistake(
            "the largest starts at 0 instead of −∞: if all scores are far below 0, every exp underflows",
            _tile_by(start=0.0),
        ),
        Mistake(_NOTHING, _tile_by(guard=False)),
        Mistake("the largest starts at 0 instead of −∞: if all scores are far below 0, every exp underflows",
                _tile_by(start=0.0, guard=False)),
    ),
)  # fmt: skip

EXERCISES = (EX11,)
