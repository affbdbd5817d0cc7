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
# By the end you will know
#
# * how much each mechanism caches per token, in elements and in bytes, by formula and as really held in memory;
# * how many sequences of a given length fit into a GPU's memory, and how many operations attention still needs;
# * when "GTA is twice as fast" is true, and when it is not.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes a few seconds to run.
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
from gta_ref.costs.operators import operators
from gta_ref.costs.roofline import check_fits, estimate
from gta_ref.mechanisms import gta, mla
from gta_ref.plots import cache as plots_cache
from gta_ref.plots import cache_steps as plots_cache_steps
from gta_ref.plots import costs as plots_costs
from gta_ref.plots import roofline as plots_roofline

rng = np.random.default_rng(3)
gta_1b, gqa_1b = Model.preset("gta-1b"), Model.preset("gqa-1b")

# %% [markdown]
# ## Elements
#
# While a model generates text, each layer keeps what later tokens will need of every past token. GQA keeps keys and
# values, $2\,n_k d_h$ numbers per token; GTA keeps keys and latents, $n_k d_h + n_c d_l$. Every mechanism's `structure`
# lists what it caches, as name → (heads, width).

# %%
for model in (gta_1b, gqa_1b):
    s = model.structure
    print(f"{model.name}: {dict(s.cached)}: {s.cache_elements} elements per token in each of {model.n_layers} layers")
ratio = gta_1b.structure.cache_elements / gqa_1b.structure.cache_elements
print("ratio", ratio)
assert ratio == 0.3

# %% [markdown]
# The figure shows one layer's cache of both models after a prompt of four tokens, and after each of two decoding steps.
# Every step *writes* one column, for the new token, and *reads* all columns. So the height of a column sets the memory
# that a text needs, and also the bytes that have to be read for each further token.

# %%
plots_cache_steps.cache_steps({"GTA-1B": gta_1b.structure, "GQA-1B": gqa_1b.structure})

# %% [markdown]
# This is the paper's first claim, a cache 70 % smaller. It is exact, and does not depend on the length, the batch or
# the machine. It also has nothing to do with the number of parameters: the two models are of the same size.

# %%
for model in (gta_1b, gqa_1b):
    print(f"{model.name}: {model.parameters:,} parameters, {model.structure.parameters:,} in an attention layer")
assert abs(gta_1b.parameters / gqa_1b.parameters - 1) < 1e-3

# %% [markdown]
# ## Bytes really held
#
# A formula is only a promise, so let us look at real arrays. One layer of GTA-1B's size reads a prompt of two sequences
# and then decodes three more tokens; the second sequence is shorter and padded on the left. Look at what the cache says
# it holds.

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
# The formula does not show two things: memory is *allocated* for 64 tokens although 35 are held, and the twelve padding
# tokens are stored like real ones. A server that cannot afford either needs another layout (pages of a few tokens
# each); this project uses the plain one.
#
# Now we fill the caches of all 54 layers of both models, in bfloat16, up to the 2048 tokens of context with which the
# models were trained. The points are `used_nbytes` of the real arrays, the lines are the formula.


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
# An implementation can lose part of the saving again. The authors' FlashAttention path pads the keys from $d_h$ to
# $d_l$ *before* it caches them, because that kernel needs keys and values of the same width. The cache then holds this:

# %%
padded = KVCache({"k": (1, 128), "c": (1, 128)}, batch=1, capacity=2048, dtype="bfloat16")
plain = KVCache(gqa_1b.structure.cached, batch=1, capacity=2048, dtype="bfloat16")
print("padded before caching:", padded.nbytes / plain.nbytes, "of GQA-1B's cache")
assert padded.nbytes / plain.nbytes == 0.4

# %% [markdown]
# ## The family
#
# The next figure compares all mechanisms of the project at the same width and with the same heads (H 1280, 20 heads of
# 64). GVA shares maps but keeps all values; GHA crosses five maps with four value heads. MLA has one cache and two ways
# to use it: *decompress* keys and values of all past tokens, or *absorb* the up-projections and attend in the latent
# space.

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
# Read it row by row. GQA and MQA make the cache smaller, but compute all 20 maps. GVA and GHA compute five, but GVA's
# cache stays large. MLA's cache is small, but its attention is expensive: in the absorbed form a key is 288 wide and a
# value 256, in each of 20 heads. GTA is low in both. (MQA's cache is smaller still, and so is its layer; how well each
# of these learns is a question that no count can answer: see [notebook 7b](07b_reading_a_study.ipynb).)
#
# ## What fits
#
# A GPU's memory has to hold the weights and the cache. Divide what the weights leave free by the bytes per token, and
# you know how many tokens fit. This is an upper bound: activations, the runtime and fragmentation also need memory.

# %%
mha = Model.parse("mha")
contexts = [2**i for i in range(10, 21)]
machines = {"H100, 80 GB": hardware.get("h100"), "RTX 3060, 12 GB": hardware.get("rtx3060")}


def how_many(model, context, machine):
    """Number of sequences whose caches fit into memory together with the weights, all in bfloat16."""
    return (machine.memory - weight_bytes(model)) // cache_bytes(model, 1, context)


