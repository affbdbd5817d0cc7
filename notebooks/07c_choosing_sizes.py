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
# # 7c. Choosing sizes
#
# By the end you will know
#
# * what $n_q$ and $d_l$ cost, in the cache, in operations and in time, which can be computed;
# * which choices another choice beats in both cache and operations;
# * how to plan a study of your own for the part that cannot be computed: the loss.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes a few seconds to run.
#
# [previous: reading a study](07b_reading_a_study.ipynb) |
# [next: verify your implementation](08_verify_your_implementation.ipynb)
#
# An exercise to go with it: [6, cache bytes](exercises/ex06_cache_bytes.ipynb).

# %%
# %matplotlib inline
import json
from dataclasses import replace

import numpy as np

from gta_ref import course
from gta_ref.costs.frontier import choices
from gta_ref.costs.hardware import PRESETS
from gta_ref.costs.model import Model
from gta_ref.costs.roofline import estimate
from gta_ref.lab import studies
from gta_ref.plots import choosing as plots_choosing
from gta_ref.plots import costs as plots_costs

# %% [markdown]
# ## What can be computed
#
# Take GTA-1B and vary $n_q$ and $d_l$, with $n_k = n_c = 1$. The width of the MLP is again chosen so that every model
# has as many parameters as GQA-1B. What changes is the number of cached elements per token and layer, and the number of
# multiply–accumulates (MACs) in the attention of a layer,
#
# $$\text{cache} = n_k d_h + n_c d_l, \qquad \text{attention} = n_q (d_h + d_l)\ \text{MACs per query and key},$$
#
# and two times: that of a decoding step at batch 32 and 4,096 tokens, and that of a prefill of 4,096 tokens. We
# estimate them with the roofline of an H100 and a fused kernel ([docs/costs.md](../docs/costs.md)), which is a model of
# time, not a measurement.

# %%
baseline, h100 = Model.preset("gqa-1b"), PRESETS["h100"]
batch, length = 32, 4096


def choice(n_q, d_l):
    """GTA-1B with other sizes and GQA-1B's number of parameters."""
    one = Model.parse(f"gta n_q={n_q} n_k=1 n_c=1 latent_dim={d_l}")
    row = 3 * one.hidden_size * one.n_layers  # parameters added by one more feature in each MLP
    return replace(one, intermediate_size=one.intermediate_size + round((baseline.parameters - one.parameters) / row))


def seconds(one, stage):
    return estimate(one, stage, batch, length, h100, fused=True).seconds


ours, published = choice(5, 128), Model.preset("gta-1b")
print(f"MLP {ours.intermediate_size}, parameters {ours.parameters:,}; GTA-1B {published.parameters:,}")
assert abs(ours.parameters / baseline.parameters - 1) < 0.001

# %% [markdown]
# Predict first: which of the four panels depend on $n_q$? The numbers are ratios to GQA-1B; blue is better, orange is
# worse. The frame marks GTA-1B's choice.

# %%
n_qs, d_ls = [1, 2, 4, 5, 10, 20], [32, 64, 128, 256]
grid = [[choice(n_q, d_l) for d_l in d_ls] for n_q in n_qs]
ratios = {
    "cache": lambda one: one.structure.cache_elements / baseline.structure.cache_elements,
    "attention MACs": lambda one: one.structure.attention_macs / baseline.structure.attention_macs,
    "decoding speed (×)": lambda one: seconds(baseline, "decode") / seconds(one, "decode"),
    "prefill speed (×)": lambda one: seconds(baseline, "prefill") / seconds(one, "prefill"),
}
panels = {title: np.array([[ratio(one) for one in row] for row in grid]) for title, ratio in ratios.items()}
assert np.ptp(panels["cache"], axis=0).max() == 0
plots_choosing.cost_maps(panels, n_qs, d_ls, marked=(5, 128))

# %% [markdown]
# * **$d_l$ sets the size of the cache**, and at this batch and length the cache sets the time of a decoding step. Below
#   a certain width little is left to gain, because the keys and the weights remain.
# * **$n_q$ costs nothing in the cache**, and almost nothing in decoding, where memory is the limit. It costs attention
#   operations, which matter in prefill and training; with a fused kernel and at this length, however, attention is only
#   a small part of a prefill.
#
# So if your model mostly decodes, use more maps and a narrower latent; if it mostly reads long prompts, do the
# opposite. Both hold only as far as the loss allows.
#
# Counting also rules out *dominated* choices, which another choice beats in both cache and attention. `gta-ref costs
# design` draws all choices of $n_q, n_k, n_c, d_l$ whose layer has at least as many attention parameters as GQA-1B, and
# connects those that are not dominated; it calls them efficient.

