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
# # 7. Training and choosing
#
# By the end you will know
#
# * how mechanisms are compared by training, and what an interval over three seeds can and cannot say;
# * how a small language model with GTA is trained here, stopped, and continued so that the result is bit-identical;
# * how to choose $n_q$ and $d_l$: costs can be computed, losses have to be measured, and how to plan your own study.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; about
# ten minutes to read, less than a minute to run.
#
# [previous: Numba CUDA kernels](06_numba_cuda_kernels.ipynb) |
# [next: verify your implementation](08_verify_your_implementation.ipynb)
#
# Exercises to go with it: [4, the gate](exercises/ex04_gate.ipynb) and
# [6, cache bytes](exercises/ex06_cache_bytes.ipynb). The studies in full: [docs/studies.md](../docs/studies.md).

# %%
# %matplotlib inline
import json
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from IPython.display import display
from scipy.stats import t as student
from threadpoolctl import threadpool_limits

# %%
import gta_ref
from gta_ref import threads
from gta_ref.costs.frontier import choices
from gta_ref.costs.hardware import PRESETS
from gta_ref.costs.model import Model
from gta_ref.costs.roofline import estimate
from gta_ref.lab import measures, studies
from gta_ref.lab.summary import compare, loss_rows, measured_rows
from gta_ref.lm import generate, model, small, text, train
from gta_ref.plots import choosing as plots_choosing
from gta_ref.plots import costs as plots_costs
from gta_ref.plots import studies as plots_studies

# %% [markdown]
# ## The question, and a fair comparison
#
# Counting tells us what GTA saves. It cannot tell us whether a model with fewer maps and a narrow latent *learns* as
# well. To find out, we train several models that differ only in their mechanism; each of them is called an *arm* of the
# study. What has to be equal?
#
# **Parameters.** GTA's attention has fewer parameters than MHA's. What the attention saves is given to the MLP, so that
# no arm wins merely because it is larger. Compare the first column, which should be equal, with the last.

# %%
print("      parameters  cache  attention MACs  MLP width")
for name in small.NAMES:
    config = small.config(name)
    s = config.module.structure(config.attention)
    sizes = small.n_parameters(config), s.cache_elements, s.attention_macs, config.intermediate_size
    print(f"{name:4}{sizes[0]:12,}{sizes[1]:7}{sizes[2]:16}{sizes[3]:11}")
    assert abs(small.n_parameters(config) / small.n_parameters(small.config("mha")) - 1) < 0.002

# %% [markdown]
# **Batches and steps.** Runs with the same seed see the same batches in the same order, with the same learning-rate
# schedule.
#
# **Chance.** The same model, trained from another seed, ends at another loss. So every arm is trained from three seeds
# $i$ and compared with the baseline *seed by seed*, $d_i = \ell_i - \ell_i^\text{base}$. How precisely the mean $\bar
# d$ is known is given by Student's interval
#
# $$\bar d \pm t_{0.975,\,n-1}\; s_d / \sqrt n ,$$
#
# where $s_d$ is the standard deviation of the $n$ differences. It contains the true mean in 95 of 100 studies, if the
# differences are approximately normal. For $n = 3$, $t$ is 4.30, not the 1.96 that is familiar from large samples.
#
# ## The studies that were run
#
# `gta-ref study NAME --json NAME.json` trains the models and writes a summary. The summaries that the documentation
# uses are in `docs/studies/`. These are the ones found there:

# %%
folder = Path(gta_ref.__file__).parents[1] / "docs" / "studies"
found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
for name, study in found.items():
    runs = len(study["arms"]) * len(study["seeds"])
    print(f"{name}: {study['question']}\n  {runs} runs of {study['tokens'] / 1e6:.1f} M tokens, {study['dates'][-1]}")
    print(f"  {study['source']}")
assert "mechanisms" in found

# %% [markdown]
# The study `mechanisms` asks what a smaller cache costs. In its table, the cache is in elements per token and layer.
# The loss is in nats per byte of held-out text, given as the mean ± the standard deviation over seeds. The last column
# says *lower* or *higher* if the interval lies entirely below or above 0. Otherwise the interval contains 0, and the
# seeds do not show a difference from the baseline.