fits = {
    title: {m.name: [how_many(m, n, machine) for n in contexts] for m in (gta_1b, gqa_1b, mha)}
    for title, machine in machines.items()
}
for title, models in fits.items():
    print(title, {name: f"{counts[5]:,} × {contexts[5]:,} tokens" for name, counts in models.items()})
plots_cache.what_fits(contexts, fits, trained=2048)

# %% [markdown]
# `check_fits`, which `gta-ref costs` calls before it computes anything, has the same limit: one sequence more is
# refused.

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
# In the figure, the lines of GTA-1B and GQA-1B are a factor of 3.33 apart everywhere (except for rounding to whole
# sequences): once the weights are stored, the ratio of the caches decides. (The dashed line marks the context length of
# the training. That a longer context *fits* does not mean that the model can use it.)
#
# ## Attention operations
#
# For each pair of a query and a key, a map costs $d_k$ multiply–accumulates for the score and $d_v$ for the weighted
# value. All maps together cost $n_q (d_k + d_v)$: $5\,(64 + 128) = 960$ for GTA-1B, $20\,(64 + 64) = 2560$ for GQA-1B.
# Let us count what the core really executes:

# %%
N, executed = 48, {}
for model in (gta_1b, gqa_1b):
    s = model.structure
    shapes = ((s.n_q, s.d_k), (s.n_k, s.d_k), (s.n_v, s.d_v))
    q, k, v = (watched(rng.standard_normal((1, heads, N, width))) for heads, width in shapes)
    with counted_products() as tally:
        attention_forward(q, k, v, engine="reference", need_saved=False)
    executed[model.name] = tally.macs
    print(f"{model.name}: {tally.macs:,} for {N}² pairs, {tally.macs // N**2} per pair")
    assert tally.macs == s.attention_macs * N**2
print("ratio", executed["gta-1b"] / executed["gqa-1b"])
assert executed["gta-1b"] / executed["gqa-1b"] == 0.375

# %% [markdown]
# The second claim, −62.5 % of attention's operations, is exact as well. But attention is only part of a model. Outside
# of it GTA-1B saves nothing: its projections need fewer operations than GQA-1B's, but its gate and decoder add exactly
# that many again. The table shows attention's share of GQA-1B's operations, and all operations of GTA-1B divided by
# those of GQA-1B.

# %%
print(f"{'prefill of':>10} {'attention in GQA-1B':>21} {'GTA-1B / GQA-1B, all':>22}")
for n in (1024, 2048, 4096, 32768, 131072):
    ours, theirs = forward_macs(gta_1b, 1, n), forward_macs(gqa_1b, 1, n)
    assert ours["linear"] == theirs["linear"]
    print(f"{n:>10,} {theirs['attention'] / theirs['total']:>21.1%} {ours['total'] / theirs['total']:>22.3f}")

# %% [markdown]
# (A causal mask saves half of the pairs, and this table takes that into account. The authors' tool does not; counted
# its way, attention is twice as expensive, and the ratio at 4096 tokens is 0.765.)
#
# ## When "2×" is true
#
# The paper's "2×" is neither measured nor one of the two ratios above. It comes from a *roofline*, a model of time. A
# machine has a peak, the operations per second that it can do, and a bandwidth, the bytes per second that it can move.
# An operator takes as long as the slower of the two needs:
#
# $$\text{time} = \max\!\left(\frac{\text{operations}}{\text{peak}},\;
#   \frac{\text{bytes}}{\text{bandwidth}}\right)$$
#
# Divide an operator's operations by its bytes, and you know which of the two it is. Where that quotient is below
# peak / bandwidth (the dotted line), the operator waits for memory; above, it waits for arithmetic. The circles are the
# operators of the two models on an H100, with an area that grows with their time. Which circles are large, and on which
# side of the line are they?

# %%
h100 = hardware.get("h100")
passes = {
    "prefill of 4096 tokens": (1, 4096, 0),  # sequences, new tokens, tokens in the cache
    "decoding step after 4096 tokens, batch 32": (32, 1, 4096),
}
plots_roofline.roofline(
    {title: {m.name: operators(m, *sizes, fused=True) for m in (gta_1b, gqa_1b)} for title, sizes in passes.items()},
    h100,
)

# %% [markdown]
# In the prefill nearly everything is arithmetic, and most of it is the MLP, which both models share. In decoding
# everything waits for memory, and GQA-1B's attention is the largest circle: it reads the larger cache.
#
# The authors used the tool LLM-Viewer, which computes with such a roofline; its convention is available here under that
# name. It assumes *unfused* attention, which writes its maps to memory and reads them back. The second column is the
# same with a *fused* kernel, which never writes them.

