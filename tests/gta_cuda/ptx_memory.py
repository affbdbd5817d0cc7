"""The memories of the PTX machine, which check every access.

An access outside of what may be read or written, or at an address that is not a multiple of its size, is a Fault.
Memory that was not written yet has every bit set, which is NaN as a float32 and as two bfloat16. In shared memory,
two threads that touch the same bytes, at least one of them writing, need a barrier between them.
"""

import numpy as np

HEAP_BASE = 1 << 40  # far from the addresses of the other memories, which begin near 0
SHARED_WINDOW = 1 << 32  # a generic address of shared memory is its address there plus this
WARP = 32


class Fault(Exception):  # noqa: N818
    """Something that a kernel must not do."""


class Memory:
    """Bytes at addresses from `base` on."""

    name = "local memory"
    readable = writable = None  # for each byte, whether a kernel may do this; None if it may always

    def __init__(self, size, base):
        self.base, self.size = base, size
        self.bytes = np.full(size + -size % 16, 0xFF, np.uint8)

    def _at(self, addresses, width, allowed, what):
        """The places of accesses of `width` bytes."""
        at = addresses - self.base
        if (at % width).any():
            raise Fault(f"{what} {self.name}: {width} bytes at an address that is not a multiple of {width}")
        inside = (at >= 0) & (at + width <= self.size)
        if not (inside.all() and (allowed is None or allowed[at[:, None] + np.arange(width)].all())):
            bad = at[0 if inside.all() else np.argmin(inside)]
            raise Fault(f"{what} {self.name}: an address that is not allowed (one is {bad} bytes after its begin)")
        return at

    def load(self, threads, addresses, kind, count):
        """`count` neighbouring values for each address, (count, n)."""
        at = self._at(addresses, kind.itemsize * count, self.readable, "reading") // kind.itemsize
        return self.bytes.view(kind)[at + np.arange(count)[:, None]]

    def store(self, threads, addresses, values):
        """Write values (count, n), of which each address receives `count` neighbouring ones."""
        width = values.itemsize * len(values)
        at = self._at(addresses, width, self.writable, "writing") // values.itemsize
        self.bytes.view(values.dtype)[at + np.arange(len(values))[:, None]] = values


class Heap(Memory):
    """Global memory: copies of arrays, each with the remainder of its address modulo 512, and gaps between them."""

    name = "global memory"

    def __init__(self):
        super().__init__(0, HEAP_BASE)
        self.placed = []  # (array, where each of its bytes lies, whether it may be written)

    def place(self, x, writable):
        """Make room for an array, and return its address; only the bytes of its elements may be accessed."""
        x = x.view(np.uint16) if x.dtype.name == "bfloat16" else x
        at = self.size + 512 + (x.__array_interface__["data"][0] - self.size) % 512
        span = x.itemsize + sum((n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)) if x.size else 0
        strides = (*(8 * stride for stride in x.strides), 8)
        where = np.lib.stride_tricks.as_strided(np.arange(at, at + span), (*x.shape, x.itemsize), strides)
        self.placed.append((x, where, writable))
        self.size = at + span
        return self.base + at

    def copy_in(self):
        """Let the memory hold what the arrays hold."""
        super().__init__(self.size, self.base)
        self.readable, self.writable = np.zeros((2, self.size), bool)
        for x, where, writable in self.placed:
            self.bytes[where] = np.ascontiguousarray(x).view(np.uint8).reshape(where.shape)
            self.readable[where], self.writable[where] = True, writable

    def copy_out(self):
        """Let the arrays of results hold what the memory holds."""
        for x, where, writable in self.placed:
            if writable:
                x[...] = self.bytes[where].view(x.dtype)[..., 0]


