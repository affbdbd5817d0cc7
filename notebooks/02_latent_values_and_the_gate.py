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
# # 2. Latent values and the gate
#
# By the end you will know
#
# * what the gate is for, what a latent looks like in a trained model, and what a head makes of it;
# * why GTA can cache a narrow latent and decode it only *after* the attention's weighted sum (the paper's Eq. 7 → Eq.
#   8);
# * how many operations that saves, and that it changes nothing but the last digits;
# * what the gate does to the rank of the heads, and what the authors' code adds to the paper.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes half a minute to run.
#
# [previous: how alike are real maps?](01b_how_alike_are_real_maps.ipynb) | [next: cache
# accounting](03_cache_accounting.ipynb)
#
# Exercises to go with it: [4, the gate](exercises/ex04_gate.ipynb) and
# [5, decode after the sum](exercises/ex05_decode_after_the_sum.ipynb); then
# [7, a decoding step](exercises/ex07_decode_step.ipynb).

# %%
# %matplotlib inline
from dataclasses import replace

import numpy as np
from IPython.display import HTML
from threadpoolctl import threadpool_limits

from gta_ref import threads
from gta_ref.costs.counting import counted_products, watched
from gta_ref.lab.measures import effective_rank
from gta_ref.lm import model, small, text, train
from gta_ref.mechanisms import gta
from gta_ref.ops import decoder_forward, gate_forward, linear_forward
from gta_ref.plots import latents as plots_latents
from gta_ref.plots import values as plots_values

rng = np.random.default_rng(2)

# %% [markdown]
# ## What the gate is for
#
# In GTA, several output heads share a map; in GTA-1B there are four per map. All four receive *the same mixture* of
# what earlier tokens have cached. Each has a matrix of its own, its decoder, that makes a value from the mixture. But
# this matrix is the same for every token. If nothing else happened, the four decoders and the output matrix $W_O$ could
# be multiplied into one matrix, and the four heads would be one head.
#
# The gate prevents this. It lets the token that is *asking* decide which numbers of the mixture it needs. It is a
# factor between 0 and 1 for each number in a head's output: at 0 the number is shut out, at 1 it passes. One token may
# take from a head what the next token leaves, although both read the same mixture. That is all: the gate depends on the
# query's token and on nothing else. This notebook shows what follows from it.
#
# ## A latent, and one gate
#
# To see real numbers, we train a small model, the one that [notebook 7](07_training.ipynb) explains: two layers with
# the proportions of GTA-1B, with one token per byte, on Python's standard library.

# %%
threadpool_limits(1)  # one thread, so that the weights do not depend on the number of cores
threads.set_threads(1)
source = text.standard_library()
settings = train.Settings(steps=200, batch=12, length=128, learning_rate=1e-2, warmup=20)
run = train.begin(small.config("gta", hidden_size=64, n_layers=2), settings, source)
train.advance(run, source)
c = run.config.attention
print(f"loss {run.losses[0]:.2f} → {run.losses[-1]:.2f} nats per byte")
print(f"{c.n_heads} heads of width {c.head_dim}, {c.n_q} maps, {c.n_c} latent head of width {c.latent_dim}")

# %% [markdown]
# The figure shows a line of Python in the second layer. On the left is what the latent head caches, one row per token.
# On the right is what the eight decoders would make of each row. The layer never computes the right-hand side for a
# past token; the rest of this notebook is about why it need not.
#
# **Predict first.** Spaces and the letter `e` occur several times in this line. Do equal bytes have equal latents?

