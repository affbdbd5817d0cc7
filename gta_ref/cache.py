"""The KV cache as an object that can be inspected: what it holds, where each sequence starts, how many bytes it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gta_ref.core.mask import Mask
from gta_ref.errors import as_int, check_names, check_shape
from gta_ref.ops.arrays import Array, array_module, as_dtype


class KVCache:
    """Preallocated memory for what one layer keeps of the tokens seen so far.

    Parameters
    ----------
    cached : mapping of str to (heads, width)
        What the layer keeps of a token: ``structure(config).cached``; for GTA ``{"k": (n_k, d_h), "c": (n_c, d_l)}``.
    batch : int
        Number of sequences.
    capacity : int
        Number of tokens of each sequence that fit, padding included.
    dtype : str or dtype
        float32 (the default), float64, float16 or bfloat16.
    k_start : int or int array (B,), optional
        Number of left-padding tokens of each sequence. Default 0.
    like : array, optional
        The memory is allocated by this array's library: pass a CuPy array for a cache on the GPU. Default: NumPy.

    Attributes
    ----------
    arrays : dict of str to array (B, heads, capacity, width)
        The memory itself. Slots from `length` on are unused and may hold anything.
    length : int
        Number of tokens held, padding included; the same for all sequences.
    k_start : int64 array (B,)
        Number of left-padding tokens of each sequence.
    """

    def __init__(
        self,
        cached: Mapping[str, tuple[int, int]],
        batch: int,
        capacity: int,
        dtype: Any = "float32",
        k_start: Any = None,
        like: Array | None = None,
    ) -> None:
        self.batch = as_int("batch", batch, at_least=1)
        self.capacity = as_int("capacity", capacity, at_least=0)
        self.dtype = as_dtype(dtype)
        start = np.asarray(0 if k_start is None else k_start)
        if start.dtype.kind not in "iu" or start.shape not in ((), (batch,)):
            raise ValueError(
                f"k_start has dtype {start.dtype} and shape {start.shape}; expected an int or integers ({batch},)"
            )
        if start.size and (start < 0).any():
            raise ValueError(f"k_start={int(start.min())} must be a whole number of at least 0")
        self.k_start = np.broadcast_to(start, (batch,)).astype(np.int64)
        self.length = 0
        xp: Any = np if like is None else array_module(like)
        self.arrays: dict[str, Array] = {
            name: xp.zeros((batch, heads, self.capacity, width), self.dtype) for name, (heads, width) in cached.items()
        }

    def append(self, **new: Array) -> dict[str, Array]:
        """Write the next tokens after those already held.

        Parameters
        ----------
        **new : (B, heads, N, width) by name
            One array for every name in `arrays`, all with the same N.

        Returns
        -------
        held : dict of str to (B, heads, length, width)
            Views of all tokens held now, the new ones last.

        Raises
        ------
        ValueError
            If the capacity is too small, or a name, shape or dtype does not fit. The cache is then unchanged.
        """
        check_names("append", new, self.arrays)
        n_new = next(iter(new.values())).shape[2] if all(np.ndim(x) == 4 for x in new.values()) else "N"
        for name, x in new.items():
            _, heads, _, width = self.arrays[name].shape
            check_shape(f"append {name}", x, (self.batch, heads, n_new, width))
            if x.dtype != self.dtype:
                raise ValueError(f"append {name} has dtype {x.dtype}; expected {self.dtype}, as the cache has")
        if not isinstance(n_new, int) or self.length + n_new > self.capacity:
            raise ValueError(
                f"capacity={self.capacity} is too small: {self.length} tokens are held and {n_new} more came; "
                f"expected at most {self.capacity - self.length}"
            )
        stop = self.length + n_new
        for name, x in new.items():
            self.arrays[name][:, :, self.length : stop] = x
        self.length = stop
        return self.held()

    @contextmanager
    def appended(self, **new: Array) -> Iterator[dict[str, Array]]:
        """Append the tokens for a ``with`` block and remove them if the block raises: a failed step changes nothing."""
        before = self.length
        held = self.append(**new)
        try:
            yield held
        except BaseException:
            self.truncate(before)
            raise

    def next_mask(self, x: Array) -> Mask:
        """The mask of the tokens x (B, N_new, …) that are appended next: causal, from the first free slot on."""
        if x.shape[0] != self.batch:
            raise ValueError(f"x has shape {x.shape}; expected ({self.batch}, N, {x.shape[2]}), the cache's batch")
        return Mask(q_start=self.length, k_start=self.k_start)

    def held(self) -> dict[str, Array]:
        """Views of the tokens held: name → (B, heads, length, width)."""
        return {name: x[:, :, : self.length] for name, x in self.arrays.items()}

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on."""
        if not 0 <= as_int("length", length) <= self.length:
            raise ValueError(f"length={length} must be between 0 and the {self.length} tokens held")
        self.length = length

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(x.nbytes for x in self.arrays.values())

    @property
    def used_nbytes(self) -> int:
        """Bytes that the held tokens take, padding included."""
        return sum(x.nbytes for x in self.held().values())

    def __repr__(self) -> str:
        held = ", ".join(f"{name} {x.shape}" for name, x in self.held().items())
        return f"KVCache({held}; {self.dtype}, {self.used_nbytes:,} of {self.nbytes:,} bytes)"