class Shared(Memory):
    """A block's shared memory: finds races, reads of copies that have not arrived, and missing fences.

    A unit is 2 bytes. For each, the thread and the time of the last write are kept and, for each warp, those of the last
    read; see ``ptx_barrier`` for the clocks. SEVERAL stands for more than one thread of a warp.
    """

    name = "shared memory"
    SEVERAL = -2

    def __init__(self, size, base, clocks):
        super().__init__(size, base)
        units, warps, self.clocks = size // 2 + 1, len(clocks.now), clocks
        self.writer, self.written = np.full(units, -1), np.zeros(units, np.int64)
        self.reader, self.read = np.full((units, warps), -1), np.zeros((units, warps), np.int64)
        self.under_way = np.zeros(units, bool)  # a copy has not arrived
        self.unfenced = np.zeros(units, bool)  # written since its writer's last fence.proxy.async

    def load(self, threads, addresses, kind, count):
        values = super().load(threads, addresses, kind, count)
        units, threads = self.units(threads, addresses, kind.itemsize * count)
        self.note_read(units, threads, threads // WARP)
        return values

    def store(self, threads, addresses, values):
        super().store(threads, addresses, values)
        self.note_write(*self.units(threads, addresses, values.itemsize * len(values)))

    def units(self, threads, addresses, width):
        """The units of accesses, and the thread of each."""
        if width < 2:
            raise Fault("an access of one byte to shared memory, whose races are looked for in units of two bytes")
        units = ((addresses - self.base) // 2)[:, None] + np.arange(width // 2)
        return units.ravel(), np.repeat(threads, width // 2)

    def note_read(self, units, threads, warps):
        if self.under_way[units].any():
            raise Fault("reading shared memory that an asynchronous copy has not reached")
        self.compare_with_writes(units, threads, warps, "read")
        before, now = self.clocks.seen[warps, warps], self.clocks.now[warps]
        several = (self.read[units, warps] > before) & (self.reader[units, warps] != threads)
        self.reader[units, warps] = threads
        several |= self.reader[units, warps] != threads
        self.reader[units[several], warps[several]] = self.SEVERAL
        self.read[units, warps] = now

    def note_write(self, units, threads):
        warps = threads // WARP
        self.compare_with_writes(units, threads, warps, "written")
        unseen = (self.read[units] > self.clocks.seen[warps]) & (self.reader[units] != threads[:, None])
        self._race(unseen.any(axis=1), units, "written, read")
        self.writer[units] = threads
        self._race(self.writer[units] != threads, units, "written, written in the same instruction")
        self.written[units] = self.clocks.now[warps]
        self.unfenced[units] = True

    def compare_with_writes(self, units, threads, warps, what):
        writer = self.writer[units]
        unseen = (self.written[units] > self.clocks.seen[warps, writer // WARP]) & (writer != threads)
        self._race(unseen, units, f"{what}, written")

    def _race(self, race, units, what):
        if race.any():
            at = 2 * units[np.argmax(race)]
            raise Fault(f"a race: byte {at} of shared memory is {what} by another thread with no barrier between")


class Copies:
    """The asynchronous copies of a block's threads. They reach shared memory when a thread waits for them."""

    def __init__(self, heap, shared, threads):
        self.heap, self.shared = heap, shared
        self.closed = np.zeros(threads, np.int64)  # groups of each thread that are closed
        self.pending = []  # (threads, addresses in shared memory, bytes (16, n), group of its thread)

    def start(self, threads, to, source, size, given):
        """Copy `size` bytes: `given` (n,) bytes are read, the rest are zeros."""
        if ((given > size) | (given < 0)).any():
            raise Fault(f"an asynchronous copy of {size} bytes reads a number of bytes beyond that")
        data = np.zeros((size, len(to)), np.uint8)
        for count in np.unique(given[given > 0]):
            some = given == count
            if (source[some] % size).any():
                raise Fault(f"an asynchronous copy of {size} bytes from an address that is not a multiple of {size}")
            for i in range(count):
                data[i, some] = self.heap.load(threads[some], source[some] + i, np.dtype("u1"), 1)[0]
        self.shared.store(threads, to, np.full((size // 4, len(to)), 0xFFFFFFFF, np.uint32))
        self.shared.under_way[self.shared.units(threads, to, size)[0]] = True
        self.pending.append((threads, to, data, self.closed[threads]))

    def wait(self, threads, left):
        """Let all copies of these threads arrive but those of the last `left` closed groups (None: all) and after."""
        still = []
        waits = np.zeros(len(self.closed), bool)
        waits[threads] = True
        for owners, to, data, group in self.pending:
            now = waits[owners] if left is None else waits[owners] & (group < self.closed[owners] - left)
            if now.any():
                words = np.ascontiguousarray(data[:, now].T).view(np.uint32).T
                self.shared.under_way[self.shared.units(owners[now], to[now], len(data))[0]] = False
                self.shared.store(owners[now], to[now], words)
            if not now.all():
                still.append((owners[~now], to[~now], data[:, ~now], group[~now]))
        self.pending = still
