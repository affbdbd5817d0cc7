"""Context parallelism: the attention core over sequences that are spread over ranks, as an engine.

Each rank holds the queries, keys and values of its own tokens (see :mod:`gta_ref.distributed.shards`). In R steps, the
keys and values travel once round the ring of ranks, and each rank lets its queries see those that it holds just then:

    step 0    own keys        step s    the keys of rank (r − s) mod R

The next keys come and the present ones leave while the rank computes. Results of the steps are merged by their lse. In
the backward, the gradients of keys and values travel with them and are complete when they are back at their owner:

    dk = Σ_r dk_r, added in the order owner, owner + 1, …

For GTA these are keys of n_k heads and latents of n_c heads, which is what it caches, and nothing else travels.

Besides its inputs and results a rank holds the keys and values of at most two other ranks, and in the backward three
pairs of dk and dv: its own, one that arrives and one that leaves. Queries are computed in blocks, so that what a step
finds is merged before it takes much memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gta_ref.core import EngineError, Mask, attention_backward, attention_forward
from gta_ref.core.engines import AttentionSaved, attention_backward_part, check_engine
from gta_ref.core.mask import as_mask
from gta_ref.distributed.merging import merge_into, of_no_keys
from gta_ref.distributed.messages import Passing, as_bytes, check_arrays
from gta_ref.distributed.shards import Shards, mask_of_pieces
from gta_ref.errors import check_choice
from gta_ref.ops import Array
from gta_ref.ops.arrays import narrow, widen

EXCHANGES = ("ring", "gather")
BLOCK = 2048  # most queries that are computed at a time


class RingSaved(NamedTuple):
    """What the backward needs."""

    q: Array  # of the rank's tokens, as k and v
    k: Array
    v: Array
    z: Array  # in the precision of computation
    lse: Array
    scale: float
    alone: AttentionSaved | None  # of the engine, if there is one rank only


class Ring:
    """An engine of the attention core for sequences that are spread over the ranks of `comm`.

    Pass it as `engine` to :func:`gta_ref.core.attention_forward`, to a mechanism or to the language model, with arrays
    of this rank's tokens and, for layers, :meth:`positions`. All ranks must make the same calls.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    length : int
        Number of tokens of the whole sequences, padding included.
    layout : {"zigzag", "contiguous"}
        Which tokens each rank holds; see :class:`gta_ref.distributed.shards.Shards`.
    mask : Mask, optional
        Of the whole sequences. Default ``Mask()``: causal.
    inner : str
        The engine that computes each part. Default "auto".
    exchange : {"ring", "gather"}
        How keys and values come to the ranks: "ring" holds those of three ranks at most, "gather" those of all
        ranks, which it exchanges in one call. The results are the same.

    Attributes
    ----------
    sent : int
        Bytes of arrays that this rank has sent so far.
    """

    def __init__(
        self,
        comm: Any,
        length: int,
        *,
        layout: str = "zigzag",
        mask: Mask | None = None,
        inner: str = "auto",
        exchange: str = "ring",
    ) -> None:
        check_engine(inner)
        check_choice("exchange", exchange, EXCHANGES)
        self.comm, self.inner, self.exchange, self.mask = comm, inner, exchange, as_mask(mask)
        self.rank, self.ranks = comm.Get_rank(), comm.Get_size()
        self.shards = Shards(length, self.ranks, layout)
        self.sent = 0

    def positions(self, batch: int) -> Array:
        """The positions of this rank's tokens for RoPE, (1 or B, local) int64."""
        length = self.shards.length
        return self.mask.positions(batch, length, length)[:, self.shards.tokens(self.rank)]

    def cut(self, x: Array, axis: int = 1) -> Array:
        """Cut this rank's tokens out of a whole array."""
        return self.shards.cut(x, self.rank, axis)

    def gather(self, x: Array, axis: int = 1) -> Array:
        """The whole array from the tokens that each rank holds; every rank receives it."""
        return self.shards.join(self._all(x), axis)

    def check(self, q: Array, k: Array, v: Array) -> None:
        """Raise EngineError unless these are NumPy arrays of this rank's tokens."""
        check_arrays("a Ring", q=q, k=k, v=v)
        for name, x in (("q", q), ("k", k), ("v", v)):
            if x.shape[2] != self.shards.local:
                raise EngineError(
                    f"{name} has shape {x.shape}; expected {self.shards.local} tokens, this rank's part of "
                    f"length={self.shards.length}"
                )

    def forward(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: Mask,
        scale: float,
        *,
        need_saved: bool = True,
        trace: dict[str, Array] | None = None,
    ) -> tuple[Array, Array, RingSaved | None]:
        """Compute z and lse of this rank's queries; see :func:`gta_ref.core.attention_forward`.

        The mask is the Ring's own; `mask` must be the default. `trace` receives nothing.
        """
        self._check_mask(mask)
        if self.ranks == 1:
            z, lse, alone = attention_forward(
                q, k, v, mask=self.mask, scale=scale, engine=self.inner, need_saved=need_saved
            )
            return z, lse, RingSaved(q, k, v, z, lse, scale, alone) if need_saved else None
        z, lse = of_no_keys(q, v.shape[3])
        for owner, (k_held, v_held) in self._held(k, v):
            k_wide, v_wide = widen(k_held), widen(v_held)
            for keys, rows, own in self._pairs(owner, q.shape[0]):
                z_part, lse_part, _ = attention_forward(
                    widen(q[:, :, rows]), k_wide[:, :, keys], v_wide[:, :, keys],
                    mask=own, scale=scale, engine=self.inner, need_saved=False,
                )  # fmt: skip
                merge_into(z[:, :, rows], lse[:, :, rows], z_part, lse_part)
        saved = RingSaved(q, k, v, z, lse, scale, None) if need_saved else None
        return narrow(z, q.dtype), lse, saved

    def backward(
        self, dz: Array, state: RingSaved, dlse: Array | None = None, *, trace: dict[str, Array] | None = None
    ) -> tuple[Array, Array, Array]:
        """Compute the gradient of this rank's q, k and v; see :func:`gta_ref.core.attention_backward`."""
        if state.alone is not None:
            return attention_backward(dz, state.alone, dlse=dlse)
        q, k, v, z, lse, scale, _ = state
        dtype, real = q.dtype, z.dtype
        dq = np.zeros(q.shape, real)
        found: dict[int, list[Array]] = {}  # by owner: this rank's part of the gradient of its keys and values
        sums: list[Array] = []  # what the ranks before this one have found for the keys that are held
        coming: Passing | None = None
        for owner, (k_held, v_held) in self._held(k, v):
            k_wide, v_wide = widen(k_held), widen(v_held)
            step = [np.zeros(x.shape, real) for x in (k, v)]
            for keys, rows, own in self._pairs(owner, q.shape[0]):
                dz_i, q_i, z_i, lse_i = (x[:, :, rows] for x in (dz, q, z, lse))
                part = attention_backward_part(
                    widen(dz_i), widen(q_i), k_wide[:, :, keys], v_wide[:, :, keys], z_i, lse_i,
                    mask=own, scale=scale, engine=self.inner, dlse=None if dlse is None else dlse[:, :, rows],
                )  # fmt: skip
                dq[:, :, rows] += part[0]
                step[0][:, :, keys] += part[1]
                step[1][:, :, keys] += part[2]
            if self.exchange == "gather":
                found[owner] = step
                continue
            if coming is not None:
                sums = coming.wait()
                for total, more in zip(sums, step, strict=True):
                    total += more
            coming = self._pass(sums or step, step if sums else [np.empty_like(x) for x in step], tag=1)
        sums = self._summed(found) if coming is None else coming.wait()
        return narrow(dq, dtype), narrow(sums[0], dtype), narrow(sums[1], dtype)

    def _check_mask(self, mask: Mask) -> None:
        if not (mask.causal and mask.q_start is mask.k_start is mask.k_stop is None):
            raise EngineError("a mask of the whole sequences belongs to the Ring; expected none in the call")

    def _pairs(self, owner: int, batch: int) -> Iterator[tuple[slice, slice, Mask]]:
        """The blocks of this rank's queries and the pieces of the owner's keys between which something is visible.

        Yields where the keys and the queries lie, and the mask between them.
        """
        length, row = self.shards.length, 0
        for begin, end in self.shards.pieces(self.rank):
            for start in range(begin, end, BLOCK):
                stop, key = min(start + BLOCK, end), 0
                for first, last in self.shards.pieces(owner):
                    own = mask_of_pieces(self.mask, batch, length, (start, stop), (first, last))
                    if own is not None:
                        yield slice(key, key + last - first), slice(row, row + stop - start), own
                    key += last - first
                row += stop - start

    def _held(self, k: Array, v: Array) -> Iterator[tuple[int, list[Array]]]:
        """The keys and values of every rank in turn, this rank's first, each with its owner."""
        held = [np.ascontiguousarray(k), np.ascontiguousarray(v)]
        if self.exchange == "gather":
            every = [self._all(x) for x in held]
            for step in range(self.ranks):
                owner = (self.rank - step) % self.ranks
                yield owner, [x[owner] for x in every]
            return
        spare = [[np.empty_like(x) for x in held] for _ in range(2)]  # one is read and sent, one is received
        for step in range(self.ranks):
            coming = self._pass(held, spare[step % 2], tag=0) if step < self.ranks - 1 else None
            yield (self.rank - step) % self.ranks, held
            if coming is not None:
                held = coming.wait()

    def _pass(self, outgoing: list[Array], incoming: list[Array], tag: int) -> Passing:
        found = Passing(self.comm, outgoing, incoming, tag)
        self.sent += found.sent
        return found

    def _all(self, x: Array) -> list[Array]:
        """The arrays of all ranks, in their order."""
        x = np.ascontiguousarray(x)
        found = np.empty((self.ranks, *x.shape), x.dtype)
        self.comm.Allgather(as_bytes(x), as_bytes(found))
        self.sent += x.nbytes * (self.ranks - 1)
        return list(found)

    def _summed(self, mine: dict[int, list[Array]]) -> list[Array]:
        """Each rank's dk and dv from what all ranks have found, added in the order of the ring."""
        sums = []
        for i in (0, 1):
            outgoing = np.stack([mine[owner][i] for owner in range(self.ranks)])
            incoming = np.empty_like(outgoing)
            self.comm.Alltoall(as_bytes(outgoing), as_bytes(incoming))
            self.sent += outgoing.nbytes // self.ranks * (self.ranks - 1)
            total = incoming[self.rank]
            for step in range(1, self.ranks):
                total += incoming[(self.rank + step) % self.ranks]
            sums.append(total)
        return sums
