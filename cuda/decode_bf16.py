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
with those of the other warps at the end, and with those of other splits by ``merge``. Both products together take
2·8·(d_k + d_v) operations per key, far fewer than the tensor cores can do while memory delivers a key.

What has to be under way: at 4 TB/s, each of 132 multiprocessors receives 30 bytes per ns, and an answer takes about
1 µs, so 30 KB. A step of a warp of GTA-1B is 6 KB; with 8 warps on a multiprocessor, 48 KB are under way while as much
is being computed. A step has 190 instructions, and memory delivers one every 370 cycles, in which a multiprocessor
issues up to 1480. Two stages of copies and two blocks are therefore enough; on an H200, more blocks are no faster.

With more than 8 rows, as for a chunk of a prompt, a block serves 16 if its registers suffice: each fragment of K and V
then takes part in two products. A chunk of 60 queries over 8192 keys has 300 rows. Its 19 blocks of rows read 3.1 MB
each, most of it from the L2 cache, in about 12 µs at 5 TB/s; with 8 rows per block it would be 23 µs. The forward has
one block per map for such a chunk, which takes about 100 µs. A forward that cut the keys of such a chunk as well would
need about 8 µs: 1 GFLOP at 250 TFLOP/s, 4 µs to begin and to merge.
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
    global_address,
    inverse,
    log2,
    pack_bf16,
    pair,
    shared_address,
    shfl_xor,
    st_pair,
    transpose8x8,
    warp_sync,
)
from gta_cuda.kernels import MOST_SHARED
from gta_cuda.tiles_bf16 import make_copy, make_reader, multiply, padded

ROWS, KEYS = 8, 16  # of one mma; a warp processes this many keys per step
MOST_HELD = 100  # registers per thread for queries and results; the rest of its 255 hold fragments and addresses
wait_all, wait_but_one = cp_async_wait


