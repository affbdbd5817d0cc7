"""The engine's float32 decode, for few queries and many keys. It reads K and V once, with all multiprocessors.

A *row* is a query of one map. A block serves up to 8 rows of maps that share both heads: the five maps of GTA-1B
read one K and one C together. The keys are cut into *splits*, one per block; without splits a single sequence would
occupy one multiprocessor of about a hundred. Each split produces its own z and lse, and ``make_merge`` combines them:

    lse = log Σ_s exp(lse_s)        z = Σ_s exp(lse_s − lse) z_s

Within a block, each warp loops over its share of the split's keys, 8 or more per step, with an online softmax of its
own. The results of the warps are combined by the same rule at the end. A key is read by as many threads as it has
groups of 4 columns:

    d_k 64: 16 threads per key, 2 keys per instruction of the warp; shuffles add the 16 partial sums of a score
    d_v 128: 32 threads per value; each adds weight · 4 columns for every row

The arithmetic runs on the CUDA cores: each element of K or V needs one multiply–add per row. In bfloat16 an element
arrives in half the time, too little for these multiply–adds, so ``decode_bf16`` uses the tensor cores.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from numba import cuda, float32, int32, int64

from gta_cuda.forward import LN_2, LOG2_E
from gta_cuda.intrinsics import bf16_bits, div, exp2, inverse, log2, shfl_xor, warp_sync
from gta_cuda.tiles import make_load4

MOST_ROWS = 8
REGISTERS = 76  # per thread, for data that grows with the rows; the rest of its 255 hold loads under way and addresses


class Lanes(NamedTuple):
    """How the 32 threads of a warp share the rows of K, or of V."""

    lanes: int  # threads per row
    chunks: int  # groups of 4 columns per thread
    at_once: int  # rows per instruction of the warp

    @classmethod
    def of(cls, width: int) -> Lanes:
        """As many threads per row as it has groups of 4 columns, rounded up to a power of two, at most 32."""
        quads = -(-width // 4)
        lanes = min(32, 1 << (quads - 1).bit_length())
        return cls(lanes, -(-quads // lanes), 32 // lanes)


def step_keys(d_k: int, d_v: int) -> int:
    """Number of keys that a warp processes per step."""
    return max(8, Lanes.of(d_k).at_once, Lanes.of(d_v).at_once)


def most_rows(d_k: int, d_v: int) -> int:
    """Number of rows that a block can serve at these widths; 0 if they are too large for this kernel."""
    on_k, on_v = Lanes.of(d_k), Lanes.of(d_v)
    a_row = step_keys(d_k, d_v) // on_k.at_once + 4 * on_k.chunks + 4 * on_v.chunks + 3
    return min(MOST_ROWS, REGISTERS // a_row)


def make_decode(d_k: int, d_v: int, wide: bool, rows: int, warps: int = 4) -> Callable:
    """Make the kernel for these widths and `rows` rows per block. Grid (B·runs, blocks of rows, splits)."""
    lanes_k, chunks_k, at_once_k = Lanes.of(d_k)
    lanes_v, chunks_v, at_once_v = Lanes.of(d_v)
    keys = step_keys(d_k, d_v)
    loads_k, loads_v = keys // at_once_k, keys // at_once_v
    load_k, load_v = make_load4(d_k, wide), make_load4(d_v, wide)
    held_k, held_v = 4 * chunks_k, 4 * chunks_v
    n_query, n_scores, n_results = rows * held_k, rows * loads_k, rows * held_v
    n_weights, n_states, n_outputs = warps * keys * rows, warps * rows * 2, warps * rows * d_v
    zero, lowest, to_log2, to_ln = float32(0), float32(-math.inf), float32(LOG2_E), float32(LN_2)

    def decode_f32(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, maps, n_queries, causal, n_rows):
        weights = cuda.shared.array(n_weights, float32)
        states = cuda.shared.array(n_states, float32)
        outputs = cuda.shared.array(n_outputs, float32)
        query = cuda.local.array(n_query, float32)
        scores = cuda.local.array(n_scores, float32)
        result = cuda.local.array(n_results, float32)
        largest = cuda.local.array(rows, float32)
        total = cuda.local.array(rows, float32)
        last = cuda.local.array(rows, int32)
        t = int32(cuda.threadIdx.x)
        lane, warp = int32(t % 32), int32(t // 32)
        lane_k, row_k = int32(lane % lanes_k), int32(lane // lanes_k)
        lane_v, row_v = int32(lane % lanes_v), int32(lane // lanes_v)
        runs = div(n_q, maps)
        batch, b = div(cuda.gridDim.x, runs), div(cuda.blockIdx.x, runs)
        run = int32(cuda.blockIdx.x - b * runs)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        stop = k_stop
        if causal:
            stop = int32(min(k_stop, q_start + n_queries))
        split = div(max(0, stop - k_start) + cuda.gridDim.z - 1, cuda.gridDim.z)
        low = int32(k_start + int32(cuda.blockIdx.z) * split)
        high = int32(min(stop, low + split))
        k_base = b * strides[3] + div(run * maps, maps_k) * strides[4]
        v_base = b * strides[6] + div(run * maps, maps_v) * strides[7]

        for r in range(rows):
            row = int32(cuda.blockIdx.y) * rows + r  # row of the run: its map row // n_queries, query row % n_queries
            u = div(row, n_queries)
            i = row - u * n_queries
            last[r] = -1
            if u < maps:
                last[r] = k_stop - 1
                if causal:
                    last[r] = min(k_stop - 1, q_start + i)
            largest[r] = lowest
            total[r] = zero
            at = b * strides[0] + (run * maps + min(u, maps - 1)) * strides[1] + i * strides[2]
            for c in range(chunks_k):
                column = (c * lanes_k + lane_k) * 4
                x0, x1, x2, x3 = load_k(q, at + column, column)
                o = r * held_k + 4 * c
                query[o], query[o + 1], query[o + 2], query[o + 3] = x0, x1, x2, x3
        for o in range(n_results):
            result[o] = zero

        mine = warp * (keys * rows)
        for j0 in range(low, high, int32(keys * warps)):
            base_key = int32(j0 + warp * keys)
            for n in range(loads_k):
                at = k_base + min(base_key + n * at_once_k + row_k, high - 1) * strides[5]
                for r in range(rows):
                    scores[n * rows + r] = zero
                for c in range(chunks_k):
                    column = (c * lanes_k + lane_k) * 4
                    x0, x1, x2, x3 = load_k(k, at + column, column)
                    for r in range(rows):
                        o = r * held_k + 4 * c
                        s = cuda.fma(x0, query[o], scores[n * rows + r])
                        s = cuda.fma(x1, query[o + 1], s)
                        s = cuda.fma(x2, query[o + 2], s)
                        scores[n * rows + r] = cuda.fma(x3, query[o + 3], s)
            warp_sync()  # the weights of the last step have been read
            for r in range(rows):
                top = largest[r]
                for n in range(loads_k):
                    s = scores[n * rows + r]
                    step = lanes_k // 2
                    while step > 0:
                        s += shfl_xor(s, step)
                        step //= 2
                    key = base_key + n * at_once_k + row_k
                    s = s * scale * to_log2
                    if key >= high or key > last[r]:
                        s = lowest
                    scores[n * rows + r] = s
                    top = max(top, s)
                step = 16
                while step >= lanes_k:
                    top = max(top, shfl_xor(top, step))
                    step //= 2
                base = top
                if top == lowest:
                    base = zero
                shrink = exp2(largest[r] - base)
                largest[r] = top
                seen = zero
                for n in range(loads_k):
                    w = exp2(scores[n * rows + r] - base)
                    seen += w
                    if lane_k == 0:
                        weights[mine + (n * at_once_k + row_k) * rows + r] = w
                total[r] = total[r] * shrink + seen
                for o in range(held_v):
                    result[r * held_v + o] *= shrink
            warp_sync()
            for n in range(loads_v):
                key = n * at_once_v + row_v
                at = v_base + min(base_key + key, high - 1) * strides[8]
                for c in range(chunks_v):
                    column = (c * lanes_v + lane_v) * 4
                    x0, x1, x2, x3 = load_v(v, at + column, column)
                    for r in range(rows):
                        w = weights[mine + key * rows + r]
                        o = r * held_v + 4 * c
                        result[o] = cuda.fma(w, x0, result[o])
                        result[o + 1] = cuda.fma(w, x1, result[o + 1])
                        result[o + 2] = cuda.fma(w, x2, result[o + 2])
                        result[o + 3] = cuda.fma(w, x3, result[o + 3])

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
        first_row = int32(cuda.blockIdx.y * rows)
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


def make_merge(d_v: int, to_bf16: bool, threads: int = 128) -> Callable:
    """Make the kernel that combines the z and lse of the splits. Grid (rows,)."""
    zero, lowest, to_log2, to_ln = float32(0), float32(-math.inf), float32(LOG2_E), float32(LN_2)

    def merge(z_parts, lse_parts, z, lse, n_rows, splits):
        row, t = int64(cuda.blockIdx.x), int32(cuda.threadIdx.x)
        top = lowest
        for s in range(splits):
            top = max(top, lse_parts[s * n_rows + row])
        base = top
        if top == lowest:
            base = zero
        total = zero
        for s in range(splits):
            total += exp2((lse_parts[s * n_rows + row] - base) * to_log2)
        share_all, value = zero, lowest
        if total > zero:
            share_all = inverse(total)
            value = base + log2(total) * to_ln
        if t == 0:
            lse[row] = value
        for column in range(t, d_v, threads):
            x = zero
            for s in range(splits):
                share = exp2((lse_parts[s * n_rows + row] - base) * to_log2) * share_all
                x = cuda.fma(share, z_parts[(s * n_rows + row) * d_v + column], x)
            if to_bf16:
                z[row * d_v + column] = bf16_bits(x)
            else:
                z[row * d_v + column] = x

    return merge
