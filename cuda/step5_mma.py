"""Steps 5a to 5d of the ladder: the first forward on tensor cores, in four stages that differ in one idea each.

Change from step 4 (``forward``): both products are ``mma`` instructions, in which a warp multiplies (16, 16) by (16, 8)
matrices that its 32 threads hold together. A warp owns 16 queries; a block has 8 warps and takes 64 keys per step. What
``forward_bf16`` says about fragments holds here as well: the scores become the weights where they are.

    step            new                                            wavefronts per warp and step
    5a  mma         fragments are read pair by pair                2048   (K 1024, V 1024)
    5b  ldmatrix    one instruction reads four 8 × 8 matrices      1536   (K  512, V 1024)
    5c  swizzle     eight rows lie in eight different banks         192   (K   64, V  128)
    5d  async       the next tile is copied while this one is used  192

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder mma ldmatrix swizzle async

``step5_tiles`` explains the wavefronts. A multiprocessor makes one per cycle, so 5a needs at least 8 · 2048 cycles for
a step whose ``mma`` instructions take 1190. In 5a to 5c a block waits for each tile; with 255 registers per thread a
multiprocessor has room for one block only, so nothing else runs meanwhile. In 5d there are two tiles.

What remains for step 5e (``forward_bf16``): every address is computed anew, in 64 bits.
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
    pair,
    shfl_xor,
)
from gta_cuda.kernels import check_shared
from gta_cuda.step5_tiles import make_fragments, make_load
from gta_cuda.tiles_bf16 import make_store_pair, multiply

ROWS, KEYS = 128, 64  # queries of a block, 16 per warp; keys per step
MOST = 128  # columns of a key, and of a value
wait_all, wait_but_one = cp_async_wait


class Ideas(NamedTuple):
    """Which ideas a step has."""

    by_pairs: bool = False  # or by ldmatrix
    swizzled: bool = True
    ahead: bool = True  # the next tile is copied while this one is used


STEPS = {
    "mma": Ideas(by_pairs=True, swizzled=False, ahead=False),
    "ldmatrix": Ideas(swizzled=False, ahead=False),
    "swizzle": Ideas(ahead=False),
    "async": Ideas(),
}


def make_forward(d_k: int, d_v: int, ideas: Ideas, rows: int = ROWS, keys: int = KEYS) -> Callable:
    """Make the kernel for these widths, multiples of 16 up to MOST. Grid (B·n_q, blocks of queries, 1).

    Its arguments are those of ``forward_bf16``; rows of q, k and v begin at multiples of 16 bytes.
    """
    if d_k % 16 or d_v % 16 or max(d_k, d_v) > MOST:
        raise ValueError(f"d_k={d_k}, d_v={d_v} must be multiples of 16, at most {MOST}")
    stage, values_at = keys * (d_k + d_v), keys * d_k
    n_shared = stage * (2 if ideas.ahead else 1)
    check_shared(d_k, d_v, 2 * n_shared)
    threads = 2 * rows
    load_k, load_v = (make_load(keys, width, ideas.swizzled, threads) for width in (d_k, d_v))
    key_fragment, value_fragment = make_fragments(d_k, d_v, ideas.swizzled, ideas.by_pairs)
    depth, pairs_k, depth_v, pairs_v = d_k // 16, keys // 16, keys // 16, d_v // 16
    n_query, n_scores, n_results = depth * 4, keys // 2, d_v // 2
    store = make_store_pair(d_v)
    ahead = ideas.ahead
    aligned = ALIGNMENT and 128
    zero, lowest, ln_2, log2_e = float32(0), float32(-math.inf), float32(LN_2), float32(LOG2_E)

    @cuda.jit(device=True)
    def query_pair(q, at, exists):
        return pair(q[at], q[at + 1]) if exists else uint32(0)

    def mma_bf16(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, n_queries, causal):
        shared = cuda.shared.array(n_shared, uint16, alignment=aligned)
        query = cuda.local.array(n_query, uint32)
        scores = cuda.local.array(n_scores, float32)
        result = cuda.local.array(n_results, float32)
        largest = cuda.local.array(2, float32)  # of the thread's two rows, u and u + 8
        total = cuda.local.array(2, float32)
        shrink = cuda.local.array(2, float32)
        t = int32(cuda.threadIdx.x)
        lane, warp = int32(t % 32), int32(t // 32)
        batch, b = div(cuda.gridDim.x, n_q), div(cuda.blockIdx.x, n_q)
        m = int32(cuda.blockIdx.x - b * n_q)
        first = int32((cuda.gridDim.y - 1 - cuda.blockIdx.y) * rows)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        stop = k_stop
        if causal:
            stop = int32(min(k_stop, q_start + min(first + rows, n_queries)))
        keys_view = (k, b * strides[3] + div(m, maps_k) * strides[4], strides[5], k_stop)
        values_view = (v, b * strides[6] + div(m, maps_v) * strides[7], strides[8], k_stop)

        row, p = int32(first + warp * 16 + lane // 4), int32(lane % 4 * 2)
        at = b * strides[0] + m * strides[1] + row * strides[2] + p
        for d in range(depth):
            for i in range(4):  # rows row, row + 8, then the same with columns 8 further
                exists = row + 8 * (i % 2) < n_queries
                query[4 * d + i] = query_pair(q, at + 8 * (i % 2) * strides[2] + d * 16 + 8 * (i // 2), exists)
        for i in range(2):
            largest[i], total[i] = lowest, zero
        for i in range(n_results):
            result[i] = zero
        to_log2 = scale * log2_e

        if ahead:
            load_k(shared, 0, keys_view, k_start)
            load_v(shared, values_at, values_view, k_start)
            cp_async_commit()
        here = int32(0)
        for j0 in range(k_start, stop, keys):
            cuda.syncthreads()  # wait until all threads have read the tile that is now overwritten
            if ahead:
                there = int32(stage - here)
                load_k(shared, there, keys_view, j0 + keys)
                load_v(shared, there + values_at, values_view, j0 + keys)
                cp_async_commit()
                wait_but_one()
            else:
                load_k(shared, 0, keys_view, j0)
                load_v(shared, values_at, values_view, j0)
                cp_async_commit()
                wait_all()
            cuda.syncthreads()
            for i in range(n_scores):
                scores[i] = zero
            for d in range(depth):
                for n in range(pairs_k):
                    b0, b1, b2, b3 = key_fragment(shared, here, n * 16, d * 16, lane)
                    a0, a1, a2, a3 = query[4 * d], query[4 * d + 1], query[4 * d + 2], query[4 * d + 3]
                    multiply(scores, n * 8, a0, a1, a2, a3, b0, b1)
                    multiply(scores, n * 8 + 4, a0, a1, a2, a3, b2, b3)
            for i in range(2):
                last = int32(k_stop - 1)
                if causal:
                    last = int32(min(last, q_start + row + 8 * i))
                high = largest[i]
                for n in range(2 * pairs_k):
                    for e in range(2):
                        s = n * 4 + 2 * i + e
                        scores[s] *= to_log2
                        if j0 + n * 8 + p + e > last:
                            scores[s] = lowest
                        high = max(high, scores[s])
                high = max(high, shfl_xor(high, 1))
                high = max(high, shfl_xor(high, 2))
                base = high if high != lowest else zero
                shrink[i] = exp2(largest[i] - base)
                largest[i] = high
                total[i] *= shrink[i]
                for n in range(2 * pairs_k):
                    for e in range(2):
                        s = n * 4 + 2 * i + e
                        scores[s] = exp2(scores[s] - base)
                        total[i] += scores[s]
            for i in range(n_results):
                result[i] *= shrink[i // 2 % 2]
            for d in range(depth_v):
                s = d * 8
                a0, a1 = pack_bf16(scores[s], scores[s + 1]), pack_bf16(scores[s + 2], scores[s + 3])
                a2, a3 = pack_bf16(scores[s + 4], scores[s + 5]), pack_bf16(scores[s + 6], scores[s + 7])
                for n in range(pairs_v):
                    b0, b1, b2, b3 = value_fragment(shared, here + values_at, d * 16, n * 16, lane)
                    multiply(result, n * 8, a0, a1, a2, a3, b0, b1)
                    multiply(result, n * 8 + 4, a0, a1, a2, a3, b2, b3)
            if ahead:
                here = int32(stage - here)
        wait_all()

        for i in range(2):
            total[i] += shfl_xor(total[i], 1)
            total[i] += shfl_xor(total[i], 2)
            factor, value = zero, lowest
            if total[i] > zero:
                factor, value = inverse(total[i]), (largest[i] + log2(total[i])) * ln_2
            if row + 8 * i < n_queries:
                start = int64(cuda.blockIdx.x) * n_queries + row + 8 * i
                for n in range(2 * pairs_v):
                    r = n * 4 + 2 * i
                    store(z, start * d_v, n * 8 + p, result[r] * factor, result[r + 1] * factor)
                if p == 0:
                    lse[start] = value

    return mma_bf16
