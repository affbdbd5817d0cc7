# ruff: noqa: D102, D103 (wgmma.py describes what each function does)
"""Python versions of the functions of ``wgmma`` for Numba's simulator, with the same results.

Nothing here knows how a kernel computes its addresses: a product decodes its descriptor bit by bit and reads shared
memory where the tables of the PTX ISA say that the operand lies. A shared array has address 0 here.

The versions are stricter than a GPU. A product sees only what was shown to it (`show`). It reads its operand B when it
is issued and again when the warpgroup has waited for it, and both must agree; operand A must not have changed either.
Its results are NaN until the wait. Unlike those of ``emulated``, these functions wait only for the threads that take
part on a GPU, a warp or a warpgroup, so that the warpgroups of a block may do different things.
"""

# like the functions of wgmma, these accept arguments of many types
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

WARP, WARPGROUP = 32, 128
SWIZZLE_128 = 1
PATIENCE = 60.0  # seconds until a thread that waits for others gives up


# ---- waiting for other threads


class Barrier:
    """A phase ends when `count` threads have arrived."""

    def __init__(self, count):
        self.count = self.missing = count
        self.phase = 0
        self.news = threading.Condition()

    def arrive(self):
        """Arrive, and return the number of the phase that this thread has arrived in."""
        with self.news:
            phase = self.phase
            self.missing -= 1
            if self.missing == 0:
                self.missing, self.phase = self.count, phase + 1
                self.news.notify_all()
            return phase

    def wait(self, ended):
        """Wait until the number of the current phase is such that `ended` holds."""
        thread = threading.current_thread()
        with self.news:
            for _ in range(int(PATIENCE / 0.5)):
                if self.news.wait_for(lambda: ended(self.phase), 0.5):
                    return
                if thread.abort:  # another thread of the block has failed
                    break
        raise RuntimeError("a thread waits for others that do not arrive")


class Block:
    """What the threads of a block share, besides the kernel's own arrays."""

    def __init__(self):
        self.lock = threading.Lock()
        self.barriers: dict[Any, Barrier] = {}
        self.shown: np.ndarray | None = None  # shared memory as the products see it
        self.said: dict[Any, Any] = {}

    def barrier(self, key, count):
        with self.lock:
            return self.barriers.setdefault(key, Barrier(count))


LOCK = threading.Lock()


def block() -> Block:
    """The state of the current thread's block."""
    manager: Any = threading.current_thread()._manager  # type: ignore[attr-defined]
    with LOCK:
        if not hasattr(manager, "wgmma"):
            manager.wgmma = Block()
    found: Block = manager.wgmma
    return found


