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

# %% [markdown]
# # 6. Numba CUDA kernels
#
# By the end you will know
#
# * how a GPU kernel is written in Python, run without a GPU, and checked;
# * how the attention core becomes a fast kernel in five steps, each of which adds one idea to the one before;
# * what the threads read from where in each step: drawn, counted by a formula, and counted again as it runs;
# * what the compiler's table of registers, spills and tensor-core instructions says about the kernels.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes half a minute to run. The kernels run in the simulator that is part of Numba, on Linux, macOS and Windows.
#
# Steps 4 and 5 are marked as advanced: you can leave them out, and nothing after them needs more than their names.
#
# [previous: online softmax and tiles](05_online_softmax_and_tiles.ipynb) | [next: training](07_training.ipynb)
#
# Exercises to go with it: [11, tiles](exercises/ex11_tiles.ipynb), [12, a CUDA
# tile](exercises/ex12_cuda_tile.ipynb), and seven puzzles, which come after step 3.
#
# ## A complete kernel
#
# A *kernel* is a function that very many *threads* run at the same time. Here every thread computes the attention of
# one query. It has to find out which query is its own, and everything else is the definition: the largest score, the
# sum of the exponentials, and the weighted sum of the latents.

# %%
import math
import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # use the simulator; has to be set before anything imports Numba

import numpy as np
from numba import cuda


@cuda.jit(device=True)  # a function that kernels can call
def score(q, k, i, j):
    s = 0.0
    for d in range(q.shape[1]):
        s += q[i, d] * k[j, d]
    return s / math.sqrt(q.shape[1])


@cuda.jit
def attention(q, k, c, z):
    i = cuda.grid(1)  # the number of this thread, which is that of its query
    if i >= len(q):
        return
    seen = len(k) - len(q) + i + 1  # causal: query i sees the first keys, up to its own
    largest, total = -math.inf, 0.0
    for j in range(seen):
        largest = max(largest, score(q, k, i, j))
    for j in range(seen):
        total += math.exp(score(q, k, i, j) - largest)
    for d in range(c.shape[1]):
        z[i, d] = 0.0
    for j in range(seen):
        weight = math.exp(score(q, k, i, j) - largest) / total
        for d in range(c.shape[1]):
            z[i, d] += weight * c[j, d]


# %% [markdown]
# Now we run it. Our problem is tiny, because in the simulator every thread is a Python thread: one map, and a chunk of
# 40 queries that follow 16 tokens which are already in the cache. Threads come in *blocks*; a launch says in brackets
# how many blocks there are and how many threads each of them has. A kernel returns nothing: it writes to `z`.

# %%
from gta_ref.core import attention_forward

N_q, N_k, d_k, d_v = 40, 56, 16, 32
rng = np.random.default_rng(6)
q, k, c = (rng.standard_normal((n, d)) for n, d in ((N_q, d_k), (N_k, d_k), (N_k, d_v)))

z = np.full((N_q, d_v), np.nan)
attention[5, 8](q, k, c, z)  # 5 blocks of 8 threads

truth, *_ = attention_forward(*(x[None, None] for x in (q, k, c)), engine="reference")  # the definition
print(f"largest difference from the definition: {np.abs(z - truth[0, 0]).max():.1e}")
assert np.allclose(z, truth[0, 0], rtol=0, atol=1e-12)

# %% [markdown]
# This is a complete CUDA kernel. With numba-cuda and an NVIDIA GPU, and without the line with `NUMBA_ENABLE_CUDASIM`,
# Numba compiles the same source for the GPU. It would be slow there. The rest of the notebook is about why, and about
# what to do.
#
# **Try it.** Launch it as `attention[4, 8]`, into a new `z` that is full of NaN. Which rows stay NaN? And what does
# `attention[6, 8]` do?
#
# <details><summary>Answer</summary>
# 4 · 8 = 32 threads compute rows 0 to 31; rows 32 to 39 stay NaN. With 48 threads, the last eight have no query:
# without the first <code>if</code> they would read beyond the end of q, which is an error in the simulator and
# undefined on a GPU.
# </details>
#
# ## What a kernel sees of a GPU
#
# 32 threads form a *warp* and execute each step together; several warps form a block, which runs on one
# multiprocessor; all blocks of a launch form its *grid*. `cuda.syncthreads()` is a barrier: it holds a thread until all
# threads of its block have reached it. Numbers can be kept in three places:
#
# | memory | seen by | size | distance |
# | --- | --- | --- | --- |
# | global | all threads | tens of gigabytes | far: reads from it decide a kernel's speed, unless threads share them |
# | shared | a block | 48 kB per block in Numba | near, but every read is an instruction |
# | registers | a thread | 255 of 4 bytes each | where arithmetic happens; what does not fit *spills* to memory |
#
# So the question for every kernel is: what does each thread read, from where, and how often?
#
# In the simulator, all arrays in global memory are objects of one Python class. If its `__getitem__` counts its calls,
# we know how many numbers all threads read in total. The arrays have different sizes, so the size identifies the array.

