"""Step 6 of the ladder: the bfloat16 forward with the tensor cores' instructions for a warpgroup (sm_90a).

Changes from step 5 (``forward_bf16``): one ``wgmma`` multiplies the 64 queries of four warps by a whole tile of keys,
which it reads from shared memory by itself. It runs while the warps do something else.

    NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/gta_cuda/test_wgmma.py

A warpgroup, four warps with 64 queries, computes

    S = Q K₀ᵀ, P = exp(S)
    for each further tile j:  S = Q Kⱼᵀ and Z += P Vⱼ₋₁ are issued; when S has ended, exp(S); when Z has, P = exp(S)
    Z += P V of the last tile

There are three places for tiles in shared memory: for the values of tile j − 1, for tile j, and for tile j + 1, which
is being copied. While a warpgroup issues products whose operand A is in registers, it can do little else. Therefore a
thread block has one warpgroup, and a multiprocessor has three blocks, which take exponentials and multiply at different
times. On an H200 this was faster than blocks of two or three warpgroups, with or without a fourth one that only copies.
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
    SIMULATED,
    cp_async_commit,
    cp_async_wait,
    div,
    inverse,
    log2,
    pack_bf16,
    shared_address,
    st_pair,
)
from gta_cuda.tiles_wgmma import (
    WIDTH,
    columns_of,
    make_load,
    make_mask,
    make_queries,
    make_renew,
    make_shrink,
    make_softmax,
)

if SIMULATED:
    from gta_cuda import emulated_wgmma as wgmma
else:
    from gta_cuda import wgmma

WARPGROUP, ROWS = 128, 64  # threads of a warpgroup, and the queries that it owns
PART = 128  # most columns of the result that a thread block computes
PLACES = 3  # for tiles in shared memory
ALIGNMENT = None if SIMULATED else 1024  # the swizzle depends on the address within 1024 bytes
MOST_D_K = 128

descriptor, show, shfl_xor = wgmma.descriptor, wgmma.show, wgmma.shfl_xor
wait_copies = cp_async_wait[0]


class Tile(NamedTuple):
    """Queries of a thread block, 64 per warpgroup, and keys per step."""

    rows: int = 64
    keys: int = 64

    @property
    def threads(self) -> int:
        """Threads per thread block."""
        return self.rows // ROWS * WARPGROUP

    def blocks(self, d_k: int) -> int:
        """Thread blocks that are to fit on a multiprocessor at once: 168 registers per thread allow three."""
        return max(1, (3 if d_k <= 64 else 2) * WARPGROUP // self.threads)


def shared_bytes(d_k: int, d_v: int, tile: Tile) -> int:
    """Bytes of shared memory of a thread block."""
    return 2 * PLACES * tile.keys * (columns_of(d_k) + min(PART, columns_of(d_v)))


def make_forward(d_k: int, d_v: int, tile: Tile) -> Callable:
    """Make the kernel for these widths, multiples of 8. Grid (B·n_q, tiles of queries, parts of d_v).

    Rows of q, k and v begin at multiples of 16 bytes. The shared memory is dynamic.
    """
    columns, part = columns_of(d_k), min(PART, columns_of(d_v))
    rows, keys = tile
    # in bytes: a block of a tile; a tile of keys followed by one of values; 8 rows of a block
    block, stage, eight = keys * WIDTH, 2 * keys * (columns + part), 8 * WIDTH
    values_at, end = 2 * keys * columns, PLACES * stage
    elements = shared_bytes(d_k, d_v, tile) // 2 if SIMULATED else 0
    depth = -(-d_k // 16)
    load_k, load_v = make_load(keys, columns, d_k, tile.threads), make_load(keys, part, d_v, tile.threads)
    n_query, n_scores, n_weights, n_results = depth * 4, keys // 2, keys // 4, part // 2
    product_k = wgmma.make_product(keys, tuple(d // 4 * block + d % 4 * 32 for d in range(depth)), False, False)
    product_v = wgmma.make_product(part, tuple(2 * d * eight for d in range(keys // 16)), True, True)
    wait_first, wait_scores = wgmma.make_wait(0, n_scores, 0), wgmma.make_wait(1, n_scores, 0)
    wait_results = wgmma.make_wait(0, n_results, n_weights)
    queries, mask, softmax = make_queries(d_k), make_mask(keys), make_softmax(keys)
    shrink, renew = make_shrink(part), make_renew(n_weights)
    zero, lowest, ln_2, log2_e = float32(0), float32(-math.inf), float32(LN_2), float32(LOG2_E)

    @cuda.jit(device=True)
    def load(shared, to, keys_view, values_view, j0, left, thread):
        load_k(shared, to, keys_view, j0, 0, thread)
        load_v(shared, int32(to + values_at), values_view, j0, left, thread)
        cp_async_commit()

    @cuda.jit(device=True)
    def arrived(shared):
        # what this thread has copied is visible to products, then what all threads have copied
        wait_copies()
        show(shared)
        cuda.syncthreads()

    @cuda.jit(device=True)
    def store(z, at, exists, column, x0, x1):
        if exists and column < d_v:
            st_pair(z, at + column, pack_bf16(x0, x1))

    def forward_wgmma(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, n_queries, causal):
        shared = cuda.shared.array(elements, uint16, alignment=ALIGNMENT)
        query = cuda.local.array(n_query, uint32)
        scores = cuda.local.array(n_scores, float32)
        weights = cuda.local.array(n_weights, uint32)
        fresh = cuda.local.array(n_weights, uint32)  # the next weights, while products with `weights` run
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
        keys_view = (k, b * strides[3] + div(m, maps_k) * strides[4], strides[5], k_start, k_stop)
        values_view = (v, b * strides[6] + div(m, maps_v) * strides[7], strides[8], k_start, k_stop)
        base = int32(shared_address(shared))
        if k_start < stop:
            load(shared, base, keys_view, values_view, k_start, left, t)

        row = int32(first + warp * 16 + lane // 4)
        at = b * strides[0] + m * strides[1] + row * strides[2]
        queries(query, q, at, strides[2], row, n_queries, lane)
        # the last key that the rows see, and the first tile that some row does not see completely
        last_u = last_w = int32(k_stop - 1)
        first_masked = int32(k_stop - keys)
        if causal:
            last_u = int32(min(last_u, q_start + row))
            last_w = int32(min(last_w, q_start + row + 8))
            first_masked = int32(min(first_masked, q_start + first - keys + 1))
        last_u, last_w = int32(last_u - lane % 4 * 2), int32(last_w - lane % 4 * 2)
        to_log2 = scale * log2_e
        nothing = uint32(int32(n_q) >> 31)  # see ``wgmma.renew``
        for i in range(n_results):
            result[i] = zero
        for i in range(n_weights):
            weights[i] = nothing
        top_u = top_w = lowest
        sum_u = sum_w = zero

        if k_start < stop:
            arrived(shared)
            product_k(scores, query, descriptor(shared, base, 16, eight))
            # where the previous, this and the next tile are
            before, here, there = base, int32(base + stage), int32(base + 2 * stage)
            j0 = int32(k_start + keys)
            if j0 < stop:
                load(shared, here, keys_view, values_view, j0, left, t)
            wait_first(scores, query)
            if k_start > first_masked:
                mask(scores, int32(last_u - k_start), int32(last_w - k_start))
            top_u, top_w, sum_u, sum_w, shrink_u, shrink_w = softmax(scores, fresh, to_log2, top_u, top_w, sum_u, sum_w)
            while j0 < stop:
                # at the end of the loop, the assembler would move this wait to a place before the exponentials
                wait_results(result, weights)
                renew(weights, fresh, nothing)
                arrived(shared)
                product_k(scores, query, descriptor(shared, here, 16, eight))
                shrink(result, shrink_u, shrink_w)
                product_v(result, weights, descriptor(shared, int32(before + values_at), block, eight))
                if j0 + keys < stop:
                    load(shared, there, keys_view, values_view, int32(j0 + keys), left, t)
                wait_scores(scores, query)
                if j0 > first_masked:
                    mask(scores, int32(last_u - j0), int32(last_w - j0))
                top_u, top_w, sum_u, sum_w, shrink_u, shrink_w = softmax(
                    scores, fresh, to_log2, top_u, top_w, sum_u, sum_w
                )
                before, here, there, j0 = here, there, int32(there + stage), int32(j0 + keys)
                if there == base + end:
                    there = base
            wait_results(result, weights)
            renew(weights, fresh, nothing)
            shrink(result, shrink_u, shrink_w)
            product_v(result, weights, descriptor(shared, int32(before + values_at), block, eight))
            wait_results(result, weights)

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
        for n in range(part // 8):
            column = int32(left + n * 8 + lane % 4 * 2)
            store(z, start * d_v, row < n_queries, column, result[n * 4] * inverse_u, result[n * 4 + 1] * inverse_u)
            below = row + 8 < n_queries
            store(z, (start + 8) * d_v, below, column, result[n * 4 + 2] * inverse_w, result[n * 4 + 3] * inverse_w)
        if lane % 4 == 0 and left == 0:
            if row < n_queries:
                lse[start] = lse_u
            if row + 8 < n_queries:
                lse[start + 8] = lse_w

    return forward_wgmma
