"""Decoding with a cache that is spread over ranks: split-KV, with a rank in place of a part of the keys.

Rank r holds slots r · share to (r + 1) · share − 1 of every sequence. All ranks compute a step's queries, and each lets
them see its own keys. What the ranks exchange per step and layer is small and does not depend on the context: z and lse
of the new tokens, n_q (d_v + 1) numbers each, which are merged as in :mod:`gta_ref.distributed.merging`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core import EngineError, Mask, attention_forward
from gta_ref.core.engines import check_engine
from gta_ref.distributed.merging import merge_all, of_no_keys
from gta_ref.distributed.messages import as_bytes, check_arrays
from gta_ref.errors import as_size
from gta_ref.lm import model
from gta_ref.ops import Array
from gta_ref.ops.arrays import check_config, narrow, widen


class SpreadCache(KVCache):
    """A cache of which each rank holds a part of the slots.

    Pass its `engine` to a mechanism's decode together with it. All ranks must make the same calls.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    cached, batch, dtype, k_start
        As of :class:`gta_ref.cache.KVCache`.
    capacity : int
        Number of tokens of each sequence that fit into all ranks together, padding included.
    inner : str
        The engine that computes each rank's part. Default "auto".

    Attributes
    ----------
    arrays : dict of str to array (B, heads, share, width)
        This rank's memory.
    length : int
        Number of tokens that all ranks hold together.
    share : int
        Number of slots per rank.
    engine : SplitKeys
    """

    def __init__(
        self,
        comm: Any,
        cached: Mapping[str, tuple[int, int]],
        batch: int,
        capacity: int,
        dtype: Any = "float32",
        k_start: Any = None,
        inner: str = "auto",
    ) -> None:
        whole, ranks = as_size("capacity", capacity, at_least=0), comm.Get_size()
        self.share = -(-whole // ranks)
        super().__init__(cached, batch, self.share, dtype, k_start)
        self.capacity = whole
        self.engine = SplitKeys(comm, self.share, inner)

    def _here(self, length: int) -> int:
        """How many of the first `length` tokens this rank holds."""
        found: int = min(max(length - self.engine.first, 0), self.share)
        return found

    def append(self, **new: Array) -> dict[str, Array]:
        """Write those of the next tokens whose slots are this rank's; the views are of this rank's tokens."""
        stop = self.length + self._check_new(new)
        start, end = self._here(self.length), self._here(stop)
        first = start + self.engine.first - self.length  # the first of the new tokens that is this rank's
        for name, x in new.items():
            self.arrays[name][:, :, start:end] = x[:, :, first : first + end - start]
        self.length = stop
        return self.held()

    def held(self) -> dict[str, Array]:
        """Views of this rank's tokens: name → (B, heads, tokens, width)."""
        return {name: x[:, :, : self._here(self.length)] for name, x in self.arrays.items()}


class SplitKeys:
    """The engine of a SpreadCache: each rank computes its keys, and the results are merged in the order of the ranks.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    share : int
        Number of slots per rank.
    inner : str
        The engine that computes each rank's part.

    Attributes
    ----------
    first : int
        The first slot of this rank.
    sent : int
        Bytes of arrays that this rank has sent so far.
    """

    def __init__(self, comm: Any, share: int, inner: str = "auto") -> None:
        check_engine(inner)
        self.comm, self.share, self.inner = comm, share, inner
        self.first = comm.Get_rank() * share
        self.sent = 0

    def check(self, q: Array, k: Array, v: Array) -> None:
        """Raise EngineError unless these are NumPy arrays."""
        check_arrays("a SpreadCache", q=q, k=k, v=v)

    def forward(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: Mask,
        scale: float,
        *,
        need_saved: bool = False,
        trace: dict[str, Array] | None = None,
    ) -> tuple[Array, Array, None]:
        """Compute z and lse of queries, which all ranks have, over the keys of all ranks; k and v are this rank's.

        `mask` is that of the whole cache, with q_start given. `trace` receives nothing.
        """
        if need_saved:
            raise EngineError("decoding with a SpreadCache has no backward; expected need_saved=False")
        batch, _, n_queries, _ = q.shape
        n_keys = k.shape[2]
        q_start, k_start, k_stop = mask.resolve(batch, n_queries, int(np.max(mask.q_start, initial=0)) + n_queries)
        if n_keys:
            own_start, own_stop = (np.clip(bound - self.first, 0, n_keys) for bound in (k_start, k_stop))
            own = Mask(mask.causal, q_start - self.first, own_start, own_stop)
            z, lse, _ = attention_forward(q, k, v, mask=own, scale=scale, engine=self.inner, need_saved=False)
        else:
            z, lse = of_no_keys(q, v.shape[3])
        packed = np.concatenate([widen(z), lse[..., None]], axis=3)  # one message instead of two
        every = np.empty((self.comm.Get_size(), *packed.shape), packed.dtype)
        self.comm.Allgather(as_bytes(packed), as_bytes(every))
        self.sent += packed.nbytes * (len(every) - 1)
        merged, lse = merge_all([(x[..., :-1], x[..., -1]) for x in every])
        return narrow(merged, q.dtype), lse, None

    def backward(self, *_: Any, **__: Any) -> tuple[Array, Array, Array]:
        """Decoding has no backward."""
        raise EngineError("decoding with a SpreadCache has no backward")


def new_caches(
    comm: Any,
    config: model.Config,
    batch: int,
    capacity: int,
    dtype: Any = "float32",
    k_start: Any = None,
    inner: str = "auto",
) -> list[SpreadCache]:
    """Return one empty cache per layer of a language model; pass the first one's `engine` to its decode."""
    check_config(config, model.Config)
    structure = config.module.structure
    return [SpreadCache(comm, structure(one).cached, batch, capacity, dtype, k_start, inner) for one in config.layers]