# %%
line = "    for key in self.items():"
ids = np.frombuffer(line.encode(), np.uint8).astype(int)[None]
layers = list(model.layer_traces(run.state.params, ids, run.config))
trained = layers[1]
both = np.repeat(trained["c"], c.n_q // c.n_c, axis=1)  # the latent that each map reads: (1, n_q, N, d_l)
decoded, _ = decoder_forward(both, run.state.params["layers.1.attention.w_p"], c.decoder_residual)
plots_latents.latents_and_values(trained["c"][0, 0], decoded[0], line, c.head_dim, c.n_heads // c.n_q)

# %% [markdown]
# The four spaces at the beginning do, because each has seen nothing but spaces. Later ones resemble them, but a token
# has by then taken something from those before it. In the *first* layer a latent depends on its own byte alone. The
# 64 columns on the right are mixtures of the 16 on the left: they have no more than rank 16.


# %%
def cosines(rows):
    """Cosines of the angles between all pairs of rows."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(rows), 1)]


for number, layer in enumerate(layers):
    latents = layer["c"][0, 0]
    of_e, mean = cosines(latents[ids[0] == ord("e")]), cosines(latents).mean()
    print(f"layer {number}: cosines of two e's {of_e.round(2)}, of any two tokens {mean:.2f} on average")
assert np.allclose(cosines(layers[0]["c"][0, 0][ids[0] == ord("e")]), 1)
assert np.linalg.matrix_rank(decoded[0], tol=1e-4 * np.abs(decoded).max()) <= c.latent_dim

# %% [markdown]
# Now one head, for the line's last token. Its map has mixed the latents of the whole line, and its decoder has made
# eight numbers of the mixture. Move the slider: it sets *one* of the eight gates, the one that varies most among the
# tokens of the line. On the left you see what each token sets it to when that token asks.
#
# **Predict first.** If you move the slider from 0 to 1, how many of the eight numbers change?

# %%
head = 5
mine = slice(head * c.head_dim, (head + 1) * c.head_dim)
gates, into = trained["gate"][0, :, mine], trained["values"][0, -1, mine]
assert np.allclose(into * gates[-1], trained["heads"][0, -1, mine], atol=1e-6)
HTML(plots_latents.one_gate(into, gates, int(gates.std(axis=0).argmax()), line))

# %% [markdown]
# One number changes, in proportion to the gate; $W_O$ then adds that multiple of one of its rows to the token. Nothing
# else can be done with a gate: it neither changes the mixture nor turns a number's sign. But the model has learnt to
# set it to nearly 0 for some tokens and to nearly 1 for others.
#
# ## A layer to compute with
#
# For the rest we use one layer with random weights. It is small, but it keeps GTA-1B's proportions: four output heads
# share a map, and the latent is twice as wide as a head. A dictionary passed as `trace` receives every intermediate
# stage under its name.

# %%
config = gta.Config(hidden_size=128, n_heads=8, head_dim=16, n_q=2, n_k=1, n_c=1, latent_dim=32)
params = gta.init(config, rng, "float64")
for name in ("b_q", "b_k", "b_c", "b_g"):  # with zero biases, a forgotten bias would go unnoticed
    params[name] = 0.1 * rng.standard_normal(params[name].shape)
N = 384
x = rng.standard_normal((1, N, config.hidden_size))

stages = {}
out, _ = gta.forward(params, x, config, trace=stages)
for name in ("q", "k", "c", "map", "z", "values", "gate", "heads", "out"):
    print(f"{name:7}{stages[name].shape!s:>19}")

# %% [markdown]
# ## Values from a latent
#
# MHA stores a value of width $d_h$ for each of its $n_h$ heads. GTA stores one latent of width $d_l$,
# $C = X W_C + b_C$, and each head makes its value from it with a matrix of its own, $V_i = C\,W_{P,i}$ (we leave the
# gate out for a moment). Look at how many numbers have to be stored per token, here and in GTA-1B.

# %%
for name, c in (("here", config), ("GTA-1B", gta.Config.preset("gta-1b"))):
    values, latent = c.n_heads * c.head_dim, c.n_c * c.latent_dim
    print(f"{name:7} values of all heads: {values:5}   latent: {latent:4}   {values / latent:.0f} times fewer")

# %% [markdown]
# The price is that the values of all heads now lie in one space of $d_l$ dimensions. Put them into one matrix, with a
# row for each token and $n_h d_h = 128$ columns: its rank is 32, not 128.

# %%
latents = np.repeat(stages["c"], config.n_q // config.n_c, axis=1)  # the latent that each map reads: (B, n_q, N, d_l)
values, _ = decoder_forward(latents, params["w_p"])  # (B, N, n_h·d_h)
rank = np.linalg.matrix_rank(values[0])
print(f"{values.shape[1]} tokens, {values.shape[2]} features, rank {rank}")
assert rank == config.n_c * config.latent_dim

# %% [markdown]
# ## Eq. 7, by hand
#
# The paper *defines* the output with decoded and gated values, one for each pair of a query $t$ and a key $s$:
#
# $$V_i(t, s) = \big(C_{c(q(i))}(s)\, W_{P,i}\big) \odot \sigma(x_t W_{G,i} + b_{G,i}), \qquad
#   O_i(t) = \sum_s A_{q(i)}(t, s)\, V_i(t, s) \tag{7}$$
#
# Head $i$ reads map $q(i)$, and map $m$ weighs latent head $c(m)$ ([notation](../docs/notation.md)); here there is only
# latent head 0. Here it is for one head and one query, term by term. Head 5 uses map 1, and is the second of that map's
# four heads.

# %%
i, t = 5, 200
m = i // (config.n_heads // config.n_q)  # q(i)
own = slice(i * config.head_dim, (i + 1) * config.head_dim)  # the head's columns among all heads
j = i % (config.n_heads // config.n_q)  # which of its map's heads it is
within = slice(j * config.head_dim, (j + 1) * config.head_dim)  # and its columns among those

A_t = stages["map"][0, m, t]  # (N,), row t of the map
C = stages["c"][0, 0]  # (N, d_l)
W = params["w_p"][m][:, within]  # (d_l, d_h)
g = stages["gate"][0, t, own]  # (d_h,), σ(x_t W_G + b_G)

eq7 = np.zeros(config.head_dim)
for s in range(t + 1):
    eq7 += A_t[s] * ((C[s] @ W) * g)
print(eq7[:4].round(6), "…")

# %% [markdown]
# Neither $g$ nor $W_{P,i}$ depends on $s$. So both can be taken out of the sum, one after the other; what remains
# inside is the latent context $Z_m = A_m C_{c(m)}$:
#
# $$O_i(t) = \Big(\sum_s A_{q(i)}(t, s)\, C_{c(q(i))}(s)\, W_{P,i}\Big) \odot g
#          = \big(Z_{q(i)}(t)\, W_{P,i}\big) \odot g \tag{8}$$
#
# Each step is one line. Compare the last digits with Eq. 7 and with what the library computed.

# %%
gate_out = (A_t @ (C @ W)) * g  # the gate is taken out of the sum
both_out = ((A_t @ C) @ W) * g  # W_P is taken out as well: Eq. 8
for name, o in (("gate out", gate_out), ("both out", both_out), ("library", stages["heads"][0, t, own])):
    print(f"{name:9} largest difference from Eq. 7: {np.abs(o - eq7).max():.1e}")
    np.testing.assert_allclose(o, eq7, rtol=0, atol=1e-14)

# %% [markdown]
# This works for two reasons, and needs both: **the gate belongs to the query** (one $g$ for all $s$), and **the decoder
# is linear** (decoding every term and then summing is the same as summing and then decoding). The figure shows the two
# orders for one query and one map, with GTA-1B's sizes and 2048 tokens in the cache; the wide arrays of the upper row
# never exist in the lower one.

# %%
plots_values.two_orders(n_tokens=2048, d_l=128, width=256)

# %% [markdown]
# ## The whole layer: equal up to rounding
#
# `gta.forward` computes Eq. 8, `gta.forward_unabsorbed` Eq. 7. In exact arithmetic they are equal. In floating point
# the sums run in a different order, so the results round a little differently. "Equal up to rounding" can be tested:
# the two may differ by a few units of the precision's $\varepsilon$, and in float32 neither may be much further from
# the float64 result than the other.


# %%
def error(got, want):
    """Largest difference, relative to the largest value."""
    return np.abs(got - want).max() / np.abs(want).max()


some = x[:, :128]  # Eq. 7 is written with loops over all pairs of tokens, and takes its time
x32 = some.astype("float32")
params32 = {name: p.astype("float32") for name, p in params.items()}
params64 = {name: p.astype("float64") for name, p in params32.items()}
truth = gta.forward_unabsorbed(params64, x32.astype("float64"), config)
found = {}
for precision, p, tokens in (("float64", params, some), ("float32", params32, x32)):
    late, _ = gta.forward(p, tokens, config, engine="reference")
    found[precision] = gta.forward_unabsorbed(p, tokens, config), late
    difference, eps = error(*found[precision]), np.finfo(precision).eps
    print(f"{precision}: Eq. 7 differs from Eq. 8 by {difference:.1e} = {difference / eps:.1f} ε")
    assert difference < 16 * eps
far7, far8 = (error(one, truth) for one in found["float32"])
print(f"distance of float32 from float64: Eq. 7 {far7:.1e}, Eq. 8 {far8:.1e}")
assert 1 / 3 < far7 / far8 < 3

# %% [markdown]
# ## What it saves
#
# Take a decoding step of GTA-1B: one query, $N = 2048$ tokens in the cache. The two functions below are Eq. 7 and Eq. 8
# without the gate. `counted_products` counts every matrix product that is executed.


# %%
def decode_then_sum(a, c, w_p):
    """Eq. 7: a (n_q, 1, N), c (1, N, d_l), w_p (n_q, d_l, width) → (n_q, 1, width)."""
    return a @ (c @ w_p)


def sum_then_decode(a, c, w_p):
    """Eq. 8, the same shapes."""
    return (a @ c) @ w_p


# %%
big, held = gta.Config.preset("gta-1b"), 2048
a = rng.random((big.n_q, 1, held))  # one row of each map
c = rng.standard_normal((big.n_c, held, big.latent_dim))
w_p = rng.standard_normal((big.n_q, big.latent_dim, big.decoder_width))
macs = {}
for way in (decode_then_sum, sum_then_decode):
    with counted_products() as tally:
        way(watched(a), watched(c), w_p)
    macs[way.__name__] = tally.macs
    print(f"{way.__name__}: {tally.macs:>11,} multiply–accumulates per layer")
print(f"ratio {macs['decode_then_sum'] / macs['sum_then_decode']:.0f}")

# %% [markdown]
# That is a factor of more than two hundred; the formulas are $N d_l\,n_h d_h + N\,n_h d_h$ for Eq. 7 and
# $N n_q d_l + d_l\,n_h d_h$ for Eq. 8. But is this fair to Eq. 7? An implementation could keep the decoded values
# instead of decoding them again in each step, and take only the gate, not the decoder, out of the sum. That is ordinary
# attention with a large cache. The table compares all three, per layer and step (Eq. 7 also multiplies by the gate
# $N\,n_h d_h$ times):

# %%
d_l, wide = big.latent_dim, big.n_heads * big.head_dim  # n_h·d_h
key = big.n_k * big.head_dim
ways = {  # MACs (multiply–accumulates), products with the gate, cached elements per token
    "Eq. 7: decode, gate, sum": (held * d_l * wide + held * wide, held * wide, key + d_l),
    "values kept, gate outside": (d_l * wide + held * wide, wide, key + wide),
    "Eq. 8: sum, decode, gate": (held * big.n_q * d_l + d_l * wide, wide, key + d_l),
}
print(f"{'':27}{'MACs':>12}{'gate products':>15}{'cached per token':>18}")
for name, row in ways.items():
    print(f"{name:27}{row[0]:>12,}{row[1]:>15,}{row[2]:>18,}")
assert [row[0] for row in ways.values()][::2] == list(macs.values())

# %% [markdown]
# Only Eq. 8 has both few operations *and* the small cache. (In a prefill every token is decoded once in either order,
# so the saving is smaller there: $n_q d_l = 640$ instead of $n_h d_h = 1280$ multiply–accumulates per query–key pair in
# the second product, and no gate for each pair.)
#
# ## The gate, tested
#
# Without the gate, everything after $Z$ is linear: $Y = \sum_m Z_m M_m$ with one matrix for each map,
# $M_m = \sum_{i:\,q(i)=m} W_{P,i} W_{O,i}$, of shape $d_l \times H$. The four heads of a map have become one. The next
# cell folds them and compares the result with the layer's.

# %%
plain = replace(config, gate="none")
without = {name: p for name, p in params.items() if name not in ("w_g", "b_g")}
ungated = {}
y, _ = gta.forward(without, x, plain, trace=ungated)

w_o = params["w_o"].reshape(config.n_q, config.decoder_width, config.hidden_size)  # the rows of each map's heads
M = params["w_p"] @ w_o  # (n_q, d_l, H)
folded = (ungated["z"][0] @ M).sum(axis=0)  # (N, H)
print(f"no gate: the folded layer differs by {error(folded, y[0]):.1e}")
assert error(folded, y[0]) < 1e-13

before = big.n_q * d_l * big.decoder_width + wide * big.hidden_size
after = big.n_q * d_l * big.hidden_size
print(f"GTA-1B: W_P and W_O have {before:,} parameters, the folded matrices {after:,}")

# %% [markdown]
# So without a gate, more than half of these parameters are redundant. With the gate, this folding does not work: the
# next cell subtracts from $Y$ what the best matrices $M_m$ (by least squares, given $Z$) can reproduce, and prints how
# much remains.

# %%
Z = stages["z"][0].swapaxes(0, 1).reshape(N, -1)  # (N, n_q·d_l); Z does not depend on the gate
for kind in ("none", "sigmoid", "silu", "relu2"):
    layer = replace(config, gate=kind)
    y, _ = gta.forward(without if kind == "none" else params, x, layer, engine="reference")
    best = Z @ np.linalg.lstsq(Z, y[0], rcond=None)[0]
    left = np.linalg.norm(y[0] - best) / np.linalg.norm(y[0])
    print(f"{kind:8} share of Y that no folded layer can reproduce: {left:.0%}")
    assert (left < 1e-12) == (kind == "none")

# %% [markdown]
# ## The rank of the heads
#
# The heads show the same. Lay the four heads of map 0 side by side: $N$ rows, $4 d_h = 64$ columns. Without the gate
# this is $Z_0 W_{P,0}$, so at most $d_l = 32$ of 64 directions are used. Multiplying elementwise by the gate can raise
# the rank, which the singular values $\sigma_j$ show. The *effective rank* counts them by their weight:
# $\exp(-\sum_j p_j \ln p_j)$ with $p_j = \sigma_j / \sum \sigma$ (Roy and Vetterli, 2007). We also scale the gate's
# input, to compare a weak gate with a strong one.

# %%
U = ungated["values"][0, :, : config.decoder_width]  # map 0's heads before the gate
pre = linear_forward(x, params["w_g"], params["b_g"])[0][0, :, : config.decoder_width]  # x W_G + b_G
strengths = 2.0 ** np.arange(-4, 5)
gates = ("sigmoid", "silu", "relu2")
heads = {"none": U, **{kind: U * gate_forward(pre, kind)[0] for kind in gates}}
ranks = {kind: [effective_rank(U * gate_forward(s * pre, kind)[0]) for s in strengths] for kind in gates}
ranks["none"] = [effective_rank(U)] * len(strengths)

for kind, one in heads.items():
    print(f"{kind:8} rank {np.linalg.matrix_rank(one)}   effective rank {effective_rank(one):.1f}")
    assert (effective_rank(one) > config.latent_dim) == (kind != "none")
spectra = {kind: np.linalg.svd(one, compute_uv=False) for kind, one in heads.items()}
plots_values.spectra_and_strength(spectra, strengths, ranks, config.latent_dim)

# %% [markdown]
# On the left, the singular values without a gate stop at 32; with any gate there are 64. On the right, a weak sigmoid
# is close to the constant ½, which can be folded away as if there were no gate: a gate raises the rank only if it
# depends on the token.
#
# Two cautions. **The rank rises because the gate multiplies by a function of the query's token, not mainly because
# $\sigma$ is nonlinear**: use the gate's input itself as a factor, and the rank rises as well.

# %%
linear_gate = effective_rank(U * pre)
print(f"factor x W_G + b_G, no activation: effective rank {linear_gate:.1f}")
assert linear_gate > config.latent_dim

# %% [markdown]
# **These are random weights.** The paper prefers the sigmoid because sparse gates (ReLU², partly SiLU) would lower the
# effective rank. Here the sigmoid has the *lowest* of the three. What training changes has to be measured after
# training: `gta-ref study activations` does that, and [notebook 7b](07b_reading_a_study.ipynb) looks at such
# results.
#
# ## What the released code adds
#
# The authors' code differs from the paper: it adds $e = n_h d_h / (n_q d_l)$ copies of $Z_m$ to the decoded values,
# $U_m = [Z_m \cdots Z_m] + Z_m W_m$. A copy is a product with the identity, so this is the paper's decoder with
# $W_P = [I \cdots I] + W$. `gta.fold_residual` converts the weights accordingly; here $e = 2$.

# %%
released = replace(config, decoder_residual=True)
print("e =", released.residual_copies)
with_copies, _ = gta.forward(params, x, released, engine="reference")
paper_params, paper_config = gta.fold_residual(params, released)
from_paper, _ = gta.forward(paper_params, x, paper_config, engine="reference")
print(f"error of the folded form:    {error(from_paper, with_copies):.1e}")
print(f"error without the residual:  {error(out, with_copies):.1e}")
assert error(from_paper, with_copies) < 1e-14

# %% [markdown]
# The two identity matrices extend across the heads: head 0 gets the first half of the latent, head 1 the second, head 2
# the first again. So while the weights $W_m$ are still small, a map's heads are little more than slices of the latent.
# (The weights are scaled down here to show this.)

# %%
small = {**params, "w_p": 0.3 * params["w_p"]}
folded_small, _ = gta.fold_residual(small, released)
shown = {"W, the weight of the released code": small["w_p"][0], "W_P = [I I] + W": folded_small["w_p"][0]}
plots_values.decoder_weights(shown, config.head_dim)

# %% [markdown]
# The number of copies has to be whole. The published configuration GTA4 has $e = \tfrac12$, so it exists in the paper's
# form only, and the library says so.

# %%
gta4 = gta.Config.preset("gta4-500m")
try:
    replace(gta4, decoder_residual=True)
except ValueError as problem:
    print(problem)
else:
    raise AssertionError("half a copy was accepted")

# %% [markdown]
# (Loading the authors' weights has one trap: the code stores $W$ as `v_b_proj.weight` with shape $(e\,d_l, n_q d_l)$,
# but uses its *memory* read row by row as $(n_q, d_l, e\,d_l)$, not its transpose.
# `gta_ref.weights.official.load_official` takes care of this.)
#
# ## Try it
#
# **1. Break the gate.** In "Eq. 7, by hand", compute the gate from the *key's* token: replace `g` inside the loop by
# `stages["gate"][0, s, own]`. Will `both_out` still agree? Predict the size of the difference before you run it.
#
# <details><summary>Answer</summary>
#
# No. The gate now depends on $s$ and cannot leave the sum; the difference is about as large as the values themselves,
# not $10^{-16}$. Such a layer would have to decode and gate each past token, or cache the values of all heads. Some
# reimplementations do gate with the key's token; that is a different mechanism.
#
# </details>
#
# **2. A bias in the decoder.** Let the value be $C(s)\, W_{P,i} + b$. Does Eq. 8 still hold, with $Z W_{P,i} + b$?
#
# <details><summary>Answer</summary>
#
# Yes, because a row of the map sums to 1: $\sum_s A(t, s)\,b = b$. But not for a row that may see nothing (padding): it
# has $Z = 0$, and Eq. 7 gives 0 where $Z W_{P,i} + b$ gives $b$. GTA's decoder has no bias.
#
# </details>
#
# **3. More maps.** Set `n_q=8` (and `n_c=1`), so that every head has a map of its own, and run everything again. What
# does the gate do to the rank now, and which assertion fails?
#
# <details><summary>Answer</summary>
#
# A map serves a single head with $d_h = 16$ columns, fewer than $d_l = 32$. The rank cannot be more than 16 with or
# without a gate, so the assertion that the gate raises it above $d_l$ fails. The argument about the gate and the rank
# holds only for heads that share a map.
#
# </details>
#
# ## Summary
#
# * The gate depends on the query alone and the decoder is linear, so both can wait until after the sum: no past value
#   is ever decoded, and the cache holds $K$ and $C$.
# * Both orders agree to a few $\varepsilon$. With 2048 tokens in the cache, a decoding step of GTA-1B needs 1.5 instead
#   of 338 million multiply–accumulates per layer for its values.
# * Without the gate a map's heads fold into one $d_l \times H$ matrix; the query's gate raises their rank above $d_l$.
#   Whether this helps can only be seen by training.
#
# [previous: how alike are real maps?](01b_how_alike_are_real_maps.ipynb) | [next: cache
# accounting](03_cache_accounting.ipynb)
