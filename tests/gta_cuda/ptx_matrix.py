"""The instructions of the PTX machine that a warp, or four warps, execute together on matrices.

The layouts are written from the tables of the PTX ISA, element by element, and not from ``cuda/emulated.py``. With
g = lane // 4 and p = lane mod 4, element i of a thread's fragment is, in mma.m16n8k16 with bfloat16:

    A   i = 0 … 7    row g, for i in 2, 3, 6, 7 row g + 8     column 2p + i mod 2, for i > 3 plus 8
    B   i = 0 … 3    row 2p + i mod 2, for i > 1 plus 8       column g
    C   i = 0 … 3    row g, for i > 1 row g + 8               column 2p + i mod 2

wgmma multiplies (64, 16) by (16, n); warp w of four has rows 16w … 16w + 15, A as above, and C as above for every 8
columns. B is described by 64 bits: the address, the strides between the groups of its layout, and the swizzle.
"""

import numpy as np

from tests.gta_cuda.ptx_memory import WARP, Fault, Memory, Shared
from tests.gta_cuda.ptx_parse import KINDS, SHARED_BASE, Unknown
from tests.gta_cuda.ptx_scalar import does

U16, U32, U64, F32 = (KINDS[x] for x in ("u16", "u32", "u64", "f32"))
LANE = np.arange(WARP)[:, None]
G, P = LANE // 4, LANE % 4


def places(kind, n):
    """Rows and columns of the elements of a thread's fragment, each (32, n)."""
    i = np.arange(n)
    if kind == "A":
        return G + np.isin(i, (2, 3, 6, 7)) * 8, 2 * P + i % 2 + (i > 3) * 8
    if kind == "B":
        return 2 * P + i % 2 + (i > 1) * 8, G + 0 * i
    return G + (i % 4 > 1) * 8, 2 * P + i % 2 + i // 4 * 8


def halves(pairs):
    """(…, n) registers of two bfloat16 → (…, 2n) float32, the lower half first."""
    both = np.stack([pairs & 0xFFFF, pairs >> 16], axis=-1).astype(np.uint32) << 16
    return both.view(np.float32).reshape(*pairs.shape[:-1], -1)


def registers(block, names, kind):
    """Registers as (warps, 32, n)."""
    return np.stack([block.full(block.read(x, kind)) for x in names], axis=-1).reshape(-1, WARP, len(names))


def matrix(elements, kind, shape):
    """(warps, 32, n) fragments → (warps, *shape)."""
    found = np.zeros((len(elements), *shape))
    found[:, *places(kind, elements.shape[-1])] = elements
    return found


