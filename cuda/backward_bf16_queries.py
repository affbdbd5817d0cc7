"""The engine's bfloat16 backward: dQ on tensor cores; see ``backward_bf16`` for the formulas and for dK and dV.

A block owns some queries of one map and loops over the keys, as ``forward_bf16`` does, with one more product:

    S = Q Kᵀ       P = exp2(S · scale · log₂e − lse · log₂e)
    dP = dZ Vᵀ     dS = P ⊙ (dP − delta)                         dQ += dS K

A warp has 16 or 32 queries (`height` times 16). With 32, every fragment of K and V that it reads from shared memory
serves two products. Q and dZ stay in registers.

Cycles that 128 queries and 64 keys take on a multiprocessor, by counting, with d_k 64 and d_v 128: shared memory 1024
(4 warps of 32 queries · 64 keys · 256 · 2 bytes, 128 bytes per cycle), tensor cores 1638, issue 1030, exponentials 512.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from numba import cuda, float32, int32, int64, uint16, uint32

from gta_cuda.backward_parts import share
from gta_cuda.backward_tiles import ALIGNMENT, make_copy, make_store
from gta_cuda.forward import LOG2_E
from gta_cuda.intrinsics import (
    cp_async_commit,
    cp_async_wait,
    div,
    exp2,
    pack_bf16,
    shared_address,
)
from gta_cuda.kernels import MOST_SHARED
from gta_cuda.tiles_bf16 import make_load, make_reader, make_rows_fragment, multiply, padded

wait_all = cp_async_wait[0]


class Tile(NamedTuple):
    """Queries of a block; keys per step; keys whose part of the map is in registers at once; a warp's rows over 16."""

    rows: int
    keys: int
    chunk: int
    height: int

    @classmethod
    def of(cls, d_k: int, d_v: int) -> Tile:
        """The tile for these widths: 32 queries per warp if their fragments and sums fit into 160 registers."""
        if 3 * padded(d_k) + padded(d_v) <= 320 and padded(d_v) <= 192:
            return cls(128, 64 if padded(d_k) + padded(d_v) <= 192 else 32, 16, 2)
        return cls(64, 32, 16, 1)

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.rows // self.height * 2