def most_warps(d_k: int, d_v: int) -> int:
    """Warps per block: as many as static shared memory has room for, at most 4; 0 if the widths are too large."""
    held = padded(d_k) // 8 + padded(d_v) // 4
    return min(4, MOST_SHARED // shared_bytes(d_k, d_v, 1)) if held <= MOST_HELD else 0


def rows_per_block(total: int, d_k: int, d_v: int) -> int:
    """8, or 16 if there are more than 8 rows in all and the registers suffice: K and V are then read half as often."""
    held = padded(d_k) // 8 + padded(d_v) // 4
    return 2 * ROWS if total > ROWS and 2 * held <= MOST_HELD else ROWS


def shared_bytes(d_k: int, d_v: int, warps: int) -> int:
    """Bytes of shared memory per block: two steps for each warp."""
    return 2 * warps * 2 * KEYS * (padded(d_k) + padded(d_v))


def make_decode(d_k: int, d_v: int, wide: bool, warps: int, to_bf16: bool, rows: int = ROWS) -> Callable:
    """Make the kernel for these widths. Grid (B·runs, blocks of `rows` rows, splits); rows: a multiple of 8.

    With to_bf16, z is the final result in bfloat16; without it, z is one split's part in float32.
    """
    columns, width = padded(d_k), padded(d_v)
    stage, values_at = KEYS * (columns + width), KEYS * columns
    own = 2 * stage  # elements of shared memory per warp: two stages of tiles, and later its results
    place_k, copy_k = make_copy(KEYS, columns, d_k, wide, 32)
    place_v, copy_v = make_copy(KEYS, width, d_v, wide, 32)
    key_place, key_fragment = make_reader(columns, across=False, transposed=False)
    value_place, value_fragment = make_reader(width, across=True, transposed=True)
    depth, strips, eights = columns // 16, width // 16, rows // ROWS
    n_query, n_scores, n_results, n_rows_held = 2 * depth * eights, 4 * eights, 4 * strips * eights, 2 * eights
    n_weights = 2 * eights
    n_shared = own * warps if shared_bytes(d_k, d_v, warps) <= MOST_SHARED else 0  # 0: dynamic memory
    outputs = 4 * rows  # a warp's own memory holds, at the end, two float32 of state per row, and from here its results
    zero, lowest, ln_2, log2_e = float32(0), float32(-math.inf), float32(LN_2), float32(LOG2_E)

    @cuda.jit(device=True)
    def query_pair(q, at, column, exists):
        low = high = uint16(0)
        if exists and column < d_k:
            low = q[at + column]
        if exists and column + 1 < d_k:
            high = q[at + column + 1]
        return pair(low, high)

    @cuda.jit(device=True)
    def read(shared, at):
        return bits_float(shared[at], shared[at + 1])

    def decode_bf16(
        q, k, v, z, lse, bounds, strides, scale, batch, runs, runs_k, runs_v, maps, n_queries, causal, n_rows
    ):
        shared = cuda.shared.array(n_shared, uint16, alignment=ALIGNMENT and 128)
        query = cuda.local.array(n_query, uint32)
        scores = cuda.local.array(n_scores, float32)
        weights = cuda.local.array(n_weights, uint32)
        result = cuda.local.array(n_results, float32)
        # of the thread's rows: 2 (t mod 4) and the next one, of every eight
        last = cuda.local.array(n_rows_held, int32)
        top = cuda.local.array(n_rows_held, float32)
        total = cuda.local.array(n_rows_held, float32)
        shrink = cuda.local.array(n_rows_held, float32)
        t = int32(cuda.threadIdx.x)
        lane, warp = int32(t & 31), int32(t >> 5)
        g, p = int32(lane >> 2), int32((lane & 3) * 2)  # as in the fragments
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
        to_log2 = scale * log2_e

        mine = int32(warp * own)
        base_key = int32(low + warp * KEYS)
        origin = int32(shared_address(shared) + 2 * mine)
        row, column_k, place = place_k(lane)  # addresses: where this thread copies from and to
        to_k, left_k, stride_k = int32(origin + place), int32(high - base_key - row), 2 * strides[5]
        at = b * strides[3] + div(run, runs_k) * strides[4] + int64(base_key + row) * strides[5]
        from_k, row_k = global_address(k, at + column_k), row
        row, column_v, place = place_v(lane)
        to_v, left_v, stride_v = int32(origin + 2 * values_at + place), int32(high - base_key - row), 2 * strides[8]
        at = b * strides[6] + div(run, runs_v) * strides[7] + int64(base_key + row) * strides[8]
        from_v, row_v = global_address(v, at + column_v), row
        copy_k(shared, to_k, k, from_k, stride_k, left_k, d_k, row_k, column_k)  # before what they need not wait for
        copy_v(shared, to_v, v, from_v, stride_v, left_v, d_v, row_v, column_v)
        cp_async_commit()
        keys_at, vals_at = int32(origin + key_place(lane)), int32(origin + 2 * values_at + value_place(lane))
        for h in range(eights):
            row = int32(first_row + 8 * h + g)  # row of the run: its map row // n_queries, query row % n_queries
            exists = row < maps * n_queries
            u = div(row, n_queries)
            at = b * strides[0] + (run * maps + min(u, maps - 1)) * strides[1] + (row - u * n_queries) * strides[2]
            for d in range(depth):
                o = 2 * (h * depth + d)
                query[o] = query_pair(q, at, d * 16 + p, exists)
                query[o + 1] = query_pair(q, at, d * 16 + p + 8, exists)
            row = int32(first_row + 8 * h + p)
            i = int32(row - div(row, n_queries) * n_queries)
            for j in range(2):
                o = 2 * h + j
                last[o], top[o], total[o] = high - 1, lowest, zero
                if causal:
                    last[o] = min(high - 1, q_start + i)
                i = int32(i + 1 if i + 1 < n_queries else 0)
        for i in range(n_results):
            result[i] = zero

        here = int32(0)  # bytes from the first stage to the one in use
        for _ in range(low, high, int32(warps * KEYS)):
            key = int32(base_key + g)  # the thread's first key; its second is 8 further
            base_key = int32(base_key + warps * KEYS)
            left_k, left_v = int32(left_k - warps * KEYS), int32(left_v - warps * KEYS)
            from_k += warps * KEYS * stride_k
            from_v += warps * KEYS * stride_v
            ahead = int32(2 * stage - here)
            copy_k(shared, int32(to_k + ahead), k, from_k, stride_k, left_k, d_k, row_k, column_k)
            copy_v(shared, int32(to_v + ahead), v, from_v, stride_v, left_v, d_v, row_v, column_v)
            cp_async_commit()
            wait_but_one()
            warp_sync()
            for i in range(n_scores):
                scores[i] = zero
            for d in range(depth):
                a0, a1, a2, a3 = key_fragment(shared, int32(keys_at + here), 0, d * 16)
                for h in range(eights):
                    o = 2 * (h * depth + d)
                    multiply(scores, 4 * h, a0, a1, a2, a3, query[o], query[o + 1])
            for h in range(eights):
                for j in range(2):
                    o, s = 2 * h + j, 4 * h + j  # the row, and its scores with the two keys, s and s + 2
                    high_score = top[o]
                    for i in range(2):
                        scores[s + 2 * i] *= to_log2
                        if int32(key + 8 * i) > last[o]:
                            scores[s + 2 * i] = lowest
                        high_score = max(high_score, scores[s + 2 * i])
                    step = 4
                    while step < 32:
                        high_score = max(high_score, shfl_xor(high_score, step))
                        step *= 2
                    base = zero
                    if high_score != lowest:
                        base = high_score
                    shrink[o] = exp2(top[o] - base)
                    top[o] = high_score
                    scores[s], scores[s + 2] = exp2(scores[s] - base), exp2(scores[s + 2] - base)
                    total[o] = total[o] * shrink[o] + scores[s] + scores[s + 2]
                for i in range(2):
                    weights[2 * h + i] = transpose8x8(pack_bf16(scores[4 * h + 2 * i], scores[4 * h + 2 * i + 1]))
            for n in range(strips):
                a0, a1, a2, a3 = value_fragment(shared, int32(vals_at + here), 0, n * 16)
                for h in range(eights):
                    o = 4 * (h * strips + n)
                    for i in range(4):
                        result[o + i] *= shrink[2 * h + i % 2]
                    multiply(result, o, a0, a1, a2, a3, weights[2 * h], weights[2 * h + 1])
            warp_sync()  # wait until all threads have read this tile, which the next copy overwrites
            here = ahead
        wait_all()
        for o in range(n_rows_held):
            step = 4
            while step < 32:
                total[o] += shfl_xor(total[o], step)
                step *= 2

        warp_sync()  # the copies of all threads have arrived, and this warp's tiles are no longer needed
        if lane < 4:
            for o in range(n_rows_held):
                place = mine + 4 * (o // 2 * 8 + p + o % 2)
                st_pair(shared, place, float_bits(top[o]))
                st_pair(shared, place + 2, float_bits(total[o]))
        cuda.syncthreads()
        there = int32(min(rows, maps * n_queries - first_row))  # rows that exist
        start = int64(cuda.blockIdx.z) * n_rows + int64(cuda.blockIdx.x) * maps * n_queries + first_row
        for o in range(n_rows_held):  # each of the thread's rows: what this warp's results count among all warps'
            row = int32(o // 2 * 8 + p + o % 2)
            highest = lowest
            for w in range(warps):
                highest = max(highest, read(shared, w * own + 4 * row))
            base = zero
            if highest != lowest:
                base = highest
            seen = zero
            for w in range(warps):
                place = w * own + 4 * row
                seen = cuda.fma(exp2(read(shared, place) - base), read(shared, place + 2), seen)
            share, value = zero, lowest
            if seen > zero:
                share = exp2(top[o] - base) * inverse(seen)
                value = (highest + log2(seen)) * ln_2
            for n in range(strips):
                for i in range(2):
                    column = n * 16 + g + 8 * i
                    if column < d_v:
                        place = mine + outputs + 2 * (row * d_v + column)
                        st_pair(shared, place, float_bits(result[4 * (o // 2 * strips + n) + 2 * i + o % 2] * share))
            if t < 4 and row < there:
                lse[start + row] = value
        cuda.syncthreads()
        for e in range(t, int32(there * d_v), int32(32 * warps)):
            x = zero
            for w in range(warps):
                x += read(shared, w * own + outputs + 2 * e)
            if to_bf16:
                z[start * d_v + e] = bf16_bits(x)
            else:
                z[start * d_v + e] = x

    return decode_bf16
