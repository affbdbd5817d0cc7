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
# # 7. Training
#
# By the end you will know
#
# * what a training run consists of, and what a first loss should be;
# * how a small language model with GTA is trained here, stopped, and continued so that the result is bit-identical;
# * what the gate does to the rank of the heads in a model that has been trained.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes less than a minute to run.
#
# [previous: Numba CUDA kernels](06_numba_cuda_kernels.ipynb) |
# [next: reading a study](07b_reading_a_study.ipynb)
#
# An exercise to go with it: [4, the gate](exercises/ex04_gate.ipynb).

# %%
# %matplotlib inline
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from threadpoolctl import threadpool_limits

from gta_ref import threads
from gta_ref.lab import measures
from gta_ref.lm import generate, model, small, text, train
from gta_ref.plots import choosing as plots_choosing

# %% [markdown]
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
# **this comparison says nothing about GTA versus GQA**: it uses one seed and 0.3 million tokens. The runs of the study
# in the [next notebook](07b_reading_a_study.ipynb) see five times as many, and each arm is trained from three seeds.
#
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
# %% [markdown]
# The gate doubles the rank after training, but it also does so with random weights, which have learnt nothing. A high
# rank is therefore not good in itself; compare it between *trained* models, together with their losses. The study
# `activations`, in the [next notebook](07b_reading_a_study.ipynb), does this (sigmoid, SiLU, ReLU², none).
#
# ## Try it
#
# **No gate, live.** Train `small.config("gta", hidden_size=64, n_layers=2, gate="none")` with the same settings.
# What will `measures.ranks` say about it, and what may you conclude from its loss?
#
# <details><summary>Answer</summary>
#
# Use `run = train.begin(…)` and `train.advance(run, source)`. Without a gate the heads *are* the decoded values, so
# both ranks are the same number, below $n_q d_l = 32$. From the loss you may conclude nothing: it is one seed.
#
# </details>
#
# ## Summary
#
# * A run consists of a model, settings and a text. The batch of a step follows from the seed and the step's number
#   alone.
# * Training here is reproducible, and a run that is continued from a file is bit-identical to an uninterrupted one.
# * The gate raises the rank of the heads above that of their latent, before training as well as after it.
#
# [previous: Numba CUDA kernels](06_numba_cuda_kernels.ipynb) |
# [next: reading a study](07b_reading_a_study.ipynb)
