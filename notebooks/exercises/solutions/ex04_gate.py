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

# %% [raw]
# # ASSIGNMENT CONFIG
# name: ex04
# export_cell: false
# tests:
#     ok_format: false

# %% [markdown]
# # Exercise 4: the gate, and whose token it reads
#
# 15 minutes · level 2 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
import numpy as np

from gta_ref.exercises import check

np.set_printoptions(precision=3, suppress=True)

# %% [raw]
# # BEGIN QUESTION
# name: ex04

# %% [markdown]
# GTA multiplies each head's result by a gate that is computed from one token:
#
# $$O_i(t) = \Big(\sum_s A_i(t, s)\, V_i(s)\Big) \odot \sigma\big(x_t W_{G,i} + b_{G,i}\big),
# \qquad \sigma(a) = \frac{1}{1 + e^{-a}}$$
#
# That token is $x_t$, the **query's**, not one of the tokens $s$ that are summed over. $W_G$ holds the columns of all
# heads side by side: head $i$ has the columns $i\,d_h$ to $(i+1)\,d_h - 1$.
#
# | | shape | |
# | --- | --- | --- |
# | `a` | (B, n_h, N, N) | a map for each head, already repeated |
# | `v` | (B, n_h, N, d_h) | |
# | `x` | (B, N, H) | the tokens |
# | `w_g`, `b_g` | (H, n_h·d_h), (n_h·d_h,) | |
# | returns `heads` | (B, n_h, N, d_h) | |
#
# The result has to have the dtype of the inputs.

# %% [raw]
# # BEGIN SOLUTION


# %%
def gated_heads(a, v, x, w_g, b_g):
    """Every head's weighted sum, gated by the query's token: (B, n_h, N, d_h)."""
    # BEGIN SOLUTION
    batch, n_h, length, d_h = v.shape
    gate = 1 / (1 + np.exp(-(x @ w_g + b_g)))  # (B, N, n_h·d_h); exp may overflow: 1/inf is the 0 that is right
    gate = gate.reshape(batch, length, n_h, d_h).swapaxes(1, 2)  # (B, n_h, N, d_h)
    return a @ v * gate
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS


# %%
def test_ex04(gated_heads):
    from gta_ref.exercises import check

    verdict = check("ex04", gated_heads)
    assert verdict.passed, verdict


# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ### A small example

# %%
a = np.array([[[[1.0, 0.0], [0.5, 0.5]]]])  # one head, two tokens
v = np.array([[[[4.0], [8.0]]]])
x = np.array([[[0.0], [100.0]]])  # σ(0) = 0.5, σ(100) = 1
print(gated_heads(a, v, x, np.ones((1, 1)), np.zeros(1)))

# %% [markdown]
# It should print
#
# ```text
# [[[[2.]
#    [6.]]]]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex04", gated_heads)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# `x @ w_g + b_g` is (B, N, n_h·d_h). `reshape(B, N, n_h, d_h)` cuts the columns into heads; after that, swap the axes
# of tokens and heads.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The gate is applied after the sum over s. `v * gate` before the product would use the key's token.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# Since the gate reads the query's token alone, it can be applied after the sum. So GTA can decode one summed latent per
# query and map, instead of every cached latent; exercise 5 uses this.
