"""The KV cache as an object that can be inspected: what it holds, where each sequence starts, how many bytes it has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gta_ref.core.mask import Mask, as_bound
from gta_ref.errors import LARGEST, as_int, as_size, check_names, check_shape, check_type, refuse, shown
from gta_ref.ops.arrays import Array, array_module, as_dtype, check_float


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
        self.batch = as_size("batch", batch)
        self.capacity = as_size("capacity", capacity, at_least=0)
        self.dtype = as_dtype(dtype)
        expected = f"an int or integers ({self.batch},)"
        if isinstance(k_start, float):
            raise ValueError(f"k_start has dtype float64 and shape (); expected {expected}")
        start = np.asarray(0 if k_start is None else as_bound("k_start", k_start, expected))
        if start.shape not in ((), (self.batch,)):
            raise ValueError(f"k_start has dtype {start.dtype} and shape {start.shape}; expected {expected}")
        if start.size and (start < 0).any():
            raise ValueError(f"k_start={int(start.min())} must be a whole number of at least 0")
        shapes = _shapes(cached, self.batch, self.capacity)
        n_bytes = sum(math.prod(shape) for shape in shapes.values()) * self.dtype.itemsize
        if n_bytes > LARGEST:
            raise ValueError(f"capacity={self.capacity} for batch={self.batch} must be less: no memory is that large")
        if not (like is None or isinstance(like, np.ndarray)) and array_module(like) is np:
            refuse("like", like, "an array or None")
        self.length = 0
        xp: Any = np if like is None else array_module(like)
        try:
            self.arrays: dict[str, Array] = {name: xp.zeros(shape, self.dtype) for name, shape in shapes.items()}
        except MemoryError:
            raise ValueError(
                f"capacity={self.capacity} for batch={self.batch} needs {n_bytes:,} bytes; expected what memory holds"
            ) from None
        self.k_start = np.broadcast_to(start, (self.batch,)).astype(np.int64)

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
        stop = self.length + self._check_new(new)
        for name, x in new.items():
            self.arrays[name][:, :, self.length : stop] = x
        self.length = stop
        return self.held()

    def _check_new(self, new: Mapping[str, Array]) -> int:
        """The number of new tokens; raise ValueError unless the arrays fit the cache and what is free in it."""
        check_names("append", new, self.arrays)
        for name, x in new.items():
            if not isinstance(x, np.ndarray):
                check_float(f"append {name}", x)
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
        return n_new

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
        shape: Any = getattr(x, "shape", None)
        if not isinstance(shape, tuple) or len(shape) < 2:
            check_shape("x", x, (self.batch, "N", "H"))
        if shape[0] != self.batch:
            rest = "".join(f", {n}" for n in shape[2:])
            raise ValueError(f"x has shape {shape}; expected ({self.batch}, N{rest}), the cache's batch")
        return Mask(q_start=self.length, k_start=self.k_start)

    def held(self) -> dict[str, Array]:
        """Views of the tokens held: name → (B, heads, length, width)."""
        return {name: x[:, :, : self.length] for name, x in self.arrays.items()}

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on."""
        number = as_int("length", length)
        if not 0 <= number <= self.length:
            raise ValueError(f"length={shown(number)} must be between 0 and the {self.length} tokens held")
        self.length = number

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


def next_mask(cache: KVCache, x: Array) -> Mask:
    """The cache's own `next_mask` of x, once the cache is known to be one."""
    if not isinstance(cache, KVCache):
        refuse("cache", cache, "a gta_ref.KVCache")
    return cache.next_mask(x)


def _shapes(cached: Any, batch: int, capacity: int) -> dict[str, tuple[int, int, int, int]]:
    """Name and shape of every array of a cache."""
    expected = "a mapping of names to (heads, width), as structure(config).cached"
    check_type("cached", cached, Mapping, expected)
    shapes = {}
    for name, sizes in cached.items():
        if not isinstance(name, str):
            raise ValueError(f"cached has the name {shown(name)}; expected {expected}")
        if not isinstance(sizes, (tuple, list)) or len(sizes) != 2:
            raise ValueError(f"cached[{shown(name)}]={shown(sizes)} must be two whole numbers, (heads, width)")
        heads, width = (as_size(f"cached[{shown(name)}]", size) for size in sizes)
        shapes[name] = batch, heads, capacity, width
    if not shapes:
        raise ValueError(f"cached is empty; expected {expected}")
    return shapes
