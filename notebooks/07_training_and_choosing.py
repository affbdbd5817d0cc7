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
# Afterwards you will know
#
# * how mechanisms are compared by training, and what an interval over three seeds can say and what it cannot;
# * how a small language model with GTA is trained here, stopped and continued to the last bit;
# * how to weigh $n_q$ and $d_l$: cost can be computed, loss has to be measured, and how to plan a study of your own.
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
# A count says what GTA saves. Whether a model with fewer maps and a narrow latent *learns* as well, a count cannot
# say. So several models are trained that differ in the mechanism alone. What has to be equal?
#
# **Parameters.** GTA's attention has other sizes than MHA's. What the attention saves, the MLP gets, so that no arm
# wins for being larger. Look at the last two columns.

# %%
print("      parameters  cache  attention MACs  MLP width")
for name in small.NAMES:
    config = small.config(name)
    s = config.module.structure(config.attention)
    sizes = small.n_parameters(config), s.cache_elements, s.attention_macs, config.intermediate_size
    print(f"{name:4}{sizes[0]:12,}{sizes[1]:7}{sizes[2]:16}{sizes[3]:11}")
    assert abs(small.n_parameters(config) / small.n_parameters(small.config("mha")) - 1) < 0.002

# %% [markdown]
# **Batches and steps.** Runs of one seed see the same batches in the same order, with the same schedule of the
# learning rate.
#
# **Chance.** The same model from another seed ends at another loss. So every arm runs from three seeds $i$, and is
# compared with the baseline *seed by seed*, $d_i = \ell_i - \ell_i^\text{base}$. The mean $\bar d$ is known to within
# Student's interval
#
# $$\bar d \pm t_{0.975,\,n-1}\; s_d / \sqrt n ,$$
#
# with $s_d$ the standard deviation of the $n$ differences. It holds the true mean in 95 of 100 studies, if the
# differences are about normal. For $n = 3$, $t$ is 4.30, and not the 1.96 that one knows from large samples.
#
# ## The studies that were run
#
# `gta-ref study NAME --json NAME.json` trains the models and writes a summary. The summaries shown in the docs lie in
# `docs/studies/`; here are those that are there.

# %%
folder = Path(gta_ref.__file__).parents[1] / "docs" / "studies"
found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
for name, study in found.items():
    runs = len(study["arms"]) * len(study["seeds"])
    print(f"{name}: {study['question']}\n  {runs} runs of {study['tokens'] / 1e6:.1f} M tokens, {study['dates'][-1]}")
    print(f"  {study['source']}")
assert "mechanisms" in found

# %% [markdown]
# The first asks what a smaller cache costs. In its table, the cache is in elements a token and layer, the loss in nats
# a byte of held-out text as mean ± standard deviation over seeds.


