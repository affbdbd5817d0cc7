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
# Afterwards you will know
#
# * how the attention core becomes a GPU kernel in five steps, each with one idea more than the one before;
# * who reads what at each step, drawn, counted by formula and counted again in Numba's simulator;
# * what the compiler's table of registers, spills and tensor-core instructions says about them.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; about
# ten minutes to read, half a minute to run. Numba's simulator comes with the package numba-cuda, which that installs
# (not on macOS, for which it does not exist: there, cells that need it say so and the rest runs).
#
# [previous: online softmax and tiles](05_online_softmax_and_tiles.ipynb) | [next: training and
# choosing](07_training_and_choosing.ipynb)
#
# Exercises to go with it: [11, tiles](exercises/ex11_tiles.ipynb) and
# [12, a CUDA tile](exercises/ex12_cuda_tile.ipynb).
#
# **The kernels have not yet been run on a GPU.** What is shown here is that they compute the right numbers in the
# simulator, and what machine code the compiler makes of them. Nothing is said about speed.

# %%
# %matplotlib inline
import os
import sys
from importlib.util import find_spec

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # has to be set before anything imports Numba
sys.setswitchinterval(2e-4)  # the simulator's threads wait for each other, by default 5 ms at a time

SIMULATOR = find_spec("numba_cuda") is not None
SKIPPED = "skipped: numba-cuda is not installed"
INSTALL = 'python -m pip install "numba-cuda[cu13]>=0.30,<0.31"'
print("Numba's simulator is there" if SIMULATOR else f"{SKIPPED} ({INSTALL})")

# %% [markdown]
# ## What a kernel sees of a GPU
#
# A kernel is written for one *thread*. 32 threads are a *warp* and take each step together; some warps are a *block*,
# which runs on one multiprocessor; a launch starts a grid of blocks. `cuda.syncthreads()` holds a thread until all of
# its block have come there. There are three places for numbers:
#
# | memory | who sees it | size | distance |
# | --- | --- | --- | --- |
# | global | everybody | tens of gigabytes | far: what a kernel reads there decides its speed, unless many share it |
# | shared | a block | 48 kB a block, as Numba gives it out | near, but every read is an instruction |
# | registers | a thread | 255 of 4 bytes | where arithmetic happens; what does not fit *spills* to memory |
#
# So the question for each step of the ladder is: who reads what, from where, and how often?
#
# The problem to run on is tiny, because every simulated thread is a Python thread: a chunk of 40 queries behind 16
# tokens that are in the cache already, three of which are padding. One map is enough: each has blocks of its own.

# %%
import numpy as np

from gta_ref.core import Mask, attention_forward
from gta_ref.ops import as_dtype

N_q, N_k, d_k, d_v, k_start = 40, 56, 16, 32, 3
rng = np.random.default_rng(6)
q, k, c = (rng.standard_normal((1, 1, n, d)) for n, d in ((N_q, d_k), (N_k, d_k), (N_k, d_v)))
mask, scale = Mask(k_start=k_start), d_k**-0.5
SIZES = {"Q": N_q * d_k, "K": N_k * d_k, "C": N_k * d_v, "z": N_q * d_v}
k[:, :, :k_start] = c[:, :, :k_start] = np.nan  # nobody may read what lies in an unused slot

# %% [markdown]
# In the simulator, the arrays in global memory are of one Python class. If its `__getitem__` counts, we know what all
# threads together read, in numbers. The arrays have different sizes, which tells them apart.

# %%
import threading
from collections import Counter
from contextlib import contextmanager


# %%
@contextmanager
def counted_reads():
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray as InMemory

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


# %% [markdown]
# `gta_cuda.ladder` runs any step; `simulate` compares what comes out with the definition in float64 on the same
# (rounded) inputs.


