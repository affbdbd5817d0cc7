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
# # 9. A context that no machine holds
#
# By the end you will know
#
# * how attention over one long sequence is computed by several processes of which each holds a part of it;
# * why results over parts of the keys can be merged exactly, and what has to travel for it;
# * how many bytes that takes with GTA and with GQA, by formula and counted in a run.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks,mpi]'`. Everything runs on
# this machine, in two and then in four processes; it takes about a minute.
#
# [previous: verify your implementation](08_verify_your_implementation.ipynb) | [back to the first: shared attention
# maps](01_shared_attention_maps.ipynb)

# %%
# %matplotlib inline
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from gta_ref.core import Mask, attention_forward
from gta_ref.costs import hardware
from gta_ref.costs.model import Model
from gta_ref.distributed import costs
from gta_ref.distributed.merging import merge_into
from gta_ref.distributed.shards import Shards
from gta_ref.plots import distributed as plots_distributed

# %% [markdown]
# ## How long is too long?
#
# For one layer of GTA-1B's attention core in float32, queries, keys, latents and results of a token are some kilobytes.
# A sequence of a million tokens then needs gigabytes per layer, and what a backward keeps multiplies that by the number
# of layers.

# %%
GTA, GQA = (Model.preset(name).structure for name in ("gta-1b", "gqa-1b"))
per_token = 4 * (GTA.n_q * (GTA.d_k + GTA.d_v) + costs.travels(GTA))
for n in (4096, 131_072, 2**20):
    print(f"{n:9,} tokens: {n * per_token / 2**30:6.2f} GiB in one layer")

# %% [markdown]
# ## Results over parts of the keys can be merged
#
# Let part $i$ of the keys give $z_i$ and $\mathrm{lse}_i = \log \sum_j e^{s_j}$. Then for all keys together
#
# $$\mathrm{lse} = \log \sum_i e^{\mathrm{lse}_i}, \qquad z = \sum_i e^{\mathrm{lse}_i - \mathrm{lse}}\, z_i$$
#
# Nothing is approximated. Below, the keys are cut into three parts, and a query sees them one after the other. What
# would the mean of the three parts be off by?

# %%
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((1, heads, 96, width)) for heads, width in ((5, 64), (1, 64), (1, 128)))
everything = Mask(causal=False)
z_all, lse_all, _ = attention_forward(q, k, v, mask=everything)
parts = [
    attention_forward(q, k[:, :, i : i + 32], v[:, :, i : i + 32], mask=everything, need_saved=False)[:2]
    for i in (0, 32, 64)
]
z, lse = (x.copy() for x in parts[0])
for z_part, lse_part in parts[1:]:
    merge_into(z, lse, z_part, lse_part)
mean = sum(z_part for z_part, _ in parts) / 3
print(f"merged: off by {np.abs(z - z_all).max():.0e};  mean of the parts: off by {np.abs(mean - z_all).max():.0e}")
assert np.abs(z - z_all).max() < 1e-14

# %% [markdown]
# ## The ring
#
# So each process, which MPI calls a *rank*, keeps its queries, and the keys and latents go round. In each step a rank
# lets its queries see the keys that it holds, while those of its left neighbour arrive and its own leave to the right.

# %%
figure = plots_distributed.ring_steps()
figure.set_facecolor("white")
figure

# %% [markdown]
# With a causal mask, who holds which tokens matters: late tokens see more keys. In the layout "zigzag" a rank has one
# early and one late part of the sequence. Count the visible pairs:

# %%
for layout in ("contiguous", "zigzag"):
    shares = Shards(1024, 4, layout)
    pairs = [int((shares.tokens(rank) + 1).sum()) for rank in range(4)]
    print(f"{layout:10}", *(f"rank {rank}: {n / sum(pairs):.0%}" for rank, n in enumerate(pairs)))

# %%
figure = plots_distributed.layouts()
figure.set_facecolor("white")
figure

# %% [markdown]
# ## In two and in four processes
#
# The program below is what every rank runs. `Ring` is an engine of the attention core, so a layer or a whole model
# takes it in place of "numba". Rank 0 gathers the result and compares it with one process; a program for a real long
# context would never make the whole arrays.