# %%
import sys
import threading
from collections import Counter
from contextlib import contextmanager

from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray as InMemory

sys.setswitchinterval(2e-4)  # the simulator's threads wait for each other, by default 5 ms at a time
SIZES = {"Q": N_q * d_k, "K": N_k * d_k, "C": N_k * d_v, "z": N_q * d_v}


@contextmanager
def counted_reads():
    reads, lock, read = Counter(), threading.Lock(), InMemory.__getitem__

    def count(self, index):
        with lock:
            reads[self.size] += 1
        return read(self, index)

    InMemory.__getitem__ = count
    try:
        yield reads
    finally:
        InMemory.__getitem__ = read


# %%
with counted_reads() as reads:
    attention[5, 8](q, k, c, z)
pairs = sum(N_k - N_q + i + 1 for i in range(N_q))  # of a query and a key that it sees
print("pairs:", pairs, " reads:", {name: reads[size] for name, size in SIZES.items()})
assert reads[SIZES["K"]] == 3 * pairs * d_k

# %% [markdown]
# K has only 896 numbers, and each of them is read 78 times on average: every query reads every key that it sees, and
# does so three times, for the maximum, for the sum and for the result. Even z is read again for every key.
#
# ## The ladder
#
# The library's kernels are in `gta_cuda` (the folder `cuda`). The *ladder* has five steps from this kernel to a fast
# one. They also take batches, several maps, and padding: from here on, the first three slots of the cache are padding
# and hold NaN, which would show in the result of a kernel that reads them.
#
# For every step, a formula predicts the reads. A block of `rows` queries walks over the keys up to the last one that
# any of its queries sees, `columns` keys at a time (it may read on to the end of its last tile). It does this in
# `passes` passes and reads each of these keys once per pass. In steps 1 and 2, z is in global memory too, and is read
# and written for every key that a query sees. `q_once` says that each query is read only once, `z_in_thread` that z
# stays in its thread until the end.


