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
# # Exercise 6: what the cache costs
#
# 10 minutes · level 1 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
from gta_ref.exercises import check

gta_1b = {"layers": 54, "n_h": 20, "d_h": 64, "n_q": 5, "n_k": 1, "n_c": 1, "d_l": 128}
gqa_1b = {"layers": 54, "n_h": 20, "d_h": 64, "n_q": 20, "n_k": 5}

# %% [markdown]
# While a model generates text, each layer keeps what later tokens need of every past token.
#
# * GTA keeps the keys and the latents: $n_k d_h + n_c d_l$ numbers per token and layer.
# * GQA and MHA keep keys and values of the same width: $2\, n_k d_h$.
#
# Return the number of bytes that the cache of the whole model takes up. `model` is a dict with `layers`, `n_h`, `d_h`,
# `n_q`, `n_k`, and for GTA also `n_c` and `d_l`; a model without `d_l` is GQA or MHA. The cache holds `batch` sequences
# of `tokens` tokens each, and each number takes `itemsize` bytes (2 in a 16-bit format). The result has to be a whole
# number.


# %%
def cache_bytes(model, batch, tokens, itemsize):
    """Bytes of the cache of all layers and sequences: an int."""
    ...


# %% [markdown]
# ### A small example

# %%
gta, gqa = cache_bytes(gta_1b, 1, 2048, 2), cache_bytes(gqa_1b, 1, 2048, 2)
print(gta, gqa, gta and gta / gqa)

# %% [markdown]
# It should print
#
# ```text
# 42467328 141557760 0.3
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with models and sizes that are not shown here.

# %%
check("ex06", cache_bytes)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# The number of output heads does not occur in the answer, nor does the number of maps.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# 0.3 is the paper's "70 % less cache". It comes from three choices at once: one key head instead of five, no separate
# values, and a latent of width 128.