@cuda.jit(device=True)
def tell(size, value):
    """Give `value` to the `size` threads of this thread's warp or warpgroup; return theirs, in the order of threads."""
    t, here = int(cuda.threadIdx.x), block()
    meeting = here.barrier((size, t // size), size)
    here.said[size, t] = value
    meet(meeting)
    first = t // size * size
    found = [here.said[size, i] for i in range(first, first + size)]
    meet(meeting)
    return found


def meet(barrier):
    phase = barrier.arrive()
    barrier.wait(lambda now: now > phase)


@cuda.jit(device=True)
def shfl_xor(value, mask):
    return tell(WARP, value)[int(cuda.threadIdx.x) % WARP ^ mask]


# ---- shared memory


def plain(shared):
    """The array without the watching of ``tests/gta_cuda/watched.py``."""
    return shared.view(np.ndarray)


def show(shared):
    here = block()
    with here.lock:  # otherwise an older copy could replace a newer one
        # the copy also holds what others have written; a missing call is still seen, because the copy is then old
        here.shown = plain(shared).copy()


# ---- products


class Place(NamedTuple):
    """The fields of a descriptor, in bytes."""

    start: int
    leading: int
    stride: int
    offset: int
    mode: int

    @classmethod
    def decode(cls, bits: int) -> Place:
        """The fields of the 64 bits; every distance is stored without its last four bits."""
        start, leading, stride = ((bits >> at & 0x3FFF) << 4 for at in (0, 16, 32))
        return cls(start, leading, stride, bits >> 49 & 7, bits >> 62)

    def addresses(self, n: int, transposed: bool) -> np.ndarray:
        """(16, n): where element (k, n) of B lies, in bytes; see ``wgmma.descriptor``."""
        assert (self.mode, self.offset) == (SWIZZLE_128, 0), "only the 128-byte swizzle without an offset is known here"
        k, j = np.arange(16)[:, None], np.arange(n)[None, :]
        if transposed:  # 64 columns of B are 8 groups of 16 bytes; 8 rows of B follow each other every 128 bytes
            logical = self.start + j % 64 * 2 + j // 64 * self.leading + k % 8 * 128 + k // 8 * self.stride
        else:  # 8 columns of B follow each other every 128 bytes; `leading` is not used
            logical = self.start + k * 2 + j % 8 * 128 + j // 8 * self.stride
        found: np.ndarray = logical ^ (logical >> 7 & 7) << 4
        return found


class Descriptor(int):
    """The 64 bits, and the shared array that they point into."""

    shared: Any


def descriptor(shared, address, leading, stride):
    address, leading, stride = int(address), int(leading), int(stride)
    assert address % 16 == leading % 16 == stride % 16 == 0, "not a multiple of 16 bytes"
    found = Descriptor(address >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | SWIZZLE_128 << 62)
    found.shared = shared
    return found


def renew(old, fresh, nothing):
    assert nothing == 0
    return fresh


class Product(NamedTuple):
    """A group that was issued: where the results go, the operands, and what of them was read at that time."""

    d: Any
    old: np.ndarray  # D before, or zeros
    a: Any
    a_then: np.ndarray
    shared: Any
    places: list[np.ndarray]
    b_then: list[np.ndarray]


class Groups(threading.local):
    """The products of a thread that are under way, oldest first."""

    def __init__(self):
        self.under_way: list[Product] = []


GROUPS = Groups()


def make_product(n: int, steps: tuple[int, ...], transposed: bool, add: bool) -> Callable:
    n_a, n_d = 4 * len(steps), n // 2

    @cuda.jit(device=True)
    def product(d, a, descriptor):
        places, then = [], []
        # the first thread of the warpgroup reads B for all
        for step in steps if cuda.threadIdx.x % WARPGROUP == 0 else ():
            assert step % 16 == 0, "not a multiple of 16 bytes"
            # as on the GPU, the step is added to the descriptor's bits
            index = Place.decode(int(descriptor) + step // 16).addresses(n, transposed) // 2
            shown = block().shown
            read(descriptor.shared, index)
            places.append(index)
            then.append(np.full(index.shape, 0xFFFF, np.uint16) if shown is None else shown[index])
        a_then = np.array([int(a[i]) for i in range(n_a)], np.uint32)
        old = np.array([d[i] if add else 0 for i in range(n_d)], np.float64)
        GROUPS.under_way.append(Product(d, old, a, a_then, descriptor.shared, places, then))
        for i in range(n_d):
            d[i] = np.nan

    return product


def read(shared, index):
    """Read the elements one by one, so that a watched array notes the accesses."""
    return np.array([[shared[i] for i in row] for row in index], np.uint16)


def floats(halves):
    """Bits of bfloat16 → float64."""
    return (np.asarray(halves).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def make_wait(groups: int, n_d: int, n_a: int) -> Callable:
    @cuda.jit(device=True)
    def wait(d, a):
        t = int(cuda.threadIdx.x) % WARPGROUP
        for _ in range(max(0, len(GROUPS.under_way) - groups)):
            one = GROUPS.under_way.pop(0)
            assert all(int(one.a[i]) == x for i, x in enumerate(one.a_then)), "A changed while it was in use"
            registers = np.stack(tell(WARPGROUP, one.a_then))
            total: Any = None
            if t == 0:
                total = 0.0
                for step, (index, b) in enumerate(zip(one.places, one.b_then, strict=True)):
                    assert (read(one.shared, index) == b).all(), "B changed while it was in use, or was not shown"
                    total = total + whole_a(registers[:, 4 * step : 4 * step + 4]) @ floats(b)
            total = tell(WARPGROUP, total)[0]
            warp, g, p = t // WARP, t % WARP // 4, t % 4 * 2
            mine = total[warp * 16 : warp * 16 + 16].reshape(2, 8, -1, 8)[:, g, :, p : p + 2]  # (h, j, i)
            for i, x in enumerate(mine.transpose(1, 0, 2).ravel()):  # element 4j + 2h + i
                one.d[i] = np.float32(x + one.old[i])

    return wait


def whole_a(registers):
    """(128, 4) pairs of a warpgroup → A (64, 16)."""
    pairs = registers.reshape(4, 8, 4, 2, 2)  # warp, g, p / 2, left or right half, upper or lower half
    values = floats(np.stack([pairs & 0xFFFF, pairs >> 16], axis=-1))
    return values.transpose(0, 4, 1, 3, 2, 5).reshape(64, 16)
