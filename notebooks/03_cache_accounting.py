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
# # 3. Cache accounting
#
# Afterwards you will know
#
# * what a token leaves in the cache of each mechanism, in elements and in bytes, by formula and as really held;
# * how many sequences of which length fit into a GPU's memory, and how many operations attention has left;
# * when "GTA is twice as fast" is true, and when it is not.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; about
# ten minutes to read, a few seconds to run.
#
# [previous: latent values and the gate](02_latent_values_and_the_gate.ipynb) |
# [next: backward by hand](04_backward_by_hand.ipynb)
#
# Exercises to go with it: [6, what the cache costs](exercises/ex06_cache_bytes.ipynb) and
# [7, a decoding step](exercises/ex07_decode_step.ipynb).

# %%
# %matplotlib inline
import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core import attention_forward
from gta_ref.costs import hardware
from gta_ref.costs.counting import counted_products, watched
from gta_ref.costs.flops import forward_macs
from gta_ref.costs.frontier import speed_ups
from gta_ref.costs.memory import cache_bytes, weight_bytes
from gta_ref.costs.model import Model
from gta_ref.costs.roofline import check_fits, estimate
from gta_ref.mechanisms import gta, mla
from gta_ref.plots import cache as plots_cache
from gta_ref.plots import costs as plots_costs

rng = np.random.default_rng(3)
gta_1b, gqa_1b = Model.preset("gta-1b"), Model.preset("gqa-1b")

# %% [markdown]
# ## Elements
#
# While a model writes, each layer keeps what later tokens will need of every past one. GQA keeps keys and values,
# $2\,n_k d_h$ numbers; GTA keys and latents, $n_k d_h + n_c d_l$. Every mechanism's `structure` says what it caches, as
# name → (heads, width).

# %%
for model in (gta_1b, gqa_1b):
    s = model.structure
    print(f"{model.name}: {dict(s.cached)}: {s.cache_elements} elements for a token in each of {model.n_layers} layers")
ratio = gta_1b.structure.cache_elements / gqa_1b.structure.cache_elements
print("ratio", ratio)
assert ratio == 0.3

# %% [markdown]
# This is the paper's first claim, a cache 70 % smaller. It is exact, and does not depend on the length, the batch or
# the machine. It also has nothing to do with the number of parameters: the two models are of one size.

# %%
for model in (gta_1b, gqa_1b):
    print(f"{model.name}: {model.parameters:,} parameters, {model.structure.parameters:,} in an attention layer")
assert abs(gta_1b.parameters / gqa_1b.parameters - 1) < 1e-3

# %% [markdown]
# ## Bytes really held
#
# A formula is a promise. Let one layer of GTA-1B's size read a prompt of two sequences, and write three more tokens;
# the second sequence is shorter and padded on the left. Look at what the cache says it holds.

# %%
config = gta.Config.preset("gta-1b")
params = gta.init(config, rng, "float32")
x = rng.standard_normal((2, 35, config.hidden_size), dtype=np.float32)
cache = KVCache(gta.structure(config).cached, batch=2, capacity=64, dtype="float32", k_start=[0, 12])
gta.decode(params, x[:, :32], cache, config, engine="reference")  # the prompt
for t in range(32, 35):
    gta.decode(params, x[:, t : t + 1], cache, config, engine="reference")
print(cache)
assert cache.used_nbytes == 2 * 35 * 192 * 4  # sequences · tokens · elements · bytes of float32
assert cache.nbytes == 2 * 64 * 192 * 4

# %% [markdown]
# Two things that the formula does not tell: memory is *allocated* for 64 tokens though 35 are held, and the twelve
# padding tokens are held like real ones. A server that wants neither needs another layout (pages of some tokens); this
# project's is the plain one.
#
# Now all 54 layers of both models in bfloat16, filled to the 2048 tokens with which they were trained. The points are
# `used_nbytes` of the real arrays, the lines are the formula.


