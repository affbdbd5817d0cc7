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
# # 7b. Reading a study
#
# By the end you will know
#
# * how mechanisms are compared by training, and what has to be equal for the comparison to be fair;
# * what an interval over three seeds can and cannot say, and how to compute one that no table shows;
# * whether sharing or the gate makes the difference, as far as small models can tell.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes a few seconds to run.
#
# [previous: training](07_training.ipynb) | [next: choosing sizes](07c_choosing_sizes.ipynb)
#
# The studies in full: [docs/studies.md](../docs/studies.md).

# %%
# %matplotlib inline
import json
import math

import numpy as np
from IPython.display import display
from scipy.stats import t as student

from gta_ref import course
from gta_ref.exercises.intervals import check_claims, check_interval
from gta_ref.lab import studies
from gta_ref.lab.summary import compare, loss_rows, measured_rows
from gta_ref.lm import small
from gta_ref.plots import choosing as plots_choosing
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
folder = course.path("docs/studies")
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
    ends = f"[{d.mean() - wide:+.3f}, {d.mean() + wide:+.3f}]"
    print(f"{name:4} {d.std(ddof=1):.3f}   {unpaired:.3f}      {ends}   {told}".rstrip())

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
# ## Exercise: which claims does the study support?
#
# The table compares every arm with MHA. Here are four claims about other pairs of the same study. Decide for each
# whether the study supports it.
#
# * **a.** GVA's loss is higher than GQA's.
# * **b.** GTA's loss is lower than GHA's.
# * **c.** GTA and GQA learn equally well.
# * **d.** GTA's loss is at most 0.05 nats per byte higher than GQA's.
#
# **Predict first**, from the three losses of each arm that the next cell prints. Then write `interval`, which returns
# the two ends of the 95 % interval of the mean of losses − baseline. Runs with the same seed are paired, and there may
# be any number of seeds. The check uses other losses, and names the usual mistakes.

# %%
for name in ("gva", "gqa", "gta", "gha"):
    print(f"{name:4}", np.round(mechanisms["arms"][name]["loss"], 4))


def interval(losses, baseline):
    # both are (n,), one loss per seed; return (low, high)
    ...


check_interval(interval)

# %% [markdown]
# Now compute the intervals with your function, for instance
# `interval(*(np.array(mechanisms["arms"][name]["loss"]) for name in ("gva", "gqa")))`, and replace each `None` by
# `True` if the study supports the claim, else by `False`.

# %%
supported = {"a": None, "b": None, "c": None, "d": None}
check_claims(supported, mechanisms)

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def interval(losses, baseline):
#     d = losses - baseline
#     half = student.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
#     return d.mean() - half, d.mean() + half
# ```
#
# **a** is supported: [+0.009, +0.046]. GVA is worse than GQA by nearly the same amount with every seed, which an
# unpaired standard error would miss: ± 0.045. **b** is not: [−0.066, +0.020]. With 1.96 in place of 4.30 the interval
# would be less than half as wide, and would exclude 0; so would an unpaired one. **c** is not, and could not be:
# [−0.054, +0.043] contains 0, so no difference is shown, but it contains many other differences too. **d** is
# supported, by the same interval: it lies below 0.05. A bound on the difference is what a small study can offer in
# place of "equal".
#
# (These are four questions about one set of runs. With 5 % for all of them together, **a** would not hold.)
#
# </details>
#
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
# ## The other studies
#
# Here are all other summaries that were found, as tables and figures. One of them, `activations`, compares the rank of
# the heads between models that were trained with a sigmoid, with SiLU, with ReLU² and without a gate.

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
# **One seed.** Rank the arms of `mechanisms` by their first seed alone, then by the second, then by the third.
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
# ## Summary
#
# * A fair study has equal parameters, batches and steps, several seeds, and intervals of paired differences.
# * An interval that contains 0 bounds the difference but does not make it 0. With $m$ rows, each gets $5\,\% / m$.
# * At this size the studies exclude large differences between the mechanisms, and cannot distinguish small ones.
#
# [previous: training](07_training.ipynb) | [next: choosing sizes](07c_choosing_sizes.ipynb)
