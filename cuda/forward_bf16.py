"""Step 5 of the ladder, and the engine's bfloat16 forward: tensor cores.

Changes from step 4 (``forward``): the products are ``mma`` instructions, in which a warp multiplies (16, 16) by
(16, 8) matrices that its 32 threads hold together in registers. K and V are copied to shared memory asynchronously:
the next tile arrives while this one is in use. The weights never leave the registers. Inputs are bfloat16, and all sums
are float32.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder forward_bf16

A warp owns 16 queries. In the accumulator of Q Kᵀ (16 queries, 8 keys), thread t holds columns 2(t mod 4) and the next
one, in row t // 4 and in the row 8 further down. Two such accumulators, rounded and packed, are exactly the operand A
of the next product, weights times V, so no data moves between the two products. Only 4 threads hold parts of the
maximum and of the sum of a row, so two shuffles combine them.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from numba import cuda, float32, int32, int64, uint16, uint32

from gta_cuda.forward import LN_2, LOG2_E
from gta_cuda.intrinsics import (
    ALIGNMENT,
    cp_async_commit,
    cp_async_wait,
    div,
    exp2,
    inverse,
    log2,
    pack_bf16,
    shfl_xor,
    st_pair,
)
from gta_cuda.kernels import MOST_SHARED
from gta_cuda.tiles_bf16 import (
    PART,
    make_keys_fragment,
    make_load,
    make_rows_fragment,
    make_values_fragment,
    multiply,
    padded,
)

MOST_D_K = 256
wait_all, wait_but_one = cp_async_wait


class Tile(NamedTuple):
    """Queries of a block, 16 per warp, and keys per step."""

    rows: int
    keys: int

    @classmethod
    def of(cls, d_k: int) -> Tile:
        """The largest tile that fits into registers and, with two steps of keys and values, into shared memory."""
        return cls(128, 64) if d_k <= 64 else cls(128, 32) if d_k <= 128 else cls(64, 16)

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.rows * 2


def make_forward(d_k: int, d_v: int, wide: bool, tile: Tile) -> Callable:
    """Make the kernel for these widths. Grid (B·n_q, tiles of queries, parts of d_v)."""
    columns, part = padded(d_k), min(PART, padded(d_v))
    rows, keys, threads = tile.rows, tile.keys, tile.threads
    stage = keys * (columns + part)  # a tile of keys followed by one of values
    values_at = keys * columns
    total = max(2 * stage, rows * columns)  # the queries are loaded through the same memory first
    assert 2 * total <= MOST_SHARED
    load_q = make_load(rows, columns, d_k, wide, threads)
    load_k = make_load(keys, columns, d_k, wide, threads)
    load_v = make_load(keys, part, d_v, wide, threads)
    query_fragment = make_rows_fragment(columns)
    key_fragment, value_fragment = make_keys_fragment(columns), make_values_fragment(part)
    depth_k, depth_v, pairs_k, pairs_v = columns // 16, keys // 16, keys // 16, part // 16
    n_query, n_scores, n_results = depth_k * 4, keys // 8 * 4, part // 8 * 4
    pairwise = d_v % 2 == 0
    zero, lowest, ln_2, log2_e = float32(0), float32(-math.inf), float32(LN_2), float32(LOG2_E)

    @cuda.jit(device=True)
    def store(z, at, column, x0, x1):
        pair = pack_bf16(x0, x1)
        if column < d_v:
            if pairwise:
                st_pair(z, at + column, pair)
            else:
                z[at + column] = uint16(pair & 0xFFFF)
                if column + 1 < d_v:
                    z[at + column + 1] = uint16(pair >> 16)

    def forward_bf16(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, n_queries, causal):
        shared = cuda.shared.array(total, uint16, alignment=ALIGNMENT)
        query = cuda.local.array(n_query, uint32)
        scores = cuda.local.array(n_scores, float32)
        result = cuda.local.array(n_results, float32)
        t = int32(cuda.threadIdx.x)
        lane, warp = int32(t % 32), int32(t // 32)
        batch, b = div(cuda.gridDim.x, n_q), div(cuda.blockIdx.x, n_q)
        m = int32(cuda.blockIdx.x - b * n_q)
        first = int32((cuda.gridDim.y - 1 - cuda.blockIdx.y) * rows)
        left = int32(cuda.blockIdx.z * part)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        stop = k_stop
        if causal:
            stop = int32(min(k_stop, q_start + min(first + rows, n_queries)))
        queries = (q, b * strides[0] + m * strides[1], strides[2], 0, n_queries)
        keys_view = (k, b * strides[3] + div(m, maps_k) * strides[4], strides[5], k_start, k_stop)
        values_view = (v, b * strides[6] + div(m, maps_v) * strides[7], strides[8], k_start, k_stop)
        to_log2 = scale * log2_e

        load_q(shared, 0, queries, first, 0, t)
        cp_async_commit()
        wait_all()
        cuda.syncthreads()
        for d in range(depth_k):
            o = 4 * d
            query[o], query[o + 1], query[o + 2], query[o + 3] = query_fragment(shared, 0, warp * 16, d * 16, lane)
        cuda.syncthreads()
        for i in range(n_results):
            result[i] = zero
        # suffixes for the thread's two rows: the upper one (u) and the one 8 below it (w)
        row = int32(first + warp * 16 + lane // 4)
        last_u = last_w = k_stop - 1
        if causal:
            last_u = min(last_u, q_start + row)
            last_w = min(last_w, q_start + row + 8)
        top_u = top_w = lowest
        sum_u = sum_w = zero

        here = int32(0)
        load_k(shared, here, keys_view, k_start, 0, t)
        load_v(shared, here + values_at, values_view, k_start, left, t)
        cp_async_commit()
        for j0 in range(k_start, stop, int32(keys)):
            if j0 + keys < stop:
                load_k(shared, stage - here, keys_view, j0 + keys, 0, t)
                load_v(shared, stage - here + values_at, values_view, j0 + keys, left, t)
                cp_async_commit()
                wait_but_one()
            else:
                wait_all()
            cuda.syncthreads()
            for i in range(n_scores):
                scores[i] = zero
            for d in range(depth_k):
                o = 4 * d
                for n in range(pairs_k):
                    b0, b1, b2, b3 = key_fragment(shared, here, n * 16, d * 16, lane)
                    multiply(scores, n * 8, query[o], query[o + 1], query[o + 2], query[o + 3], b0, b1)
                    multiply(scores, n * 8 + 4, query[o], query[o + 1], query[o + 2], query[o + 3], b2, b3)
            if j0 + keys > k_stop or (causal and j0 + keys - 1 > q_start + first):
                for n in range(2 * pairs_k):
                    for i in range(2):
                        key = j0 + n * 8 + lane % 4 * 2 + i
                        if key > last_u:
                            scores[n * 4 + i] = lowest
                        if key > last_w:
                            scores[n * 4 + 2 + i] = lowest
            high_u, high_w = top_u, top_w
            for n in range(2 * pairs_k):
                high_u = max(high_u, max(scores[n * 4], scores[n * 4 + 1]))
                high_w = max(high_w, max(scores[n * 4 + 2], scores[n * 4 + 3]))
            high_u = max(high_u, shfl_xor(high_u, 1))
            high_u = max(high_u, shfl_xor(high_u, 2))
            high_w = max(high_w, shfl_xor(high_w, 1))
            high_w = max(high_w, shfl_xor(high_w, 2))
            base_u = base_w = zero
            if high_u != lowest:
                base_u = high_u * to_log2
            if high_w != lowest:
                base_w = high_w * to_log2
            shrink_u, shrink_w = exp2(top_u * to_log2 - base_u), exp2(top_w * to_log2 - base_w)
            top_u, top_w = high_u, high_w
            sum_u *= shrink_u
            sum_w *= shrink_w
            for n in range(2 * pairs_k):
                for i in range(2):
                    scores[n * 4 + i] = exp2(scores[n * 4 + i] * to_log2 - base_u)
                    scores[n * 4 + 2 + i] = exp2(scores[n * 4 + 2 + i] * to_log2 - base_w)
                    sum_u += scores[n * 4 + i]
                    sum_w += scores[n * 4 + 2 + i]
            for n in range(2 * pairs_v):
                result[n * 4] *= shrink_u
                result[n * 4 + 1] *= shrink_u
                result[n * 4 + 2] *= shrink_w
                result[n * 4 + 3] *= shrink_w
            for d in range(depth_v):
                o = 8 * d
                a0, a1 = pack_bf16(scores[o], scores[o + 1]), pack_bf16(scores[o + 2], scores[o + 3])
                a2, a3 = pack_bf16(scores[o + 4], scores[o + 5]), pack_bf16(scores[o + 6], scores[o + 7])
                for n in range(pairs_v):
                    b0, b1, b2, b3 = value_fragment(shared, here + values_at, d * 16, n * 16, lane)
                    multiply(result, n * 8, a0, a1, a2, a3, b0, b1)
                    multiply(result, n * 8 + 4, a0, a1, a2, a3, b2, b3)
            cuda.syncthreads()
            here = int32(stage - here)
        wait_all()  # if the loop made no step, the copies of the first tile are still under way

        sum_u += shfl_xor(sum_u, 1)
        sum_u += shfl_xor(sum_u, 2)
        sum_w += shfl_xor(sum_w, 1)
        sum_w += shfl_xor(sum_w, 2)
        inverse_u = inverse_w = zero
        lse_u = lse_w = lowest
        if sum_u > zero:
            inverse_u = inverse(sum_u)
            lse_u = top_u * scale + log2(sum_u) * ln_2
        if sum_w > zero:
            inverse_w = inverse(sum_w)
            lse_w = top_w * scale + log2(sum_w) * ln_2
        start = int64(cuda.blockIdx.x) * n_queries + row
        for n in range(2 * pairs_v):
            column = left + n * 8 + lane % 4 * 2
            if row < n_queries:
                store(z, start * d_v, column, result[n * 4] * inverse_u, result[n * 4 + 1] * inverse_u)
            if row + 8 < n_queries:
                store(z, (start + 8) * d_v, column, result[n * 4 + 2] * inverse_w, result[n * 4 + 3] * inverse_w)
        if lane % 4 == 0 and left == 0:
            if row < n_queries:
                lse[start] = lse_u
            if row + 8 < n_queries:
                lse[start + 8] = lse_w

    return forward_bf16
