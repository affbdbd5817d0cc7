"""Arrays of Numba's simulator that record what the threads of a launch do with their elements.

If two threads touch an element of shared memory between the same two barriers and at least one of them writes, that is
a race, whether or not it shows in the values.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

import numpy as np

Thread = tuple[tuple[int, ...], tuple[int, ...]]


class Watch:
    """What the threads of one launch did.

    Attributes
    ----------
    counts : Counter
        Elements read from each array of global memory, by its name.
    barriers : dict
        How many barriers each thread has passed.
    shared : bool
        Whether the kernel has a shared array.
    race, unfilled : str or None
        The first race, and the first element of shared memory that was read before any thread wrote it, in words.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.barriers: dict[Any, int] = {}
        self.shared = False
        self.race: str | None = None
        self.unfilled: str | None = None
        self.lock = threading.RLock()

    @property
    def reads(self) -> int:
        """Elements read from global memory, of all arrays together."""
        return self.counts.total()

    def thread(self) -> Thread:
        """The calling thread: its block and its place in the block."""
        now: Any = threading.current_thread()
        block, place = now.blockIdx, now.threadIdx
        return (block.x, block.y), (place.x, place.y)

    def uneven(self, threads: int) -> str | None:
        """Two threads of one block that passed different numbers of barriers, in words."""
        for block in {b for b, _ in self.barriers}:
            counts = {place: n for (b, place), n in self.barriers.items() if b == block}
            most, least = max(counts.values()), min(counts.values()) if len(counts) == threads else 0
            if most != least:
                return f"in block {block} one thread passes {most} barriers and another {least}"
        return None


class Elements:
    """An array whose elements are read and written one by one; a row or a slice is a part of the same memory.

    It has no arithmetic of arrays: a kernel for a GPU has none either.
    """

    def __init__(self, values: np.ndarray, places: np.ndarray | None = None) -> None:
        self.values = values  # of the whole memory, one-dimensional
        self.places = np.arange(values.size) if places is None else places  # of this part's elements in the memory
        self.shape, self.ndim, self.size = self.places.shape, self.places.ndim, self.places.size
        self.dtype = values.dtype

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        where = self.places[index]
        return self.read(int(where)) if np.ndim(where) == 0 else self.part(where)

    def __setitem__(self, index: Any, value: Any) -> None:
        where = np.asarray(self.places[index])
        for place, one in zip(where.ravel(), np.broadcast_to(value, where.shape).ravel(), strict=True):
            self.write(int(place), one)

    def part(self, places: np.ndarray) -> Elements:
        """The elements at these places, as an array."""
        raise NotImplementedError

    def read(self, place: int) -> Any:
        """One element."""
        raise NotImplementedError

    def write(self, place: int, value: Any) -> None:
        """Change one element."""
        raise NotImplementedError


class GlobalArray(Elements):
    """Global memory that counts the elements that are read, and knows which ones were written."""

    def __init__(
        self, name: str, array: np.ndarray, watch: Watch, *, written: set[int] | None = None,
        places: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        places = np.arange(array.size).reshape(array.shape) if places is None else places
        super().__init__(array.reshape(-1), places)
        self.name, self.watch = name, watch
        self.written: set[int] = set() if written is None else written

    def part(self, places: np.ndarray) -> GlobalArray:  # noqa: D102 (see Elements)
        return GlobalArray(self.name, self.values, self.watch, written=self.written, places=places)

    def read(self, place: int) -> Any:  # noqa: D102
        with self.watch.lock:
            self.watch.counts[self.name] += 1
        return self.values[place]

    def write(self, place: int, value: Any) -> None:  # noqa: D102
        self.written.add(place)
        self.values[place] = value


class Shared:
    """The memory behind a shared array of one block, and who touched which of its elements."""

    def __init__(self, shape: Any, dtype: np.dtype, line: int) -> None:
        unset = np.nan if dtype.kind == "f" else np.iinfo(dtype).max  # no kernel may rely on what was there
        self.shape = np.empty(shape, bool).shape
        self.values = np.full(self.shape, unset, dtype).reshape(-1)
        self.line = line
        self.wrote: dict[int, tuple[Thread, int]] = {}
        self.read: dict[int, dict[Thread, int]] = {}


class SharedArray(Elements):
    """Shared memory of one block that records races, or a part of it.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : dtype
    watch : Watch
    line : int
        The line of the kernel that makes the array.
    part_of : (Shared, places), optional
        Make a part of an existing memory.
    """

    def __init__(self, shape: Any, dtype: Any, watch: Watch, line: int, part_of: Any = None) -> None:
        self.memory: Shared
        places: np.ndarray
        if part_of is None:
            self.memory = Shared(shape, np.dtype(dtype), line)
            places = np.arange(self.memory.values.size).reshape(self.memory.shape)
        else:
            self.memory, places = part_of
        super().__init__(self.memory.values, places)
        self.watch = watch

    def part(self, places: np.ndarray) -> SharedArray:  # noqa: D102 (see Elements)
        return SharedArray(None, None, self.watch, 0, (self.memory, places))

    def read(self, place: int) -> Any:  # noqa: D102
        with self.watch.lock:
            thread = self.watch.thread()
            stretch = self.watch.barriers.get(thread, 0)
            writer = self.memory.wrote.get(place)
            if writer is not None and writer[0] != thread and writer[1] == stretch:
                self._race(place, thread, "reads", writer[0], "writes")
            if writer is None and self.watch.unfilled is None:
                self.watch.unfilled = self._words(place)
            self.memory.read.setdefault(place, {})[thread] = stretch
            return self.values[place]

    def write(self, place: int, value: Any) -> None:  # noqa: D102
        with self.watch.lock:
            thread = self.watch.thread()
            stretch = self.watch.barriers.get(thread, 0)
            writer = self.memory.wrote.get(place)
            if writer is not None and writer[0] != thread and writer[1] == stretch:
                self._race(place, thread, "writes", writer[0], "writes")
            for other, at in self.memory.read.get(place, {}).items():
                if other != thread and at == stretch:
                    self._race(place, thread, "writes", other, "reads")
            self.memory.wrote[place] = thread, stretch
            self.values[place] = value

    def _words(self, place: int) -> str:
        """The element in words, with the name that the kernel has for the array if it can be found."""
        index = tuple(int(i) for i in np.unravel_index(place, self.memory.shape))
        at = ", ".join(map(str, index))
        frame: Any = sys._getframe(2)
        while frame is not None:
            for name, value in frame.f_locals.items():
                if name != "self" and isinstance(value, SharedArray) and value.memory is self.memory:
                    return f"{name}[{at}] (the shared array in line {self.memory.line})"
            frame = frame.f_back
        return f"element {at} of the shared array in line {self.memory.line}"

    def _race(self, place: int, thread: Thread, does: str, other: Thread, did: str) -> None:
        if self.watch.race is None:
            self.watch.race = (
                f"between two barriers thread {thread[1]} {does} {self._words(place)}, which thread {other[1]} {did}"
            )
