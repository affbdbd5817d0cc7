"""The engine's float32 decode, for few queries and many keys. It reads K and V once, with all multiprocessors.

A *row* is a query of one map. A block serves up to 8 rows of maps that share both heads: the five maps of GTA-1B
read one K and one C together. The keys are cut into *splits*, one per block; without splits a single sequence would
occupy one multiprocessor of about a hundred. Each split produces its own z and lse, and ``merge`` combines them.

Within a block, each warp loops over its share of the split's keys, 8 or more per step, with an online softmax of its
own. The results of the warps are combined by the same rule at the end. Several threads share a key, in groups of 4
columns:

    d_k 64: 4 threads per key, 8 keys per instruction of the warp; two shuffles add the 4 partial sums of a score
    d_v 128: 32 threads per value; each adds weight · 4 columns for every row

The queries are in shared memory, where all warps read them, 4 columns with one instruction. V is requested before the
scores of its keys are computed, and K of the next step after them, so that a warp always has loads under way: 6 KB per
step at these widths.

The arithmetic runs on the CUDA cores: each element of K or V needs one multiply–add per row. For five rows and 8 keys
these are 240 of a warp's 450 instructions; at 3.4 TB/s, a multiprocessor has 440 cycles for such a step, in which it
issues up to 1760. In bfloat16 an element arrives in half the time, and ``decode_bf16`` uses the tensor cores.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from numba import cuda, float32, int32, int64

from gta_cuda.forward import LN_2, LOG2_E
from gta_cuda.intrinsics import ALIGNMENT, div, exp2, inverse, ld4, log2, shfl_xor, warp_sync
from gta_cuda.kernels import MOST_SHARED
from gta_cuda.tiles import make_load4

MOST_ROWS = 8
REGISTERS = 112  # per thread, for data that grows with the rows or waits for its use; the rest of its 255 are addresses
MOST_EARLY = 32  # registers per thread for K, and for V, that are requested early


class Lanes(NamedTuple):
    """How the 32 threads of a warp share the rows of K, or of V."""

    lanes: int  # threads per row
    chunks: int  # groups of 4 columns per thread
    at_once: int  # rows per instruction of the warp

    @classmethod
    def of(cls, width: int, each: int = 1) -> Lanes:
        """As many threads per row as it has groups of 4·each columns, rounded up to a power of two, at most 32.

        With more than one group each, a row has at least 4 threads: a step is not to have more than 8 keys for it.
        """
        quads = -(-width // 4)
        most = 1 << (quads - 1).bit_length()
        lanes = min(32, max(min(4, most), most // each))
        return cls(lanes, -(-quads // lanes), 32 // lanes)

    @property
    def pitch(self) -> int:
        """Columns that the threads cover together."""
        return 4 * self.lanes * self.chunks


def on_keys(d_k: int) -> Lanes:
    """For K, a thread has up to 4 groups: the fewer threads share a key, the fewer shuffles add up its scores."""
    return Lanes.of(d_k, 4)


def step_keys(d_k: int, d_v: int) -> int:
    """Number of keys that a warp processes per step."""
    return max(8, on_keys(d_k).at_once, Lanes.of(d_v).at_once)


def most_rows(d_k: int, d_v: int, warps: int = 4) -> int:
    """Number of rows that a block can serve at these widths; 0 if they are too large for this kernel."""
    on_k, on_v, keys = on_keys(d_k), Lanes.of(d_v), step_keys(d_k, d_v)
    early_k, early_v = _early(on_k, keys), _early(on_v, keys)
    early = sum(n for n in (early_k, early_v) if n <= MOST_EARLY)
    a_row = keys // on_k.at_once + 4 * on_v.chunks + 3
    if early_k > MOST_EARLY:  # each row then has several groups of its query in registers at a time
        a_row += 4 * on_k.chunks
    shared = 4 * (on_k.pitch + warps * (keys + 2 + d_v)) + 16 * warps * keys
    return min(MOST_ROWS, (REGISTERS - early) // a_row, MOST_SHARED // shared)


def _early(on: Lanes, keys: int) -> int:
    """Registers per thread for the data of one step."""
    return 4 * on.chunks * (keys // on.at_once)


def make_request(on: Lanes, count: int, load4: Callable) -> Callable:
    """Make the device function (held, array, at, stride, left, lane) that loads `count` rows per thread into `held`.

    `at` is the index of the thread's first element, and `left` how many rows exist from its first row on. Rows that do
    not exist are zeros.
    """
    lanes, chunks, at_once = on

    @cuda.jit(device=True)
    def request(held, array, at, stride, left, lane):
        for n in range(count):
            for c in range(chunks):
                x0 = x1 = x2 = x3 = float32(0)
                if n * at_once < left:
                    x0, x1, x2, x3 = load4(array, at + n * at_once * stride + c * lanes * 4, (c * lanes + lane) * 4)
                o = 4 * (n * chunks + c)
                held[o], held[o + 1], held[o + 2], held[o + 3] = x0, x1, x2, x3

    return request


def make_decode(d_k: int, d_v: int, wide: bool, rows: int, warps: int = 4) -> Callable:
    """Make the kernel for these widths and `rows` rows per block. Grid (B·runs, blocks of rows, splits)."""
    on_k, on_v, keys = on_keys(d_k), Lanes.of(d_v), step_keys(d_k, d_v)
    (lanes_k, chunks_k, at_once_k), (lanes_v, chunks_v, at_once_v) = on_k, on_v
    loads_k, loads_v = keys // at_once_k, keys // at_once_v
    load_k, load_v = make_load4(d_k, wide), make_load4(d_v, wide)
    n_k, n_v = _early(on_k, keys), _early(on_v, keys)
    early_k, early_v = n_k <= MOST_EARLY, n_v <= MOST_EARLY
    request_k = make_request(on_k, loads_k if early_k else 0, load_k)
    request_v = make_request(on_v, loads_v if early_v else 0, load_v)
    pitch, quads, of_key = on_k.pitch, on_k.pitch // 4, 4 * -(-rows // 4)  # a key has a weight for each row
    n_queries_shared, n_weights = rows * pitch, warps * keys * of_key
    n_states, n_outputs = warps * rows * 2, warps * rows * d_v
    held_v, n_scores, n_results = 4 * chunks_v, rows * loads_k, rows * 4 * chunks_v
    zero, lowest, to_log2, to_ln = float32(0), float32(-math.inf), float32(LOG2_E), float32(LN_2)

    def decode_f32(
        q, k, v, z, lse, bounds, strides, scale, batch, runs, runs_k, runs_v, maps, n_queries, causal, n_rows
    ):
        queries = cuda.shared.array(n_queries_shared, float32, alignment=ALIGNMENT)
        weights = cuda.shared.array(n_weights, float32, alignment=ALIGNMENT)
        states = cuda.shared.array(n_states, float32)
        outputs = cuda.shared.array(n_outputs, float32)
        of_k = cuda.local.array(n_k, float32)
        of_v = cuda.local.array(n_v, float32)
        w = cuda.local.array(of_key, float32)
        scores = cuda.local.array(n_scores, float32)
        result = cuda.local.array(n_results, float32)
        largest = cuda.local.array(rows, float32)
        total = cuda.local.array(rows, float32)
        last = cuda.local.array(rows, int32)
        t = int32(cuda.threadIdx.x)
        lane, warp = int32(t & 31), int32(t >> 5)
        lane_k, row_k = int32(lane & (lanes_k - 1)), int32(lane // lanes_k)
        lane_v, row_v = int32(lane & (lanes_v - 1)), int32(lane // lanes_v)
        b = div(cuda.blockIdx.x, runs)
        run = int32(cuda.blockIdx.x - b * runs)
        first_row = int32(cuda.blockIdx.y * rows)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        stop = k_stop
        if causal:
            stop = int32(min(k_stop, q_start + n_queries))
        split = div(max(0, stop - k_start) + cuda.gridDim.z - 1, cuda.gridDim.z)
        low = int32(k_start + int32(cuda.blockIdx.z) * split)
        high = int32(min(stop, low + split))
        base_key = int32(low + warp * keys)
        at_k = b * strides[3] + div(run, runs_k) * strides[4] + (base_key + row_k) * strides[5] + lane_k * 4
        at_v = b * strides[6] + div(run, runs_v) * strides[7] + (base_key + row_v) * strides[8] + lane_v * 4
        request_k(of_k, k, at_k, strides[5], int32(high - base_key - row_k), lane_k)

        for e in range(t, rows * quads, int32(32 * warps)):
            r = int32(e // quads)
            column = int32((e - r * quads) * 4)
            row = int32(first_row + r)  # row of the run: its map row // n_queries, query row % n_queries
            u = div(row, n_queries)
            at = b * strides[0] + (run * maps + min(u, maps - 1)) * strides[1] + (row - u * n_queries) * strides[2]
            queries[4 * e], queries[4 * e + 1], queries[4 * e + 2], queries[4 * e + 3] = load_k(q, at + column, column)
        for r in range(rows):
            row = int32(first_row + r)
            u = div(row, n_queries)
            last[r] = -1
            if u < maps:
                last[r] = high - 1
                if causal:
                    last[r] = min(high - 1, q_start + row - u * n_queries)
            largest[r] = lowest
            total[r] = zero
        for o in range(n_results):
            result[o] = zero
        cuda.syncthreads()

        mine = int32(warp * keys)
        for _ in range(low, high, int32(keys * warps)):
            left_v = int32(high - base_key - row_v)
            request_v(of_v, v, at_v, strides[8], left_v, lane_v)
            for o in range(n_scores):
                scores[o] = zero
            for n in range(loads_k):
                for c in range(chunks_k):
                    column = int32((c * lanes_k + lane_k) * 4)
                    x0 = x1 = x2 = x3 = zero
                    if early_k:
                        o = 4 * (n * chunks_k + c)
                        x0, x1, x2, x3 = of_k[o], of_k[o + 1], of_k[o + 2], of_k[o + 3]
                    elif base_key + row_k + n * at_once_k < high:
                        x0, x1, x2, x3 = load_k(k, at_k + n * at_once_k * strides[5] + c * lanes_k * 4, column)
                    for r in range(rows):
                        q0, q1, q2, q3 = ld4(queries, r * pitch + column)
                        s = cuda.fma(x0, q0, scores[n * rows + r])
                        s = cuda.fma(x1, q1, s)
                        s = cuda.fma(x2, q2, s)
                        scores[n * rows + r] = cuda.fma(x3, q3, s)
            key = int32(base_key + row_k)
            base_key = int32(base_key + keys * warps)
            at_k += keys * warps * strides[5]
            request_k(of_k, k, at_k, strides[5], int32(high - base_key - row_k), lane_k)
            for r in range(rows):
                top = largest[r]
                for n in range(loads_k):
                    s = scores[n * rows + r]
                    step = lanes_k // 2
                    while step > 0:
                        s += shfl_xor(s, step)
                        step //= 2
                    s = s * scale * to_log2
                    if int32(key + n * at_once_k) > last[r]:
                        s = lowest
                    scores[n * rows + r] = s
                    top = max(top, s)
                step = 16
                while step >= lanes_k:
                    top = max(top, shfl_xor(top, step))
                    step //= 2
                base = zero
                if top != lowest:
                    base = top
                shrink = exp2(largest[r] - base)
                largest[r] = top
                total[r] *= shrink
                for n in range(loads_k):
                    scores[n * rows + r] = exp2(scores[n * rows + r] - base)
                    total[r] += scores[n * rows + r]
                for o in range(held_v):
                    result[r * held_v + o] *= shrink
            warp_sync()  # the weights of the last step have been read
            if lane_k == 0:
                for n in range(loads_k):
                    for r in range(rows):
                        weights[(mine + n * at_once_k + row_k) * of_key + r] = scores[n * rows + r]
            warp_sync()
            for n in range(loads_v):
                for i in range(of_key // 4):
                    w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3] = ld4(
                        weights, (mine + n * at_once_v + row_v) * of_key + 4 * i
                    )
                for c in range(chunks_v):
                    x0 = x1 = x2 = x3 = zero
                    if early_v:
                        o = 4 * (n * chunks_v + c)
                        x0, x1, x2, x3 = of_v[o], of_v[o + 1], of_v[o + 2], of_v[o + 3]
                    elif n * at_once_v < left_v:
                        at = at_v + n * at_once_v * strides[8] + c * lanes_v * 4
                        x0, x1, x2, x3 = load_v(v, at, (c * lanes_v + lane_v) * 4)
                    for r in range(rows):
                        o = r * held_v + 4 * c
                        result[o] = cuda.fma(w[r], x0, result[o])
                        result[o + 1] = cuda.fma(w[r], x1, result[o + 1])
                        result[o + 2] = cuda.fma(w[r], x2, result[o + 2])
                        result[o + 3] = cuda.fma(w[r], x3, result[o + 3])
            at_v += keys * warps * strides[8]

        for r in range(rows):  # add what the threads of a warp hold of the same row and column
            seen = total[r]
            step = 16
            while step >= lanes_k:
                seen += shfl_xor(seen, step)
                step //= 2
            if lane == 0:
                states[(warp * rows + r) * 2] = largest[r]
                states[(warp * rows + r) * 2 + 1] = seen
            for c in range(chunks_v):
                for i in range(4):
                    x = result[r * held_v + 4 * c + i]
                    step = 16
                    while step >= lanes_v:
                        x += shfl_xor(x, step)
                        step //= 2
                    column = (c * lanes_v + lane_v) * 4 + i
                    if row_v == 0 and column < d_v:
                        outputs[(warp * rows + r) * d_v + column] = x
        cuda.syncthreads()
        here = int32(min(rows, maps * n_queries - first_row))  # rows that exist
        # the results hold the rows of all maps of all sequences in order; the maps of a run are neighbours
        start = int64(cuda.blockIdx.z) * n_rows + int64(cuda.blockIdx.x) * maps * n_queries + first_row
        for e in range(t, int32(here * d_v), int32(32 * warps)):  # combine the results of the warps
            r, column = int32(e // d_v), int32(e % d_v)
            top = states[r * 2]
            for w in range(1, warps):
                top = max(top, states[(w * rows + r) * 2])
            base = top
            if top == lowest:
                base = zero
            x = seen = zero
            for w in range(warps):
                share = exp2(states[(w * rows + r) * 2] - base)
                seen = cuda.fma(share, states[(w * rows + r) * 2 + 1], seen)
                x = cuda.fma(share, outputs[(w * rows + r) * d_v + column], x)
            value = lowest
            if seen > zero:
                x *= inverse(seen)
                value = (top + log2(seen)) * to_ln
            z[(start + r) * d_v + column] = x
            if column == 0:
                lse[start + r] = value

    return decode_f32
