"""The engine's bfloat16 backward: dK and dV on tensor cores. ``backward_bf16_queries`` has dQ; ``backward``, the rest.

As in ``backward``, the map is recomputed as P = exp(S − lse), and there are no atomics. A block owns some keys, 16 per
warp, and loops over the queries of all maps that share both heads:

    Sᵀ = K Qᵀ       Pᵀ = exp2(Sᵀ · scale · log₂e − lse · log₂e)       dV += Pᵀ dZ
    dPᵀ = V dZᵀ     dSᵀ = Pᵀ ⊙ (dPᵀ − delta)                          dK += dSᵀ Q

K and V stay in registers as operand A of the products on the left. Their results, rounded to bfloat16, are operand A of
those on the right (see ``forward_bf16``), and all four read operand B from the same tiles of Q and dZ. All sums are
float32.

A step is a tile of queries of one map. ``backward_parts`` describes how blocks share the steps of the same keys.

Cycles that 128 keys and 64 queries take on a multiprocessor, by counting, with d_k 64 and d_v 128:

    shared memory   3072   a warp reads each tile twice: 8 warps · 2 · 64 · 192 · 2 bytes, 128 bytes per cycle
    tensor cores    2458   192 mma per warp, 2560 operations per cycle
    issue           1480   192 mma, 96 ldmatrix and about 450 others per warp, 4 per cycle
    exponentials     512   8192, 16 per cycle
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
    ld4,
    pack_bf16,
    shared_address,
    thread_again,
)
from gta_cuda.kernels import MOST_SHARED
from gta_cuda.tiles_bf16 import make_load, make_reader, make_rows_fragment, multiply, padded

MOST_WIDTHS = 256  # most columns of d_k and d_v together, each rounded up to a multiple of 16: 192 registers
wait_all = cp_async_wait[0]


class Tile(NamedTuple):
    """Keys of a block, 16 per warp; queries per step; queries whose part of the map is in registers at once."""

    rows: int
    queries: int
    chunk: int

    @classmethod
    def of(cls, d_k: int, d_v: int) -> Tile:
        """The tile for these widths."""
        return cls(128, 64, 32) if padded(d_k) + padded(d_v) <= 192 else cls(128, 32, 16)

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.rows * 2

    def elements(self, d_k: int, d_v: int) -> int:
        """Elements of two steps' tiles, or of K or V, which are loaded through the same memory first."""
        columns_k, columns_v = padded(d_k), padded(d_v)
        return max(2 * self.queries * (columns_k + columns_v), self.rows * max(columns_k, columns_v))

    def dynamic(self, d_k: int, d_v: int) -> int:
        """Bytes of dynamic shared memory; 0 if everything, with lse and delta, fits into static memory."""
        size = 2 * self.elements(d_k, d_v)
        return size if size + 4 * 4 * self.queries > MOST_SHARED else 0


