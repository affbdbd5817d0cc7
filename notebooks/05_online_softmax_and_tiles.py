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
# By the end you will know
#
# - how attention is computed without ever holding its map, by keeping a running maximum, a running sum, and an output
#   that is rescaled as the maximum grows;
# - how two partial results are merged, which tiles a causal mask lets us skip, and how much memory this saves;
# - which inputs break a careless version: rows that see nothing, huge scores, and NaN in unused slots.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network;
# it takes half a minute to run.
#
# [previous: backward of the whole layer](04b_backward_of_the_whole_layer.ipynb) |
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
# ## 1. Maps are large
#
# One layer of GTA-1B has five maps of $N^2$ numbers each. Everything else that the attention core reads and writes (q,
# k, c, z, lse) grows in proportion to $N$. In float32:

# %%
for N in (2048, 8192, 32768, 131072):
    maps, rest = 5 * N * N * 4, N * (5 * 64 + 64 + 128 + 5 * 128 + 5) * 4
    print(f"N = {N:7,}: maps {maps / 1e9:8.2f} GB, everything else {rest / 1e9:6.3f} GB")

# %% [markdown]
# We do not even need the map itself, only $Z = A\,C$. What makes the map hard to avoid is the softmax: each weight $A_j
# = e^{S_j} / \sum_l e^{S_l}$ needs the sum of its whole row. It also needs the largest score $m$ of the row: $e^{S}$
# overflows in float32 from $S = 89$ on, so implementations compute $e^{S_j - m} / \sum_l e^{S_l - m}$ instead.
#
# ## 2. One row, tile by tile
#
# Suppose we have read some of the scores and know their maximum $m$ and their sum $\ell = \sum_l e^{S_l - m}$. Now a
# tile with more scores $S$ arrives. If its largest score is above $m$, the sum so far is in the wrong unit, $e^m$
# instead of $e^{m'}$, and one factor converts it:
#
# $$m' = \max(m, \max_j S_j) \qquad \ell' = e^{m - m'}\,\ell + \sum_j e^{S_j - m'}$$
#
# In the lower half of the figure, the orange tile brings a new maximum and the blue part shrinks to about a fifth. No
# score is read twice.

# %%
row = np.array([0.4, 1.1, -0.3, 0.8, 0.2, 2.6, 1.9, 0.5, 0.1, 1.2, -0.4, 0.9, 2.2, 3.4, 0.6, 1.5])
plots_tiles.one_row(row, tile=4)

# %% [markdown]
# The output $O$ is a sum with the same weights, so the same factor rescales it: $O' = e^{m - m'}\, O + \sum_j e^{S_j -
# m'} V_j$. At the end, $z = O / \ell$. Here is one step of this for several rows at once:


# %%
def update(m, total, O, S, V):
    """One step of the online softmax: rows' state m (r,), ℓ (r,), O (r, d_v); scores S (r, j) and values V (j, d_v)."""
    m_new = np.maximum(m, S.max(axis=1))
    shrink = np.exp(m - m_new)
    P = np.exp(S - m_new[:, None])
    return m_new, shrink * total + P.sum(axis=1), shrink[:, None] * O + P @ V


state = np.array([-np.inf]), np.zeros(1), np.zeros((1, 2))  # e^(−∞ − m) = 0: the initial state adds nothing
V = rng.standard_normal((16, 2))
for j in range(0, 16, 4):
    state = update(*state, row[None, j : j + 4], V[j : j + 4])
m, total, O = state
A = np.exp(row) / np.exp(row).sum()
print("tile by tile:", (O / total[:, None])[0], "  all at once:", A @ V)
np.testing.assert_allclose((O / total[:, None])[0], A @ V)

# %% [markdown]
# **Try it.** Leave out the factor on O but keep it on ℓ (`1 * O + P @ V`). Which rows of an attention layer are still
# right? Would small scores hide the error?
#
# <details><summary>Answer</summary>
#
# The rows whose maximum lies in their first tile, because they are never rescaled. With small scores all factors are
# close to 1, so the error is small but still present, and a test with random numbers of size 0.01 and a loose tolerance
# passes. This is why the verification kit's cases include large scores.
#
# </details>
#
# ## 3. Tiles of queries and keys
#
# There are two loops: the outer one runs over tiles of queries, the inner one over tiles of keys. The state (m, ℓ, O)
# of a tile of queries is kept only as long as its inner loop runs. A causal mask makes the inner loop end at the
# diagonal. `record` stores every step for the figures below.