# %%
def by_formula(rows, passes, columns=1, q_once=True, z_in_thread=True, sizes=(N_q, N_k, d_k, d_v, 3)):
    N_q, N_k, d_k, d_v, k_start = sizes
    last = np.minimum(np.arange(0, N_q, rows) + rows, N_q)
    steps = -(-(N_k - N_q + last - k_start) // columns)  # tiles in each block's walk
    walked = int(np.minimum(N_k - k_start, steps * columns).sum())  # keys, summed over all blocks
    seen = int((N_k - N_q + np.arange(N_q) + 1 - k_start).sum())  # pairs of a query and a key that it sees
    return {
        "Q": d_k * (N_q if q_once else passes * seen),
        "K": passes * d_k * walked,
        "C": d_v * walked,
        "z": 0 if z_in_thread else d_v * seen,
    }


# %% [markdown]
# `run` runs a step in the simulator. It compares the result with the definition, computed in float64 from the same
# (rounded) inputs, and the reads with the formula.

# %%
from gta_cuda import ladder
from gta_ref.core import Mask
from gta_ref.ops import as_dtype

mask, scale = Mask(k_start=3), d_k**-0.5
k[:3] = c[:3] = np.nan


def run(step, **idea):
    dtype = as_dtype("bfloat16" if step == "forward_bf16" else "float32")
    given = [x[None, None].astype(dtype) for x in (q, k, c)]
    with counted_reads() as reads:
        z, _ = ladder.steps()[step](*given, mask, scale)
    exact = [x.astype(np.float64) for x in given]
    truth, *_ = attention_forward(*exact, mask=mask, scale=scale, engine="reference")
    error = np.linalg.norm(z.astype(np.float64) - truth) / np.linalg.norm(truth)
    print(f"{step}, {dtype}: relative error {error:.1e}")
    assert error < (4e-3 if step == "forward_bf16" else 1e-6)
    counted, expected = {name: reads[size] for name, size in SIZES.items()}, by_formula(**idea)
    print("reads by formula:", expected)
    assert counted == expected
    print("counted in the simulator: the same")


# %% [markdown]
# ## Steps 1 to 3: from separate threads to a single pass
#
# The figure is drawn for a block of 8 threads and tiles of 4 keys (in the files: 128 and 32). Each row of the triangle
# is a query, and each column a key that it sees; the orange row belongs to one thread. Look at the arrows: the vertical
# ones show what is read from global memory and by which threads, the horizontal ones how many passes there are.

# %%
# %matplotlib inline
from gta_ref.plots import cuda as plots_cuda

plots_cuda.first_steps()

# %% [markdown]
# **Step 1, naive.** This is the kernel from above, in `cuda/step1_naive.py`. There `q`, `k` and the other arrays are
# flat, and `strides` holds the distance from one row to the next.

# %%
run("naive", rows=1, passes=3, q_once=False, z_in_thread=False)

# %% [markdown]
# **Step 2, tiles.** The block copies 32 keys to shared memory, each thread a part of them, and all threads read them
# from there. Both barriers are essential: a thread must not overwrite a tile that another thread is still reading, nor
# read a tile that is not complete. (In the simulator a block has 32 threads, so that the 40 queries need two blocks.)
#
# `show` shows a part of a kernel's source, from the first line that contains one text to the last that contains
# another.

# %%
import inspect
from importlib import import_module
from textwrap import dedent

from IPython.display import Markdown, display


def show(module, function, first, last):
    lines = inspect.getsource(getattr(import_module(f"gta_cuda.{module}"), function)).splitlines()
    begin = next(i for i, line in enumerate(lines) if first in line)
    end = max(i for i, line in enumerate(lines) if last in line)
    text = dedent("\n".join(lines[begin : end + 1]))
    display(Markdown(f"`cuda/{module}.py`, in `{function}`\n```python\n{text}\n```"))


show("step2_tiles", "make_forward", "def load", "cuda.syncthreads()")
show("step2_tiles", "make_forward", "total = float32(0)", "+= weights[j]")

# %%
run("tiles", rows=32, passes=3, z_in_thread=False)

# %% [markdown]
# **Step 3, online softmax.** The maximum, the sum and the result are updated together. When a tile brings a larger
# maximum, what has been summed so far is multiplied by exp(old − new), as derived in [the previous
# notebook](05_online_softmax_and_tiles.ipynb). One pass is enough, and z stays in the thread until the end.

# %%
show("step3_online", "make_forward", "largest, total =", "+= weight * tile_v")

# %%
run("online", rows=32, passes=1)

# %% [markdown]
# **Try it.** Run step 3 with 16 threads per block. How many keys are read then? Predict the number with
# `by_formula(rows=16, passes=1)`, and then count:
#
# ```python
# given = [x[None, None].astype("float32") for x in (q, k, c)]
# with counted_reads() as reads:
#     ladder.run_first("online", *given, mask, scale, threads=16)
# print(reads[SIZES["K"]] / d_k)
# ```
#
# <details><summary>Answer</summary>
# Three blocks instead of two walk over the keys, so K and C are read 1.3 times as often: 127 keys instead of 98 (the
# first block's walk is shorter now). The queries of a block share its reads; a larger block shares more.
# </details>
#
# ## Your turn: seven puzzles
#
# You have now seen enough to write kernels of your own. A puzzle is a kernel of a few lines with a gap, or with an
# error, and takes from five minutes to half an hour. Its check runs your kernel in the simulator and reports the first
# thing that is wrong.
#
# | puzzle | when |
# | --- | --- |
# | p1, where an element of a tile is; p2, a missing barrier | after step 2 |
# | p3, the online softmax of a row; p4, the mask of a tile | after step 3 |
# | p6, the merge of the splits | after step 3; notebook 5 derives it |
# | p7, five maps, one cache | after step 3: what GTA's shared maps save |
# | p5, the addresses of ldmatrix | after step 5 (advanced) |
#
# In a terminal (in JupyterLab: File, New, Terminal):
#
# ```sh
# python -m gta_cuda.puzzles starter p1 p1.py  # writes the kernel to p1.py, for you to complete
# python -m gta_cuda.puzzles check p1 p1.py
# python -m gta_cuda.puzzles hint p1           # also: solution p1
# ```
#
# This is p2, and what its check says before anything has been changed:

# %%
from gta_cuda.puzzles.__main__ import PUZZLES

kernel = PUZZLES["p2"].starter_text
print(kernel)
print(PUZZLES["p2"].check(kernel))

# %% [markdown]
# [Exercise 12](exercises/ex12_cuda_tile.ipynb) is the larger task: a whole kernel with tiles in shared memory.

# %% [markdown]
# ## Step 4 (advanced): register tiles and wide loads
#
# To leave out the two advanced steps, go on with "The five steps at GTA-1B's size".
#
# Step 3 reads little from global memory, but each multiply–add still reads an operand from shared memory: one load
# instruction per multiply–add. In step 4 a thread computes a *patch* of the product instead of a row. An operand that
# has been loaded into a register is used for the whole patch, and each load brings 16 bytes instead of 4.
#
# The figure is drawn to scale, for the engine's tile sizes and GTA-1B's widths, with thread 101 in orange. Left: the
# thread reads 4 columns of 4 queries and of 2 keys, for 8 scores. Right: the weights, which are now in shared memory,
# are multiplied by the latents. A warp's 32 threads hold 8 whole rows (green), so they find the maximum of a row by
# *shuffles*, which exchange registers between the threads of a warp.

# %%
from gta_cuda.forward import FORWARD_TILE

ROWS, COLUMNS, GROUPS, HEIGHT = FORWARD_TILE  # a block's tile; threads side by side; rows per thread
plots_cuda.register_tile(ROWS, COLUMNS, GROUPS, HEIGHT, d_k=64, d_v=128, thread=(101 % GROUPS, 101 // GROUPS))

# %% [markdown]
# This is the inner loop of the first product: four multiply–adds for each pair of a 16-byte load of Y and one of X. The
# loads of X do not depend on j, so the compiler issues them only once.

# %%
show("tiles", "make_multiply", "for j in range(each)", "cuda.fma(x3, y3, s)")

# %% [markdown]
# And this is the walk over the keys: product, softmax of the thread's patch, product. `exp2` replaces `exp`, and the
# scores contain the factor log₂e.

# %%
show("forward", "make_forward", "for j0 in range(k_start", "accumulate(result, shared)")

# %%
run("forward", rows=8, passes=1, columns=8)

# %% [markdown]
# ## Step 5 (advanced): tensor cores
#
# A tensor core multiplies small matrices: one `mma` instruction of a warp takes A (16, 16) and B (16, 8) in bfloat16
# and adds A B to C (16, 8) in float32, which is 2048 multiply–adds. The three matrices are spread over the registers of
# the warp's 32 threads, each element in one thread. Which thread holds which element? Two experiments answer this:
# `ldmatrix4` distributes a matrix whose elements are their own numbers, and an `mma` whose result at (r, j) is 8 r + j
# shows where C ends up.

# %%
from numba import uint16

from gta_cuda.intrinsics import ldmatrix4, mma_bf16, pack_bf16


@cuda.jit
def ask(of_a, of_c):
    t = cuda.threadIdx.x
    numbers = cuda.shared.array(256, uint16)
    for e in range(t, 256, 32):
        numbers[e] = e
    cuda.syncthreads()
    for pair in ldmatrix4(numbers, t % 16 * 16 + t // 16 * 8):
        of_a[pair & 0xFFFF] = of_a[pair >> 16] = t
    a0 = a1 = b0 = 0
    if t % 4 == 0:  # such a thread holds columns 0 and 1 of A's rows r and r + 8, and rows 0 and 1 of B's column r
        r = t // 4
        a0, a1, b0 = pack_bf16(r, 1), pack_bf16(r + 8, 1), pack_bf16(8, r)
    for number in mma_bf16(0.0, 0.0, 0.0, 0.0, a0, a1, 0, 0, b0, 0):
        of_c[int(number)] = t


# %% [markdown]
# The numbers are the threads' numbers. On the left are two accumulators as Q Kᵀ leaves them; on the right is the
# operand as the next product, weights times latents, needs it. Compare them.

# %%
of_a, of_c = np.zeros(256, np.int64), np.zeros(128, np.int64)
ask[1, 32](of_a, of_c)
of_a, of_c = of_a.reshape(16, 16), of_c.reshape(16, 8)
scores = np.hstack([of_c, of_c])  # of two mma instructions: keys 0–7 and keys 8–15
assert (scores == of_a).all()
plots_cuda.fragments(scores, of_a, thread=13)

# %% [markdown]
# They are the same. So once a thread has applied exp to its scores and rounded them to bfloat16 in pairs, they *are*
# its part of the next product's operand: the weights never leave the registers.

# %%
show("forward_bf16", "make_forward", "for d in range(depth_v)", "multiply(result, r + 4")

# %% [markdown]
# One more idea makes reads from shared memory cheap. Shared memory has 32 banks of 4 bytes, each of which serves one
# address at a time. A row of 64 bfloat16 numbers has 128 bytes, exactly the width of the 32 banks, so the same 16 bytes
# of 8 rows are in the same banks, and reading them takes 8 turns. `tiles_bf16` therefore stores group c of row r in
# place c xor (r mod 8). In the figure, the numbers are groups of 8 columns; group 2, which one `ldmatrix` reads from 8
# rows, is orange.

# %%
from gta_cuda.tiles_bf16 import swizzle

r, group = np.indices((8, 8))
assert swizzle(64) == 7
plots_cuda.banks({"row by row": group, "swizzled": group ^ (r & 7)}, column=2)

# %% [markdown]
# Keys and values are copied to shared memory asynchronously (`cp.async`): the next tile is copied while the current one
# is used. In the simulator a copy arrives at the wait for it and not before, so that a missing wait shows up as NaN.

# %%
run("forward_bf16", rows=16, passes=1, columns=16)

# %% [markdown]
# The error is that of bfloat16: z and the weights are rounded to it, each by at most 2⁻⁸ of its value.
#
# ## The five steps at GTA-1B's size
#
# Now we apply the formula at real sizes: N = 4096, d_k = 64, d_v = 128, one of the five maps, and the engine's block
# sizes. The left panel shows how much data the threads *request* from global memory. It is not how much data the memory
# delivers: threads of a warp that request the same address share one answer, and the caches answer many of the other
# requests. The right panel shows the loads from shared memory per multiply–add.

# %%
SIZE = {"sizes": (4096, 4096, 64, 128, 0)}  # N_q, N_k, d_k, d_v, k_start
ideas = {
    "1 naive": by_formula(1, 3, q_once=False, z_in_thread=False, **SIZE),
    "2 tiles": by_formula(128, 3, z_in_thread=False, **SIZE),
    "3 online": by_formula(128, 1, **SIZE),
    "4 register tiles": by_formula(32, 1, 32, **SIZE),
    "5 tensor cores": by_formula(64, 1, 128, **SIZE),
}
asked = {name: sum(reads.values()) * (2 if name[0] == "5" else 4) for name, reads in ideas.items()}
# step 4: 6 loads for 32 multiply–adds and 12 loads for 128 (d_v is twice d_k); step 5: one ldmatrix for four mma, which
# are 4 · 2048 multiply–adds by 32 threads
loads = {
    "2 tiles": 1,
    "3 online": 1,
    "4 register tiles": (64 * 6 / 32 + 128 * 12 / 128) / 192,
    "5 tensor cores": 1 / 256,
}
plots_cuda.reads_by_step(asked, loads, floor=4 * 4096 * (64 + 64 + 128))

# %% [markdown]
# Look at step 4 on the left: it requests *more* from global memory than step 3, because its blocks have 32 queries
# instead of 128. It gives up a factor of four there and gains a factor of eight on the right, where step 3 is no better
# than step 2. An optimisation is rarely better in every respect.
#
# **Try it.** GTA-1B has five maps over one key head and one latent head. How often does step 4 read a key in the whole
# layer, at N = 4096? What would be saved by a block whose 32 rows come from all five maps?
#
# <details><summary>Answer</summary>
# There are 5 × 128 blocks. A key in the middle of the text is seen by half of them, so it is read about 320 times. A
# block for all five maps would have 32 rows at 7 positions: just as many blocks and just as many reads. What counts is
# how many rows share a key, not which maps they belong to. Decoding is different: a map has a single row, and only the
# five maps together can share a key. There (`cuda/decode.py`) their rows form one block.
# </details>
#
# ## What the compiler says
#
# With numba-cuda, kernels can be compiled to a GPU's machine code without a GPU: `gta-ref doctor --kernels` prints the
# table that is in [docs/cuda.md](../docs/cuda.md), whose rows about the ladder are below. Where a cell has two values,
# they are for sm_80 and sm_90 (the architecture of an H100).

# %%
from gta_ref import course

page = course.path("docs/cuda.md").read_text(encoding="utf-8")
table = page[page.index("| kernel | threads | registers") :].split("\n\n")[0].splitlines()
table = [line for line in table if line.startswith(("| kernel", "| ---", "| step", "| forward"))]
display(Markdown("\n".join(table)))

# %% [markdown]
# - *registers*, *stack*, *spills*: in step 3 a thread keeps a query, a result and 32 scores, which are 224 numbers.
#   Together with everything else they do not fit into its 255 registers, so it spills, and our count does not include
#   the reads that this causes. Step 4's patch fits.
# - *shared* is the shared memory of a block in bytes. Together with the registers, it decides how many blocks a
#   multiprocessor holds at once.
# - *HMMA* counts the tensor-core instructions. Their number can be predicted.

# %%
cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in table[2:]}
for name, (threads, registers, *_) in cells.items():
    each = -(-int(registers.split("/")[-1]) // 8) * 8  # per thread on sm_90, allocated in steps of eight
    blocks = min(65536 // (each * int(threads)), 2048 // int(threads))
    print(f"{name:27} registers allow {blocks} blocks, {blocks * int(threads):4} threads of 2048")

queries, keys = 32, 32  # of one warp, in one step of its walk: four groups of warps share 128 keys
mma = queries * keys * (64 + 128) // 2048
print("mma in a step of forward_bf16:", mma, "  HMMA in its machine code:", cells["forward_bf16"][-1])
assert int(cells["forward_bf16"][-1]) == mma

# %% [markdown]
# 96 predicted, 96 found: the body of the walk occurs once in the machine code, and all of its products run on tensor
# cores.
#
# On a GPU the same files run unchanged: `python -m gta_cuda.ladder` prints each step's error and time, and `gta-ref
# bench gpu` compares the engine with PyTorch. [On an H200](../docs/cuda.md#what-was-measured), with 8192 tokens, the
# steps reach 0.10, 0.14, 2.3, 31 and 284 TFLOP/s; the sixth step, `forward_wgmma`, reaches 413.
#
# **Try it.** Remove the first `cuda.syncthreads()` from `load` in `cuda/step2_tiles.py`, restart this notebook and run
# step 2. Are the numbers wrong, and by the same amount each time?
#
# <details><summary>Answer</summary>
# They were wrong in five runs out of five, by a different amount each time: a fast thread overwrites a tile that a slow
# one is still reading. But do not rely on it: the threads may run in an order in which a missing barrier does no harm,
# in the simulator and on a GPU. The checks of the puzzles and of exercise 12, and the project's tests, therefore record
# which thread touches which element between which barriers. (Remember to put the barrier back.)
# </details>
#
# ## Summary
#
# - The ladder: share reads within a block (tiles), read only once (online softmax), keep operands in registers
#   (patches, wide loads), and multiply on tensor cores. By the formula, requests to global memory fall from 21 GB to 52
#   MB per map (bfloat16 contributes a factor of 2); at the small size, the simulator's count equals the formula
#   exactly.
# - In the simulator, all five steps agree with the definition, up to rounding.
# - Machine code (registers, spills, HMMA) can be judged without a GPU, but speed cannot: it was measured on one.
#
# [← 5. Online softmax and tiles](05_online_softmax_and_tiles.ipynb) | [7. Training →](07_training.ipynb)