@does(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16")
def ldmatrix(block, operands, count, transposed):
    """Thread 8m + r passes the address of row r of matrix m; thread t receives two elements of each matrix."""
    if len(operands[0]) != int(count):
        raise Unknown(f"ldmatrix.x{count} to {len(operands[0])} registers")
    memory, threads, addresses = block.access(operands[1], "shared")
    if (addresses % 16).any():
        raise Fault("ldmatrix with a row at an address that is not a multiple of 16")
    rows = addresses.reshape(-1, WARP)
    g, p = G[:, 0], P[:, 0]
    for m, to in enumerate(operands[0]):
        pair = []
        for i in range(2):
            row, column = (2 * p + i, g) if transposed else (g, 2 * p + i)
            pair.append(memory.load(threads, (rows[:, 8 * m + row] + 2 * column).ravel(), U16, 1)[0].astype(np.uint32))
        block.write(to, block.spread(pair[1] << 16 | pair[0]))


@does(r"movmatrix\.sync\.aligned\.m8n8\.trans\.b16")
def movmatrix(block, operands):
    """Transpose an 8 × 8 matrix; each thread holds two neighbours of a row, as with ldmatrix."""
    pairs = registers(block, operands[1:], U32)[..., 0]
    whole = np.stack([pairs & 0xFFFF, pairs >> 16], axis=-1).reshape(-1, 8, 8)
    turned = whole.transpose(0, 2, 1).reshape(-1, WARP, 2)
    block.write(operands[0], (turned[..., 1] << 16 | turned[..., 0]).ravel().astype(np.uint32))


@does(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32")
def mma(block, operands):
    """D = A B + C."""
    d, a, b, c = operands
    a = matrix(halves(registers(block, a, U32)), "A", (16, 16))
    b = matrix(halves(registers(block, b, U32)), "B", (16, 8))
    c = registers(block, c, F32)
    product = (a @ b)[:, *places("C", 4)] + c
    for i, to in enumerate(d):
        block.write(to, product[..., i].ravel().astype(np.float32))


class Products:
    """The asynchronous products of a block. They reach their registers when the warps wait for them.

    Until then, reading such a register is a Fault, except by another product and by ``mov``. Registers have to be
    written before a ``wgmma.fence``, and shared memory before a ``fence.proxy.async`` and a barrier.
    """

    def __init__(self, block):
        self.block = block
        self.flight = {}  # (four warps, register) → (values of their threads, group of the product)
        self.operands = []  # (four warps, group, addresses in shared memory, what was read there)
        self.closed = np.zeros(max(1, block.threads // (4 * WARP)), np.int64)
        self.after_fence = set()  # registers that were written after the last fence
        self.used = any(one.name.startswith("wgmma.") for one in block.program.code)

    def active(self):
        return [w for w in range(len(self.closed)) if self.block.active[4 * WARP * w]]

    def copied(self, to, source):
        """``mov`` may copy a register whose value has not arrived: so the compiler moves operands to their places."""
        self.written(to)
        if source not in self.after_fence:
            self.after_fence.discard(to)
        for w in self.active():
            if (w, source) in self.flight:
                self.flight[w, to] = self.flight[w, source]

    def written(self, name):
        self.after_fence.add(name)
        for w in self.active():
            self.flight.pop((w, name), None)

    def fence(self):
        self.after_fence.clear()

    def start(self, operands, n):
        d, a, description, scale_d, scale_a, scale_b, *transposed = operands
        if (scale_a.bits, scale_b.bits) != (1, 1) or len(d) != n // 2 or not isinstance(a, tuple):
            raise Unknown("wgmma with a negated operand, or with A in shared memory")
        if late := self.after_fence.intersection((*d, *a)):
            raise Fault(f"wgmma on registers that were written after the last wgmma.fence: {', '.join(sorted(late))}")
        block = self.block
        adds = block.full(block.read(scale_d, KINDS["pred"]))
        a = matrix(halves(registers(block, a, U32)), "A", (16, 16))
        rows, columns = places("C", n // 2)
        for w in self.active():
            threads = slice(4 * WARP * w, 4 * WARP * (w + 1))
            b = self.from_shared(
                w, np.unique(block.full(block.read(description, U64))[threads]), n, transposed[-1].bits
            )
            products = (a[4 * w : 4 * w + 4] @ b)[:, rows, columns].reshape(4 * WARP, -1)
            if len(np.unique(adds[threads])) > 1:
                raise Fault("wgmma with a scale-d that differs between threads")
            for i, to in enumerate(d):
                value = products[:, i]
                if adds[threads][0]:
                    held = self.flight[w, to][0] if (w, to) in self.flight else block.full(block.read(to, F32))[threads]
                    value = value + held
                self.flight[w, to] = value.astype(np.float32), self.closed[w]
        for to in d:
            lacks = block.unwritten.get(to, np.full(block.threads, to not in block.values))
            block.values.setdefault(to, np.full(block.threads, np.nan, np.float32))
            block.unwritten[to] = lacks | block.active

    def from_shared(self, w, description, n, transposed):
        """B (16, n) by its description, which all threads have to share."""
        if len(description) > 1:
            raise Fault("wgmma with a description that differs between threads")
        bits = int(description[0])
        start, leading, stride = ((bits >> at & 0x3FFF) << 4 for at in (0, 16, 32))
        if (bits >> 62, bits >> 49 & 7) != (1, 0):
            raise Unknown(f"wgmma with the description {bits:#x}: not swizzled by 128 bytes, or with a base offset")
        k, column = np.arange(16)[:, None], np.arange(n)
        if transposed:  # 64 columns of a row lie together; 8 rows are a group
            at = start + column // 64 * leading + k // 8 * stride + k % 8 * 128 + column % 64 * 2
        else:  # the 16 rows of a column lie together; 8 columns are a group
            at = start + column // 8 * stride + column % 8 * 128 + k * 2
        at ^= (at >> 7 & 7) << 4
        shared, units = self.block.shared, (at.ravel() - SHARED_BASE) // 2
        found = Memory.load(shared, None, at.ravel(), U16, 1)[0]
        if shared.unfenced[units].any():
            raise Fault("wgmma reads shared memory that was written without a fence.proxy.async after it")
        self.operands.append((w, self.closed[w], units, found))
        self._note_read(w, units)
        return (found.astype(np.uint32) << 16).view(np.float32).reshape(at.shape)

    def _note_read(self, w, units):
        """All threads of four warps read, from the start of the product until they have waited for it."""
        for warp in range(4 * w, 4 * w + 4):
            self.block.shared.note_read(units, np.full(len(units), Shared.SEVERAL), np.full(len(units), warp))

    def commit_group(self):
        for w in self.active():
            self.closed[w] += 1

    def wait_group(self, left):
        block, still = self.block, []
        for w, group, at, found in self.operands:
            if w in self.active() and group < self.closed[w] - left:
                if (block.shared.bytes.view(np.uint16)[at] != found).any():
                    raise Fault("shared memory was written while wgmma reads it")
                self._note_read(w, at)
            else:
                still.append((w, group, at, found))
        self.operands = still
        for (w, name), (value, group) in list(self.flight.items()):
            if w in self.active() and group < self.closed[w] - left:
                threads = np.zeros(block.threads, bool)
                threads[4 * WARP * w : 4 * WARP * (w + 1)] = True
                now = block.values[name].copy()
                now[threads] = value
                block.values[name] = now
                block.unwritten[name] = block.unwritten[name] & ~threads
                del self.flight[w, name]

    def finish(self):
        if self.flight:
            raise Fault("the kernel ends before it has waited for its products")


@does(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.bf16\.bf16")
def wgmma(block, operands, n):
    block.products.start(operands, int(n))


@does(r"wgmma\.(fence|commit_group|wait_group)\.sync\.aligned")
def wgmma_group(block, operands, what):
    getattr(block.products, what)(*(x.bits for x in operands))