def make_backward_keys(d_k: int, d_v: int, wide: bool, tile: Tile) -> Callable:
    """Make the kernel for the parts of dK and dV, float32 (B·runs·parts, N_k, padded d_k or d_v).

    Grid (B·runs·parts, tiles of keys).
    """
    columns_k, columns_v = padded(d_k), padded(d_v)
    rows, queries, chunk, threads = tile.rows, tile.queries, tile.chunk, tile.threads
    stage = queries * (columns_k + columns_v)  # a tile of Q followed by one of dZ
    dz_at = queries * columns_k
    total = tile.elements(d_k, d_v)
    n_facts = 2 * queries  # lse and delta of each query of a step
    n_stages = 2 * n_facts
    static = total if tile.dynamic(d_k, d_v) == 0 else 0
    assert n_facts <= threads
    assert queries % chunk == 0
    load_k, load_v = (make_load(rows, n, d, wide, threads) for n, d in ((columns_k, d_k), (columns_v, d_v)))
    copy_q, copy_dz = (make_copy(queries, n, d, wide, threads) for n, d in ((columns_k, d_k), (columns_v, d_v)))
    own_k, own_v = make_rows_fragment(columns_k), make_rows_fragment(columns_v)
    (across_k_at, across_k), (across_v_at, across_v) = (make_reader(n, True, False) for n in (columns_k, columns_v))
    (down_k_at, down_k), (down_v_at, down_v) = (make_reader(n, False, True) for n in (columns_k, columns_v))
    depth_k, depth_v, pairs, n_map = columns_k // 16, columns_v // 16, chunk // 16, chunk // 8 * 4
    n_own, n_k_results, n_v_results = 4 * (depth_k + depth_v), 8 * depth_k, 8 * depth_v
    zero, log2_e = float32(0), float32(LOG2_E)

    @cuda.jit(device=True)
    def fact(lse, delta, at, i, exists):
        """Number i of a step's facts: of query i // 2 it is lse · log₂e, or delta if i is odd."""
        x = zero
        if exists:
            x = delta[at] if i % 2 == 1 else lse[at] * log2_e
        return x

    store_k, store_v = make_store(columns_k), make_store(columns_v)

    def backward_keys_bf16(
        q,
        k,
        v,
        dz,
        lse,
        delta,
        dk,
        dv,
        bounds,
        strides,
        scale,
        n_q,
        maps_k,
        maps_v,
        maps,
        parts,
        n_queries,
        n_keys,
        causal,
    ):
        shared = cuda.shared.array(static, uint16, alignment=ALIGNMENT)
        facts = cuda.shared.array(n_stages, float32, alignment=ALIGNMENT)
        own = cuda.local.array(n_own, uint32)
        scores = cuda.local.array(n_map, float32)
        d_map = cuda.local.array(n_map, float32)
        result_k = cuda.local.array(n_k_results, float32)
        result_v = cuda.local.array(n_v_results, float32)
        t = int32(cuda.threadIdx.x)
        lane, warp = int32(t % 32), int32(t // 32)
        runs = div(n_q, maps)
        b_run = div(cuda.blockIdx.x, parts)
        part = int32(cuda.blockIdx.x - b_run * parts)
        batch, b = div(cuda.gridDim.x, runs * parts), div(b_run, runs)
        run = int32(b_run - b * runs)
        first = int32(cuda.blockIdx.y * rows)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        begin = int32(0)
        if causal:  # the first query that sees a key of this block; from there on, every lse is finite
            begin = int32(max(0, max(first, k_start) - q_start))
        steps = int32(0)  # per map
        if first < k_stop and first + rows > k_start and begin < n_queries:
            steps = div(n_queries - begin + queries - 1, queries)
        step, last = share(maps * steps, part, parts)
        to_log2 = scale * log2_e

        load_k(
            shared,
            0,
            (k, b * strides[3] + div(run * maps, maps_k) * strides[4], strides[5], k_start, k_stop),
            first,
            0,
            t,
        )
        cp_async_commit()
        wait_all()
        cuda.syncthreads()
        for d in range(depth_k):
            o = 4 * d
            own[o], own[o + 1], own[o + 2], own[o + 3] = own_k(shared, 0, warp * 16, d * 16, lane)
        cuda.syncthreads()
        load_v(
            shared,
            0,
            (v, b * strides[6] + div(run * maps, maps_v) * strides[7], strides[8], k_start, k_stop),
            first,
            0,
            t,
        )
        cp_async_commit()
        wait_all()
        cuda.syncthreads()
        for d in range(depth_v):
            o = 4 * (depth_k + d)
            own[o], own[o + 1], own[o + 2], own[o + 3] = own_v(shared, 0, warp * 16, d * 16, lane)
        cuda.syncthreads()
        for i in range(n_k_results):
            result_k[i] = zero
        for i in range(n_v_results):
            result_v[i] = zero

        base = shared_address(shared)
        at_across_k, at_across_v = int32(base + across_k_at(lane)), int32(base + 2 * dz_at + across_v_at(lane))
        at_down_k, at_down_v = int32(base + down_k_at(lane)), int32(base + 2 * dz_at + down_v_at(lane))
        m = int32(run * maps)
        i0 = begin
        here, fact_at = int32(0), int32(0)  # the stage in use: its place in bytes, and that of its facts
        if step < last:
            m += div(step, steps)
            i0 += int32((step - div(step, steps) * steps) * queries)
            start = (int64(b) * n_q + m) * n_queries
            left = int32(n_queries - i0)
            copy_q(shared, base, q, b * strides[0] + m * strides[1] + i0 * strides[2], strides[2], left)
            copy_dz(shared, int32(base + 2 * dz_at), dz, (start + i0) * d_v, d_v, left)
            if t < n_facts:
                facts[t] = fact(lse, delta, start + i0 + t // 2, t, i0 + t // 2 < n_queries)
        cp_async_commit()
        for s in range(step, last):
            wait_all()
            cuda.syncthreads()  # this step's tiles are there, and all threads have finished the previous step
            j0, upcoming = i0, zero
            if s + 1 < last:
                i0 += int32(queries)
                if i0 >= n_queries:
                    i0 = begin
                    m += int32(1)
                start = (int64(b) * n_q + m) * n_queries
                there, left = int32(base + 2 * stage - here), int32(n_queries - i0)
                copy_q(shared, there, q, b * strides[0] + m * strides[1] + i0 * strides[2], strides[2], left)
                copy_dz(shared, int32(there + 2 * dz_at), dz, (start + i0) * d_v, d_v, left)
                thread = thread_again()
                if thread < n_facts:
                    upcoming = fact(lse, delta, start + i0 + thread // 2, thread, i0 + thread // 2 < n_queries)
            cp_async_commit()
            masked = causal and first + rows - 1 > q_start + j0
            for c in range(0, queries, chunk):
                at = int32(here + c * (2 * columns_k))
                now_across_k, now_down_k = int32(at_across_k + at), int32(at_down_k + at)
                at = int32(here + c * (2 * columns_v))
                now_across_v, now_down_v = int32(at_across_v + at), int32(at_down_v + at)
                for i in range(n_map):
                    scores[i] = zero
                    d_map[i] = zero
                for d in range(depth_k):
                    o = 4 * d
                    for n in range(pairs):
                        b0, b1, b2, b3 = across_k(shared, now_across_k, n * 16, d * 16)
                        multiply(scores, n * 8, own[o], own[o + 1], own[o + 2], own[o + 3], b0, b1)
                        multiply(scores, n * 8 + 4, own[o], own[o + 1], own[o + 2], own[o + 3], b2, b3)
                for d in range(depth_v):
                    o = 4 * (depth_k + d)
                    for n in range(pairs):
                        b0, b1, b2, b3 = across_v(shared, now_across_v, n * 16, d * 16)
                        multiply(d_map, n * 8, own[o], own[o + 1], own[o + 2], own[o + 3], b0, b1)
                        multiply(d_map, n * 8 + 4, own[o], own[o + 1], own[o + 2], own[o + 3], b2, b3)
                for n in range(2 * pairs):
                    column = c + n * 8 + lane % 4 * 2
                    lse_0, delta_0, lse_1, delta_1 = ld4(facts, fact_at + 2 * column)
                    o = 4 * n
                    scores[o] = exp2(scores[o] * to_log2 - lse_0)
                    scores[o + 1] = exp2(scores[o + 1] * to_log2 - lse_1)
                    scores[o + 2] = exp2(scores[o + 2] * to_log2 - lse_0)
                    scores[o + 3] = exp2(scores[o + 3] * to_log2 - lse_1)
                    if masked:
                        over = int32(first + warp * 16 + lane // 4 - q_start - j0 - column)  # key minus last key seen
                        if over > 0:
                            scores[o] = zero
                        if over > 1:
                            scores[o + 1] = zero
                        if over + 8 > 0:
                            scores[o + 2] = zero
                        if over + 8 > 1:
                            scores[o + 3] = zero
                    d_map[o] = scores[o] * (d_map[o] - delta_0)
                    d_map[o + 1] = scores[o + 1] * (d_map[o + 1] - delta_1)
                    d_map[o + 2] = scores[o + 2] * (d_map[o + 2] - delta_0)
                    d_map[o + 3] = scores[o + 3] * (d_map[o + 3] - delta_1)
                for d in range(pairs):
                    o = 8 * d
                    a0, a1 = pack_bf16(scores[o], scores[o + 1]), pack_bf16(scores[o + 2], scores[o + 3])
                    a2, a3 = pack_bf16(scores[o + 4], scores[o + 5]), pack_bf16(scores[o + 6], scores[o + 7])
                    for n in range(depth_v):
                        b0, b1, b2, b3 = down_v(shared, now_down_v, d * 16, n * 16)
                        multiply(result_v, n * 8, a0, a1, a2, a3, b0, b1)
                        multiply(result_v, n * 8 + 4, a0, a1, a2, a3, b2, b3)
                    a0, a1 = pack_bf16(d_map[o], d_map[o + 1]), pack_bf16(d_map[o + 2], d_map[o + 3])
                    a2, a3 = pack_bf16(d_map[o + 4], d_map[o + 5]), pack_bf16(d_map[o + 6], d_map[o + 7])
                    for n in range(depth_k):
                        b0, b1, b2, b3 = down_k(shared, now_down_k, d * 16, n * 16)
                        multiply(result_k, n * 8, a0, a1, a2, a3, b0, b1)
                        multiply(result_k, n * 8 + 4, a0, a1, a2, a3, b2, b3)
            here = int32(2 * stage - here)
            fact_at = int32(n_facts - fact_at)
            thread = thread_again()
            if thread < n_facts:
                facts[fact_at + thread] = upcoming
        wait_all()

        first += warp * 16
        start = int64(cuda.blockIdx.x) * n_keys
        store_v(dv, result_v, 0, start * columns_v, first, n_keys, k_start, k_stop, float32(1), lane)
        store_k(dk, result_k, 0, start * columns_k, first, n_keys, k_start, k_stop, scale, lane)

    return backward_keys_bf16