# %%
def simulate(step):
    from gta_cuda import ladder

    dtype = as_dtype("bfloat16" if step == "forward_bf16" else "float32")
    given = [x.astype(dtype) for x in (q, k, c)]
    with counted_reads() as reads:
        z, _ = ladder.steps()[step](*given, mask, scale)
    want, _, _ = attention_forward(*(x.astype(np.float64) for x in given), mask=mask, scale=scale, engine="reference")
    error = np.linalg.norm(z.astype(np.float64) - want) / np.linalg.norm(want)
    print(f"{step}, {dtype}: relative error {error:.1e}")
    assert error < (4e-3 if step == "forward_bf16" else 1e-6)
    return {name: reads[size] for name, size in SIZES.items()}


# %% [markdown]
# The same count by formula. A block of `rows` queries walks over the keys up to the last that any of them sees,
# `columns` at a time (it may read on to the end of its last tile), in so many passes. Each of these keys it reads once
# a pass. Until step 2, z lies in global memory too, and is read and written for every key that a query sees.


# %%
def by_formula(rows, passes, columns=1, q_once=True, z_in_thread=True, sizes=(N_q, N_k, d_k, d_v, k_start)):
    N_q, N_k, d_k, d_v, k_start = sizes
    last = np.minimum(np.arange(0, N_q, rows) + rows, N_q)
    steps = -(-(N_k - N_q + last - k_start) // columns)  # of each block's walk
    walked = int(np.minimum(N_k - k_start, steps * columns).sum())  # keys, by all blocks
    seen = int((N_k - N_q + np.arange(N_q) + 1 - k_start).sum())  # pairs of a query and a key
    return {
        "Q": d_k * (N_q if q_once else passes * seen),
        "K": passes * d_k * walked,
        "C": d_v * walked,
        "z": 0 if z_in_thread else d_v * seen,
    }


# %%
def run(step, **idea):
    expected = by_formula(**idea)
    print("reads by formula:", expected)
    if not SIMULATOR:
        return print(SKIPPED)
    assert simulate(step) == expected
    return print("counted in the simulator: the same")


# %% [markdown]
# The kernels' source is shown from the files themselves, in part: from the first line with one mark to the last with
# another.

# %%
import inspect
from importlib import import_module
from textwrap import dedent

from IPython.display import Markdown, display


def show(module, function, first, last):
    if not SIMULATOR:
        return print(f"cuda/{module}.py: " + SKIPPED)
    lines = inspect.getsource(getattr(import_module(f"gta_cuda.{module}"), function)).splitlines()
    begin = next(i for i, line in enumerate(lines) if first in line)
    end = max(i for i, line in enumerate(lines) if last in line)
    text = dedent("\n".join(lines[begin : end + 1]))
    return display(Markdown(f"`cuda/{module}.py`, in `{function}`\n```python\n{text}\n```"))


# %% [markdown]
# ## Steps 1 to 3: from everybody for himself to one pass
#
# Drawn for a block of 8 threads and tiles of 4 keys (in the files: 128 and 32). Each row of the triangle is a query,
# each column a key that it sees; the orange row is one thread's. Look at the arrows: what crosses from the top, how
# often, and for whom.

# %%
from gta_ref.plots import cuda as plots_cuda

plots_cuda.first_steps()

# %% [markdown]
# **Step 1, naive.** The definition, a thread a query. It reads each key three times: for the maximum, for the sum, for
# the result. `q`, `k` and the rest are flat; `strides` says how far it is to the next row.

# %%
show("step1_naive", "make_forward", "largest = ", "+= weight * v[")

# %%
run("naive", rows=1, passes=3, q_once=False, z_in_thread=False)

# %% [markdown]
# **Step 2, tiles.** The block copies 32 keys to shared memory, each thread a part of them, and all threads read them
# there. The two barriers are essential: nobody may overwrite a tile that somebody still reads, nor read one that is not
# complete. (In the simulator a block has 32 threads, so that there are two of them.)

# %%
show("step2_tiles", "make_forward", "def load", "cuda.syncthreads()")
show("step2_tiles", "make_forward", "total = float32(0)", "+= weights[j]")

# %%
run("tiles", rows=32, passes=3, z_in_thread=False)

# %% [markdown]
# **Step 3, online softmax.** Maximum, sum and result travel together. When a tile brings a larger maximum, what has
# been summed so far is multiplied by exp(old − new): the algebra of [the notebook
# before](05_online_softmax_and_tiles.ipynb). One pass, and z stays in the thread to the end.

# %%
show("step3_online", "make_forward", "largest, total =", "+= weight * tile_v")

# %%
run("online", rows=32, passes=1)

# %% [markdown]
# **Try it.** Step 3 with 16 threads a block. How many keys are read then? Predict it with `by_formula(rows=16,
# passes=1)`, and count:
#
# ```python
# from gta_cuda import ladder
#
# with counted_reads() as reads:
#     ladder.run_first("online", *(x.astype("float32") for x in (q, k, c)), mask, scale, threads=16)
# print(reads[SIZES["K"]] / d_k)
# ```
#
# <details><summary>Answer</summary>
# Three blocks instead of two walk over the keys, so K and C are read 1.3 times as often: 127 keys instead of 98 (the
# first block's walk is shorter now). Reading is shared by the queries of a block; a larger block shares more.
# </details>

# %% [markdown]
# ## Step 4: register tiles and wide loads
#
# Step 3 reads little from global memory. But each multiply–add still takes an operand out of shared memory: one load
# instruction for one multiply–add. In step 4 a thread computes a *patch* of the product instead of a row. An operand,
# once in a register, serves the whole patch; and a load brings 16 bytes instead of 4.
#
# To scale, for the engine's measures and GTA-1B's widths; thread 101 in orange. Left: it reads 4 columns of 4 queries
# and of 2 keys for 8 scores. Right: the weights, now in shared memory, times the latents. A warp's 32 threads hold 8
# whole rows (green), so the maximum of a row is found by shuffles between threads of a warp.

# %%
ROWS, COLUMNS, GROUPS, HEIGHT = 64, 32, 16, 4  # of a block; threads side by side; rows of a thread
if SIMULATOR:
    from gta_cuda.tiles import TILE

    assert (ROWS, COLUMNS, GROUPS, HEIGHT) == TILE
plots_cuda.register_tile(ROWS, COLUMNS, GROUPS, HEIGHT, d_k=64, d_v=128, thread=(101 % GROUPS, 101 // GROUPS))

# %% [markdown]
# The inner loop of the first product: four multiply–adds for each pair of a 16-byte load of Y and one of X. The loads
# of X stand inside the loop over j, but do not depend on it, so the compiler reads them once. The machine code for
# sm_90 has 6 + 12 = 18 `LDS.128` (loads of 16 bytes from shared memory) and 164 `FFMA` (multiply–adds), 32 + 128 of
# them the two products: `gta_cuda.resources.compile_kernel` and nvdisasm show it, without a GPU.

# %%
show("tiles", "make_product", "for c in range(0, columns, 4)", "cuda.fma(x3, y3, s)")

# %% [markdown]
# And the walk over the keys: product, softmax of a thread's patch, product. `exp2` takes the place of `exp`; the factor
# log₂e is in the scores.

# %%
show("forward", "make_forward", "for j0 in range(k_start", "accumulate(result, shared)")

# %%
run("forward", rows=8, passes=1, columns=8)

# %% [markdown]
# ## Step 5: tensor cores
#
# A tensor core multiplies small matrices: one `mma` takes A (16, 16) and B (16, 8) in bfloat16 and adds A B to C (16,
# 8) in float32, 2048 multiply–adds for a warp. The three matrices lie in the registers of its 32 threads, each
# element with one of them. Which thread holds what? Let us ask: `ldmatrix4` hands out a matrix of element numbers,
# and an `mma` whose result at (r, j) is 8 r + j tells where C ends up.


# %%
if SIMULATOR:
    from numba import cuda, uint16

    from gta_cuda.intrinsics import ldmatrix4, mma_bf16, pack_bf16


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
# Numbers are threads. On the left two accumulators, as Q Kᵀ leaves them; on the right the operand that the next
# product, weights times latents, wants. Compare them.

# %%
if SIMULATOR:
    of_a, of_c = np.zeros(256, np.int64), np.zeros(128, np.int64)
    cuda.jit(ask)[1, 32](of_a, of_c)
    of_a, of_c = of_a.reshape(16, 16), of_c.reshape(16, 8)
    scores = np.hstack([of_c, of_c])  # of two mma, keys 0–7 and keys 8–15
    display(plots_cuda.fragments(scores, of_a, thread=13))
    assert (scores == of_a).all()
else:
    print(SKIPPED)

# %% [markdown]
# They are the same. So a thread's scores, after exp and rounded to bfloat16 in pairs, *are* its part of the next
# product's operand: the weights never leave the registers.

# %%
show("forward_bf16", "make_forward", "for d in range(depth_v)", "multiply(result, n * 8 + 4")

# %% [markdown]
# One more idea makes the reads from shared memory cheap. It has 32 banks of 4 bytes, which serve one address each at a
# time. A row of 64 bfloat16 is 128 bytes, exactly 32 banks, so the same 16 bytes of 8 rows lie in the same banks, and
# reading them takes 8 turns. `tiles_bf16` stores group c of row r in place c xor (r mod 8) instead. The numbers are
# groups of 8 columns; group 2, which one `ldmatrix` reads of 8 rows, in orange.

# %%
r, group = np.indices((8, 8))
if SIMULATOR:
    from gta_cuda.tiles_bf16 import swizzle

    assert swizzle(64) == 7
plots_cuda.banks({"row by row": group, "swizzled": group ^ (r & 7)}, column=2)

# %% [markdown]
# Keys and values are copied to shared memory asynchronously (`cp.async`), the next tile while this one is used; in the
# simulator a copy arrives at the wait for it and not before, so that a missing wait shows as NaN.

# %%
run("forward_bf16", rows=16, passes=1, columns=16)

# %% [markdown]
# The error is bfloat16's: z is rounded to it, 2⁻⁸ at most, and so are the weights.
#
# ## The five steps at GTA-1B's size
#
# Now the formula at real sizes: N = 4096, d_k 64, d_v 128, one of the five maps, the engine's blocks. This is what
# threads *ask for*. It is not what comes over the wires: the threads of a warp that ask for the same address get one
# answer, and the caches answer many of the rest. And the loads from shared memory for one multiply–add.

# %%
SIZE = {"sizes": (4096, 4096, 64, 128, 0)}  # N_q, N_k, d_k, d_v, k_start
ideas = {
    "1 naive": by_formula(1, 3, q_once=False, z_in_thread=False, **SIZE),
    "2 tiles": by_formula(128, 3, z_in_thread=False, **SIZE),
    "3 online": by_formula(128, 1, **SIZE),
    "4 register tiles": by_formula(64, 1, 32, **SIZE),
    "5 tensor cores": by_formula(128, 1, 64, **SIZE),
}
asked = {name: sum(reads.values()) * (2 if name[0] == "5" else 4) for name, reads in ideas.items()}
# one load: 1 multiply–add; 6 + 12 loads: 32 + 128 (and d_v is twice d_k); one ldmatrix: two mma of 2048 by 32 threads
loads = {
    "2 tiles": 1,
    "3 online": 1,
    "4 register tiles": (64 * 6 / 32 + 128 * 12 / 128) / 192,
    "5 tensor cores": 1 / 128,
}
plots_cuda.reads_by_step(asked, loads, floor=4 * 4096 * (64 + 64 + 128))

# %% [markdown]
# Look at step 4 on the left: it asks *more* of global memory than step 3, because its blocks own 64 queries and not
# 128. It gives away a factor of two there to win a factor of eight on the right, where step 3 is stuck. An optimisation
# is never better in everything.
#
# **Try it.** GTA-1B has five maps over one key head and one latent head. How often is a key read by step 4 in the whole
# layer, at N = 4096? What would a block whose 64 rows are of all five maps save?
#
# <details><summary>Answer</summary>
# 5 × 64 blocks, of which half have the key in their past: about 160 times for a key in the middle. A block of all five
# maps would own 64 rows at 13 positions: just as many blocks, just as many reads. What counts is how many rows share a
# key, not whose they are. In decoding it is different: a map has a single row, and only the five maps together can
# share a key. There (`cuda/decode.py`) they are one block's rows.
# </details>
#
# ## What the compiler says
#
# Kernels can be compiled to a GPU's machine code without a GPU. `gta-ref doctor --kernels` does that (a minute, in a
# process without the simulator) and prints the table that stands in [docs/cuda.md](../docs/cuda.md); this is its part
# about the ladder. Two values are for sm_80 and sm_90.

# %%
from pathlib import Path

import gta_ref

page = (Path(gta_ref.__file__).parents[1] / "docs" / "cuda.md").read_text(encoding="utf-8")
table = page[page.index("| kernel | threads | registers") :].split("\n\n")[0].splitlines()
table = [line for line in table if line.startswith(("| kernel", "| ---", "| step", "| forward"))]
display(Markdown("\n".join(table)))

# %% [markdown]
# - *registers*, *stack*, *spills*: step 3 keeps a query, a result and 32 scores in a thread, 224 numbers, beside all
#   else, and has 255 registers: it spills, and those are reads that our count does not show. Step 4's patch fits.
# - *shared* decides, with the registers, how many blocks a multiprocessor holds at once.
# - *HMMA* are the tensor cores' instructions. Their number can be predicted.

# %%
cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in table[2:]}
for name, (threads, registers, *_) in cells.items():
    each = -(-int(registers.split("/")[-1]) // 8) * 8  # on sm_90; given out by eight
    blocks = min(65536 // (each * int(threads)), 2048 // int(threads))
    print(f"{name:15} registers allow {blocks} blocks, {blocks * int(threads):4} threads of 2048")

queries, keys = 16, 64  # a warp's, in one step of its walk
mma = queries * keys * (64 + 128) // 2048
print("mma in a step of forward_bf16:", mma, "  HMMA in its machine code:", cells["forward_bf16"][-1])
assert int(cells["forward_bf16"][-1]) == mma

# %% [markdown]
# 96 predicted, 96 found: the walk's body stands in the machine code once, and every product of it is on tensor cores.
#
# On a GPU the same file runs as it is: `python -m gta_cuda.ladder` prints each step's error and time, and
# `gta-ref bench gpu` compares with PyTorch. Neither has been done yet. Which step is how much faster is not written
# anywhere in this project, because nobody has measured it.
#
# **Try it.** Take the first `cuda.syncthreads()` out of `load` in `cuda/step2_tiles.py`, restart this notebook and run
# step 2. Are the numbers wrong, and always by as much?
#
# <details><summary>Answer</summary>
# Wrong in five runs out of five, by another amount each time: a fast thread overwrites a tile that a slow one still
# reads. But do not rely on it. The simulator runs threads in an order in which a missing barrier may do no harm, where
# a GPU would be wrong at times. So the project's tests do not look at values alone:
# <code>tests/gta_cuda/watched.py</code> notes who touched which element between which barriers, and exercise 12 does
# the same with your kernel. (Put the barrier back.)
# </details>
#
# ## Summary
#
# - The ladder: read for many (tiles), read once (online softmax), keep operands in registers (patches, wide loads), let
#   tensor cores multiply. What is asked of global memory falls from 21 GB to 26 MB a map (a factor of 2 of it is
#   bfloat16's), by formula; at the small size the simulator's count is the formula's, to the last number.
# - All five steps give the definition's numbers, in the simulator, with a causal mask, padding and unused slots of NaN.
# - Machine code can be judged without a GPU (registers, spills, HMMA), speed cannot: not yet run on a GPU.
#
# [← 5. Online softmax and tiles](05_online_softmax_and_tiles.ipynb) | [7. Training and
# choosing →](07_training_and_choosing.ipynb)