def make_backward_queries(d_k: int, d_v: int, wide: bool, tile: Tile) -> Callable:
    """Make the kernel for the parts of dQ, float32 (B·n_q·parts, N_q, padded d_k).

    Grid (B·n_q·parts, tiles of queries).
    """
    columns_k, columns_v = padded(d_k), padded(d_v)
    rows, keys, chunk, height, threads = *tile, tile.threads
    stage = keys * (columns_k + columns_v)  # a tile of keys followed by one of values
    values_at = keys * columns_k
    total = max(2 * stage, rows * max(columns_k, columns_v))  # Q, then dZ, are loaded through the same memory first
    assert 2 * total <= MOST_SHARED
    assert keys % chunk == 0
    load_q, load_dz = (make_load(rows, n, d, wide, threads) for n, d in ((columns_k, d_k), (columns_v, d_v)))
    copy_k, copy_v = (make_copy(keys, n, d, wide, threads) for n, d in ((columns_k, d_k), (columns_v, d_v)))
    own_q, own_dz = make_rows_fragment(columns_k), make_rows_fragment(columns_v)
    (across_k_at, across_k), (across_v_at, across_v) = (make_reader(n, True, False) for n in (columns_k, columns_v))
    down_k_at, down_k = make_reader(columns_k, False, True)
    depth_k, depth_v, pairs = columns_k // 16, columns_v // 16, chunk // 16
    n_map = chunk // 8 * 4  # of 16 queries
    n_own_k, n_own_v, n_maps, n_results = (
        4 * depth_k * height,
        4 * depth_v * height,
        n_map * height,
        8 * depth_k * height,
    )
    n_rows, n_scores = 2 * height, 4 * height
    store = make_store(columns_k)
    zero, log2_e = float32(0), float32(LOG2_E)

    def backward_queries_bf16(
        q, k, v, dz, lse, delta, dq, bounds, strides, scale, n_q, maps_k, maps_v, parts, n_queries, causal
    ):
        shared = cuda.shared.array(total, uint16, alignment=ALIGNMENT)
        own_k = cuda.local.array(n_own_k, uint32)
        own_v = cuda.local.array(n_own_v, uint32)
        scores = cuda.local.array(n_maps, float32)
        d_map = cuda.local.array(n_maps, float32)
        d_scores = cuda.local.array(n_scores, uint32)
        result = cuda.local.array(n_results, float32)
        # of the thread's rows: 2h is the upper one, 2h + 1 the one 8 below it, of 16 rows each
        row_lse = cuda.local.array(n_rows, float32)
        row_delta = cuda.local.array(n_rows, float32)
        row_last = cuda.local.array(n_rows, int32)
        t = int32(cuda.threadIdx.x)
        lane, top = int32(t % 32), int32(t // 32 * (16 * height))
        b_m = div(cuda.blockIdx.x, parts)
        batch, b = div(cuda.gridDim.x, n_q * parts), div(b_m, n_q)
        m = int32(b_m - b * n_q)
        first = int32((cuda.gridDim.y - 1 - cuda.blockIdx.y) * rows)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        stop = k_stop
        if causal:
            stop = int32(min(k_stop, q_start + min(first + rows, n_queries)))
        steps = div(max(0, stop - k_start) + keys - 1, keys)
        step, step_after = share(steps, int32(cuda.blockIdx.x - b_m * parts), parts)
        begin, end = int32(k_start + step * keys), int32(min(stop, k_start + step_after * keys))
        start = int64(b_m) * n_queries
        to_log2 = scale * log2_e

        load_q(shared, 0, (q, b * strides[0] + m * strides[1], strides[2], 0, n_queries), first, 0, t)
        cp_async_commit()
        wait_all()
        cuda.syncthreads()
        for h in range(height):
            for d in range(depth_k):
                o = 4 * (h * depth_k + d)
                own_k[o], own_k[o + 1], own_k[o + 2], own_k[o + 3] = own_q(shared, 0, top + h * 16, d * 16, lane)
        cuda.syncthreads()
        load_dz(shared, 0, (dz, start * d_v, int64(d_v), 0, n_queries), first, 0, t)
        cp_async_commit()
        wait_all()
        cuda.syncthreads()
        for h in range(height):
            for d in range(depth_v):
                o = 4 * (h * depth_v + d)
                own_v[o], own_v[o + 1], own_v[o + 2], own_v[o + 3] = own_dz(shared, 0, top + h * 16, d * 16, lane)
        cuda.syncthreads()
        for i in range(n_results):
            result[i] = zero
        for i in range(n_rows):
            row = int32(first + top + lane // 4 + i * 8)
            row_lse[i] = zero
            row_delta[i] = zero
            row_last[i] = k_stop - 1
            if causal:
                row_last[i] = min(row_last[i], q_start + row)
            if row < n_queries:  # if the row sees nothing, lse is −∞ and exp2 gives ∞, but all its keys are masked
                row_lse[i] = lse[start + row] * log2_e
                row_delta[i] = delta[start + row]

        base = shared_address(shared)
        at_across_k, at_across_v = int32(base + across_k_at(lane)), int32(base + 2 * values_at + across_v_at(lane))
        at_down_k = int32(base + down_k_at(lane))
        k_at = b * strides[3] + div(m, maps_k) * strides[4] + begin * strides[5]
        v_at = b * strides[6] + div(m, maps_v) * strides[7] + begin * strides[8]
        if begin < end:
            copy_k(shared, base, k, k_at, strides[5], int32(k_stop - begin))
            copy_v(shared, int32(base + 2 * values_at), v, v_at, strides[8], int32(k_stop - begin))
        cp_async_commit()
        here = int32(0)  # the place of the stage in use, in bytes
        for j0 in range(begin, end, int32(keys)):
            wait_all()
            cuda.syncthreads()  # this step's tiles are there, and all threads have finished the previous step
            k_at += keys * strides[5]
            v_at += keys * strides[8]
            if j0 + keys < end:
                there, left = int32(base + 2 * stage - here), int32(k_stop - j0 - keys)
                copy_k(shared, there, k, k_at, strides[5], left)
                copy_v(shared, int32(there + 2 * values_at), v, v_at, strides[8], left)
            cp_async_commit()
            masked = j0 + keys > k_stop or (causal and j0 + keys - 1 > q_start + first)
            for c in range(0, keys, chunk):
                at = int32(here + c * (2 * columns_k))
                now_across_k, now_down_k = int32(at_across_k + at), int32(at_down_k + at)
                now_across_v = int32(at_across_v + here + c * (2 * columns_v))
                for i in range(n_maps):
                    scores[i] = zero
                    d_map[i] = zero
                for d in range(depth_k):
                    for n in range(pairs):
                        b0, b1, b2, b3 = across_k(shared, now_across_k, n * 16, d * 16)
                        for h in range(height):
                            o, c0 = 4 * (h * depth_k + d), h * n_map + n * 8
                            multiply(scores, c0, own_k[o], own_k[o + 1], own_k[o + 2], own_k[o + 3], b0, b1)
                            multiply(scores, c0 + 4, own_k[o], own_k[o + 1], own_k[o + 2], own_k[o + 3], b2, b3)
                for d in range(depth_v):
                    for n in range(pairs):
                        b0, b1, b2, b3 = across_v(shared, now_across_v, n * 16, d * 16)
                        for h in range(height):
                            o, c0 = 4 * (h * depth_v + d), h * n_map + n * 8
                            multiply(d_map, c0, own_v[o], own_v[o + 1], own_v[o + 2], own_v[o + 3], b0, b1)
                            multiply(d_map, c0 + 4, own_v[o], own_v[o + 1], own_v[o + 2], own_v[o + 3], b2, b3)
                for h in range(height):
                    for n in range(2 * pairs):
                        for i in range(4):
                            o, r = h * n_map + n * 4 + i, 2 * h + i // 2
                            p = exp2(scores[o] * to_log2 - row_lse[r])
                            if masked and j0 + c + n * 8 + lane % 4 * 2 + i % 2 > row_last[r]:
                                p = zero
                            d_map[o] = p * (d_map[o] - row_delta[r])
                for d in range(pairs):
                    for h in range(height):
                        for i in range(4):
                            o = h * n_map + 8 * d + 2 * i
                            d_scores[4 * h + i] = pack_bf16(d_map[o], d_map[o + 1])
                    for n in range(depth_k):
                        b0, b1, b2, b3 = down_k(shared, now_down_k, d * 16, n * 16)
                        for h in range(height):
                            o, c0 = 4 * h, 8 * (h * depth_k + n)
                            a0, a1, a2, a3 = d_scores[o], d_scores[o + 1], d_scores[o + 2], d_scores[o + 3]
                            multiply(result, c0, a0, a1, a2, a3, b0, b1)
                            multiply(result, c0 + 4, a0, a1, a2, a3, b2, b3)
            here = int32(2 * stage - here)
        wait_all()

        for h in range(height):
            row, at = int32(first + top + h * 16), int64(cuda.blockIdx.x) * n_queries * columns_k
            store(dq, result, 8 * depth_k * h, at, row, n_queries, 0, n_queries, scale, lane)

    return backward_queries_bf16
