"""Steps 5e to 5h of the ladder, and the engine's bfloat16 forward: tensor cores.

Changes from step 4 (``forward``): the products are ``mma`` instructions, in which a warp multiplies (16, 16) by
(16, 8) matrices that its 32 threads hold together in registers. K and V are copied to shared memory asynchronously:
the next tile arrives while this one is in use. The weights never leave the registers. Inputs are bfloat16, and all sums
are float32. ``step5_mma`` makes these changes one by one, as steps 5a to 5d.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder addresses rows forward_bf16

In the accumulator of Q Kᵀ (16 queries, 8 keys), thread t holds columns 2(t mod 4) and the next one, in row t // 4 and
in the row 8 further down. Two such accumulators, rounded and packed, are exactly the operand A of the next product,
weights times V, so no data moves between the two products. Only 4 threads hold parts of the maximum and of the sum of a
row, so two shuffles combine them.

Four more ideas. The cycles are counted for a multiprocessor and 128 · 64 scores at GTA-1B's widths; the tensor cores
alone need 1190. The figures are TFLOP/s measured on an H200 with one sequence and five maps, kernel alone; the steps
add up. The ladder's ``addresses`` has 5g as well.

    step  idea                                         predicted cycles           N 4096   N 16,384
    5a-d  tensor cores, 16 queries per warp            shared 1728, issue 1260       151        247
    5e    one address per thread                       issue 920                     187        303
    5f    32 queries per warp                          shared 960, issue 960         155        335
    5g    the base of a row is renewed only if needed  issue 740                     146        347
    5h    four groups of warps share a step's keys     shared 1152, issue 760        257        346

5e. Every address differs from the thread's first one by a constant, which is part of the instruction, or by one xor
(``tiles_bf16.make_copy``, ``make_reader``). Indices are 64-bit numbers in Numba, and computing them took a third of all
instructions. The mask compares 32-bit numbers, and only in the tiles through which its edge runs.

5f. A fragment of K or V that a warp has read from shared memory serves two row tiles of 16 queries, so the warps read
half as much. The sums of 32 queries take 128 registers of a thread. N 4096 became slower: a block with 128 queries then
has four warps only, and as long as its multiprocessor has no second block, too few to hide waiting.

5g. The online softmax may subtract any base from the scores, as long as exp does not overflow. A new maximum that
exceeds the base by no more than 2⁸ in the weights is ignored, and the 128 sums need no multiplication. The base is kept
with a minus sign, so that fma(score, scale, base) is the argument of ex2. After the first steps, a renewal is rare.

5h. The longest block decides when a causal grid ends. With 64 queries per block instead of 128 it is half as long. So
that 64 queries keep eight warps busy, four groups of two warps take 32 of a step's 128 keys each. Each group copies its
own keys, has its own barrier, and has its own base and sums; at the end the first group adds up those of all four,
always in the same order.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from numba import cuda, float32, int32, int64, uint16, uint32

from gta_cuda.forward import LN_2, LOG2_E
from gta_cuda.groups_bf16 import make_add_up, results_bytes
from gta_cuda.intrinsics import (
    ALIGNMENT,
    cp_async_commit,
    cp_async_wait,
    div,
    exp2,
    global_address,
    group_sync,
    inverse,
    log2,
    pack_bf16,
    shared_address,
    shfl_xor,
    thread_again,
)
from gta_cuda.kernels import MOST_SHARED
from gta_cuda.tiles_bf16 import PART, make_copy, make_reader, make_store_pair, multiply, padded

MOST_D_K = 256
SLACK = 8  # a row's base is renewed if its maximum exceeds it by more: weights are at most 2⁸
NOTHING = 3e38  # the negative base of a row that has seen nothing
FAR = 1 << 30  # beyond every key
wait_all, wait_but_one = cp_async_wait


class Tile(NamedTuple):
    """Queries of a block and keys per step; a warp's queries over 16; groups of warps that share the keys of a step."""

    rows: int
    keys: int
    height: int = 1
    splits: int = 1

    @classmethod
    def of(cls, d_k: int, wide: bool = True) -> Tile:
        """The tile for this width: 32 queries per warp if their fragments and their sums fit into registers.

        wide: as in ``tiles_bf16.make_copy``; copying element by element takes more registers.
        """
        if d_k <= 64:
            return cls(64, 128, 2, 4) if wide else cls(64, 64, 1, 2)
        return cls(128, 32) if d_k <= 128 else cls(64, 16)

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.rows // self.height * 2 * self.splits

    def memory(self, d_k: int, d_v: int) -> int:
        """Bytes of shared memory: two steps of keys and values, the queries in place of the second, or the results."""
        part = min(PART, padded(d_v))
        stage, queries = 2 * self.keys * (padded(d_k) + part), 2 * self.rows * padded(d_k)
        return max(stage + max(stage, queries), results_bytes(self.splits, self.rows, part))

    def dynamic(self, d_k: int, d_v: int) -> int:
        """The same if it exceeds what is available without being asked for, otherwise 0."""
        total = self.memory(d_k, d_v)
        return total if total > MOST_SHARED else 0


