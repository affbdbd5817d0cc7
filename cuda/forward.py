"""Step 4 of the ladder, and the engine's float32 forward: register tiles and 16-byte accesses.

Change from step 3 (``step3_online``): a thread holds 4 × 2 scores and 4 × 8 results in registers instead of one
row, and reads shared memory 16 bytes at a time. In step 3 every multiply–add reads its operands; here an operand that
is read once serves 2 to 8 multiply–adds. The threads of a row find its maximum by shuffles, without shared memory.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder forward

A block computes 32 queries of one map. It loops over the keys that any of them may see, 32 at a time, with the
online softmax: m is the largest score so far, l the sum of exp(s − m), z the sum of exp(s − m) v. When m grows by δ,
l and z are multiplied by exp(−δ). At the end, z/l is the result and m + log l is the lse.

Counted in the machine code, a thread executes about 2100 instructions per step, of which 1536 are multiply–adds; the
first version of this file had 2389. What was removed: the addresses of the inner loops, which are constants now because
the loops are unrolled (``tiles.repeat``), and the mask's comparisons wherever no key is hidden. The values are copied
asynchronously while the scores are computed. The first version computed 64 queries per block; with 32, and three blocks
on a multiprocessor instead of two, the blocks of a causal grid end more evenly. On an H200 with one sequence and five
maps, kernel alone, the speed rose from 6.3, 19.5 and 28.0 TFLOP/s at N 1024, 4096 and 16,384 to 12.7, 30.2 and 33.0.
(With four blocks it is 12.8, 26.4 and 34.3.)
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, int64

from gta_cuda.intrinsics import (
    ALIGNMENT,
    cp_async_commit,
    cp_async_wait,
    div,
    exp2,
    inverse,
    log2,
    shfl_xor,
)
from gta_cuda.tiles import Memory, Tile, make_accumulate, make_fetch, make_multiply, make_store, slab

FORWARD_TILE = Tile(rows=32)
LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453
FAR = 1 << 30  # beyond every key
wait_all, wait_but_one = cp_async_wait


def make_forward(d_k: int, d_v: int, wide: bool, tile: Tile = FORWARD_TILE) -> Callable:
    """Make the kernel for these widths.

    Grid (B·n_q, tiles of queries, parts of d_v); see ``launch`` for the arguments.
    """
    part = tile.part(d_v)
    chunks = tile.chunks(d_v)
    memory = Memory.plan(tile, (d_k,), part)
    total, x_at, y_at = memory.total, memory.x, memory.y
    width = slab(d_k)
    resident = width >= d_k  # if so, the queries are loaded only once
    fetch_q = make_fetch(tile, tile.rows, width, width + 4, d_k, wide)
    fetch_k = make_fetch(tile, tile.columns, width, width + 4, d_k, wide)
    fetch_v = make_fetch(tile, tile.columns, part, part, d_v, wide)
    values_at = memory.values
    multiply = make_multiply(tile, width, x_at, y_at)
    accumulate = make_accumulate(tile, chunks, y_at, values_at)
    store = make_store(tile, chunks, d_v)
    rows, columns, groups, height, each, pitch = (
        tile.rows,
        tile.columns,
        tile.groups,
        tile.height,
        tile.each,
        tile.pitch,
    )
    n_scores, held, n_results = height * each, 4 * chunks, height * 4 * chunks
    zero, lowest = float32(0), float32(-math.inf)
    log2_e, to_ln = float32(LOG2_E), float32(LN_2)

    def forward_f32(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, n_queries, causal):
        shared = cuda.shared.array(total, float32, alignment=ALIGNMENT)
        scores = cuda.local.array(n_scores, float32)
        result = cuda.local.array(n_results, float32)
        largest = cuda.local.array(height, float32)
        total_weight = cuda.local.array(height, float32)
        t = int32(cuda.threadIdx.x)
        g, top = int32(t % groups), int32(t // groups * height)
        batch, b = div(cuda.gridDim.x, n_q), div(cuda.blockIdx.x, n_q)
        m = int32(cuda.blockIdx.x - b * n_q)
        # with a causal mask the last tiles have the most work, so they start first
        first = int32((cuda.gridDim.y - 1 - cuda.blockIdx.y) * rows)
        left = int32(cuda.blockIdx.z) * part
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        stop = k_stop
        if causal:
            stop = int32(min(k_stop, q_start + min(first + rows, n_queries)))
        queries = (q, b * strides[0] + m * strides[1], strides[2], 0, n_queries)
        keys = (k, b * strides[3] + div(m, maps_k) * strides[4], strides[5], k_start, k_stop)
        values = (v, b * strides[6] + div(m, maps_v) * strides[7], strides[8], k_start, k_stop)

        to_log2 = scale * log2_e
        if resident:
            fetch_q(shared, x_at, queries, first, 0)
            cp_async_commit()
        for i in range(height):
            largest[i] = lowest
            total_weight[i] = zero
        for i in range(n_results):
            result[i] = zero
        weights_to = int32(y_at + top * pitch + g)
        # the first key that does not exist, and the first one that the thread's first row does not see; they count
        # from the thread's first column of the scores
        end, unseen = int32(k_stop - g), int32(FAR)
        if causal:
            unseen = int32(q_start + first + top + 1 - g)
        for j0 in range(k_start, stop, int32(columns)):
            for i in range(n_scores):
                scores[i] = zero
            for c in range(0, d_k, width):
                cuda.syncthreads()  # wait until all threads have read the previous slabs and values
                if not resident:
                    fetch_q(shared, x_at, queries, first, c)
                fetch_k(shared, y_at, keys, j0, c)
                cp_async_commit()
                if c == 0:
                    fetch_v(shared, values_at, values, j0, left)  # they arrive during the product
                    cp_async_commit()
                    wait_but_one()
                else:
                    wait_all()
                cuda.syncthreads()
                multiply(scores, shared)
            cuda.syncthreads()  # the keys have been read: the weights are stored in their place
            if j0 + columns > k_stop or (causal and j0 + columns > int32(q_start + first + 1)):
                past, diagonal = int32(end - j0), int32(unseen - j0)
                for i in range(height):
                    limit = int32(min(past, int32(diagonal + i)))
                    for j in range(each):
                        if int32(groups * j) >= limit:
                            scores[i * each + j] = lowest
            for i in range(height):
                high = scores[i * each]
                for j in range(1, each):
                    high = max(high, scores[i * each + j])
                step = groups // 2
                while step > 0:
                    high = max(high, shfl_xor(high, step))
                    step //= 2
                high = max(largest[i], high * to_log2)
                base = high
                if high == lowest:  # nothing seen so far: −∞ − (−∞) is not 0
                    base = zero
                shrink = exp2(largest[i] - base)
                largest[i] = high
                weights = zero
                for j in range(each):
                    w = exp2(cuda.fma(scores[i * each + j], to_log2, -base))
                    weights += w
                    shared[weights_to + (i * pitch + groups * j)] = w
                total_weight[i] = total_weight[i] * shrink + weights
                for c in range(held):
                    result[i * held + c] *= shrink
            wait_all()
            cuda.syncthreads()
            accumulate(result, shared)
        wait_all()  # if the loop made no step, the queries are still under way

        for i in range(height):
            weight = total_weight[i]
            step = groups // 2
            while step > 0:
                weight += shfl_xor(weight, step)
                step //= 2
            row = first + top + i
            if g == 0 and left == 0 and row < n_queries:
                value = lowest
                if weight > zero:
                    value = (largest[i] + log2(weight)) * to_ln
                lse[int64(cuda.blockIdx.x) * n_queries + row] = value
            total_weight[i] = inverse(weight) if weight > zero else zero
        store(result, total_weight, z, int64(cuda.blockIdx.x) * n_queries * d_v, first, n_queries, left)

    return forward_f32