# %%
PROGRAM = """
import json
import numpy as np
from gta_ref.core import attention_backward, attention_forward
from gta_ref.distributed.messages import world
from gta_ref.distributed.ring import Ring

comm, N = world(), 1024
rng = np.random.default_rng(1)
whole = [rng.standard_normal((1, h, N, d)) for h, d in ((5, 64), (1, 64), (1, 128), (5, 128))]

ring = Ring(comm, N, inner="reference")
q, k, v, dz = (ring.cut(x, 2) for x in whole)  # this rank's tokens
z, lse, saved = attention_forward(q, k, v, engine=ring)
forward = ring.sent
grads = attention_backward(dz, saved)
sent = [forward, ring.sent - forward]

found = [ring.gather(x, 2) for x in (z, *grads)]
if comm.Get_rank() == 0:
    z, _, saved = attention_forward(*whole[:3], engine="reference")
    right = (z, *attention_backward(whole[3], saved))
    error = max(float(np.abs(x - y).max()) for x, y in zip(found, right, strict=True))
    print(json.dumps({"tokens": q.shape[2], "sent": sent, "error": error}))
"""
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
HAS_MPI = importlib.util.find_spec("mpi4py") is not None and MPIEXEC is not None


def run(ranks):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(PROGRAM)
        command = [MPIEXEC, "-n", str(ranks), sys.executable, path]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


if HAS_MPI:
    found = {ranks: run(ranks) for ranks in (2, 4)}
    for ranks, one in found.items():
        print(f"{ranks} ranks with {one['tokens']} tokens each: off by {one['error']:.0e}")
        assert one["error"] < 1e-12
else:
    found = {}
    print("mpi4py or mpiexec is missing; install both with: python -m pip install 'gta-ref[mpi]'")

# %% [markdown]
# The error is rounding: the sums have another order.
#
# **Try it.** In `PROGRAM`, let rank 1 raise an error before its forward. What will the other ranks do?
#
# <details><summary>Answer</summary>
# They wait for a message that never comes. <code>gta_ref.distributed.launch.together</code> ends them: within its
# block, a rank that raises prints one line and aborts all ranks. <code>gta-ref train</code> runs inside it.
# </details>
#
# ## What travels
#
# Per token, keys and latents are $E = n_k d_h + n_c d_l$ numbers, exactly what GTA caches: 192 for GTA-1B, where GQA-1B
# has 640. A rank sends its N/R tokens R − 1 times in the forward. In the backward they go round again, and their
# gradients travel with them R times. The ring counts its bytes, and the formula gives the same number:

# %%
for ranks, one in found.items():
    formula = [costs.ring_bytes(GTA, 1024, ranks, itemsize=8, backward=b, real=8) for b in (False, True)]
    print(f"{ranks} ranks: forward {one['sent'][0]:,} bytes, backward {one['sent'][1]:,}; by formula {formula}")
    assert one["sent"] == formula
ratio = costs.ring_bytes(GTA, 1024, 4, itemsize=2) / costs.ring_bytes(GQA, 1024, 4, itemsize=2)
print(f"GTA-1B over GQA-1B: {ratio:.1f}")
assert round(ratio, 3) == 0.3

# %% [markdown]
# ## When is the sending hidden?
#
# In a step a rank computes in proportion to the *square* of its tokens and sends in proportion to their number. With
# enough tokens per rank, the message arrives before the computation ends. On H100s in bfloat16 that takes

# %%
H100 = hardware.get("h100")
for link in costs.LINKS.values():
    gta, gqa = (costs.hidden_from(layer, H100, link) for layer in (GTA, GQA))
    print(f"{link.name:20} GTA-1B: {gta:7,.0f} tokens per rank   GQA-1B: {gqa:7,.0f}")

# %% [markdown]
# **Try it.** GTA sends 0.3 times as much. Why is its number of tokens not 0.3 times as large?
#
# <details><summary>Answer</summary>
# It also computes less: 960 multiply–adds per pair of tokens instead of 2,560, so that less time passes while a message
# is on its way. 0.3 / 0.375 = 0.8. Where the sending is not hidden, its time does fall to 0.3.
# </details>
#
# ## Summary
#
# - Attention over parts of the keys is merged exactly by lse; the order of the ranks is fixed, so each run gives the
#   same bits.
# - What travels is what is cached, so a mechanism with a small cache also has small messages.
# - Decoding is simpler still: each rank keeps its part of the cache, and only z and lse of the new token travel
#   (`gta_ref.distributed.decode`). More in [docs/distributed.md](../docs/distributed.md), with the cases that check a
#   ring attention of your own.
#
# [← 8. Verify your implementation](08_verify_your_implementation.ipynb) | [1. Shared attention
# maps →](01_shared_attention_maps.ipynb)