def make_forward(d_k: int, d_v: int, wide: bool, tile: Tile) -> Callable:
    """Make the kernel for these widths. Grid (B·n_q, tiles of queries, parts of d_v)."""
    columns, part = padded(d_k), min(PART, padded(d_v))
    rows, height, splits, step = tile.rows, tile.height, tile.splits, tile.keys
    threads = tile.threads // splits  # of a group
    keys = step // splits  # of a group per step
    values_at, own_stage = 2 * keys * columns, 2 * keys * (columns + part)  # a group's keys are followed by its values
    stage = splits * own_stage
    static = 0 if tile.dynamic(d_k, d_v) else tile.memory(d_k, d_v) // 2
    place_q, copy_q = make_copy(rows, columns, d_k, wide, tile.threads)
    place_k, copy_k = make_copy(keys, columns, d_k, wide, threads)
    place_v, copy_v = make_copy(keys, part, d_v, wide, threads)
    query_place, query_fragment = make_reader(columns, across=False, transposed=False)
    key_place, key_fragment = make_reader(columns, across=True, transposed=False)
    value_place, value_fragment = make_reader(part, across=False, transposed=True)
    depth_k, depth_v, pairs_k, pairs_v = columns // 16, keys // 16, keys // 16, part // 16
    n_query, n_scores, n_results = height * depth_k * 4, height * pairs_k * 8, height * pairs_v * 8
    n_weights, n_rows = height * 4, height * 2
    per_k, per_v = pairs_k * 8, pairs_v * 8  # scores and results of one row tile
    add_up, store = make_add_up(splits, threads, height, part), make_store_pair(d_v)
    aligned = ALIGNMENT and 128
    zero, lowest, ln_2, log2_e = float32(0), float32(-math.inf), float32(LN_2), float32(LOG2_E)
    slack, nothing = float32(SLACK), float32(NOTHING)

    @cuda.jit(device=True)
    def weight(score, to_log2, base):
        return exp2(cuda.fma(score, to_log2, base))

    def forward_bf16(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, n_queries, causal):
        shared = cuda.shared.array(static, uint16, alignment=aligned)
        query = cuda.local.array(n_query, uint32)
        scores = cuda.local.array(n_scores, float32)
        weights = cuda.local.array(n_weights, uint32)
        result = cuda.local.array(n_results, float32)
        base = cuda.local.array(n_rows, float32)  # of each row, in units of log 2, with a minus sign
        total = cuda.local.array(n_rows, float32)
        t = int32(cuda.threadIdx.x)
        lane, group, thread = int32(t % 32), int32(t // threads), int32(t % threads)
        batch, b = div(cuda.gridDim.x, n_q), div(cuda.blockIdx.x, n_q)
        m = int32(cuda.blockIdx.x - b * n_q)
        first = int32((cuda.gridDim.y - 1 - cuda.blockIdx.y) * rows)
        left = int32(cuda.blockIdx.z * part)
        q_start, k_start, k_stop = bounds[b], bounds[batch + b], bounds[2 * batch + b]
        stop = k_stop
        if causal:
            stop = int32(min(k_stop, q_start + min(first + rows, n_queries)))
        to_log2 = scale * log2_e
        ahead = int32(group * keys)  # the group's keys begin that far into a step

        # addresses: where this thread copies from and to, and where it reads
        origin = shared_address(shared)
        own = int32(origin + group * own_stage)
        row, column, place = place_q(t)
        source = global_address(q, b * strides[0] + m * strides[1] + int64(first + row) * strides[2] + column)
        to, below = int32(origin + stage + place), int32(n_queries - first - row)
        copy_q(shared, to, q, source, 2 * strides[2], below, d_k, row, column)
        cp_async_commit()
        row_k, column_k, place = place_k(thread)
        to_k, rest_k, stride_k = int32(own + place), int32(k_stop - ahead - row_k), 2 * strides[5]
        at = b * strides[3] + div(m, maps_k) * strides[4] + int64(k_start + ahead + row_k) * strides[5]
        from_k = global_address(k, at + column_k)
        row_v, column_v, place = place_v(thread)
        to_v, rest_v, stride_v = int32(own + values_at + place), int32(k_stop - ahead - row_v), 2 * strides[8]
        at = b * strides[6] + div(m, maps_v) * strides[7] + int64(k_start + ahead + row_v) * strides[8]
        from_v, right = global_address(v, at + left + column_v), int32(d_v - left)
        copy_k(shared, to_k, k, from_k, stride_k, int32(rest_k - k_start), d_k, row_k, column_k)
        copy_v(shared, to_v, v, from_v, stride_v, int32(rest_v - k_start), right, row_v, column_v)
        cp_async_commit()
        keys_at, vals_at = int32(own + key_place(lane)), int32(own + values_at + value_place(lane))

        wait_but_one()
        cuda.syncthreads()
        row = int32(thread // 32 * (16 * height))
        at = int32(origin + stage + int32(row * (2 * columns)) + query_place(lane))
        for h in range(height):
            for d in range(depth_k):
                o = 4 * (h * depth_k + d)
                query[o], query[o + 1], query[o + 2], query[o + 3] = query_fragment(shared, at, h * 16, d * 16)
        for i in range(n_results):
            result[i] = zero
        for i in range(n_rows):
            base[i], total[i] = nothing, zero
        # the first key that does not exist, and the first one that the thread's first row does not see; they count
        # from the thread's first column of the scores
        end = int32(k_stop - ahead - lane % 4 * 2)
        unseen = int32(FAR)
        if causal:
            unseen = int32(q_start + first + row + lane // 4 + 1 - ahead - lane % 4 * 2)
        cuda.syncthreads()  # the queries have been read: the second step's keys take their place

        here, there = int32(0), int32(stage)
        for j0 in range(k_start, stop, int32(step)):
            wait_all()
            if splits > 1:
                group_sync(1 + thread_again() // threads, threads)
            else:
                cuda.syncthreads()
            j1 = int32(j0 + step)
            if j1 < stop:
                from_k += step * stride_k
                from_v += step * stride_v
                copy_k(shared, int32(to_k + there), k, from_k, stride_k, int32(rest_k - j1), d_k, row_k, column_k)
                copy_v(shared, int32(to_v + there), v, from_v, stride_v, int32(rest_v - j1), right, row_v, column_v)
                cp_async_commit()
            for i in range(n_scores):
                scores[i] = zero
            for d in range(depth_k):
                for n in range(pairs_k):
                    b0, b1, b2, b3 = key_fragment(shared, int32(keys_at + here), n * 16, d * 16)
                    for h in range(height):
                        o, s = 4 * (h * depth_k + d), h * per_k + n * 8
                        multiply(scores, s, query[o], query[o + 1], query[o + 2], query[o + 3], b0, b1)
                        multiply(scores, s + 4, query[o], query[o + 1], query[o + 2], query[o + 3], b2, b3)
            if j1 > k_stop or (causal and j1 > int32(q_start + first + 1)):
                past, diagonal = int32(end - j0), int32(unseen - j0)
                for i in range(n_rows):
                    limit = int32(min(past, int32(diagonal + 8 * i)))
                    for n in range(2 * pairs_k):
                        s = i // 2 * per_k + n * 4 + i % 2 * 2
                        if int32(n * 8) >= limit:
                            scores[s] = lowest
                        if int32(n * 8 + 1) >= limit:
                            scores[s + 1] = lowest
            # of each row tile, the thread has parts of an upper row (u) and of the row 8 below it (w)
            for h in range(height):
                s, u, w = h * per_k, 2 * h, 2 * h + 1
                high_u, high_w = max(scores[s], scores[s + 1]), max(scores[s + 2], scores[s + 3])
                for n in range(1, 2 * pairs_k):
                    high_u = max(high_u, max(scores[s + n * 4], scores[s + n * 4 + 1]))
                    high_w = max(high_w, max(scores[s + n * 4 + 2], scores[s + n * 4 + 3]))
                high_u = max(high_u, shfl_xor(high_u, 1))
                high_w = max(high_w, shfl_xor(high_w, 1))
                high_u = max(high_u, shfl_xor(high_u, 2)) * to_log2
                high_w = max(high_w, shfl_xor(high_w, 2)) * to_log2
                if high_u + base[u] > slack or high_w + base[w] > slack:
                    high_u, high_w = min(-high_u, base[u]), min(-high_w, base[w])
                    shrink_u, shrink_w = exp2(high_u - base[u]), exp2(high_w - base[w])
                    base[u], base[w] = high_u, high_w
                    total[u] *= shrink_u
                    total[w] *= shrink_w
                    for n in range(2 * pairs_v):
                        r = h * per_v + n * 4
                        result[r] *= shrink_u
                        result[r + 1] *= shrink_u
                        result[r + 2] *= shrink_w
                        result[r + 3] *= shrink_w
            for d in range(depth_v):
                for h in range(height):
                    u, w = 2 * h, 2 * h + 1
                    for e in range(2):
                        s, o = h * per_k + d * 8 + e * 4, 4 * h + 2 * e
                        x0, x1 = weight(scores[s], to_log2, base[u]), weight(scores[s + 1], to_log2, base[u])
                        total[u] += x0
                        total[u] += x1
                        weights[o] = pack_bf16(x0, x1)
                        x0, x1 = weight(scores[s + 2], to_log2, base[w]), weight(scores[s + 3], to_log2, base[w])
                        total[w] += x0
                        total[w] += x1
                        weights[o + 1] = pack_bf16(x0, x1)
                for n in range(pairs_v):
                    b0, b1, b2, b3 = value_fragment(shared, int32(vals_at + here), d * 16, n * 16)
                    for h in range(height):
                        o, r = 4 * h, h * per_v + n * 8
                        multiply(result, r, weights[o], weights[o + 1], weights[o + 2], weights[o + 3], b0, b1)
                        multiply(result, r + 4, weights[o], weights[o + 1], weights[o + 2], weights[o + 3], b2, b3)
            here, there = there, here
        wait_all()  # if the loop made no step, the copies of the first tile are still under way

        t = thread_again()
        lane, group, thread = int32(t % 32), int32(t // threads), int32(t % threads)
        for i in range(n_rows):
            total[i] += shfl_xor(total[i], 1)
            total[i] += shfl_xor(total[i], 2)
        add_up(shared, origin, group, thread, result, base, total)
        if group > 0:
            return
        for i in range(n_rows):
            row = int32(first + thread // 32 * (16 * height) + lane // 4 + 8 * i)
            factor, value = zero, lowest
            if total[i] > zero:
                factor, value = inverse(total[i]), (log2(total[i]) - base[i]) * ln_2
            if row < n_queries:
                start = int64(cuda.blockIdx.x) * n_queries + row
                for n in range(2 * pairs_v):
                    r = i // 2 * per_v + n * 4 + i % 2 * 2
                    store(z, start * d_v, left + n * 8 + lane % 4 * 2, result[r] * factor, result[r + 1] * factor)
                if lane % 4 == 0 and left == 0:
                    lse[start] = value

    return forward_bf16