# %%
def fill(model, context, step=256):
    """(tokens, bytes held) while the caches of all layers are filled."""
    cached = model.structure.cached
    caches = [KVCache(cached, 1, context, "bfloat16") for _ in range(model.n_layers)]
    some = {
        name: rng.standard_normal((1, heads, step, width)).astype(caches[0].dtype)
        for name, (heads, width) in cached.items()
    }
    points = []
    for _ in range(context // step):
        for one in caches:
            one.append(**some)
        points.append((caches[0].length, sum(one.used_nbytes for one in caches)))
    return points


measured = {model.name: fill(model, 2048) for model in (gta_1b, gqa_1b)}
for model in (gta_1b, gqa_1b):
    assert all(size == cache_bytes(model, 1, tokens) for tokens, size in measured[model.name])
plots_cache.cache_growth({model.name: cache_bytes(model, 1, 1) for model in (gta_1b, gqa_1b)}, measured)

# %% [markdown]
# An implementation can lose some of it again. The authors' FlashAttention path pads the keys from $d_h$ to $d_l$
# *before* it caches them, because that kernel wants keys and values of one width. What is then held is this:

# %%
padded = KVCache({"k": (1, 128), "c": (1, 128)}, batch=1, capacity=2048, dtype="bfloat16")
plain = KVCache(gqa_1b.structure.cached, batch=1, capacity=2048, dtype="bfloat16")
print("padded before caching:", padded.nbytes / plain.nbytes, "of GQA-1B's cache")
assert padded.nbytes / plain.nbytes == 0.4

# %% [markdown]
# ## The family
#
# The same width and heads (H 1280, 20 heads of 64) in every mechanism of the project. GVA shares maps but keeps all
# values; GHA crosses five maps with four value heads. MLA has one cache and two ways to use it: *decompress* keys and
# values of all past tokens, or *absorb* the up-projections and attend in the latent space.

# %%
sizes = {
    "MHA": "mha",
    "GQA, n_k 5": "gqa n_k=5",
    "MQA": "gqa n_k=1",
    "GVA, n_q 5": "gva n_q=5",
    "GHA, n_q 5, n_v 4": "gha n_q=5 n_k=1 n_v=4",
    "MLA, d_c 256, decompressed": "mla latent_dim=256 nope_dim=64 rope_dim=32 value_dim=64",
}
family = {name: Model.parse(text).structure for name, text in sizes.items()}
family["MLA, d_c 256, absorbed"] = mla.structure(mla.Config(1280, 20, 256, 64, 32, 64), absorb=True)
family["GTA, n_q 5, d_l 128"] = gta_1b.structure

n_h, n_k, d_h, n_q, n_v, d_l = 20, 5, 64, 5, 4, 128  # and the paper's formulas, for the cache
formulas = (2 * n_h * d_h, 2 * n_k * d_h, 2 * d_h, 1280 + 5 * d_h, d_h + n_v * d_h, 256 + 32, 256 + 32, d_h + d_l)
assert [s.cache_elements for s in family.values()] == list(formulas)
plots_cache.family(family)

# %% [markdown]
# Read it line by line: GQA and MQA make the cache smaller, but compute all 20 maps. GVA and GHA compute five, and
# GVA's cache stays large. MLA's cache is small, its attention is not: absorbed, a key is 288 wide and a value 256, in
# each of 20 heads. GTA is low in both. (MQA's cache is smaller still, and its layer too; which of these learns how
# well is a question that no count answers: [notebook 7](07_training_and_choosing.ipynb).)
#
# ## What fits
#
# Memory = weights + cache. What is left of a GPU beside the weights is divided by a token's bytes. This is an upper
# bound: activations, the runtime and fragmentation also want some.

# %%
mha = Model.parse("mha")
contexts = [2**i for i in range(10, 21)]
machines = {"H100, 80 GB": hardware.get("h100"), "RTX 3060, 12 GB": hardware.get("rtx3060")}


def how_many(model, context, machine):
    """Sequences whose caches fit beside the weights, all in bfloat16."""
    return (machine.memory - weight_bytes(model)) // cache_bytes(model, 1, context)


fits = {
    title: {m.name: [how_many(m, n, machine) for n in contexts] for m in (gta_1b, gqa_1b, mha)}
    for title, machine in machines.items()
}
for title, models in fits.items():
    print(title, {name: f"{counts[5]:,} × {contexts[5]:,} tokens" for name, counts in models.items()})
plots_cache.what_fits(contexts, fits, trained=2048)

# %% [markdown]
# `check_fits`, which `gta-ref costs` asks before it answers, knows the same border: one sequence more is refused.

# %%
most = how_many(gta_1b, 32768, hardware.get("h100"))
check_fits(gta_1b, most, 32768, hardware.get("h100"))
try:
    check_fits(gta_1b, most + 1, 32768, hardware.get("h100"))
except ValueError as problem:
    print(problem)
else:
    raise AssertionError("one more was accepted")

# %% [markdown]
# The lines of GTA-1B and GQA-1B are 3.33 times apart everywhere (but for whole numbers): the cache's ratio is what
# counts once the weights are in. (Dashed: the context of training. That a longer one *fits* does not say that the
# model can use it.)
#
# ## Attention operations
#
# A map costs $d_k$ multiply–accumulates for a score and $d_v$ for a weighted value, for each pair of a query and a
# key: $n_q (d_k + d_v)$ in all, $5\,(64 + 128) = 960$ for GTA-1B, $20\,(64 + 64) = 2560$ for GQA-1B. Count what the
# core really executes:

# %%
N, executed = 48, {}
for model in (gta_1b, gqa_1b):
    s = model.structure
    shapes = ((s.n_q, s.d_k), (s.n_k, s.d_k), (s.n_v, s.d_v))
    q, k, v = (watched(rng.standard_normal((1, heads, N, width))) for heads, width in shapes)
    with counted_products() as tally:
        attention_forward(q, k, v, engine="reference", need_saved=False)
    executed[model.name] = tally.macs
    print(f"{model.name}: {tally.macs:,} for {N}² pairs, {tally.macs // N**2} a pair")
    assert tally.macs == s.attention_macs * N**2
print("ratio", executed["gta-1b"] / executed["gqa-1b"])
assert executed["gta-1b"] / executed["gqa-1b"] == 0.375

# %% [markdown]
# The second claim, −62.5 % of attention's operations, is exact as well. But attention is only a part of a model.
# Outside of it GTA-1B saves nothing: what its projections have less, its gate and decoder have more, to the last
# operation.

# %%
print(f"{'prefill of':>10} {'attention in GQA-1B':>21} {'GTA-1B / GQA-1B, all':>22}")
for n in (1024, 2048, 4096, 32768, 131072):
    ours, theirs = forward_macs(gta_1b, 1, n), forward_macs(gqa_1b, 1, n)
    assert ours["linear"] == theirs["linear"]
    print(f"{n:>10,} {theirs['attention'] / theirs['total']:>21.1%} {ours['total'] / theirs['total']:>22.3f}")

# %% [markdown]
# (A causal mask saves half of the pairs, and this table counts so. Without that saving, as the authors' tool counts,
# attention is twice as heavy: 0.765 at 4096.)
#
# ## When "2×" is true
#
# The paper's "2×" is neither measured nor one of the two ratios. It comes from a *roofline*, a model of time: an
# operator takes $\max(\text{operations} / \text{peak}, \text{bytes} / \text{bandwidth})$. The authors used the tool
# LLM-Viewer; its convention is here by name. It is that of *unfused* attention, which writes its maps to memory and
# reads them back. Beside it the same with a *fused* kernel, which never writes them.

# %%
h100 = hardware.get("h100")
print("GQA-1B's time over GTA-1B's, H100, convention of LLM-Viewer")
print(f"{'':24}{'unfused':>9}{'fused':>9}")
for stage in ("prefill", "decode"):
    for batch, length in ((1, 1024), (1, 4096), (32, 4096)):
        row = []
        for fused in (False, True):
            a, b = (
                estimate(m, stage, batch, length, h100, fused=fused, convention="llm-viewer").seconds
                for m in (gqa_1b, gta_1b)
            )
            row.append(a / b)
        print(f"{stage:8} {batch:>3} × {length:<11,}{row[0]:>9.2f}{row[1]:>9.2f}")

# %% [markdown]
# So in prefill the 2× rests on the maps that travel through memory: GQA-1B has 20 of them, GTA-1B five. Fused
# kernels such as FlashAttention (arXiv 2205.14135) leave them on the chip. With one, the rest of the model decides; at
# 1024 tokens GTA-1B is even the slower one, as its gate has to be paid. From here on we use the project's own
# convention, which counts what really moves (and the causal saving of a fused kernel). The ratio stands in each
# title.

# %%
settings = {
    "prefill 1 × 4096, unfused": ("prefill", 1, 4096, False),
    "prefill 1 × 4096, fused": ("prefill", 1, 4096, True),
    "decode 1 × 4096, fused": ("decode", 1, 4096, True),
    "decode 32 × 4096, fused": ("decode", 32, 4096, True),
}
passes = {
    title: {m.name: estimate(m, stage, batch, n, h100, fused=fused) for m in (gta_1b, gqa_1b)}
    for title, (stage, batch, n, fused) in settings.items()
}
plots_costs.time_parts(passes)

# %% [markdown]
# Where attention (orange) is most of the time, the ratio is large; where MLP and head are, it is near 1. In decoding
# the cache is read once a token, like the weights. That gives an estimate by hand: with weights of $W$ bytes and
# caches of $c$ bytes a token, a step moves $W + cT$ bytes for $T$ tokens in all caches, and
#
# $$\frac{W + c_\text{GQA}\,T}{W + c_\text{GTA}\,T} = 2 \quad\Longrightarrow\quad
#   T = \frac{W}{c_\text{GQA} - 2\,c_\text{GTA}}.$$

# %%
W, c_gta, c_gqa = weight_bytes(gqa_1b), cache_bytes(gta_1b, 1, 1), cache_bytes(gqa_1b, 1, 1)
print(f"2× from T = batch · length = {W / (c_gqa - 2 * c_gta):,.0f} tokens on; never more than {c_gqa / c_gta:.2f}×")
assert 80_000 < W / (c_gqa - 2 * c_gta) < 83_000

# %% [markdown]
# And by the roofline with everything in it, over batch and length. Follow the thick contour of 2×. Grey is where one
# of the two models does not fit into 80 GB.

# %%
found = speed_ups(gta_1b, gqa_1b, h100)
title = "GQA-1B's time over GTA-1B's, H100"
plots_costs.speed_up_frontier(found["batches"], found["lengths"], found["ratio"], title)

# %% [markdown]
# The thick contour as a table. "Never" means that 2× would lie in the grey. The last line should agree with the
# estimate by hand: batch · length is about the same number in every column.

# %%
columns = [found["batches"].index(batch) for batch in (1, 8, 32)]
print(f"{'2× from which length on':24}" + "".join(f"{'batch ' + str(found['batches'][i]):>11}" for i in columns))
for name, levels in found["reached"].items():
    cells = (levels["2"][i] for i in columns)
    print(f"{name:24}" + "".join(f"{'never' if n is None else f'{n:,}':>11}" for n in cells))
T = [found["batches"][i] * found["reached"]["decode fused"]["2"][i] for i in columns]
assert all(80_000 < tokens < 100_000 for tokens in T)

# %% [markdown]
# In words, and only for these two models on this machine:
#
# * **Prefill with a fused kernel**: below 2,900 tokens GTA-1B is the slower one, and 2× comes at 90,000. The model was
#   trained with 2,048.
# * **Decoding**: 2× from about 90,000 tokens in the cache on, as 32 sequences of 2,900, or one very long text. One
#   short conversation gains a few per cent.
# * **Unfused prefill**, the paper's setting: 2× from 2,900 tokens on.
#
# All of this is formula, nothing of it was measured. A roofline knows no start-up of kernels, no half-filled GPU, no
# Python. [What a CPU really took](../docs/e2e.md) is measured by `gta-ref bench e2e`; more tables are on the page
# [costs](../docs/costs.md).
#
# ## Try it
#
# **1. Your own GTA.** What do `Model.parse("gta n_q=10 n_k=2 n_c=1 latent_dim=64")`'s cache and attention cost, beside
# GTA-1B's? Calculate first, then ask `.structure.cache_elements` and `.structure.attention_macs`.
#
# <details><summary>Answer</summary>
#
# $2 \cdot 64 + 64 = 192$ elements, as many as GTA-1B; $10\,(64 + 64) = 1280$ multiply–accumulates, a third more.
# Twice the maps with half the latent: more to say about *where* to look, less about *what* is there.
#
# </details>
#
# **2. Another machine.** Draw the frontier for `hardware.get("rtx3060")`. Its memory is nine times slower and its peak
# 39 times lower. Will the decoding contours move? And those of prefill?
#
# <details><summary>Answer</summary>
#
# Decoding hardly: it is limited by bytes on both machines, and the bandwidth cancels in the ratio. Only the grey comes
# closer, and at batch 128 the products become limited by the peak. In prefill the RTX 3060 computes slowly
# relative to its memory, so that writing maps hurts it less: unfused, 2× needs 9,742 tokens instead of 2,896. For the
# same reason the gate's traffic hurts less, and with a fused kernel GTA-1B is ahead from 431 tokens on.
#
# </details>
#
# **3. A cache of 8 bits.** Suppose both models store the cache in 8 bits, and the weights in 16. What happens to the
# ratio 0.3, and to the length from which decoding is 2×?
#
# <details><summary>Answer</summary>
#
# 0.3 stays: both caches are halved. But $T = W / (c_\text{GQA} - 2 c_\text{GTA})$ doubles, to about 163,000 tokens:
# with a cheap cache there is less to save. The limit of 3.33× stays too, only further away.
#
# </details>
#
# ## Summary
#
# * GTA-1B caches 192 elements a token and layer, GQA-1B 640: 0.3, by formula and in bytes held; 3.3 times as many
#   tokens fit.
# * Attention has 0.375 of the operations; the whole model 0.96 to 0.44 of them, from 1,024 to 131,072 tokens.
# * "2×" holds for decoding with some 90,000 tokens in the cache and for unfused prefill from 2,900 tokens; with a fused
#   kernel prefill gains little at usual lengths.
#
# [previous: latent values and the gate](02_latent_values_and_the_gate.ipynb) |
# [next: backward by hand](04_backward_by_hand.ipynb)
