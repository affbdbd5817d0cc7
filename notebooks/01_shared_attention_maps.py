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
# # 1. Shared attention maps
#
# By the end you will know
#
# * how to get from multi-head attention to *one* attention map for several heads, one step at a time (MHA, GQA, GVA,
#   GHA, GTA);
# * which head reads which map, key and value in each of them;
# * what sharing saves in operations, and where the paper's −62.5 % comes from.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes a few seconds to run.
#
# This is the first notebook | [next: how alike are real maps?](01b_how_alike_are_real_maps.ipynb)
#
# Exercises to go with it: [1, several heads read one map](exercises/ex01_heads_read_maps.ipynb),
# [2, which head reads what](exercises/ex02_who_reads_what.ipynb) and
# [3, the shared map](exercises/ex03_shared_map.ipynb).

# %%
# %matplotlib inline
import numpy as np

from gta_ref.costs.counting import counted_products, watched
from gta_ref.costs.flops import attention_layer
from gta_ref.mechanisms import gha, gqa, gta, gva, mha
from gta_ref.plots import sharing as plots_sharing

rng = np.random.default_rng(1)

# %% [markdown]
# ## The family in one picture
#
# An attention layer has four kinds of heads. An *output head* takes a weighted mean of *values*. Its weights are a row
# of an *attention map*, which is computed from queries and *keys*. Keys and values are kept in the cache; maps are
# computed anew for every pair of tokens. The five mechanisms differ only in how many heads of each kind there are, and
# in who reads which. Each panel has eight output heads: follow the lines from one of them to its map and its value, and
# from the map to its key. The rest of this notebook builds the panels one by one, from left to right.