# %%
def show(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


mechanisms = found["mechanisms"]
show(loss_rows(mechanisms))

# %% [markdown]
# In the figure: left, every seed and the mean of each arm over its cache; right, the way down. Good is low and to the
# left. See how far the seeds of one arm lie apart, compared with the arms.

# %%
plots_studies.study(mechanisms)

# %% [markdown]
# ## One interval by hand
#
# Take GTA's row and do the computation. It should give what the summary says.

# %%
gta, mha = (np.array(mechanisms["arms"][arm]["loss"]) for arm in ("gta", "mha"))
d = gta - mha
n = len(d)
half = student.ppf(0.975, n - 1) * d.std(ddof=1) / math.sqrt(n)
low, high = d.mean() - half, d.mean() + half
print("differences by seed:", d.round(3))
print(f"mean {d.mean():+.3f}, s_d {d.std(ddof=1):.3f}, t {student.ppf(0.975, n - 1):.2f}, ± {half:.3f}")
print(f"interval [{low:+.3f}, {high:+.3f}]: {'not told apart' if low < 0 < high else 'told apart'}")
np.testing.assert_allclose((low, high), mechanisms["arms"]["gta"]["interval"])

# %% [markdown]
# **"Not told apart" is not "equal".** It says that the data agree with a difference of 0, and as well with every other
# value in the interval. What a row does exclude is what lies outside: read the two ends as "at most so much better, at
# most so much worse". All arms, drawn; the marks are the seeds.

# %%
for name, arm in mechanisms["arms"].items():
    if arm.get("interval"):
        print(f"{name:4} at most {max(0, -arm['interval'][0]):.3f} better, {max(0, arm['interval'][1]):.3f} worse")
plots_choosing.intervals(mechanisms)

# %% [markdown]
# Two more honest questions to such a table. **Did pairing by seed help?** Then the differences spread less than two
# independent arms would, $\sqrt{s_\text{arm}^2 + s_\text{base}^2}$. **How many arms were compared?** Each row alone has
# a chance of 5 % to be called different when it is not. To keep all rows together below 5 %, divide: each of $m$ rows
# gets $5\,\% / m$ (Bonferroni), and its interval becomes wider. Which rows are still told apart?

# %%
others = [arm for arm in mechanisms["arms"] if arm != "mha"]
m = len(others)
print(f"{m} rows without a difference: one is called different in {1 - 0.95**m:.0%} of studies, were they independent")
print("      s_d   unpaired   interval with 5 % for all rows together")
for name in others:
    losses = np.array(mechanisms["arms"][name]["loss"])
    d = losses - mha
    wide = student.ppf(1 - 0.025 / m, n - 1) * d.std(ddof=1) / math.sqrt(n)
    told = "" if abs(d.mean()) < wide else "told apart"
    unpaired = math.hypot(losses.std(ddof=1), mha.std(ddof=1))
    interval = f"[{d.mean() - wide:+.3f}, {d.mean() + wide:+.3f}]"
    print(f"{name:4} {d.std(ddof=1):.3f}   {unpaired:.3f}      {interval}   {told}".rstrip())

# %% [markdown]
# **Would more seeds help?** The interval shrinks with $\sqrt n$, and $t$ falls too. With the typical $s_d$ of the rows
# above, this is the half-width for $n$ seeds.

# %%
typical = np.median([np.subtract(mechanisms["arms"][a]["loss"], mha).std(ddof=1) for a in others])
minutes = mechanisms["seconds"] / 60 / (len(mechanisms["arms"]) * n)
for seeds in (2, 3, 5, 10, 20):
    half = student.ppf(0.975, seeds - 1) * typical / math.sqrt(seeds)
    print(f"{seeds:2} seeds: ± {half:.3f} nats, {seeds * minutes:4.0f} minutes an arm")

# %% [markdown]
# The first few seeds gain most: from two to three, $t$ alone falls from 12.7 to 4.3. A difference far below these
# half-widths is out of this study's reach.
#
# ## Training live
#
# A run consists of a model, settings and a text. The text is the source of Python's own standard library, a byte a
# token, with whole files held out. The model below has 2 layers of width 64, the proportions of GTA-1B, and in all
# about 117,000 parameters. Threads share a step by sequences, and add in another order for it; with one thread the
# numbers below do not depend on how many cores there are.

# %%
threadpool_limits(1)  # of NumPy's matrix products
threads.set_threads(1)  # that share a step
source = text.standard_library()
settings = train.Settings(
    steps=200, batch=12, length=128, learning_rate=1e-2, warmup=20, validate_every=50, validation_sequences=64
)
configs = {name: small.config(name, hidden_size=64, n_layers=2) for name in ("gta", "gqa")}
print(source.name)
for name, config in configs.items():
    elements = config.module.structure(config.attention).cache_elements
    print(f"{name}: {small.n_parameters(config):,} parameters, {elements} cached elements a token and layer")

# %% [markdown]
# Before the first step, a model that knows nothing should say so. Were all 256 bytes equally likely, the loss would be
# $\ln 256$. Random logits of deviation 1 cost half a nat more ($\ln E[e^x] = 1/2$); and the head, the
# embedding's transpose, expects the byte that it has just read once more, which helps in a run of spaces. If yours
# begins at 20, look at the initialisation first. (Where the fused kernels have never run on a machine, this is where
# they are compiled.)

# %%
untrained = train.begin(configs["gta"], settings, source)
_, first = train.take_step(untrained, source)
print(f"first loss {first:.3f}, ln 256 = {math.log(256):.3f}")
assert abs(first - math.log(256)) < 0.6
assert untrained.state.step == 0  # take_step returns a new state, and leaves the run as it is

# %% [markdown]
# Now both, on the same batches. GTA's run is also saved half-way, as `gta-ref train` does after each validation and at
# Ctrl-C.

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
    print(f"{name}: held out {run.validation[settings.steps]:.3f} nats a byte, {rate:,.0f} tokens/s")
    assert run.losses[-1] < first - 2.5

# %% [markdown]
# What do these losses mean? Three predictors without a network give a scale: all bytes alike; the bytes' frequencies;
# the frequencies of a byte after the one before, counted in the training text.

# %%
before, after = source.train[:-1].astype(int), source.train[1:]
pairs = np.bincount(256 * before + after, minlength=256**2).reshape(256, 256) + 0.01  # no pair is impossible
single = pairs.sum(axis=0)
x, y = source.validation[:-1], source.validation[1:]
references = {
    "all bytes alike": math.log(256),
    "frequencies of bytes": -np.log(single / single.sum())[y].mean(),
    "frequencies of pairs": -np.log(pairs / pairs.sum(axis=1, keepdims=True))[x, y].mean(),
}
print({name: round(float(loss), 3) for name, loss in references.items()})

# %%
plots_choosing.way_down(runs, references)

# %% [markdown]
# First a model learns how frequent bytes are, then pairs of them, for which no attention is needed. Only below the
# lowest line does it have to use what stands further back, and there these runs are for their second half. Still **this
# comparison says nothing about GTA and GQA**: it is one seed and little training. How much further do the studies' runs
# go?

# %%
here = settings.steps * settings.batch * settings.length
print(f"here {here:,} tokens; in a run of the study {mechanisms['tokens']:,}, and MHA's loss is")
print(f"{mechanisms['arms']['mha']['mean']:.2f}, where pairs of bytes have {references['frequencies of pairs']:.2f}")
assert mechanisms["arms"]["mha"]["mean"] < references["frequencies of pairs"]

# %% [markdown]
# ## Going on exactly
#
# Step $t$ draws its batch by a generator made from the seed and $t$, and the file holds the optimizer's moments too.
# So a run that goes on is the same run. Load the half-way file and finish it: not one loss may differ, not in the last
# bit.

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
# (On the same number of threads: another number adds in another order, and rounds differently.)
#
# ## A sample
#
# The model continues a line of Python, a byte at a time, from its cache. With this little training expect indentation,
# brackets and bits of words, not programs.

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
# GTA changes two things at once: maps are shared, and the query gates the decoded values. To tell what does what, the
# study `gate` crosses them: GQA, MLA and GTA, each with and without a gate on the heads, all with as many parameters.
# If the gate alone does it, GQA should gain from it as much as GTA.

# %%
gate = found.get("gate")
if gate is None:
    print("docs/studies/gate.json is not there; make it with: gta-ref study gate --json docs/studies/gate.json")
else:
    show(loss_rows(gate))

# %%
plots_studies.study(gate) if gate else None

# %% [markdown]
# The table compares all with one baseline. The question needs other differences of the same runs, again seed by seed:
# what the gate does to each mechanism; what sharing does with and without it; and whether the gate does *more* for GTA
# than for GQA, a difference of differences.

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
# Read "lower" as "a better loss". A row "not told apart" leaves the question open at this size; it does not answer it
# with no. Two things to keep in mind. A GTA without a gate is not only a GTA with less in it: its decoder folds into
# the output matrix ([notebook 2](02_latent_values_and_the_gate.ipynb)), so a part of its equal number of parameters is
# idle. And these are six questions to one set of runs; a row whose interval just misses 0 would not survive the
# division above. What we make of it: [docs/studies.md](../docs/studies.md).
#
# ## What the gate does to the rank
#
# [Notebook 2](02_latent_values_and_the_gate.ipynb) showed with random weights that the gate lifts the heads over
# the $d_l$ dimensions of their latent. Here is the effective rank in the model that was just trained, on held-out
# text, mean of its two layers: of the decoded values of all heads (64 columns, but rank at most $n_q d_l = 32$), and of
# the heads after the gate.

# %%
c = whole.config.attention
print(f"n_q·d_l = {c.n_q * c.latent_dim}, columns {c.n_heads * c.head_dim}")
for name, run in (("before training", untrained), ("after training", whole)):
    rank = measures.ranks(run, source)
    decoded, gated = rank["rank, decoded"], rank["rank, gated"]
    print(f"{name:16} decoded {decoded:5.1f}, gated {gated:5.1f}: {gated / decoded:.1f} times")
    assert decoded < min(gated, c.n_q * c.latent_dim)

# %% [markdown]
# The gate doubles the rank, and does so with random weights, which have learned nothing, as it does after training. So
# a high rank is not a good in itself; compare it between *trained* models, with their losses beside it. The study
# `activations` does (sigmoid, SiLU, ReLU², none). All further summaries that are there, as tables and figures:

# %%
further = {name: study for name, study in found.items() if name not in ("mechanisms", "gate")}
for name, study in further.items():
    print(f"\n{name}: {study['question']}")
    show(loss_rows(study))
    if measured := measured_rows(study):
        show(measured)
    display(plots_studies.study(study))
print(f"{len(further)} further studies; the library knows {', '.join(studies.STUDIES)}")

# %% [markdown]
# ## Choosing: the side that can be computed
#
# Take GTA-1B and change $n_q$ and $d_l$ ($n_k = n_c = 1$), the MLP again so wide that every model has as many
# parameters as GQA-1B. What changes is cache and attention,
#
# $$\text{cache} = n_k d_h + n_c d_l, \qquad \text{attention} = n_q (d_h + d_l)\ \text{MACs for a query and a key},$$
#
# and by the roofline of an H100 with a fused kernel ([docs/costs.md](../docs/costs.md); a model of time, not a
# measurement) the time of a decoding step at batch 32 and 4,096 tokens, and of a prefill of 4,096.

# %%
baseline, h100 = Model.preset("gqa-1b"), PRESETS["h100"]
batch, length = 32, 4096


def choice(n_q, d_l):
    """GTA-1B with other sizes and GQA-1B's number of parameters."""
    one = Model.parse(f"gta n_q={n_q} n_k=1 n_c=1 latent_dim={d_l}")
    row = 3 * one.hidden_size * one.n_layers  # parameters of one more feature in the MLPs
    return replace(one, intermediate_size=one.intermediate_size + round((baseline.parameters - one.parameters) / row))


def seconds(one, stage):
    return estimate(one, stage, batch, length, h100, fused=True).seconds


ours, published = choice(5, 128), Model.preset("gta-1b")
print(f"MLP {ours.intermediate_size}, parameters {ours.parameters:,}; GTA-1B {published.parameters:,}")
assert abs(ours.parameters / baseline.parameters - 1) < 0.001

# %% [markdown]
# Predict first: which of the four depend on $n_q$? Numbers are ratios to GQA-1B; blue is better, orange worse. The
# frame is GTA-1B's choice.

# %%
n_qs, d_ls = [1, 2, 4, 5, 10, 20], [32, 64, 128, 256]
grid = [[choice(n_q, d_l) for d_l in d_ls] for n_q in n_qs]
ratios = {
    "cache": lambda one: one.structure.cache_elements / baseline.structure.cache_elements,
    "attention MACs": lambda one: one.structure.attention_macs / baseline.structure.attention_macs,
    "decoding, × as fast": lambda one: seconds(baseline, "decode") / seconds(one, "decode"),
    "prefill, × as fast": lambda one: seconds(baseline, "prefill") / seconds(one, "prefill"),
}
panels = {title: np.array([[ratio(one) for one in row] for row in grid]) for title, ratio in ratios.items()}
assert np.ptp(panels["cache"], axis=0).max() == 0
plots_choosing.cost_maps(panels, n_qs, d_ls, marked=(5, 128))

# %% [markdown]
# * **$d_l$ is the cache**, and in decoding the cache is the time. Below some width there is little left to gain: keys
#   and weights remain.
# * **$n_q$ is free in the cache**, and almost free in decoding, which waits for memory. It costs attention operations,
#   that is prefill and training; and with a fused kernel at this length attention is a small part of a prefill.
#
# So if your model mostly decodes, spend on maps and save on the latent; if it mostly reads long prompts, the other way
# round. All of it within what the loss allows.
#
# What is *dominated* can be sorted out by counting. `gta-ref costs design` draws all choices of $n_q, n_k, n_c, d_l$
# whose layer has at least GQA-1B's attention parameters, and joins those that none beats in both cache and attention.

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
# Whether an efficient choice learns as well as another is not in this figure: it has the parameters, but perhaps in
# the wrong place.
#
# ## Choosing: the side that has to be measured
#
# Two measurements help before any training. A pretrained model's heads, clustered by their maps, hint at how many
# different maps a layer needs ([notebook 1](01_shared_attention_maps.ipynb), `gta-ref maps`). And the values' rank says
# how much a latent may leave out. Neither replaces a study. The one that asks this question is `sizes`; its losses
# beside what each arm costs:

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
# More maps cost attention, a wider latent costs cache, and beyond the baseline three seeds see no gain from either. One
# map for all heads is worse with every seed. Before you take that for your model: this text asks for little looking up
# (in `retrieval`, above, four maps find more than two), and see the last section. To run it, or your own:
#
# ```sh
# gta-ref study sizes --quick                     # minutes: does it run?
# gta-ref study sizes --json sizes.json --plot sizes.png
# gta-ref train --mechanism gta --steps 600       # a single run; Ctrl-C, then --resume gta-run.safetensors
# ```
#
# What does it take on such a machine? The budget is in the plan, and what a run took in the summary.

# %%
s = plan.settings
jobs = len(list(plan.jobs()))
print(f"{plan.question} Baseline {plan.baseline}; {s.steps} steps of {s.batch} × {s.length} tokens")
a_run = measured["seconds"] / 60 / jobs if measured else minutes
print(f"{jobs} runs of about {a_run:.0f} minutes: {jobs * a_run / 60:.1f} hours of runs, half of it two at a time")

# %% [markdown]
# To plan your own, in this order:
#
# 1. **Write down the question and the baseline first**, and the smallest difference that would change your decision.
# 2. **Seeds** from that difference, by the table of half-widths above; then the steps that your hours allow.
# 3. **Few arms.** Every arm is a comparison more. Vary $n_q$ at one $d_l$ and $d_l$ at one $n_q$, not the whole grid.
# 4. **Learning rate:** the same for all is simple and may favour one. Try a neighbour of the rate for the two best.
# 5. **Report all arms**, with intervals; "not told apart" included.
#
# `Study(name, question, arms, baseline, settings, seeds=…)` and `gta_ref.lab.runner.run` take any arms that
# `small.config` can make.
#
# ## What small studies cannot say
#
# * 0.8 million parameters, 1.6 million tokens and a context of 256 bytes. A narrow latent may suffice here and fail at
#   a billion parameters; and such text asks for little looking up. The study `retrieval` asks for nothing else, on a
#   toy task, and there few maps are late, whatever the cache: compare its rows by their number of maps.
# * The order of arms early in training need not be the order at its end. Look whether the curves still cross.
# * One kind of text, one learning rate, no search for each mechanism.
# * They can *refute* at their size, and they can show what is worth a larger run. They cannot confirm the paper's
#   results at 1 B.
#
# ## Try it
#
# **1. One seed.** Compare only the first seeds of `mechanisms` and rank the arms; then the second, the third. Predict:
# does the same arm win each time?
#
# <details><summary>Answer</summary>
#
# `for i in range(n): print(sorted(mechanisms["arms"], key=lambda a: mechanisms["arms"][a]["loss"][i]))`. In the study
# of November 2026 each seed has another winner (GTA, MHA, GQA), while MLA is last with every seed. A study with one
# seed would have reported one of these orders as its result.
#
# </details>
#
# **2. No gate, live.** Train `small.config("gta", hidden_size=64, n_layers=2, gate="none")` with the same settings.
# What will `measures.ranks` say of it, and what may you conclude from its loss?
#
# <details><summary>Answer</summary>
#
# `run = train.begin(…)`, `train.advance(run, source)`. Without a gate the heads *are* the decoded values, so both
# ranks are the same number, below $n_q d_l = 32$. From the loss you may conclude nothing: it is one seed.
#
# </details>
#
# **3. Another use.** Set `batch, length = 1, 1024`, a single short chat, and draw the grid again. What happens to the
# decoding panel?
#
# <details><summary>Answer</summary>
#
# All its numbers lie between 1.01 and 1.03: a step moves 2.3 GB of weights and some tens of megabytes of cache,
# whatever $d_l$ is. And prefill is slower than GQA-1B's in all fields but one, because the gate and the decoder cost
# more than attention saves at 1,024 tokens. Choose sizes for the use you have.
#
# </details>
#
# ## Summary
#
# * A fair study has equal parameters, batches and steps, several seeds, and intervals of paired differences; "not told
#   apart" bounds a difference and does not make it 0.
# * Training here is reproducible and goes on from a file to the last bit.
# * $d_l$ pays in cache and decoding time, $n_q$ in attention operations; costs are computed in a moment, what a choice
#   does to the loss takes a study, and holds at the study's size.
#
# [previous: Numba CUDA kernels](06_numba_cuda_kernels.ipynb) |
# [next: verify your implementation](08_verify_your_implementation.ipynb)
