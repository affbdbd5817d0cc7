# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [raw]
# # ASSIGNMENT CONFIG
# name: ex12
# export_cell: false
# tests:
#     ok_format: false

# %% [markdown]
# # Exercise 12: a CUDA tile in the simulator
#
# 90 minutes · level 4 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
import numpy as np
from numba import cuda, float32

from gta_ref.exercises import check, simulate

np.set_printoptions(precision=3, suppress=True)
TILE = 4

# %% [raw]
# # BEGIN QUESTION
# name: ex12

# %% [markdown]
# Compute scores as a GPU does: $\mathrm{out} = \mathrm{scale} \cdot Q K^\top$. A block has TILE × TILE threads and
# computes a TILE × TILE tile of `out`; each thread computes one element. If every thread read its row of Q and its row
# of K from global memory, each element of Q would be read N_k times. Instead the block walks along $d$ in steps of
# TILE:
#
# 1. its threads together copy a TILE × TILE tile of Q and one of K into shared memory, one element of each per thread;
# 2. they wait for each other (`cuda.syncthreads()`);
# 3. each thread adds up its TILE products from shared memory;
# 4. they wait again, before the tile is overwritten.
#
# N_q, N_k and d need not be multiples of TILE: where a tile reaches beyond q or k it holds 0, and nothing is written
# outside `out`.
#
# | | shape | |
# | --- | --- | --- |
# | `q`, `k`, `out` | (N_q, d), (N_k, d), (N_q, N_k) | float32 |
# | `scale` | float32 | |
# | block (bx, by), thread (tx, ty) | | row by·TILE + ty of q, column bx·TILE + tx of out |
#
# The kernel runs in Numba's simulator, in a separate process; no GPU is needed. It can use the names `cuda`, `float32`,
# `math`, `np` and `TILE` there. The check also looks for races between threads and counts the reads of global memory.
#
# The simulator is part of Numba, which the set-up above installs on every system. If numba-cuda is installed, its newer
# simulator is used.

# %% [raw]
# # BEGIN SOLUTION


# %%
def tile_scores(q, k, out, scale):
    """A kernel: out = scale · q kᵀ. It returns nothing; it writes to out."""
    tile_q = cuda.shared.array((TILE, TILE), float32)
    tile_k = cuda.shared.array((TILE, TILE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    row, first_key = cuda.blockIdx.y * TILE + ty, cuda.blockIdx.x * TILE
    # BEGIN SOLUTION
    d = q.shape[1]
    total = float32(0)
    for start in range(0, d, TILE):
        # thread (tx, ty) copies column tx of row ty of both tiles: neighbours read neighbouring elements
        tile_q[ty, tx] = q[row, start + tx] if row < q.shape[0] and start + tx < d else float32(0)
        tile_k[ty, tx] = k[first_key + ty, start + tx] if first_key + ty < k.shape[0] and start + tx < d else float32(0)
        cuda.syncthreads()
        for t in range(TILE):
            total += tile_q[ty, t] * tile_k[tx, t]
        cuda.syncthreads()
    if row < out.shape[0] and first_key + tx < out.shape[1]:
        out[row, first_key + tx] = total * scale
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS


# %%
def test_ex12(tile_scores):
    from gta_ref.exercises import check

    verdict = check("ex12", tile_scores)
    assert verdict.passed, verdict


# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ### A small example

# %%
q, k = np.eye(5, 6), np.arange(18.0).reshape(3, 6)  # rows of q pick columns of k
print(simulate(tile_scores, q, k, 0.5).T)

# %% [markdown]
# It should print
#
# ```text
# [[0.  0.5 1.  1.5 2. ]
#  [3.  3.5 4.  4.5 5. ]
#  [6.  6.5 7.  7.5 8. ]]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex12", tile_scores)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# The copying index and the computing index differ: for K, thread (tx, ty) copies key first_key + ty, but computes with
# key first_key + tx.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# No thread may return early or skip a `cuda.syncthreads()`: threads outside q or k copy zeros and wait like the others.
# Only the last line, the write to out, is inside an if.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# The second step of `gta_cuda`'s ladder (`cuda/step2_tiles.py`) is built like this. In its decoding kernel
# (`cuda/decode.py`), a block holds the rows of all maps that share a key head, 5 in GTA-1B, and reads each key once for
# all of them.
