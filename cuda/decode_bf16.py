"""The engine's bfloat16 decode: ``decode`` on tensor cores, with both products transposed.

A decode step of GTA-1B has five rows, one query of each map, but the tensor cores multiply by at least 8 columns. So
the five rows become columns, padded to 8, and the long sides become the rows:

    Sᵀ = K Qᵀ        (16 keys, 8 rows) per step of a warp; Qᵀ stays in registers
    Zᵀ = Vᵀ Pᵀ       (16 columns of V, 8 rows) for every 16 columns of d_v; ldmatrix transposes V while loading it

In the accumulator of Sᵀ, a thread holds two neighbouring *rows* for one key. As an operand of the next product, it has
to hold two neighbouring *keys* for one row. ``transpose8x8`` converts one layout into the other without shared memory.
In both accumulators thread t holds the rows 2(t mod 4) and the next one, so it also keeps the state of the online
softmax for these rows: two maxima and two sums per thread.

Each warp works on its own: it processes 16 keys per step while its next 16 are being copied. Its results are combined
with those of the other warps at the end, and with those of other splits by ``decode.make_merge``. Both products
together take 2·8·(d_k + d_v) operations per key, far fewer than the tensor cores can do while memory delivers a key.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, int64, uint16, uint32

from gta_cuda.forward import LN_2, LOG2_E
from gta_cuda.intrinsics import (
    ALIGNMENT,
    bf16_bits,
    bits_float,
    cp_async_commit,
    cp_async_wait,
    div,
    exp2,
    float_bits,
    inverse,
    log2,
    pack_bf16,
    pair,
    shfl_xor,
    st_pair,
    transpose8x8,
    warp_sync,
)
from gta_cuda.kernels import MOST_SHARED
from gta_cuda.tiles_bf16 import make_columns_fragment, make_load, make_rows_fragment, multiply, padded

ROWS, KEYS = 8, 16  # of one mma; a warp processes this many keys per step
MOST_HELD = 100  # registers per thread for queries and results; the rest of its 255 hold fragments and addresses
wait_all, wait_but_one = cp_async_wait


def most_warps(d_k: int, d_v: int) -> int:
    """Warps per block: as many as shared memory has room for, two steps each; at most 4, 0 if widths are too large."""
    held = padded(d_k) // 8 + padded(d_v) // 4
    return min(4, MOST_SHARED // (4 * KEYS * (padded(d_k) + padded(d_v)))) if held <= MOST_HELD else 0


def make_decode(d_k: int, d_v: int, wide: bool, warps: int, to_bf16: bool) -> Callable:
    """Make the kernel for these widths. Grid (B·runs, blocks of 8 rows, splits).

    With to_bf16, z is the final result in bfloat16; without it, z is one split's part in float32.
    """
    columns, width = padded(d_k), padded(d_v)
    stage, values_at = KEYS * (columns + width), KEYS * columns
    outputs = warps * ROWS * d_v  # float32 results, stored in the place of the tiles; two numbers per row follow
    total = max(2 * stage * warps, 2 * (outputs + 2 * warps * ROWS))
    load_k, load_v = make_load(KEYS, columns, d_k, wide, 32), make_load(KEYS, width, d_v, wide, 32)
    key_fragment, value_fragment = make_rows_fragment(columns), make_columns_fragment(width)
    depth, strips = columns // 16, width // 16
    n_query, n_results = 2 * depth, 4 * strips
    zero, lowest, ln_2, log2_e = float32(0), float32(-math.inf), float32(LN_2), float32(LOG2_E)

    @cuda.jit(device=True)
    def query_pair(q, at, column, exists):
        low = high = uint16(0)
        if exists and column < d_k:
            low = q[at + column]
        if exists and column + 1 < d_k:
            high = q[at + column + 1]
        return pair(low, high)

    def decode_bf16(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, maps, n_queries, causal, n_rows):
        shared = cuda.shared.array(total, uint16, alignment=ALIGNMENT)
        query = cuda.local.array(n_query, uint32)
        scores = cuda.local.array(4, float32)
        result = cuda.local.array(n_results, float32)
        t = int32(cuda.threadIdx.x)
        lane, warp = int32(t % 32), int32(t // 32)
        runs = div(n_q, maps)
        batch, b = div(cuda.gridDim.x, runs), div(cuda.blockIdx.x, runs)
        run = int32(cuda.blockIdx.x - b * runs)
        first_row = int32(cuda.blockIdx.y * ROWS)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        stop = k_stop
        if causal:
            stop = int32(min(k_stop, q_start + n_queries))
        split = div(max(0, stop - k_start) + cuda.gridDim.z - 1, cuda.gridDim.z)
        low = int32(k_start + int32(cuda.blockIdx.z) * split)
        high = int32(min(stop, low + split))
        keys = (k, b * strides[3] + div(run * maps, maps_k) * strides[4], strides[5], low, high)
        values = (v, b * strides[6] + div(run * maps, maps_v) * strides[7], strides[8], low, high)
        to_log2 = scale * log2_e

        row = first_row + lane // 4  # row of the run: its map row // n_queries, query row % n_queries
        exists = row < maps * n_queries
        u = div(row, n_queries)
        at = b * strides[0] + (run * maps + min(u, maps - 1)) * strides[1] + (row - u * n_queries) * strides[2]
        for d in range(depth):
            column = d * 16 + lane % 4 * 2
            query[2 * d] = query_pair(q, at, column, exists)
            query[2 * d + 1] = query_pair(q, at, column + 8, exists)
        for i in range(n_results):
            result[i] = zero
        # suffixes for the thread's two rows: the even one (e) and the odd one after it (o)
        row = int32(first_row + lane % 4 * 2)
        last_e = last_o = high - 1
        if causal:
            last_e = min(last_e, q_start + row - div(row, n_queries) * n_queries)
            last_o = min(last_o, q_start + row + 1 - div(row + 1, n_queries) * n_queries)
        top_e = top_o = lowest
        sum_e = sum_o = zero

        mine = int32(warp * (2 * stage))
        here = int32(0)
        load_k(shared, mine, keys, low + warp * KEYS, 0, lane)
        load_v(shared, mine + values_at, values, low + warp * KEYS, 0, lane)
        cp_async_commit()
        for j0 in range(low, high, int32(warps * KEYS)):
            base_key = int32(j0 + warp * KEYS)
            tile = int32(mine + here)
            load_k(shared, mine + stage - here, keys, base_key + warps * KEYS, 0, lane)
            load_v(shared, mine + stage - here + values_at, values, base_key + warps * KEYS, 0, lane)
            cp_async_commit()
            wait_but_one()
            warp_sync()
            for i in range(4):
                scores[i] = zero
            for d in range(depth):
                a0, a1, a2, a3 = key_fragment(shared, tile, 0, d * 16, lane)
                multiply(scores, 0, a0, a1, a2, a3, query[2 * d], query[2 * d + 1])
            for i in range(2):  # keys lane // 4 and lane // 4 + 8
                key = base_key + lane // 4 + 8 * i
                scores[2 * i] *= to_log2
                scores[2 * i + 1] *= to_log2
                if key > last_e:
                    scores[2 * i] = lowest
                if key > last_o:
                    scores[2 * i + 1] = lowest
            high_e, high_o = max(scores[0], scores[2]), max(scores[1], scores[3])
            step = 4
            while step < 32:
                high_e = max(high_e, shfl_xor(high_e, step))
                high_o = max(high_o, shfl_xor(high_o, step))
                step *= 2
            high_e, high_o = max(high_e, top_e), max(high_o, top_o)
            base_e = base_o = zero
            if high_e != lowest:
                base_e = high_e
            if high_o != lowest:
                base_o = high_o
            shrink_e, shrink_o = exp2(top_e - base_e), exp2(top_o - base_o)
            top_e, top_o = high_e, high_o
            for i in range(2):
                scores[2 * i] = exp2(scores[2 * i] - base_e)
                scores[2 * i + 1] = exp2(scores[2 * i + 1] - base_o)
            sum_e = sum_e * shrink_e + scores[0] + scores[2]
            sum_o = sum_o * shrink_o + scores[1] + scores[3]
            b0 = transpose8x8(pack_bf16(scores[0], scores[1]))
            b1 = transpose8x8(pack_bf16(scores[2], scores[3]))
            for n in range(strips):
                result[4 * n] *= shrink_e
                result[4 * n + 1] *= shrink_o
                result[4 * n + 2] *= shrink_e
                result[4 * n + 3] *= shrink_o
                a0, a1, a2, a3 = value_fragment(shared, tile + values_at, 0, n * 16, lane)
                multiply(result, 4 * n, a0, a1, a2, a3, b0, b1)
            warp_sync()  # wait until all threads have read this tile, which the next copy overwrites
            here = int32(stage - here)
        wait_all()
        step = 4
        while step < 32:
            sum_e += shfl_xor(sum_e, step)
            sum_o += shfl_xor(sum_o, step)
            step *= 2

        cuda.syncthreads()  # all warps have finished with their tiles
        for n in range(strips):
            for i in range(4):
                column = n * 16 + lane // 4 + 8 * (i // 2)
                if column < d_v:
                    at_row = warp * ROWS + lane % 4 * 2 + i % 2
                    st_pair(shared, 2 * (at_row * d_v + column), float_bits(result[4 * n + i]))
        if lane < 4:
            for i in range(2):
                place = 2 * (outputs + 2 * (warp * ROWS + lane * 2 + i))
                st_pair(shared, place, float_bits(top_e if i == 0 else top_o))
                st_pair(shared, place + 2, float_bits(sum_e if i == 0 else sum_o))
        cuda.syncthreads()
        there = int32(min(ROWS, maps * n_queries - first_row))  # rows that exist
        start = int64(cuda.blockIdx.z) * n_rows + int64(cuda.blockIdx.x) * maps * n_queries + first_row
        for e in range(t, int32(there * d_v), int32(32 * warps)):
            r, column = int32(e // d_v), int32(e % d_v)
            top = lowest
            for w in range(warps):
                place = 2 * (outputs + 2 * (w * ROWS + r))
                top = max(top, bits_float(shared[place], shared[place + 1]))
            base = zero
            if top != lowest:
                base = top
            x = seen = zero
            for w in range(warps):
                place = 2 * (outputs + 2 * (w * ROWS + r))
                share = exp2(bits_float(shared[place], shared[place + 1]) - base)
                seen = cuda.fma(share, bits_float(shared[place + 2], shared[place + 3]), seen)
                place = 2 * ((w * ROWS + r) * d_v + column)
                x = cuda.fma(share, bits_float(shared[place], shared[place + 1]), x)
            value = lowest
            if seen > zero:
                x *= inverse(seen)
                value = (top + log2(seen)) * ln_2
            if to_bf16:
                z[(start + r) * d_v + column] = bf16_bits(x)
            else:
                z[(start + r) * d_v + column] = x
            if column == 0:
                lse[start + r] = value

    return decode_bf16