# %%
H, n_h, d_h, N = 128, 8, 16, 12
each, four = range(n_h), [i // 4 for i in range(n_h)]
drawn = {
    "MHA": (mha.structure(mha.Config(H, n_h, d_h)), each),
    "GQA": (gqa.structure(gqa.Config(H, n_h, d_h, n_k=2)), four),
    "GVA": (gva.structure(gva.Config(H, n_h, d_h, n_q=2)), each),
    "GHA": (gha.structure(gha.Config(H, n_h, d_h, n_q=2, n_k=1, n_v=4)), [i % 4 for i in range(n_h)]),
    "GTA": (gta.structure(gta.Config(H, n_h, d_h, n_q=2, n_k=1, n_c=1, latent_dim=2 * d_h)), [0] * n_h),
}
plots_sharing.who_reads_what(drawn)

# %% [markdown]
# ## MHA: every head has a map
#
# An attention map says how much each token, as a query, takes from itself and from each token before it. In multi-head
# attention each of the $n_h$ heads has its own map:
#
# $$A_i = \mathrm{softmax}\big(Q_i K_i^\top / \sqrt{d_h} + \text{mask}\big), \qquad O_i = A_i V_i, \qquad
#   Y = [O_0 \cdots O_{n_h-1}]\, W_O$$
#
# Our example has eight heads of width 16 and twelve tokens. A dictionary passed as `trace` receives every intermediate
# stage under its name. Look at the shape of the map: (batch, heads, queries, keys).

# %%
x = rng.standard_normal((1, N, H))
config = mha.Config(H, n_h, d_h)
params = mha.init(config, rng, "float64")
stages = {}
y_mha, _ = mha.forward(params, x, config, trace=stages)
for name in ("q", "k", "v", "map", "heads", "out"):
    print(f"{name:6}{stages[name].shape}")

# %% [markdown]
# Now the same by hand, starting from the queries and keys. `hidden` is true where a query would look at a later token.

# %%
hidden = ~np.tri(N, dtype=bool)


def maps_of(q, k):
    """Plain maps: q and k (B, heads, N, d_h) → (B, heads, N, N)."""
    scores = np.where(hidden, -np.inf, q @ k.swapaxes(-1, -2) / np.sqrt(d_h))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


A = maps_of(stages["q"], stages["k"])
O = A @ stages["v"]  # (1, n_h, N, d_h)
y = O.swapaxes(1, 2).reshape(1, N, n_h * d_h) @ params["w_o"]
print("maps differ by", np.abs(A - stages["map"]).max(), "and outputs by", np.abs(y - y_mha).max())
np.testing.assert_allclose(A, stages["map"], atol=1e-14)
np.testing.assert_allclose(y, y_mha, atol=1e-13)

# %% [markdown]
# ## GQA: fewer keys, but just as many maps
#
# Grouped-query attention keeps only $n_k < n_h$ key heads (and value heads); each run of $n_h/n_k$ consecutive heads
# reads the same one. That makes the *cache* smaller. Compare the shapes with those above: which became smaller, and
# which did not?

# %%
config = gqa.Config(H, n_h, d_h, n_k=2)
params = gqa.init(config, rng, "float64")
stages = {}
gqa.forward(params, x, config, trace=stages)
for name in ("q", "k", "v", "map"):
    print(f"{name:6}{stages[name].shape}")
A = maps_of(stages["q"], np.repeat(stages["k"], n_h // config.n_k, axis=1))
np.testing.assert_allclose(A, stages["map"], atol=1e-14)
print("largest difference between the maps of heads 0 and 1:", np.abs(A[0, 0] - A[0, 1]).max().round(3))

# %% [markdown]
# There are still eight maps. Heads 0 to 3 read the same key head, but each has a query of its own, so the scores
# differ. A map needs a query *and* a key: to share a map is to share both. If head 1 gets head 0's query weights, the
# two heads have the same map, and computing it twice is waste:

# %%
w_q = params["w_q"].reshape(H, n_h, d_h).copy()
w_q[:, 1] = w_q[:, 0]
same_query = {}
gqa.forward({**params, "w_q": w_q.reshape(H, -1)}, x, config, trace=same_query)
A = same_query["map"][0]
print("heads 0 and 1:", np.abs(A[0] - A[1]).max(), "  heads 0 and 2:", np.abs(A[0] - A[2]).max().round(3))
np.testing.assert_allclose(A[0], A[1], atol=1e-14)

# %% [markdown]
# ## One map, several value heads: GVA and GHA
#
# Now we share. Compute only $n_q$ maps, and let output head $i$ read map
#
# $$q(i) = \left\lfloor \frac{i}{n_h/n_q} \right\rfloor, \qquad O_i = A_{q(i)} V_i$$
#
# With a value head for every output head, this is grouped-value attention (GVA), the paper's first step. Here are two
# maps for eight heads: the library, compared with one matrix product per head.

# %%
config = gva.Config(H, n_h, d_h, n_q=2)
params = gva.init(config, rng, "float64")
stages = {}
gva.forward(params, x, config, trace=stages)
A = stages["map"][0]  # (n_q, N, N)
V = (x[0] @ params["w_v"]).reshape(N, n_h, d_h)

r = n_h // config.n_q  # heads per map
O = [A[i // r] @ V[:, i] for i in range(n_h)]
print("q(i):", [i // r for i in range(n_h)], "  maps:", A.shape)
np.testing.assert_allclose(np.concatenate(O, axis=1), stages["heads"][0], atol=1e-14)

# %% [markdown]
# The four value heads of a map can be placed side by side as one wide head, and then a single product computes them
# all: $[O_0\,O_1\,O_2\,O_3] = A_0\,[V_0\,V_1\,V_2\,V_3]$. So all that sharing needs is an attention kernel that accepts
# values wider than keys.

# %%
wide = V.reshape(N, config.n_q, r * d_h).swapaxes(0, 1)  # (n_q, N, r·d_h)
Z = A @ wide
print("maps", A.shape, "· wide values", wide.shape, "=", Z.shape)
np.testing.assert_allclose(Z, stages["z"][0], atol=1e-14)

# %% [markdown]
# GVA still caches all values. Grouped-head attention (GHA) keeps only $n_v$ value heads and *crosses* them with the
# maps: each output head is a pair of a map and a value head. With $n_q = 2$ and $n_v = 4$ there are eight pairs, all
# different. (The paper does not say which pairs it means; this is the library's choice, see
# `gta_ref/mechanisms/gha.py`.)

# %%
config = gha.Config(H, n_h, d_h, n_q=2, n_k=1, n_v=4)
params = gha.init(config, rng, "float64")
stages = {}
gha.forward(params, x, config, trace=stages)
A, V = stages["map"][0], (x[0] @ params["w_v"]).reshape(N, config.n_v, d_h)
pairs = [(i // r, i % r) for i in range(n_h)]  # one block of r = 4 value heads, which both maps read
print(pairs)
assert len(set(pairs)) == n_h
O = [A[m] @ V[:, v] for m, v in pairs]
np.testing.assert_allclose(np.concatenate(O, axis=1), stages["heads"][0], atol=1e-14)

# %% [markdown]
# ## GTA: shared maps over a latent
#
# GTA replaces the value heads by $n_c$ latents $C$ of width $d_l$. Each map takes a weighted sum of the latents,
# $Z_m = A_m C_{c(m)}$, and only then does each head make its own values from that sum, with a matrix and a gate (the
# topic of [notebook 2](02_latent_values_and_the_gate.ipynb)):
#
# $$O_i = (Z_{q(i)} W_{P,i}) \odot \sigma(x_t W_{G,i} + b_{G,i})$$

# %%
config = gta.Config(hidden_size=H, n_heads=n_h, head_dim=d_h, n_q=2, n_k=1, n_c=1, latent_dim=2 * d_h)
params = gta.init(config, rng, "float64")
stages = {}
gta.forward(params, x, config, trace=stages)
for stage in ("q", "k", "c", "map", "z", "heads"):
    print(f"{stage:6}{stages[stage].shape}")
Z = stages["map"][0] @ stages["c"][0]  # both maps read the one latent head
U = np.concatenate(Z @ params["w_p"], axis=1)  # (N, n_h·d_h): four heads from each map
np.testing.assert_allclose(U * stages["gate"][0], stages["heads"][0], atol=1e-13)

# %% [markdown]
# ## What is saved
#
# Take the published pair of models, GQA-1B and GTA-1B, each with 20 heads of width 64. Run one layer of both over 16
# tokens and count every multiply–accumulate that is executed. Whatever is not in the linear layers belongs to the
# attention core: the scores $Q K^\top$, then map times values. By formula, the core takes $n_q (d_k + d_v)$
# multiply–accumulates for each pair of a query and a key.

# %%
length, core = 16, {}
for preset, mechanism in (("gqa-1b", gqa), ("gta-1b", gta)):
    c = mechanism.Config.preset(preset)
    s, stages = mechanism.structure(c), {}
    tokens = watched(rng.standard_normal((1, length, c.hidden_size)).astype("float32"))
    with counted_products() as tally:
        mechanism.forward(mechanism.init(c, rng), tokens, c, engine="reference", trace=stages)
    core[preset] = (tally.macs - s.linear_macs * length) / length**2
    rows = stages["map"][0, :, :, 0].size  # (n_q, N)
    print(f"{preset}: {rows:3} map rows ({rows // length} per token), {core[preset]:.0f} multiply–accumulates per pair")
    assert core[preset] == s.attention_macs == s.n_q * (s.d_k + s.d_v)
print(f"saved: {1 - core['gta-1b'] / core['gqa-1b']:.1%}")
assert core == {"gqa-1b": 2560, "gta-1b": 960}

# %% [markdown]
# From 2560 to 960: that is the paper's −62.5 %. Where does it come from? Sharing maps alone (GVA and GHA with GTA's
# five maps) reduces the scores to a quarter but leaves the other product as it was; the narrow latent does the rest.

# %%
wide, heads, width = 1280, 20, 64
saved = {
    "GQA-1B (as MHA)": gqa.structure(gqa.Config.preset("gqa-1b")),
    "GVA, 5 maps": gva.structure(gva.Config(wide, heads, width, n_q=5)),
    "GHA, 5 maps × 4 values": gha.structure(gha.Config(wide, heads, width, n_q=5, n_k=1, n_v=4)),
    "GTA-1B": gta.structure(gta.Config.preset("gta-1b")),
}
plots_sharing.core_operations(saved, "The attention core")

# %% [markdown]
# This is the core alone. The layer's projections are equally large in both models, and they dominate for short texts.
# For a whole attention layer (by formula, and causal: a query is multiplied only with keys that it may see):

# %%
for n in (1024, 4096, 16384, 65536):
    whole = [sum(attention_layer(saved[which], n).values()) for which in ("GQA-1B (as MHA)", "GTA-1B")]
    print(f"N = {n:6,}: GTA-1B's layer has {1 - whole[1] / whole[0]:5.1%} fewer multiply–accumulates than GQA-1B's")
    assert 0 < 1 - whole[1] / whole[0] < 0.625

# %% [markdown]
# And operations are not seconds: [notebook 3](03_cache_accounting.ipynb) shows when the paper's "2×" is true.
#
# ## Try it
#
# **The two extremes.** Make the parameters of an MHA layer with `mha.init`, and pass them to `mha.forward` and, with
# `n_q=8` in `gva.Config`, to `gva.forward`. Are the outputs the same? What is GVA with `n_q=1`, and what happens with
# `n_q=3`?
#
# <details><summary>Answer</summary>
#
# With as many maps as heads, GVA is MHA: the parameters have the same names and shapes, and the outputs are the same.
# With `n_q=1` all heads share one map, and the layer is a single head with wide values. `n_q=3` is refused, since 3
# does not divide 8: runs have to be equally long.
#
# </details>
#
# ## Summary
#
# * GQA shares keys and still computes $n_h$ maps; GTA computes $n_q$, and head $i$ reads map
#   $q(i) = i \mathbin{/\!/} (n_h/n_q)$.
# * To share a map is to share a query *and* a key.
# * The attention core takes 960 instead of 2560 multiply–accumulates per query–key pair (−62.5 %), partly because there
#   are fewer maps and partly because the latent is narrow. The whole layer saves less.
#
# Whether the maps of real heads are alike enough to be shared is the question of the next notebook.
#
# This is the first notebook | [next: how alike are real maps?](01b_how_alike_are_real_maps.ipynb)
