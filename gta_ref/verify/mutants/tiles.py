"""Wrong implementations that compute the attention core in tiles of keys, or in parts that are merged afterwards.

Each mistake is here with every width that kernels have: it shows in a case only if the case has more than one tile, so
that the widths differ in the cases that they fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, seen_in, wrong
from gta_ref.verify.stepwise.attention import AttentionSteps

base = AttentionSteps  # its steps are called as base.step(self, ...)
WIDTHS = (16, 32, 64, 128, 256)
Visible = Callable[..., np.ndarray]


def _stale(width: int, sums: bool = True, context: bool = True) -> dict[str, Callable[..., np.ndarray]]:
    """Online softmax that does not rescale its sums, its context, or both when a later tile has a larger score."""

    def stale(self: AttentionSteps, p: np.ndarray, v: np.ndarray) -> np.ndarray:
        top = np.zeros((*p.shape[:-1], 1))
        total, z = np.zeros_like(top), np.zeros((*p.shape[:-1], v.shape[-1]))
        for start in range(0, p.shape[-1], width):
            tile = p[..., start : start + width]
            new = np.maximum(top, tile.max(-1, keepdims=True, initial=0.0))
            weight, shrink = (np.divide(x, new, out=np.zeros_like(x), where=new > 0) for x in (tile, top))
            total = total * (1.0 if sums else shrink) + weight.sum(-1, keepdims=True)
            z = z * (1.0 if context else shrink) + base.context(self, weight, v[:, :, start : start + width])
            top = new
        return np.divide(z, total, out=np.zeros_like(z), where=total > 0)

    return {"context": stale}


def _only_where(rule: Callable[..., np.ndarray]) -> Visible:
    """A mask from which keys are taken; `rule` (key, row, n_k) says which remain."""

    def visible(self: AttentionSteps, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
        row = q_start[:, None, None] + np.arange(n_q)[:, None]
        return base.visible(self, q_start, k_start, k_stop, n_q, n_k) & rule(np.arange(n_k), row, n_k)[:, None]

    return visible


def _whole_tiles(width: int) -> Visible:
    return _only_where(lambda key, row, n_k: (key < max(n_k // width * width, min(n_k, width))) & (row == row))


def _window(width: int) -> Visible:
    return _only_where(lambda key, row, n_k: key > row - width)


def _to_the_diagonal(width: int) -> Visible:
    """The loop over key tiles ends with the tile of the last row of a query tile."""

    def visible(self: AttentionSteps, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
        last = np.minimum(np.arange(n_q) // width * width + width, n_q) - 1
        stop = (q_start[:, None] + last) // width * width + width
        return base.visible(self, q_start, k_start, k_stop, n_q, n_k) & (np.arange(n_k) < stop[..., None])[:, None]

    return visible


def _diagonal_tile_only(width: int) -> dict[str, Callable[..., np.ndarray]]:
    """Earlier tiles are taken whole, with what they hold outside of the bounds."""

    def visible(self: AttentionSteps, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
        seen = base.visible(self, q_start, k_start, k_stop, n_q, n_k)
        earlier = np.arange(n_k) // width < (q_start[:, None, None] + np.arange(n_q)[:, None]) // width
        seen = seen | (earlier[:, None] & self.causal())
        unread = ~seen.any((1, 2))  # (B, N_k); the steps' own clean would also empty those that are read by mistake
        self.keys, self.values = (
            np.where(unread[:, None, :, None], base.clean(self, x, k_start, k_stop), x)
            for x in (self.keys, self.values)
        )
        return seen

    return {"visible": visible, "clean": lambda self, x, k_start, k_stop: x}


def _dark_first_tile(width: int) -> Callable[..., np.ndarray]:
    def softmax(self: AttentionSteps, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
        return np.where(seen[..., :width].any(-1, keepdims=True), base.softmax(self, s, seen), np.nan)

    return softmax


def _parts(width: int, merge: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    """Split-KV: a softmax of every part of this many keys; `merge` computes the parts' weights from their lse."""

    def softmax(self: AttentionSteps, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
        cuts = [slice(start, start + width) for start in range(0, s.shape[-1], width)]
        if not cuts:
            return base.softmax(self, s, seen)
        seen = np.broadcast_to(seen, s.shape)
        lse = np.stack([base.lse(self, s[..., cut], seen[..., cut]) for cut in cuts], axis=-1)
        top = lse.max(-1, keepdims=True)
        weights = merge(lse, np.where(np.isfinite(top), top, 0.0))
        parts = [base.softmax(self, s[..., c], seen[..., c]) * weights[..., i : i + 1] for i, c in enumerate(cuts)]
        return np.concatenate(parts, axis=-1)

    return softmax


def _averaged(lse: np.ndarray, top: np.ndarray) -> np.ndarray:
    return np.full(lse.shape, 1 / lse.shape[-1])


def _averaged_if_seen(lse: np.ndarray, top: np.ndarray) -> np.ndarray:
    some = np.isfinite(lse)
    return some / np.maximum(some.sum(-1, keepdims=True), 1)


def _empty_as_zero(lse: np.ndarray, top: np.ndarray) -> np.ndarray:
    weights = np.exp(np.where(np.isfinite(lse), lse, 0.0) - np.maximum(top, 0.0))
    return weights / weights.sum(-1, keepdims=True)


def _empty_as_nan(lse: np.ndarray, top: np.ndarray) -> np.ndarray:
    weights = np.exp(lse - top)
    merged = weights / np.maximum(weights.sum(-1, keepdims=True), np.finfo(float).tiny)
    return np.where(np.isfinite(lse).all(-1, keepdims=True), merged, np.nan)


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
_MUTANTS: list[Mutant] = [
    wrong("attention", "z", "partial sums not rescaled when the running maximum grows (tiles of 8 keys)",
        **_stale(8)),
    *(wrong("attention", "z", f"partial sums not rescaled when the running maximum grows (tiles of {width} keys)",
        **_stale(width)) for width in WIDTHS),
    *(wrong("attention", "z", f"context rescaled with the maximum, the sum of weights not (tiles of {width} keys)",
        **_stale(width, context=False)) for width in (16, 64, 128)),
    *(wrong("attention", "z", f"sum of weights rescaled with the maximum, the context not (tiles of {width} keys)",
        **_stale(width, sums=False)) for width in (16, 64, 128)),
    *(wrong("attention", "map", f"keys after the last whole tile of {width} dropped",
        visible=_whole_tiles(width)) for width in WIDTHS),
    *(wrong("attention", "map", f"keys {width} or more places before the query not seen (a window)",
        visible=_window(width)) for width in WIDTHS),
    *(wrong("attention", "map", f"key tiles after the diagonal left out without a causal mask (tiles of {width} keys)",
        visible=_to_the_diagonal(width)) for width in WIDTHS),
    *(wrong("attention", "scores map", f"mask applied in the diagonal tile alone (tiles of {width} keys)",
        **_diagonal_tile_only(width)) for width in WIDTHS),
    *(wrong("attention", "map", f"NaN where a query sees nothing of the first tile of {width} keys",
        softmax=_dark_first_tile(width)) for width in WIDTHS),
    *(wrong("attention", "map", f"parts of {width} keys averaged instead of weighted by exp(lse)",
        softmax=_parts(width, _averaged)) for width in WIDTHS),
    *(wrong("attention", "map", f"parts of {width} keys averaged, those that see nothing left out",
        softmax=_parts(width, _averaged_if_seen)) for width in (16, 64, 256)),
    *(wrong("attention", "map", f"lse of a part that sees nothing taken as 0 (parts of {width} keys)",
        softmax=_parts(width, _empty_as_zero)) for width in WIDTHS),
    *(wrong("attention", "map", f"NaN where one of the parts of {width} keys sees nothing",
        softmax=_parts(width, _empty_as_nan)) for width in WIDTHS),
]
# fmt: on

# in the suite "core", too few cases have more than one tile of 32 keys to tell the widths from each other
MUTANTS: list[Mutant] = [
    mutant if any(width in mutant.cause.split() for width in ("8", "16")) else seen_in(mutant, suite="tiles")
    for mutant in _MUTANTS
]