# %%
def attention_in_tiles(Q, K, V, tile, record=None):
    """z (N, d_v) and lse (N,) of one causal map, with no more than tile × tile scores at a time."""
    N = len(Q)
    Z, lse = np.empty((N, V.shape[1])), np.empty(N)
    for i in range(0, N, tile):
        rows = np.arange(i, min(i + tile, N))
        state = np.full(len(rows), -np.inf), np.zeros(len(rows)), np.zeros((len(rows), V.shape[1]))
        for j in range(0, rows[-1] + 1, tile):  # tiles right of the diagonal are skipped
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
# Compare the result with the definition. The tile size must not change it, even if the last tile is smaller than the
# others.

# %%
Q, K, V = (rng.standard_normal((24, d)) for d in (8, 8, 6))
Q *= 2  # so that the scores differ more
want, want_lse, _ = attention_forward(*(x[None, None] for x in (Q, K, V)), engine="reference")
for tile in (1, 5, 6, 24):
    Z, lse = attention_in_tiles(Q, K, V, tile)
    np.testing.assert_allclose(lse, want_lse[0, 0], rtol=1e-12)
    print(f"tile {tile:2}: largest difference {np.abs(Z - want[0, 0]).max():.0e}")
    np.testing.assert_allclose(Z, want[0, 0], atol=1e-13)

# %% [markdown]
# Here is one step of the loop. From left to right, the panels show the tile of scores that is in memory; each row's
# running maximum, with an arrow where it moved; the running sum, with what is left of the old sum in dark blue and what
# the tile added in light blue; the output so far, which is not yet z; and z of the queries that are finished.

# %%
steps = []
attention_in_tiles(Q, K, V, tile=6, record=steps)
plots_online.picture(steps, 18)

# %% [markdown]
# And here are all the steps: press ▶, or use the slider. (The frames are stored in the page, so no running kernel is
# needed.)

# %%
player = plots_online.animation(steps)
print(f"{len(player) / 1e6:.1f} MB")
HTML(player)

# %% [markdown]
# ### Scores of your own
#
# One query is enough to see what decides the work: where in its row the large scores are. Type scores of your own into
# the list; there may be more or fewer. V is the identity matrix here, so the output so far is the row of the map, with
# one bar per key.
#
# **Predict first.** In which of the three tiles will m move? What becomes of the bars of keys 0–3 from tile to tile?


# %%
def row_in_tiles(scores, tile=4):
    """The steps of one query with these scores."""
    n = len(scores)
    S, V, steps = np.array([scores], dtype=float), np.eye(n), []
    state = np.array([-np.inf]), np.zeros(1), np.zeros((1, n))
    for j in range(0, n, tile):
        keys = np.arange(j, min(j + tile, n))
        with np.errstate(invalid="ignore"):
            before, state = state, update(*state, S[:, keys], V[keys])
        steps.append(plots_online.Step(np.array([0]), keys, S[:, keys], before, state))
    return steps


scores = [0.4, 1.1, -0.3, 0.8, 0.2, 2.6, 1.9, 0.5, 0.1, 1.2, -0.4, 0.9]  # yours; -np.inf hides a key
HTML(plots_online.animation(row_in_tiles(scores)))

# %% [markdown]
# **Try it.** Predict each before you run it: (a) a late large score: replace the last number by 20; (b) all scores
# equal; (c) `-np.inf` for one key; (d) `-np.inf` for each of the first four keys.
#
# <details><summary>Answer</summary>
#
# (a) m moves in the last tile, and everything before shrinks by $e^{2.6 - 20} = 3 \cdot 10^{-8}$: the output is the
# last key's value alone. (b) m never moves after the first tile, so nothing shrinks; ℓ is 4, 8, 12 and each bar 1/4,
# 1/8, 1/12. (c) That key has no bar, and nothing else happens. (d) m stays at −∞, and $-\infty - (-\infty)$ is NaN;
# the later tiles cannot repair it. Section 7 does.
#
# </details>
#
# ### Which tiles are skipped
#
# A tile in which no query sees any key is never computed; in a causal map this is nearly half of all tiles. A tile in
# which every query sees every key needs no mask. Only tiles that the edge of the mask crosses are computed and then
# masked inside. The same rule covers decoding in chunks (the last queries of a longer text) and padding.