# %%
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
# So in prefill the 2× comes from the maps that travel through memory: GQA-1B has 20 of them, GTA-1B five. Fused kernels
# such as FlashAttention (arXiv 2205.14135) keep them on the chip. With such a kernel the rest of the model decides; at
# 1024 tokens GTA-1B is even slower than GQA-1B, because its gate costs time too. From here on we use the project's own
# convention, which counts the bytes that are really moved (and, for a fused kernel, what the causal mask saves). The
# title of each panel gives the ratio.

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
# Where attention (yellow) takes most of the time, the ratio is large; where the MLP and the head do, it is near 1.
# In decoding, each step reads the whole cache once, like the weights. That allows an estimate by hand: with weights of
# $W$ bytes and $c$ bytes of cache per token, a step moves $W + cT$ bytes when all caches together hold $T$ tokens, and
#
# $$\frac{W + c_\text{GQA}\,T}{W + c_\text{GTA}\,T} = 2 \quad\Longrightarrow\quad
#   T = \frac{W}{c_\text{GQA} - 2\,c_\text{GTA}}.$$

# %%
W, c_gta, c_gqa = weight_bytes(gqa_1b), cache_bytes(gta_1b, 1, 1), cache_bytes(gqa_1b, 1, 1)
print(f"2× from T = batch · length = {W / (c_gqa - 2 * c_gta):,.0f} tokens on; never more than {c_gqa / c_gta:.2f}×")
assert 80_000 < W / (c_gqa - 2 * c_gta) < 83_000

# %% [markdown]
# The next figure shows the same ratio, computed with the full roofline, over batch and length. Follow the thick
# contour, 2×. Grey marks where one of the two models does not fit into 80 GB.

# %%
found = speed_ups(gta_1b, gqa_1b, h100)
title = "GQA-1B's time over GTA-1B's, H100"
plots_costs.speed_up_frontier(found["batches"], found["lengths"], found["ratio"], title)

# %% [markdown]
# Here is the thick contour as a table. "Never" means that 2× would lie in the grey area. The last line should agree
# with the estimate by hand: batch · length is about the same number in every column.

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
# * **Prefill with a fused kernel**: below 2,900 tokens GTA-1B is slower than GQA-1B, and it is twice as fast only from
#   about 90,000 tokens on. The model was trained with 2,048.
# * **Decoding**: 2× from about 90,000 tokens in the cache on, either as 32 sequences of 2,900 tokens or as one very
#   long text. One short conversation gains a few per cent.
# * **Unfused prefill**, the paper's setting: 2× from 2,900 tokens on.
#
# All of this follows from formulas; none of it was measured. The roofline ignores the time to launch kernels, a GPU
# that is only half filled, and Python. `gta-ref bench e2e` measures [what a CPU really takes](../docs/e2e.md); the page
# [costs](../docs/costs.md) has more tables.
#
# ## Try it
#
# **1. Your own GTA.** How large are the cache and the attention of
# `Model.parse("gta n_q=10 n_k=2 n_c=1 latent_dim=64")`, compared with GTA-1B's? Calculate first, then look at
# `.structure.cache_elements` and `.structure.attention_macs`.
#
# <details><summary>Answer</summary>
#
# $2 \cdot 64 + 64 = 192$ elements, as many as GTA-1B; $10\,(64 + 64) = 1280$ multiply–accumulates, a third more. It has
# twice as many maps, with a latent half as wide: it can express more about *where* to look, and less about *what* is
# there.
#
# </details>
#
# **2. Another machine.** Draw the frontier for `hardware.get("rtx3060")`. Its memory is nine times slower and its peak
# 39 times lower. Will the contours of decoding move? And those of prefill?
#
# <details><summary>Answer</summary>
#
# Those of decoding hardly move: decoding is limited by bytes on both machines, and the bandwidth cancels in the ratio.
# Only the grey area comes closer, and at batch 128 the matrix products become limited by the peak. In prefill, the RTX
# 3060 computes slowly relative to its memory, so that writing maps costs it relatively less: unfused, 2× needs 9,742
# tokens instead of 2,896. For the same reason the gate's memory traffic costs relatively less, and with a fused kernel
# GTA-1B is ahead from 431 tokens on.
#
# </details>
#
# **3. An 8-bit cache.** Suppose both models store the cache in 8 bits, and the weights in 16. What happens to the ratio
# 0.3, and to the number of tokens from which decoding is 2× as fast?
#
# <details><summary>Answer</summary>
#
# The ratio stays 0.3: both caches are halved. But $T = W / (c_\text{GQA} - 2 c_\text{GTA})$ doubles, to about 163,000
# tokens: with a cheaper cache there is less to save. The limit of 3.33× stays too, but it is further away.
#
# </details>
#
# ## Summary
#
# * GTA-1B caches 192 elements per token and layer, GQA-1B 640. The ratio is 0.3, by formula and in bytes really held;
#   3.3 times as many tokens fit.
# * GTA-1B's attention needs 0.375 of GQA-1B's operations; its whole prefill needs 0.96 of them at 1,024 tokens and 0.44
#   at 131,072.
# * "2×" holds for decoding with about 90,000 tokens or more in the cache and for unfused prefill from 2,900 tokens on.
#   With a fused kernel, prefill gains little at usual lengths.
#
# [previous: latent values and the gate](02_latent_values_and_the_gate.ipynb) |
# [next: backward by hand](04_backward_by_hand.ipynb)
