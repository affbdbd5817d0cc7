"""The engine's float32 backward: three kernels without atomics, which add in the same order in every run.

The forward keeps lse, so the map can be recomputed as P = exp(S − lse). Then:

    delta_i = Σ_d dz[i, d] z[i, d] − dlse_i              (``make_delta``)
    dS = P ⊙ (dZ Vᵀ − delta)       dQ = scale · dS K     (``make_backward_queries``: a block owns 64 queries)
    dV = Pᵀ dZ                     dK = scale · dSᵀ Q    (``make_backward_keys``: a block owns 64 keys)

delta replaces rowsum(P ⊙ dP): Σ_j P[i, j] Σ_d dz[i, d] v[j, d] = Σ_d dz[i, d] z[i, d].

A *run* is a set of maps that share both their key head and their value head. A block that owns keys serves one run. In
GTA with one key head and one latent head, all maps are one run, and the block's sums are the gradients of K and V. If
several runs share a head, each run stores a sum of its own. ``backward_parts`` adds these sums, as well as those of
blocks that share the same queries or keys.

Both kernels compute S and dP. This takes 7 products in total, where 5 would be enough with atomic additions to dQ.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable

from numba import cuda, float32, int32, int64, uint16

from gta_cuda.backward_parts import share
from gta_cuda.forward import LOG2_E
from gta_cuda.intrinsics import ALIGNMENT, bits_float, div, exp2, shfl_xor
from gta_cuda.tiles import TILE, Memory, Tile, make_accumulate, make_load, make_product, make_store


def make_delta(d_v: int, warps: int, from_bf16: bool = False) -> Callable:
    """Make the kernel for delta (rows,) of contiguous z and dz (rows, d_v): one warp per row. Grid (rows / warps,)."""
    if from_bf16:

        @cuda.jit(device=True)
        def read(x, i):
            return bits_float(uint16(0), x[i])
    else:

        @cuda.jit(device=True)
        def read(x, i):
            return x[i]

    def backward_delta(z, dz, dlse, delta, n_rows, has_dlse):
        t = int32(cuda.threadIdx.x)
        row = int64(cuda.blockIdx.x) * warps + t // 32
        total = float32(0)
        if row < n_rows:
            for d in range(t % 32, d_v, 32):
                total = cuda.fma(read(z, row * d_v + d), read(dz, row * d_v + d), total)
        step = 16
        while step > 0:
            total += shfl_xor(total, step)
            step //= 2
        if t % 32 == 0 and row < n_rows:
            if has_dlse:
                total -= dlse[row]
            delta[row] = total

    return backward_delta


def make_backward_queries(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Callable:
    """Make the kernel for the parts of dQ, (B·n_q·parts, N_q, d_k).

    Grid (B·n_q·parts, tiles of queries, parts of d_k).
    """
    part, chunks = tile.part(d_k), tile.chunks(d_k)
    memory = Memory.plan(tile, (d_k, d_v), part)
    total, y_at, values_at = memory.total, memory.y, memory.values
    product_k = make_product(tile, d_k, wide, memory.x, y_at)
    product_v = make_product(tile, d_v, wide, memory.x, y_at)
    load_k = make_load(tile, tile.columns, part, part, d_k, wide)
    accumulate = make_accumulate(tile, chunks, y_at, values_at)
    store = make_store(tile, chunks, d_k)
    rows, columns, groups, height, each, pitch = (
        tile.rows,
        tile.columns,
        tile.groups,
        tile.height,
        tile.each,
        tile.pitch,
    )
    n_scores, n_results = height * each, height * 4 * chunks
    zero, to_log2 = float32(0), float32(LOG2_E)

    def backward_queries_f32(
        q, k, v, dz, lse, delta, dq, bounds, strides, scale, n_q, maps_k, maps_v, parts, n_queries, causal
    ):
        shared = cuda.shared.array(total, float32, alignment=ALIGNMENT)
        scores = cuda.local.array(n_scores, float32)
        d_map = cuda.local.array(n_scores, float32)
        result = cuda.local.array(n_results, float32)
        row_lse = cuda.local.array(height, float32)
        row_delta = cuda.local.array(height, float32)
        t = int32(cuda.threadIdx.x)
        g, top = int32(t % groups), int32(t // groups * height)
        b_m = div(cuda.blockIdx.x, parts)
        batch, b = div(cuda.gridDim.x, n_q * parts), div(b_m, n_q)
        m = int32(b_m - b * n_q)
        first = int32((cuda.gridDim.y - 1 - cuda.blockIdx.y) * rows)
        left = int32(cuda.blockIdx.z * part)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        stop = k_stop
        if causal:
            stop = int32(min(k_stop, q_start + min(first + rows, n_queries)))
        step, last_step = share(
            div(max(0, stop - k_start) + columns - 1, columns), int32(cuda.blockIdx.x - b_m * parts), parts
        )
        start = int64(b_m) * n_queries
        queries = (q, b * strides[0] + m * strides[1], strides[2], 0, n_queries)
        keys = (k, b * strides[3] + div(m, maps_k) * strides[4], strides[5], k_start, k_stop)
        values = (v, b * strides[6] + div(m, maps_v) * strides[7], strides[8], k_start, k_stop)
        cotangents = (dz, start * d_v, int64(d_v), 0, n_queries)

        for i in range(height):
            row_lse[i] = zero
            row_delta[i] = zero
            if first + top + i < n_queries:
                row_lse[i] = lse[start + first + top + i] * to_log2
                row_delta[i] = delta[start + first + top + i]
        for i in range(n_results):
            result[i] = zero
        for j0 in range(k_start + step * columns, k_start + last_step * columns, int32(columns)):
            product_k(scores, shared, queries, first, keys, j0)
            product_v(d_map, shared, cotangents, first, values, j0)
            cuda.syncthreads()  # the values have been read: dS is stored in their place
            load_k(shared, values_at, keys, j0, left)
            for i in range(height):
                last = k_stop - 1
                if causal:
                    last = min(last, q_start + first + top + i)
                for j in range(each):
                    p = zero
                    if j0 + g + groups * j <= last:
                        p = exp2(scores[i * each + j] * scale * to_log2 - row_lse[i])
                    shared[y_at + (top + i) * pitch + g + groups * j] = p * (d_map[i * each + j] - row_delta[i])
            cuda.syncthreads()
            accumulate(result, shared)
        for i in range(height):
            row_lse[i] = scale
        store(result, row_lse, dq, int64(cuda.blockIdx.x) * n_queries * d_k, first, n_queries, left)

    return backward_queries_f32


def make_backward_keys(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Callable:
    """Make the kernel for the parts of dK and dV, (B·runs·parts, N_k, d_k or d_v).

    Grid (B·runs·parts, tiles of keys, parts of d_k or of d_v, whichever has more).
    """
    part_k, part_v, chunks_k, chunks_v = tile.part(d_k), tile.part(d_v), tile.chunks(d_k), tile.chunks(d_v)
    memory = Memory.plan(tile, (d_k, d_v), max(part_k, part_v))
    total, y_at, values_at = memory.total, memory.y, memory.values
    product_k = make_product(tile, d_k, wide, memory.x, y_at)
    product_v = make_product(tile, d_v, wide, memory.x, y_at)
    load_q = make_load(tile, tile.columns, part_k, part_k, d_k, wide)
    load_dz = make_load(tile, tile.columns, part_v, part_v, d_v, wide)
    accumulate_k = make_accumulate(tile, chunks_k, y_at, values_at)
    accumulate_v = make_accumulate(tile, chunks_v, y_at, values_at)
    store_k = make_store(tile, chunks_k, d_k)
    store_v = make_store(tile, chunks_v, d_v)
    rows, columns, groups, height, each, pitch = (
        tile.rows,
        tile.columns,
        tile.groups,
        tile.height,
        tile.each,
        tile.pitch,
    )
    n_scores, n_k_results, n_v_results = height * each, height * 4 * chunks_k, height * 4 * chunks_v
    zero, to_log2 = float32(0), float32(LOG2_E)

    def backward_keys_f32(
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
        shared = cuda.shared.array(total, float32, alignment=ALIGNMENT)
        scores = cuda.local.array(n_scores, float32)
        d_map = cuda.local.array(n_scores, float32)
        result_k = cuda.local.array(n_k_results, float32)
        result_v = cuda.local.array(n_v_results, float32)
        factors = cuda.local.array(height, float32)
        t = int32(cuda.threadIdx.x)
        g, top = int32(t % groups), int32(t // groups * height)
        runs = div(n_q, maps)
        b_run = div(cuda.blockIdx.x, parts)
        part = int32(cuda.blockIdx.x - b_run * parts)
        batch, b = div(cuda.gridDim.x, runs * parts), div(b_run, runs)
        run = int32(b_run - b * runs)
        first = int32(cuda.blockIdx.y * rows)
        left_k, left_v = int32(cuda.blockIdx.z * part_k), int32(cuda.blockIdx.z * part_v)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        keys = (k, b * strides[3] + div(run * maps, maps_k) * strides[4], strides[5], k_start, k_stop)
        values = (v, b * strides[6] + div(run * maps, maps_v) * strides[7], strides[8], k_start, k_stop)
        begin = int32(0)
        if causal:  # the first query that sees a key of this tile
            begin = int32(max(0, max(first, k_start) - q_start))
        steps = int32(0)  # per map; if no key of this tile is in use, its gradients are 0
        if first < k_stop and first + rows > k_start and begin < n_queries:
            steps = div(n_queries - begin + columns - 1, columns)
        step, last = share(maps * steps, part, parts)

        for i in range(n_k_results):
            result_k[i] = zero
        for i in range(n_v_results):
            result_v[i] = zero
        for s in range(step, last):
            m = int32(run * maps + div(s, steps))
            i0 = int32(begin + (s - div(s, steps) * steps) * columns)
            start = (int64(b) * n_q + m) * n_queries
            queries = (q, b * strides[0] + m * strides[1], strides[2], 0, n_queries)
            cotangents = (dz, start * d_v, int64(d_v), 0, n_queries)
            product_k(scores, shared, keys, first, queries, i0)  # Sᵀ, whose rows are keys
            product_v(d_map, shared, values, first, cotangents, i0)
            for j in range(each):
                query = i0 + g + groups * j
                query_lse = query_delta = zero
                if query < n_queries:
                    query_lse = lse[start + query] * to_log2
                    query_delta = delta[start + query]
                for i in range(height):
                    key = first + top + i
                    p = zero
                    if query < n_queries and k_start <= key < k_stop and (not causal or key <= q_start + query):
                        p = exp2(scores[i * each + j] * scale * to_log2 - query_lse)
                    scores[i * each + j] = p
                    d_map[i * each + j] = p * (d_map[i * each + j] - query_delta)
            if left_v < d_v:
                cuda.syncthreads()
                load_dz(shared, values_at, cotangents, i0, left_v)
                for i in range(height):
                    for j in range(each):
                        shared[y_at + (top + i) * pitch + g + groups * j] = scores[i * each + j]
                cuda.syncthreads()
                accumulate_v(result_v, shared)
            if left_k < d_k:
                cuda.syncthreads()
                load_q(shared, values_at, queries, i0, left_k)
                for i in range(height):
                    for j in range(each):
                        shared[y_at + (top + i) * pitch + g + groups * j] = d_map[i * each + j]
                cuda.syncthreads()
                accumulate_k(result_k, shared)
        start_row = int64(cuda.blockIdx.x) * n_keys
        for i in range(height):
            factors[i] = float32(1)
        store_v(result_v, factors, dv, start_row * d_v, first, n_keys, left_v)
        for i in range(height):
            factors[i] = scale
        store_k(result_k, factors, dk, start_row * d_k, first, n_keys, left_k)

    return backward_keys_f32
