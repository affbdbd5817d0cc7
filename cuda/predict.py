"""Predictions by counting: how long each step of the ladders takes at least, on one GPU.

    python -m gta_cuda.predict

prints the tables of docs/cuda.md. It needs no GPU and no CUDA package.

A step of a block needs some cycles of each unit of its multiprocessor. If the units worked side by side without a gap,
the busiest one would decide: this is the *roofline*. A block that waits for a copy before it computes needs the wait in
addition. The blocks of a causal grid differ in length, so the prediction lets the multiprocessors take one block after
the other, in the order of the launch. What remains between a prediction and a measurement is what was not counted:
latencies within a step, and units that wait for each other.

    shared   wavefronts of shared memory, or of the first-level cache where a kernel reads global memory directly: one
             per cycle, of up to 128 bytes (``step5_tiles``)
    issue    instructions of all warps of the block, four per cycle, counted in the machine code for sm_90a
    tensor   operations of the tensor cores, MMA per cycle; a ``wgmma`` reaches WGMMA
    special  exponentials, 16 per cycle

The figures of the engine's own kernels are those in their files.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

MAPS, D_K, D_V = 5, 64, 128  # GTA-1B: the maps share one key head and one latent head
LENGTHS = (4096, 8192, 16384)


class Gpu(NamedTuple):
    """What a GPU can do; all but `cached` and `round_trip` are from cuda/results/."""

    multiprocessors: int
    clock: float  # cycles per second
    copy: float  # bytes per second that a copy reads and writes
    product: float  # operations per second of a large bfloat16 product
    cached: float  # bytes per second from the second-level cache, assumed
    round_trip: float  # seconds until a read has arrived, assumed


H200 = Gpu(132, 1.98e9, 4.184e12, 772.1e12, 5e12, 0.6e-6)
MMA = 2643  # operations per cycle and multiprocessor that the mma instruction reaches, of 4096
WGMMA = H200.product / H200.multiprocessors / H200.clock


class Work(NamedTuple):
    """A kernel of the forward: its blocks, and the cycles that a step of a block takes on each unit."""

    rows: int  # queries of a block
    keys: int  # of a step
    shared: float
    issue: float
    tensor: float = 0.0
    special: float = 0.0
    waits: int = 0  # round trips for which the block stands still in a step
    longest_first: bool = True

    @property
    def limit(self) -> tuple[str, float]:
        """The busiest unit, and its cycles."""
        return max(zip(("shared", "issue", "tensor", "special"), self[2:6], strict=True), key=lambda one: one[1])


def mma_cycles(rows: int, keys: int) -> float:
    """Cycles of the tensor cores for both products of a step, by mma."""
    return 2 * rows * keys * (D_K + D_V) / MMA


# name → (title, work, measured TFLOP/s at LENGTHS)
Forward = tuple[str, Work, tuple[float | None, float | None, float | None]]
NONE = (None, None, None)
FORWARD: dict[str, Forward] = {
    # a thread reads its own query and its own z, so each of 32 threads has a wavefront of its own; a key is shared
    "naive": ("1", Work(128, 1, 4 * (3 * 64 * (32 + 1) + 128 * (32 + 32 + 1)), 7028, longest_first=False),
              (None, 0.10, None)),
    "tiles": ("2", Work(128, 32, 32 * 4 * (3 * 64 + 128 + 128 * 64) + 640, 32 * 3440, longest_first=False),
              (None, 0.14, None)),
    "online": ("3", Work(128, 32, 32 * 4 * (64 + 128) + 384, 32 * 437, longest_first=False), (None, 2.3, None)),
    "forward": ("4", Work(32, 32, 1384, 2100, special=64), (30.3, 31, 33.0)),
    "mma": ("5a", Work(128, 64, 8 * 2048 + 192, 7100, mma_cycles(128, 64), 512, 1), NONE),
    "ldmatrix": ("5b", Work(128, 64, 8 * 1536 + 192, 2000, mma_cycles(128, 64), 512, 1), NONE),
    "swizzle": ("5c", Work(128, 64, 8 * 192 + 192, 2020, mma_cycles(128, 64), 512, 1), NONE),
    "async": ("5d", Work(128, 64, 8 * 192 + 192, 2300, mma_cycles(128, 64), 512), NONE),
    "addresses": ("5e", Work(128, 64, 1728, 700, mma_cycles(128, 64), 512), (194, 244, 318)),
    "rows": ("5f, 5g", Work(128, 32, 480, 370, mma_cycles(128, 32), 256), (146, 218, 339)),
    "forward_bf16": ("5h", Work(64, 128, 1152, 760, mma_cycles(64, 128), 512), (257, 284, 346)),
    # the tensor cores read K and V once per warpgroup; a thread of 128 has about 250 instructions for its 32 scores
    "forward_wgmma": ("6", Work(64, 64, 384, 250, 2 * 64 * 64 * (D_K + D_V) / WGMMA, 256), (250, 413, 423)),
}  # fmt: skip


def operations(length: int) -> float:
    """Useful operations of a causal forward: two per multiply–add that the mask keeps."""
    return 2 * (D_K + D_V) * MAPS * length * (length + 1) / 2


def forward_seconds(work: Work, length: int, gpu: Gpu = H200) -> float:
    """How long a causal forward of one sequence takes at least."""
    steps = [-(-(i + 1) * work.rows // work.keys) for i in range(-(-length // work.rows))]
    order = [n for n in (reversed(steps) if work.longest_first else steps) for _ in range(MAPS)]
    return _shared_out([n * (work.limit[1] + work.waits * gpu.round_trip * gpu.clock) for n in order], gpu) / gpu.clock


def _shared_out(blocks: list[float], gpu: Gpu) -> float:
    """When the last multiprocessor is ready, if each takes the next block when it is; blocks: what each takes.

    Several blocks that run at once share the units, so that all of them together are ready no earlier.
    """
    ready = [0.0] * gpu.multiprocessors
    for block in blocks:
        heapq.heappush(ready, heapq.heappop(ready) + block)
    return max(ready)


class Cache(NamedTuple):
    """A kernel of the decode: its blocks, what it reads, and the instructions and waits of a tile."""

    keys: int  # of a tile
    blocks: int  # that a multiprocessor has room for
    groups: int  # blocks per split: one per map, or one for all
    splits: int
    issue: float  # cycles of a tile
    waits: int  # round trips of a tile
    merge: float  # seconds
    element: int = 4  # bytes


DECODE_KEYS = 131072
EDGES = 4e-6  # from the launch until the first reads arrive, and the end of the blocks


def in_order(splits: int, gpu: Gpu = H200) -> float:
    """Seconds of a merge that walks over the splits twice, four reads at a time."""
    return 2 * -(-splits // 4) * gpu.round_trip


# name → (title, work, measured µs)
DECODE: dict[str, tuple[str, Cache, float | None]] = {
    "decode_naive": ("1", Cache(128, 7, 5, 1, 7400, 40, 0.0), None),
    "decode_split": ("2", Cache(128, 8, 5, 264, 7400, 40, in_order(264)), None),
    "decode_rows": ("3", Cache(128, 5, 1, 264, 23500, 72, in_order(264)), None),
    "decode_wide": ("4", Cache(32, 2, 1, 264, 1513, 2, 2.5e-6), None),
    "decode": ("5", Cache(32, 3, 1, 396, 450, 0, 2.5e-6), 34.5),
    "decode_bf16": ("6", Cache(64, 2, 1, 264, 190, 0, 2.5e-6, 2), 20.3),
}


def decode_parts(work: Cache, gpu: Gpu = H200) -> dict[str, float]:
    """Seconds that a decode of one sequence spends at least on each of four things, of which the longest decides."""
    cache = DECODE_KEYS * (D_K + D_V) * work.element
    tiles = -(-DECODE_KEYS // work.splits // work.keys)
    waves = -(-work.groups * work.splits // (work.blocks * gpu.multiprocessors))
    tile = work.issue / gpu.clock + work.waits * gpu.round_trip
    busy = -(-work.groups * work.splits // gpu.multiprocessors) * tiles * work.issue / gpu.clock
    return {
        "memory": cache / gpu.copy,
        "second-level cache": cache * work.groups / gpu.cached,
        "issue": busy,
        "tiles in turn": waves * tiles * tile,
    }


def decode_seconds(work: Cache, gpu: Gpu = H200) -> float:
    """How long a decode of one sequence takes at least."""
    return EDGES + max(decode_parts(work, gpu).values()) + work.merge


class Backward(NamedTuple):
    """A backward: multiply–adds per score, and cycles per 64 · 64 scores of dQ's kernel and of that for dK and dV."""

    products: int
    queries: float
    keys: float
    shared: bool  # whether several blocks share the queries, or the keys, of one
    measured: tuple[float | None, float | None]  # ms, at BACKWARD_LENGTHS