# %%
def show(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


mechanisms = found["mechanisms"]
show(loss_rows(mechanisms))

# %% [markdown]
# The left panel shows every seed and the mean of each arm against its cache, so low and to the left is good. The right
# panel shows the learning curves. Compare the spread of the seeds within an arm with the differences between the arms.

# %%
plots_studies.study(mechanisms)

# %% [markdown]
# ## One interval by hand
#
# Let us compute GTA's row. The result should agree with the summary.

# %%
gta, mha = (np.array(mechanisms["arms"][arm]["loss"]) for arm in ("gta", "mha"))
d = gta - mha
n = len(d)
half = student.ppf(0.975, n - 1) * d.std(ddof=1) / math.sqrt(n)
low, high = d.mean() - half, d.mean() + half
print("differences by seed:", d.round(3))
print(f"mean {d.mean():+.3f}, s_d {d.std(ddof=1):.3f}, t {student.ppf(0.975, n - 1):.2f}, ± {half:.3f}")
print(f"interval [{low:+.3f}, {high:+.3f}]: {'contains 0' if low < 0 < high else 'does not contain 0'}")
np.testing.assert_allclose((low, high), mechanisms["arms"]["gta"]["interval"])

# %% [markdown]
# **An interval that contains 0 does not mean "equal".** It means that the data agree with a difference of 0, but just
# as well with every other value in the interval. What a row does exclude are the values outside: read the two ends as
# "at most this much better" and "at most this much worse". The figure shows all arms; the dots are the seeds.

# %%
for name, arm in mechanisms["arms"].items():
    if arm.get("interval"):
        print(f"{name:4} at most {max(0, -arm['interval'][0]):.3f} better, {max(0, arm['interval'][1]):.3f} worse")
plots_choosing.intervals(mechanisms)

# %% [markdown]
# Two more questions should be asked about such a table. **Did pairing by seed help?** If it did, the differences spread
# less than those of two independent arms would, $\sqrt{s_\text{arm}^2 + s_\text{base}^2}$. **How many arms were
# compared?** Each row on its own has a 5 % chance of being called different when it is not. To keep the chance for all
# rows together below 5 %, divide it: each of the $m$ rows gets $5\,\% / m$ (Bonferroni's correction), and its interval
# becomes wider. Which rows still exclude 0?

# %%
others = [arm for arm in mechanisms["arms"] if arm != "mha"]
m = len(others)
print(f"{m} independent rows without a difference: at least one seems different in {1 - 0.95**m:.0%} of studies")
print("      s_d   unpaired   interval with 5 % for all rows together")
for name in others:
    losses = np.array(mechanisms["arms"][name]["loss"])
    d = losses - mha
    wide = student.ppf(1 - 0.025 / m, n - 1) * d.std(ddof=1) / math.sqrt(n)
    told = "" if abs(d.mean()) < wide else "does not contain 0"
    unpaired = math.hypot(losses.std(ddof=1), mha.std(ddof=1))
    interval = f"[{d.mean() - wide:+.3f}, {d.mean() + wide:+.3f}]"
    print(f"{name:4} {d.std(ddof=1):.3f}   {unpaired:.3f}      {interval}   {told}".rstrip())

# %% [markdown]
# **Would more seeds help?** The interval shrinks as $1/\sqrt n$, and $t$ falls too. With the median $s_d$ of the rows
# above, the half-width for $n$ seeds is:

# %%
typical = np.median([np.subtract(mechanisms["arms"][a]["loss"], mha).std(ddof=1) for a in others])
minutes = mechanisms["seconds"] / 60 / (len(mechanisms["arms"]) * n)
for seeds in (2, 3, 5, 10, 20):
    half = student.ppf(0.975, seeds - 1) * typical / math.sqrt(seeds)
    print(f"{seeds:2} seeds: ± {half:.3f} nats, {seeds * minutes:4.0f} minutes per arm")

# %% [markdown]
# The first few seeds help most: from two to three, $t$ alone falls from 12.7 to 4.3. A study with $n$ seeds cannot
# detect a difference that is far below its half-width.
#
# ## Training live
#
# A run consists of a model, settings and a text. The text is the source code of Python's own standard library, with one
# token per byte and whole files held out. The model below has 2 layers of width 64, the proportions of GTA-1B, and
# about 117,000 parameters in total. Several threads would divide the sequences of a step among themselves and therefore
# add in a different order. We use one thread, so that the numbers below do not depend on the number of cores.

# %%
threadpool_limits(1)  # for NumPy's matrix products
threads.set_threads(1)  # for the sequences of a training step
source = text.standard_library()
settings = train.Settings(
    steps=200, batch=12, length=128, learning_rate=1e-2, warmup=20, validate_every=50, validation_sequences=64
)
configs = {name: small.config(name, hidden_size=64, n_layers=2) for name in ("gta", "gqa")}
print(source.name)
for name, config in configs.items():
    elements = config.module.structure(config.attention).cache_elements
    print(f"{name}: {small.n_parameters(config):,} parameters, {elements} cached elements per token and layer")

# %% [markdown]
# Before the first step the model has learnt nothing, and its loss should show that. If it took all 256 bytes to be
# equally likely, the loss would be $\ln 256$. Random logits with standard deviation 1 cost half a nat more ($\ln E[e^x]
# = 1/2$). On the other hand, the output layer is the transpose of the embedding, so it favours the byte that it has
# just read, which helps in a run of spaces. If your own model starts at 20, look at its initialisation first. (If the
# CPU kernels have never run on this machine, they are compiled here.)

# %%
untrained = train.begin(configs["gta"], settings, source)
_, first = train.take_step(untrained, source)
print(f"first loss {first:.3f}, ln 256 = {math.log(256):.3f}")
assert abs(first - math.log(256)) < 0.6
assert untrained.state.step == 0  # take_step returns a new state, and leaves the run as it is

# %% [markdown]
# Now train both models on the same batches. GTA's run is also saved half-way, as `gta-ref train` does after each
# validation and on Ctrl-C.

# %%
temporary = TemporaryDirectory()
half_way = Path(temporary.name) / "half-way.safetensors"


def save_half_way(run):
    if run.config.mechanism == "gta" and run.state.step == settings.steps // 2:
        train.save(half_way, run)


runs = {name: train.begin(config, settings, source) for name, config in configs.items()}
for name, run in runs.items():
    train.advance(run, source, on_validation=save_half_way)
    rate = run.state.step * settings.batch * settings.length / run.seconds
    print(f"{name}: held out {run.validation[settings.steps]:.3f} nats per byte, {rate:,.0f} tokens/s")
    assert run.losses[-1] < first - 2.5

# %% [markdown]
# What do these losses mean? Three predictors without a network provide a scale: all bytes equally likely; the frequency
# of each byte; and the frequency of each byte after the byte before it. The frequencies are counted in the training
# text.

# %%
before, after = source.train[:-1].astype(int), source.train[1:]
pairs = np.bincount(256 * before + after, minlength=256**2).reshape(256, 256) + 0.01  # no pair is impossible
single = pairs.sum(axis=0)
x, y = source.validation[:-1], source.validation[1:]
references = {
    "all bytes equally likely": math.log(256),
    "frequencies of bytes": -np.log(single / single.sum())[y].mean(),
    "frequencies of pairs": -np.log(pairs / pairs.sum(axis=1, keepdims=True))[x, y].mean(),
}
print({name: round(float(loss), 3) for name, loss in references.items()})

# %%
plots_choosing.learning_curves(runs, references)

# %% [markdown]
# A model first learns how frequent single bytes are, then pairs of bytes; neither needs attention. Only below the
# lowest line does it have to use bytes that are further back, and these runs are below it in their second half. Still,
# **this comparison says nothing about GTA versus GQA**: it uses one seed and little training. How much further do the
# studies' runs go?

# %%
here = settings.steps * settings.batch * settings.length
print(f"{here:,} tokens here, {mechanisms['tokens']:,} in a run of the study, where MHA's loss is")
print(f"{mechanisms['arms']['mha']['mean']:.2f} and that of pairs is {references['frequencies of pairs']:.2f}")
assert mechanisms["arms"]["mha"]["mean"] < references["frequencies of pairs"]

# %% [markdown]
# ## Continuing exactly
#
# Step $t$ draws its batch with a generator made from the seed and $t$, and the file contains the optimizer's moments
# too. A run that is continued is therefore the same run. Load the half-way file and finish the run: no loss may differ,
# not even in the last bit.

# %%
again = train.load(half_way)
print(f"loaded after step {again.state.step}")
train.advance(again, source)
whole = runs["gta"]
assert again.losses == whole.losses
assert all(np.array_equal(again.state.params[name], p) for name, p in whole.state.params.items())
print(f"{len(again.losses)} losses and {len(whole.state.params)} arrays of parameters are equal, bit by bit")
temporary.cleanup()

# %% [markdown]
# (This holds for the same number of threads: with another number, sums are formed in another order and rounded
# differently.)
#
# ## A sample
#
# The model continues a line of Python one byte at a time, with its cache. After so little training, expect indentation,
# brackets and fragments of words, not programs.

# %%
prompt = b"    def forward(self, x):\n"
config, params = whole.config, whole.state.params
caches = model.new_caches(config, 1, len(prompt) + 200, "float32")
new = list(generate.stream(params, list(prompt), config, 200, caches=caches, temperature=0.6, seed=7))
shown = (prompt + bytes(new)).decode("utf-8", errors="replace")
print("".join(c if c.isprintable() or c == "\n" else "·" for c in shown))
uncached = list(generate.stream(params, list(prompt), config, 20, temperature=0.6, seed=7))
assert uncached == new[:20]

# %% [markdown]
# ## Sharing or the gate?
#
# GTA changes two things at once: maps are shared, and a gate computed from the query's token multiplies the decoded
# values. To separate the two effects, the study `gate` combines them: GQA, MLA and GTA, each with and without a gate on
# the heads, all with the same number of parameters. If the gate alone makes the difference, GQA should gain as much
# from it as GTA.

# %%
gate = found.get("gate")
if gate is None:
    print("docs/studies/gate.json is not there; make it with: gta-ref study gate --json docs/studies/gate.json")
else:
    show(loss_rows(gate))

# %%
plots_studies.study(gate) if gate else None

# %% [markdown]
# The table compares every arm with one baseline. Our question needs other differences between the same runs, again seed
# by seed: what the gate does for each mechanism; what sharing does with and without the gate; and whether the gate does
# *more* for GTA than for GQA, which is a difference of differences.

# %%
WITH, WITHOUT = "with a gate", "without a gate"


def loss(name, gated):
    return np.array(gate["arms"][f"{name} {WITH if gated else WITHOUT}"]["loss"])


if gate:
    asked = {f"gate, in {name}": (loss(name, True), loss(name, False)) for name in ("gqa", "mla", "gta")}
    asked |= {f"gta − gqa, {how}": (loss("gta", g), loss("gqa", g)) for g, how in ((False, WITHOUT), (True, WITH))}
    effect = {name: with_it - without for name, (with_it, without) in asked.items()}
    asked["the gate's effect, gta − gqa"] = effect["gate, in gta"], effect["gate, in gqa"]
    for question, (one, other) in asked.items():
        answer = compare(one.tolist(), other.tolist())
        low, high = answer["interval"]
        print(f"{question:31}{answer['difference']:+.3f}  [{low:+.3f}, {high:+.3f}]  {answer['verdict']}")

# %% [markdown]
# "Lower" means a better loss. A row whose interval contains 0 leaves its question open at this size; it does not answer
# it with no. Keep two things in mind. First, GTA without a gate is not simply GTA with one part removed: its decoder
# folds into the output matrix ([notebook 2](02_latent_values_and_the_gate.ipynb)), so some of its parameters are
# redundant, although their number is equal. Second, these are six questions about one set of runs, and a row whose
# interval just misses 0 would not survive Bonferroni's correction. [docs/studies.md](../docs/studies.md) says what we
# conclude.
#
# ## What the gate does to the rank
#
# [Notebook 2](02_latent_values_and_the_gate.ipynb) showed with random weights that the gate raises the rank of the
# heads above the $d_l$ dimensions of their latent. Here are two effective ranks in the model just trained, on held-out
# text and averaged over its two layers: that of the decoded values of all heads (64 columns, but a rank of at most $n_q
# d_l = 32$), and that of the heads after the gate.

# %%
c = whole.config.attention
print(f"n_q·d_l = {c.n_q * c.latent_dim}, columns {c.n_heads * c.head_dim}")
for name, run in (("before training", untrained), ("after training", whole)):
    rank = measures.ranks(run, source)
    decoded, gated = rank["rank, decoded"], rank["rank, gated"]
    print(f"{name:16} decoded {decoded:5.1f}, gated {gated:5.1f}: {gated / decoded:.1f} times")
    assert decoded < min(gated, c.n_q * c.latent_dim)

# %% [markdown]
# The gate doubles the rank after training, but it also does so with random weights, which have learnt nothing. A high
# rank is therefore not good in itself; compare it between *trained* models, together with their losses. The study
# `activations` does this (sigmoid, SiLU, ReLU², none). Here are all other summaries that were found, as tables and
# figures:

# %%
further = {name: study for name, study in found.items() if name not in ("mechanisms", "gate")}
for name, study in further.items():
    print(f"\n{name}: {study['question']}")
    show(loss_rows(study))
    if measured := measured_rows(study):
        show(measured)
    display(plots_studies.study(study))
print(f"{len(further)} further studies; the library defines {', '.join(studies.STUDIES)}")

# %% [markdown]
# ## Choosing: the side that can be computed
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
# ## Choosing: the side that has to be measured
#
# Two measurements help before any training. A pretrained model's heads, clustered by their maps, hint at how many
# different maps a layer needs ([notebook 1](01_shared_attention_maps.ipynb), `gta-ref maps`). And the rank of the
# values indicates how narrow a latent may be. Neither replaces a study. The study that asks this question is `sizes`;
# here is what each arm costs, with its loss:

# %%
plan, measured = studies.load("sizes"), found.get("sizes")
for name, config in plan.arms.items():
    structure = config.module.structure(config.attention)
    arm = measured["arms"][name] if measured else None
    print(
        f"{name:14} cache {structure.cache_elements:3}, attention {structure.attention_macs:4}"
        + (f", loss {arm['mean']:.3f}" + (f", {arm['verdict']}" if "verdict" in arm else ", baseline") if arm else "")
    )

# %% [markdown]
# More maps cost attention operations and a wider latent costs cache, and beyond the baseline three seeds show no gain
# from either. One map for all heads is worse with every seed. Before you apply this to your own model, note that this
# text requires little looking up of earlier tokens (in `retrieval`, above, four maps find more than two), and read
# "What small studies cannot say" below. To run this study, or your own:
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
a_run = measured["seconds"] / 60 / jobs if measured else minutes
print(f"{jobs} runs of about {a_run:.0f} minutes: {jobs * a_run / 60:.1f} hours, half of that with two at a time")

# %% [markdown]
# To plan your own, in this order:
#
# 1. **Write down the question and the baseline first**, and the smallest difference that would change your decision.
# 2. **Choose the number of seeds** from that difference, with the table of half-widths above; then choose as many steps
#    as your time allows.
# 3. **Keep the arms few.** Every arm adds a comparison. Vary $n_q$ at one $d_l$ and $d_l$ at one $n_q$, not the whole
#    grid.
# 4. **Check the learning rate.** The same rate for all arms is simple but may favour one of them. Try a neighbouring
#    rate for the two best arms.
# 5. **Report all arms** with their intervals, including those whose interval contains 0.
#
# `Study(name, question, arms, baseline, settings, seeds=…)` and `gta_ref.lab.runner.run` accept any arms that
# `small.config` can make.
#
# ## What small studies cannot say
#
# * They have 0.8 million parameters, 1.6 million tokens and a context of 256 bytes. A narrow latent may suffice here
#   and fail at a billion parameters. Such text also requires little looking up of earlier tokens. The study `retrieval`
#   requires nothing else, on a toy task, and there models with few maps learn late, whatever their cache: compare its
#   rows by their number of maps.
# * The order of the arms early in training need not be their order at the end. Check whether the learning curves still
#   cross.
# * They use one kind of text and one learning rate, which is not tuned for each mechanism.
# * They can *refute* a claim at their own size, and they can show what is worth a larger run. They cannot confirm the
#   paper's results at 1 billion parameters.
#
# ## Try it
#
# **1. One seed.** Rank the arms of `mechanisms` by their first seed alone, then by the second, then by the third.
# Predict: does the same arm win each time?
#
# <details><summary>Answer</summary>
#
# `for i in range(n): print(sorted(mechanisms["arms"], key=lambda a: mechanisms["arms"][a]["loss"][i]))`. In the study
# of November 2026 each seed has a different winner (GTA, MHA, GQA), while MLA is last with every seed. A study with one
# seed would have reported one of these orders as its result.
#
# </details>
#
# **2. No gate, live.** Train `small.config("gta", hidden_size=64, n_layers=2, gate="none")` with the same settings.
# What will `measures.ranks` say about it, and what may you conclude from its loss?
#
# <details><summary>Answer</summary>
#
# Use `run = train.begin(…)` and `train.advance(run, source)`. Without a gate the heads *are* the decoded values, so
# both ranks are the same number, below $n_q d_l = 32$. From the loss you may conclude nothing: it is one seed.
#
# </details>
#
# **3. Another workload.** Set `batch, length = 1, 1024`, which is a single short chat, and draw the grid again. What
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
# * A fair study has equal parameters, batches and steps, several seeds, and intervals of paired differences; an
#   interval that contains 0 bounds the difference but does not make it 0.
# * Training here is reproducible, and a run that is continued from a file is bit-identical to an uninterrupted one.
# * $d_l$ costs cache and decoding time, $n_q$ costs attention operations. Costs are computed in a moment; the effect of
#   a choice on the loss takes a study, and the answer holds at the study's size.
#
# [previous: Numba CUDA kernels](06_numba_cuda_kernels.ipynb) |
# [next: verify your implementation](08_verify_your_implementation.ipynb)