# %%
n = 64
cases = {
    "a whole text": Mask().to_dense(n, n),
    "its last 24 tokens": Mask().to_dense(24, n),
    "padding: keys 12–51 are real": Mask(k_start=12, k_stop=52).to_dense(n, n),
}
plots_tiles.tile_grid(cases, tile=8)

# %% [markdown]
# With T tiles along each side, T(T + 1)/2 of the T² tiles are computed:

# %%
for tile in (8, 4, 2, 1):
    visible = cases["a whole text"].reshape(n // tile, tile, n // tile, tile).any(axis=(1, 3))
    T = n // tile
    assert visible.sum() == T * (T + 1) // 2
    print(
        f"tile size {tile}: {visible.mean():.1%} of tiles computed, {cases['a whole text'].mean():.1%} of map visible"
    )

# %% [markdown]
# ### What GTA gains here
#
# In GTA-1B, five maps share one key head and one latent head. The rows of all five can therefore go into one tile: a
# tile's Q is a plain matrix with (positions · maps) rows, and each key is read once for five maps. No head has to be
# copied.

# %%
Q5, K1 = rng.standard_normal((5, 96, 64)), rng.standard_normal((128, 64))
rows = Q5.swapaxes(0, 1).reshape(96 * 5, 64)  # position by position, with all five maps of each
S = rows @ K1.T  # (480, 128): one product
np.testing.assert_allclose(S.reshape(96, 5, 128).swapaxes(0, 1), Q5 @ K1.T)
print("one product for 5 maps:", rows.shape, "·", K1.T.shape, "→", S.shape)

# %% [markdown]
# ## 4. Merging two partial results (split-KV)
#
# A decoding step has one query and a long row of keys. So that several cores or multiprocessors can share the work, the
# keys are cut into parts. Each part yields its own $z$ and $\mathrm{lse} = m + \ln \ell$, the logarithm of the sum over
# its part of the row. Since $e^{\mathrm{lse}}\, z = \sum_j e^{S_j} V_j$, the sums of the parts simply add up:
#
# $$z = \frac{e^{\mathrm{lse}_1} z_1 + e^{\mathrm{lse}_2} z_2}{e^{\mathrm{lse}_1} + e^{\mathrm{lse}_2}} \qquad
# \mathrm{lse} = \ln(e^{\mathrm{lse}_1} + e^{\mathrm{lse}_2})$$


# %%
def merge(one, other):
    """z and lse over the keys of both parts."""
    (z1, lse1), (z2, lse2) = one, other
    top = np.maximum(lse1, lse2)
    w1, w2 = np.exp(lse1 - top), np.exp(lse2 - top)
    z = (w1[..., None] * z1 + w2[..., None] * z2) / (w1 + w2)[..., None]
    return z, top + np.log(w1 + w2)


q, k, c = (rng.standard_normal((1, h, n, d)) for h, n, d in ((5, 1, 64), (1, 1000, 64), (1, 1000, 128)))
whole = attention_forward(q, k, c)[:2]
cuts = [0, 100, 101, 700, 1000]  # the parts may be as uneven as you like
parts = [attention_forward(q, k[:, :, a:b], c[:, :, a:b])[:2] for a, b in pairwise(cuts)]

# %% [markdown]
# As with any sum, the order does not matter either, except for rounding; a kernel therefore fixes the order.

# %%
for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
    merged = parts[order[0]]
    for p in order[1:]:
        merged = merge(merged, parts[p])
    print(order, f"z off by {np.abs(merged[0] - whole[0]).max():.0e}, lse by {np.abs(merged[1] - whole[1]).max():.0e}")
    np.testing.assert_allclose(merged[0], whole[0], atol=1e-14)

# %% [markdown]
# The online softmax is the same merge, applied to one tile after another and with the division left to the end. The
# library's CPU engine cuts the keys of a decoding step into chunks of 2048 and merges them like this.
#
# **Try it.** Is averaging the parts, `(z1 + z2) / 2`, ever right?
#
# <details><summary>Answer</summary>
#
# Yes, if both parts have the same lse. Halves of equal length with random scores come close (the error is about 0.02,
# and the largest z is 0.2), so the result looks plausible. With the cuts above, the error is larger than z itself,
# because a part with one key then weighs as much as a part with 599.
#
# </details>
#
# ## 5. The library's CPU engine
#
# `engine="numba"` is this loop, compiled. It is called *fused* because one kernel does all of it, from the scores to z.
# Its tiles have up to 480 rows and 128 keys, it uses powers of 2 instead of e, and its m may be a little smaller than
# the true maximum, so that O is seldom rescaled (see [docs/kernels.md](../docs/kernels.md)). Does it compute the same
# result? In float32, two orders of summation rarely agree in every bit. We therefore take the definition in float64 as
# the truth and expect the CPU engine to be about as far from it as the definition in float32 is. (The first time the
# engine is used on a machine, it compiles for a few seconds.)


# %%
def inputs(length, n_queries=None):
    """q, k, c of a GTA-1B layer, float32."""
    sizes = (5, n_queries or length, 64), (1, length, 64), (1, length, 128)
    return [rng.standard_normal((1, *size), np.float32) for size in sizes]


attention_forward(*inputs(8), engine="numba")  # compiles it if that has not been done yet
tries = {
    "causal, N = 65": (inputs(65), Mask()),
    "causal, N = 1000": (inputs(1000), Mask()),
    "no mask, N = 500": (inputs(500), Mask(causal=False)),
    "one query, 5000 keys": (inputs(5000, 1), Mask()),
    "keys 30–199 of 300": (inputs(300), Mask(k_start=30, k_stop=200)),
}

# %% [markdown]
# The two numbers in each line should be of similar size.

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
# We measure the peak memory allocated during one call (with Python's `tracemalloc`, to which NumPy reports its arrays)
# and the time of one call. The definition holds the scores and the map; the CPU engine holds its results and a few
# tiles. A single run on a machine that may be doing other work is an illustration, not a benchmark. The benchmark is
# `make bench`, and its figures are in [docs/kernels.md](../docs/kernels.md).


# %%
def measure(engine, length):
    """Peak bytes allocated in addition to the inputs, and seconds, of one forward."""
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
# Look at the slopes on the left: doubling the length takes four times the memory with the definition, and twice the
# memory with the CPU engine. On the right, both times grow roughly as N², because both compute the same products,
# except that the CPU engine skips those beyond the diagonal. (Whatever else the machine is doing bends the curves on
# the right.)

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
# ## 7. Inputs that break a careless version
#
# ### A row that sees nothing
#
# All its scores are $-\infty$, so m stays $-\infty$, and $-\infty - (-\infty)$ is NaN. Our `update` makes this mistake:

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
# The library's convention, in every engine, is that such a row has z = 0 and lse = −∞. This is what a merge needs from
# a part in which a query sees nothing. Below, the first two of six queries come before the first key.

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
# With scores in the tens of thousands, $e^S$ is far beyond the range of float32, and yet each row is an ordinary
# softmax that selects one key.

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
# A cache is allocated before it is filled, so its free slots may contain anything. A weight of 0 is no protection,
# because 0 · NaN is NaN. The bounds `k_start` and `k_stop` say which slots are in use, and no engine reads the others:

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
# Conversely, a NaN in a slot that *is* used must not disappear: a maximum that ignores NaN would hide a broken model.
# Here key 3 is broken, and queries 3, 4 and 5 see it.

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
# All six. Queries 0–2 do not see key 3, so they give it a weight of 0, but 0 · NaN is NaN: in a single product A C, a
# NaN in the values reaches every row of the tile. The causal mask says which valid keys a query sees; it does not
# protect against invalid values. Only slots outside the range from k_start to k_stop may contain anything.
#
# </details>
#
# ## Summary
#
# - A row needs three quantities: a maximum, a sum and an output. A new maximum rescales the other two by $e^{m - m'}$,
#   and two partial results are merged with the help of their lse. Nothing of size N² is ever held in memory.
# - Tiles beyond the diagonal are not computed; for GTA a tile holds the rows of all maps that share a key head.
# - The results equal those of the definition, up to rounding, provided that −∞, huge scores and unused slots are
#   handled; memory grows in proportion to N.
#
# [previous: backward of the whole layer](04b_backward_of_the_whole_layer.ipynb) |
# [next: Numba CUDA kernels](06_numba_cuda_kernels.ipynb)