BACKWARD_LENGTHS = (1024, 8192)
# float32: 128 multiply–adds per cycle; dQ takes three products (64 + 128 + 64 per score), dK and dV four (384)
BACKWARD: dict[str, Backward] = {
    "backward_whole": Backward(640, 64 * 64 * 256 / 128, 64 * 64 * 384 / 128, False, (None, None)),
    "backward": Backward(640, 64 * 64 * 256 / 128, 64 * 64 * 384 / 128, True, (0.22, 12.0)),
    "backward_bf16": Backward(640, 1638 / 2, 3072 / 2, True, (0.038, 0.70)),
}


def backward_seconds(work: Backward, length: int, gpu: Gpu = H200) -> float:
    """How long a causal backward takes at least, by blocks of 64 queries of a map and of 64 keys of all maps."""
    steps = range(1, -(-length // 64) + 1)
    of_queries = [n * work.queries for n in reversed(steps) for _ in range(MAPS)]
    of_keys = [n * MAPS * work.keys for n in reversed(steps)]
    if work.shared:
        return sum(of_queries + of_keys) / gpu.multiprocessors / gpu.clock
    return (_shared_out(of_queries, gpu) + _shared_out(of_keys, gpu)) / gpu.clock


def forward_table() -> str:
    """The forward's ladder in Markdown: cycles per 128 · 64 scores, and TFLOP/s predicted and measured."""
    rows = [
        "| step | | shared | issue | tensor | special | waits | limit | "
        + " | ".join(f"N {n:,}: at most" for n in LENGTHS)
        + " | measured |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (title, work, measured) in FORWARD.items():
        units = 128 * 64 / (work.rows * work.keys)
        cells = [f"{x * units:,.0f}" if x else "" for x in work[2:6]]
        rates = [f"{_short(operations(n) / forward_seconds(work, n) / 1e12)}" for n in LENGTHS]
        limit = work.limit[0] + (", waiting" if work.waits else "")
        found = ", ".join("–" if x is None else _short(x) for x in measured) if any(measured) else "not yet"
        waits = f"{work.waits * units:.0f}" if work.waits else ""
        rows.append(f"| {title} | `{name}` | {' | '.join([*cells, waits, limit, *rates, found])} |")
    return "\n".join(rows)


def decode_table() -> str:
    """The decode's ladder in Markdown, in microseconds."""
    rows = [
        "| step | | blocks | memory | second-level cache | issue | tiles in turn | merge | at least | measured |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (title, work, measured) in DECODE.items():
        parts = decode_parts(work)
        times = [f"{1e6 * x:,.1f}" for x in (*parts.values(), work.merge, decode_seconds(work))]
        found = "not yet" if measured is None else f"{measured}"
        rows.append(f"| {title} | `{name}` | {work.groups * work.splits:,} | {' | '.join([*times, found])} |")
    return "\n".join(rows)


def backward_table() -> str:
    """The backward's ladder in Markdown, in milliseconds."""
    heads = " | ".join(f"N {n:,}: at least | measured" for n in BACKWARD_LENGTHS)
    rows = [
        f"| | multiply–adds per score | dQ, cycles per 64 · 64 scores | dK, dV | {heads} |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, work in BACKWARD.items():
        cells = [f"`{name}`", f"{work.products}", f"{work.queries:,.0f}", f"{work.keys:,.0f}"]
        for length, measured in zip(BACKWARD_LENGTHS, work.measured, strict=True):
            cells += [f"{1e3 * backward_seconds(work, length):.2g}", "not yet" if measured is None else f"{measured}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _short(x: float) -> str:
    return f"{x:.2f}" if x < 1 else f"{x:.1f}" if x < 10 else f"{x:.0f}"


if __name__ == "__main__":
    print(forward_table(), decode_table(), backward_table(), sep="\n\n")
