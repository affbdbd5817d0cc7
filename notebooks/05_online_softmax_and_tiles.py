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
# # 5. Online softmax and tiles
#
# Afterwards you will know
#
# - how attention is computed without ever holding its map: a running maximum, a running sum, and an output that
#   shrinks;
# - how two partial results are merged, which tiles a causal mask skips, and what this does to memory;
# - which numbers break a careless version: rows that see nothing, huge scores, NaN in unused slots.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network;
# about ten minutes to read, half a minute to run.
#
# [previous: backward by hand](04_backward_by_hand.ipynb) |
# [next: Numba CUDA kernels](06_numba_cuda_kernels.ipynb)
#
# Exercises to go with it: [10, merging two partial results](exercises/ex10_merge.ipynb) and
# [11, attention in tiles](exercises/ex11_tiles.ipynb).

# %%
# %matplotlib inline
import time
import tracemalloc
from itertools import pairwise

import numpy as np
from IPython.display import HTML

from gta_ref.core import Mask, attention_forward
from gta_ref.plots import online as plots_online
from gta_ref.plots import tiles as plots_tiles

rng = np.random.default_rng(5)
np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## 1. A map is big
#
# One layer of GTA-1B has five maps, $N^2$ numbers each. Everything else that the attention core reads and writes
# (q, k, c, z, lse) grows with $N$. In float32:

# %%
for N in (2048, 8192, 32768, 131072):
    maps, rest = 5 * N * N * 4, N * (5 * 64 + 64 + 128 + 5 * 128 + 5) * 4
    print(f"N = {N:7,}: maps {maps / 1e9:8.2f} GB, all the rest {rest / 1e9:6.3f} GB")

# %% [markdown]
# The map is not even wanted: only $Z = A\,C$ is. What stands in the way is the softmax. Each weight
# $A_j = e^{S_j} / \sum_l e^{S_l}$ needs the sum of its whole row, and because $e^{S}$ overflows (in float32 from
# $S = 89$ on) also the largest score $m$ of the whole row, as everybody computes $e^{S_j - m} / \sum_l e^{S_l - m}$.
#
# ## 2. The row, a part at a time
#
# Suppose we have read some of the scores and know their maximum $m$ and their sum $\ell = \sum_l e^{S_l - m}$. A tile
# with more scores $S$ comes. If its largest is above $m$, all we have summed was in too large a unit; it is converted
# by one factor:
#
# $$m' = \max(m, \max_j S_j) \qquad \ell' = e^{m - m'}\,\ell + \sum_j e^{S_j - m'}$$
#
# Look at the lower half: when the orange tile brings a new maximum, the blue part shrinks to a fifth. No score is
# read twice.

# %%
row = np.array([0.4, 1.1, -0.3, 0.8, 0.2, 2.6, 1.9, 0.5, 0.1, 1.2, -0.4, 0.9, 2.2, 3.4, 0.6, 1.5])
plots_tiles.one_row(row, tile=4)

# %% [markdown]
# The output is a sum with the same weights, so it shrinks by the same factor: $O' = e^{m - m'}\, O + \sum_j e^{S_j -
# m'} V_j$. In the end $z = O / \ell$. For several rows at once:


# %%
def update(m, total, O, S, V):
    """One step of the online softmax: rows' state m (r,), ℓ (r,), O (r, d_v); scores S (r, j) and values V (j, d_v)."""
    m_new = np.maximum(m, S.max(axis=1))
    shrink = np.exp(m - m_new)
    P = np.exp(S - m_new[:, None])
    return m_new, shrink * total + P.sum(axis=1), shrink[:, None] * O + P @ V


state = np.array([-np.inf]), np.zeros(1), np.zeros((1, 2))  # e^(−∞ − m) = 0: the start leaves no trace
V = rng.standard_normal((16, 2))
for j in range(0, 16, 4):
    state = update(*state, row[None, j : j + 4], V[j : j + 4])
m, total, O = state
A = np.exp(row) / np.exp(row).sum()
print("a tile at a time:", (O / total[:, None])[0], "  at once:", A @ V)
np.testing.assert_allclose((O / total[:, None])[0], A @ V)