# %%
enough = baseline.structure.parameters
every = choices(1280, 20, 64, enough)
efficient = sorted((c for c in every if c.efficient), key=lambda c: c.cache)
used = next(c for c in every if (c.n_q, c.n_k, c.n_c, c.latent_dim) == (5, 1, 1, 128))
for c in [*efficient, used]:
    name = "GTA-1B's" if c is used else "efficient"
    layer = f"n_q {c.n_q:2}, n_k {c.n_k}, n_c {c.n_c}, d_l {c.latent_dim:3}"
    print(f"{name:9} {layer}: cache {c.cache}, attention {c.attention:,}")
plots_costs.design_space(every, enough)

# %% [markdown]
# The figure does not show whether an efficient choice learns as well as another: it has enough parameters, but perhaps
# in the wrong place.
#
# ## What has to be measured
#
# Two measurements help before any training. A pretrained model's heads, clustered by their maps, hint at how many
# different maps a layer needs ([notebook 1b](01b_how_alike_are_real_maps.ipynb), `gta-ref maps`). And the rank of the
# values indicates how narrow a latent may be. Neither replaces a study. The study that asks this question is `sizes`;
# here is what each arm costs, with its loss:

# %%
path = course.path("docs/studies/sizes.json")
plan, measured = studies.load("sizes"), json.loads(path.read_text(encoding="utf-8"))
for name, config in plan.arms.items():
    structure = config.module.structure(config.attention)
    arm = measured["arms"][name]
    print(
        f"{name:14} cache {structure.cache_elements:3}, attention {structure.attention_macs:4}"
        f", loss {arm['mean']:.3f}, {arm.get('verdict', 'baseline')}"
    )

# %% [markdown]
# More maps cost attention operations and a wider latent costs cache, and beyond the baseline three seeds show no gain
# from either. One map for all heads is worse with every seed. Before you apply this to your own model, note that this
# text requires little looking up of earlier tokens (in the study `retrieval` four maps find more than two), and read
# "What small studies cannot say" in the [previous notebook](07b_reading_a_study.ipynb). To run this study, or your own:
#
# ```sh
# gta-ref study sizes --quick                     # takes minutes: does it run?
# gta-ref study sizes --json sizes.json --plot sizes.png
# gta-ref train --mechanism gta --steps 600       # one run; after Ctrl-C: --resume gta-run.safetensors
# ```
#
# How long does it take? The plan contains the budget, and the summary says how long the runs took on the machine where
# they ran.

# %%
s = plan.settings
jobs = len(list(plan.jobs()))
print(f"{plan.question} Baseline {plan.baseline}; {s.steps} steps of {s.batch} × {s.length} tokens")
a_run = measured["seconds"] / 60 / jobs
print(f"{jobs} runs of about {a_run:.0f} minutes: {jobs * a_run / 60:.1f} hours, half of that with two at a time")

# %% [markdown]
# To plan your own, in this order:
#
# 1. **Write down the question and the baseline first**, and the smallest difference that would change your decision.
# 2. **Choose the number of seeds** from that difference, with the table of half-widths in the previous notebook; then
#    choose as many steps as your time allows.
# 3. **Keep the arms few.** Every arm adds a comparison. Vary $n_q$ at one $d_l$ and $d_l$ at one $n_q$, not the whole
#    grid.
# 4. **Check the learning rate.** The same rate for all arms is simple but may favour one of them. Try a neighbouring
#    rate for the two best arms.
# 5. **Report all arms** with their intervals, including those whose interval contains 0.
#
# `Study(name, question, arms, baseline, settings, seeds=…)` and `gta_ref.lab.runner.run` accept any arms that
# `small.config` can make.
#
# ## Try it
#
# **Another workload.** Set `batch, length = 1, 1024`, which is a single short chat, and draw the grid again. What
# happens to the decoding panel?
#
# <details><summary>Answer</summary>
#
# All its numbers lie between 1.01 and 1.03, because a step moves 2.3 GB of weights and only some tens of megabytes of
# cache, whatever $d_l$ is. Prefill is slower than GQA-1B's in all cells but one, because the gate and the decoder cost
# more than the attention saves at 1,024 tokens. Choose sizes for your own workload.
#
# </details>
#
# ## Summary
#
# * $d_l$ costs cache and decoding time, $n_q$ costs attention operations.
# * Costs are computed in a moment. The effect of a choice on the loss takes a study, and the answer holds at that
#   study's size.
#
# [previous: reading a study](07b_reading_a_study.ipynb) |
# [next: verify your implementation](08_verify_your_implementation.ipynb)