# %% [markdown]
# **Try it.** Forget the factor at O, but keep it at ℓ (`1 * O + P @ V`). Which rows of an attention layer are still
# right? And does it help if the scores are small?
#
# <details><summary>Answer</summary>
#
# Those whose maximum lies in their first tile: they never shrink. With small scores all factors are near 1 and the
# error is small but there; a test with random numbers of size 0.01 and a loose tolerance passes. This is why the
# kit's cases also have large scores.
#
# </details>
#
# ## 3. Tiles of queries and keys
#
# Two loops: over tiles of queries, whose state lives as long as the inner loop, and over tiles of keys. A causal mask
# makes the inner loop end at the diagonal. `record` notes every step for the pictures below.


# %%
def attention_in_tiles(Q, K, V, tile, record=None):
    """z (N, d_v) and lse (N,) of one causal map, with no more than tile × tile scores at a time."""
    N = len(Q)
    Z, lse = np.empty((N, V.shape[1])), np.empty(N)
    for i in range(0, N, tile):
        rows = np.arange(i, min(i + tile, N))
        state = np.full(len(rows), -np.inf), np.zeros(len(rows)), np.zeros((len(rows), V.shape[1]))
        for j in range(0, rows[-1] + 1, tile):  # what lies right of the diagonal is not looked at
            keys = np.arange(j, min(j + tile, N))
            S = Q[rows] @ K[keys].T / np.sqrt(Q.shape[1])
            S = np.where(keys <= rows[:, None], S, -np.inf)
            before, state = state, update(*state, S, V[keys])
            if record is not None:
                record.append(plots_online.Step(rows, keys, S, before, state))
        m, total, O = state
        Z[rows], lse[rows] = O / total[:, None], m + np.log(total)
    return Z, lse


# %% [markdown]
# Compare with the definition. The size of a tile must not matter, nor that the last one is smaller.

# %%
Q, K, V = (rng.standard_normal((24, d)) for d in (8, 8, 6))
Q *= 2  # scores that differ
want, want_lse, _ = attention_forward(*(x[None, None] for x in (Q, K, V)), engine="reference")
for tile in (1, 5, 6, 24):
    Z, lse = attention_in_tiles(Q, K, V, tile)
    np.testing.assert_allclose(lse, want_lse[0, 0], rtol=1e-12)
    print(f"tile {tile:2}: largest difference {np.abs(Z - want[0, 0]).max():.0e}")
    np.testing.assert_allclose(Z, want[0, 0], atol=1e-13)

# %% [markdown]
# Here is one moment of it. Look from left to right: the tile of scores that is in memory; each row's running maximum,
# with an arrow where it moved; the running sum, dark what is left of the old one and light what the tile added; the
# output so far, which is not yet that of the finished rows.

# %%
steps = []
attention_in_tiles(Q, K, V, tile=6, record=steps)
plots_online.picture(steps, 18)

# %% [markdown]
# And all moments: press ▶, or step with the slider. (The frames are inside the page; no kernel is needed.)

# %%
player = plots_online.animation(steps)
print(f"{len(player) / 1e6:.1f} MB")
HTML(player)

# %% [markdown]
# ### Which tiles are skipped
#
# A tile in which no query sees any key is never computed: for a causal map nearly half of them. A tile that all its
# queries see needs no mask. Only the tiles on an edge are computed and then masked inside. The same rule serves
# decoding in chunks (the last queries of a longer text) and padding.

# %%
n = 64
cases = {
    "a whole text": Mask().to_dense(n, n),
    "its last 24 tokens": Mask().to_dense(24, n),
    "padding: keys 12–51 are real": Mask(k_start=12, k_stop=52).to_dense(n, n),
}
plots_tiles.tile_grid(cases, tile=8)

# %% [markdown]
# With T tiles along each side, T(T + 1)/2 of T² are left:

# %%
for tile in (8, 4, 2, 1):
    visible = cases["a whole text"].reshape(n // tile, tile, n // tile, tile).any(axis=(1, 3))
    T = n // tile
    assert visible.sum() == T * (T + 1) // 2
    print(f"tiles of {tile}: {visible.mean():.1%} computed; {cases['a whole text'].mean():.1%} of the map is seen")

# %% [markdown]
# ### What GTA gains here
#
# Five maps share one key head and one latent head. So the rows of all five go into one tile: Q of a tile is a plain
# matrix of (positions · maps) rows, and each key is read once for five maps. No head is copied.

# %%
Q5, K1 = rng.standard_normal((5, 96, 64)), rng.standard_normal((128, 64))
rows = Q5.swapaxes(0, 1).reshape(96 * 5, 64)  # position by position, all maps of each
S = rows @ K1.T  # (480, 128): one product
np.testing.assert_allclose(S.reshape(96, 5, 128).swapaxes(0, 1), Q5 @ K1.T)
print("one product for 5 maps:", rows.shape, "·", K1.T.shape, "→", S.shape)

# %% [markdown]
# ## 4. Merging two partial results (split-KV)
#
# In decoding there is one query and a long row. To have work for several cores or multiprocessors, the keys are cut;
# each part gives its own $z$ and $\mathrm{lse} = m + \ln \ell$, the logarithm of the sum of its row. Since
# $e^{\mathrm{lse}}\, z = \sum_j e^{S_j} V_j$, sums of parts simply add up:
#
# $$z = \frac{e^{\mathrm{lse}_1} z_1 + e^{\mathrm{lse}_2} z_2}{e^{\mathrm{lse}_1} + e^{\mathrm{lse}_2}} \qquad
# \mathrm{lse} = \ln(e^{\mathrm{lse}_1} + e^{\mathrm{lse}_2})$$


# %%
def merge(one, other):
    """z and lse of the keys of both parts."""
    (z1, lse1), (z2, lse2) = one, other
    top = np.maximum(lse1, lse2)
    w1, w2 = np.exp(lse1 - top), np.exp(lse2 - top)
    z = (w1[..., None] * z1 + w2[..., None] * z2) / (w1 + w2)[..., None]
    return z, top + np.log(w1 + w2)


q, k, c = (rng.standard_normal((1, h, n, d)) for h, n, d in ((5, 1, 64), (1, 1000, 64), (1, 1000, 128)))
whole = attention_forward(q, k, c)[:2]
cuts = [0, 100, 101, 700, 1000]  # as uneven as you like
parts = [attention_forward(q, k[:, :, a:b], c[:, :, a:b])[:2] for a, b in pairwise(cuts)]

# %% [markdown]
# The order does not matter either, as with any sum (but for rounding, so a kernel fixes it):

# %%
for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
    merged = parts[order[0]]
    for p in order[1:]:
        merged = merge(merged, parts[p])
    print(order, f"z off by {np.abs(merged[0] - whole[0]).max():.0e}, lse by {np.abs(merged[1] - whole[1]).max():.0e}")
    np.testing.assert_allclose(merged[0], whole[0], atol=1e-14)

# %% [markdown]
# The online softmax is the same merge, with the tiles one after the other and the division left to the end. GTA's CPU
# engine cuts a decoding step's keys into chunks of 2048 and merges them like this.
#
# **Try it.** Is averaging the parts, `(z1 + z2) / 2`, ever right?
#
# <details><summary>Answer</summary>
#
# If both parts have the same lse. Halves of equal length with random scores come close (off by about 0.02 where the
# largest z is 0.2), and the result looks plausible; with the cuts above it is off by more than z itself, because a
# part of one key then weighs as much as one of 599.
#
# </details>
#
# ## 5. The library's fused engine
#
# `engine="numba"` is this loop, compiled: tiles of up to 480 rows and 128 keys, scores in units of log₂, and an m
# that may lag a little so that O is seldom rescaled (`docs/kernels.md`). Is it the same? In float32 no two orders of
# a sum agree in all bits. So take the definition in float64 as the truth, and let the fused engine be about as far
# from it as the definition in float32 is. (The engine compiles for some seconds when it is used for the first time on
# a machine.)


# %%
def inputs(length, n_queries=None):
    """q, k, c of a GTA-1B layer, float32."""
    sizes = (5, n_queries or length, 64), (1, length, 64), (1, length, 128)
    return [rng.standard_normal((1, *size), np.float32) for size in sizes]


attention_forward(*inputs(8), engine="numba")  # compiles, if it has to
tries = {
    "causal, N = 65": (inputs(65), Mask()),
    "causal, N = 1000": (inputs(1000), Mask()),
    "no mask, N = 500": (inputs(500), Mask(causal=False)),
    "one query, 5000 keys": (inputs(5000, 1), Mask()),
    "keys 30–199 of 300": (inputs(300), Mask(k_start=30, k_stop=200)),
}

# %% [markdown]
# Look at the two columns of each line; they have to be alike.

# %%
print(f"{'largest error of z':22}{'definition':>12}{'fused':>10}")
for name, (arrays, mask) in tries.items():
    truth, true_lse, _ = attention_forward(*(x.astype(np.float64) for x in arrays), mask=mask, engine="reference")
    errors = []
    for engine in ("reference", "numba"):
        z, lse, _ = attention_forward(*arrays, mask=mask, engine=engine, need_saved=False)
        errors.append(np.abs(z - truth).max())
        np.testing.assert_allclose(lse, true_lse, rtol=1e-5, atol=1e-5)
    print(f"{name:22}{errors[0]:12.1e}{errors[1]:10.1e}")
    assert errors[1] < 10 * errors[0]

# %% [markdown]
# ## 6. Memory and time
#
# The largest allocation during one call (NumPy's own bookkeeping, `tracemalloc`), and the time of one call. The
# definition holds the scores and the map; the fused engine its results and a few tiles. One run on whatever else this
# machine is doing is an illustration, not a benchmark: that is `make bench`, with `docs/kernels.md` for its figures.


# %%
def measure(engine, length):
    """Bytes allocated at most, beside the inputs, and seconds of one forward."""
    arrays = inputs(length)
    attention_forward(*arrays, engine=engine, need_saved=False)
    start = time.perf_counter()
    attention_forward(*arrays, engine=engine, need_saved=False)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    attention_forward(*arrays, engine=engine, need_saved=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, seconds


# %% [markdown]
# Look at the slopes on the left: twice the length is four times the memory of the definition, and twice that of the
# fused engine. On the right both slopes are those of N²: the products are the same, but for those beyond the
# diagonal.

# %%
lengths = [256, 512, 1024, 2048, 4096]
found = {"definition": [measure("reference", N) for N in lengths[:4]], "fused": [measure("numba", N) for N in lengths]}
memory = {name: [peak for peak, _ in points] for name, points in found.items()}
seconds = {name: [t for _, t in points] for name, points in found.items()}
slope = {name: np.log2(peaks[3] / peaks[2]) for name, peaks in memory.items()}
print(
    "from N = 1024 to 2048, memory grows by 2 to the power of", {name: round(float(s), 2) for name, s in slope.items()}
)
assert slope["definition"] > 1.9
assert slope["fused"] < 1.1
plots_tiles.memory_and_time(lengths, memory, seconds)

# %% [markdown]
# ## 7. Numbers that break a careless version
#
# ### A row that sees nothing
#
# All its scores are $-\infty$, so m stays $-\infty$, and $-\infty - (-\infty)$ is NaN. Our `update` falls into it:

# %%
start = np.full(1, -np.inf), np.zeros(1), np.zeros((1, 2))
with np.errstate(invalid="ignore"):
    print("careless:", update(*start, np.full((1, 4), -np.inf), np.ones((4, 2)))[1:])


def careful(m, total, O, S, V):
    """`update` for rows that may have seen nothing yet: such a row subtracts 0."""
    m_new = np.maximum(m, S.max(axis=1))
    shift = np.where(np.isneginf(m_new), 0, m_new)
    P = np.exp(S - shift[:, None])
    shrink = np.exp(m - shift)
    return m_new, shrink * total + P.sum(axis=1), shrink[:, None] * O + P @ V


print("careful: ", careful(*start, np.full((1, 4), -np.inf), np.ones((4, 2)))[1:])

# %% [markdown]
# The library's agreement, in every engine: such a row has z = 0 and lse = −∞, which is what a merge needs from a part
# in which a query sees nothing. Below, the first two of six queries stand before the first key.

# %%
q, k, c = inputs(6)
for engine in ("reference", "numba"):
    z, lse, _ = attention_forward(q, k, c, mask=Mask(q_start=-2), engine=engine)
    print(f"{engine:10}", "lse", lse[0, 0], " |z|", np.abs(z[0, 0]).max(axis=-1))
    assert not z[:, :, :2].any()
    assert np.isneginf(lse[:, :, :2]).all()

# %% [markdown]
# ### Huge scores
#
# Scores in the ten thousands: $e^S$ is far beyond float32, and yet each row is an ordinary softmax that chooses one
# key.

# %%
with np.errstate(over="ignore"):
    print("without subtracting m: e^89 =", np.exp(np.float32(89)))
huge = np.float32(1e4) * q
for engine in ("reference", "numba"):
    z, lse, _ = attention_forward(huge, k, c, engine=engine)
    print(f"{engine:10} lse of the last query, 5 maps:", lse[0, :, -1])
    assert np.isfinite(z).all()

# %% [markdown]
# ### NaN in slots that are not used
#
# A cache is allocated before it is filled; what lies in its free slots is anybody's guess. A weight of 0 is no
# protection, because 0 · NaN is NaN. The bounds `k_start` and `k_stop` say which slots are real, and no engine reads
# the others:

# %%
poisoned_k, poisoned_c = k.copy(), c.copy()
poisoned_k[:, :, 4:], poisoned_c[:, :, 4:] = np.nan, np.nan
print("a weight of 0 times NaN:", np.float32(0) * np.float32(np.nan))
clean, *_ = attention_forward(q, k[:, :, :4], c[:, :, :4], mask=Mask(q_start=0))
for engine in ("reference", "numba"):
    z, *_ = attention_forward(q, poisoned_k, poisoned_c, mask=Mask(q_start=0, k_stop=4), engine=engine)
    print(f"{engine:10} NaN in z: {np.isnan(z).sum()}, off by {np.abs(z - clean).max():.0e}")
    np.testing.assert_allclose(z, clean, rtol=1e-5, atol=1e-6)

# %% [markdown]
# The other way round, a NaN in a slot that *is* used must not be swallowed: a maximum that ignores NaN would hide a
# broken model. Key 3 is broken here; queries 3, 4 and 5 see it.

# %%
broken = k.copy()
broken[:, :, 3] = np.nan
for engine in ("reference", "numba"):
    z, *_ = attention_forward(q, broken, c, engine=engine)
    print(f"{engine:10} queries with NaN:", np.flatnonzero(np.isnan(z).any(axis=(0, 1, 3))))
    assert np.isnan(z[:, :, 3:]).all()
    assert np.isfinite(z[:, :, :3]).all()

# %% [markdown]
# **Try it.** Break the latent instead of the key (`c[:, :, 3] = NaN`). Which queries are NaN now?
#
# <details><summary>Answer</summary>
#
# All six. Queries 0–2 do not see key 3, so their weight is 0, and 0 · NaN is NaN: in one product A C, a NaN in the
# values reaches every row of the tile. The causal mask orders what is real; it is no shield against what is broken.
# Only slots outside k_start … k_stop may hold anything.
#
# </details>
#
# ## Summary
#
# - A row needs three things: maximum, sum, output. A new maximum shrinks the other two by $e^{m - m'}$; two partial
#   results merge by their lse. Nothing of size N² is ever held.
# - Tiles beyond the diagonal are not computed; for GTA a tile holds the rows of all maps that share a key head.
# - Same numbers as the definition, to rounding, if −∞, huge scores and unused slots are handled; memory grows with N.
#
# [previous: backward by hand](04_backward_by_hand.ipynb) |
# [next: Numba CUDA kernels](06_numba_cuda_kernels.ipynb)
