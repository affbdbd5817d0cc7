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
# name: ex05
# export_cell: false
# tests:
#     ok_format: false

# %% [markdown]
# # Exercise 5: decode after the sum (Eq. 7 equals Eq. 8)
#
# 20 minutes · level 2 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
import numpy as np

from gta_ref.exercises import check

np.set_printoptions(precision=3, suppress=True)

# %% [raw]
# # BEGIN QUESTION
# name: ex05

# %% [markdown]
# GTA caches a narrow latent $C$ instead of values. The paper starts from values (Eq. 7): every past latent is decoded
# by $W_P$ and gated for the query that reads it, and then the values are summed with the weights of the map:
#
# $$O_i(t) = \sum_s A_{q(i)}(t, s)\,\big[(C_s W_{P,i}) \odot g_i(t)\big]$$
#
# Neither $g_i(t)$ nor $W_{P,i}$ depends on $s$. Take both out of the sum (Eq. 8):
#
# $$O_i(t) = \Big[\underbrace{\Big(\sum_s A_{q(i)}(t, s)\, C_s\Big)}_{Z(t)} W_{P,i}\Big] \odot g_i(t)$$
#
# Implement the second form. No past latent may be decoded, not even one at a time: the check measures how much memory
# your function uses, and calls it with latents that overflow if they are decoded.
#
# | | shape | |
# | --- | --- | --- |
# | `a` | (B, n_q, N_q, N_k) | the maps |
# | `c` | (B, n_c, N_k, d_l) | the latents; map m reads latent head m // (n_q/n_c) |
# | `w_p` | (n_q, d_l, width) | width = (n_h/n_q)·d_h: the columns of all heads that map m serves |
# | `gate` | (B, N_q, n_h·d_h) | the gate, after its σ |
# | returns `heads` | (B, N_q, n_h·d_h) | map m fills columns m·width to (m+1)·width − 1 |
#
# The result has to have the dtype of the inputs.

# %% [raw]
# # BEGIN SOLUTION


# %%
def attend_then_decode(a, c, w_p, gate):
    """Gated heads side by side, by Eq. 8: (B, N_q, n_h·d_h)."""
    # BEGIN SOLUTION
    z = a @ np.repeat(c, a.shape[1] // c.shape[1], axis=1)  # (B, n_q, N_q, d_l)
    values = z @ w_p  # (B, n_q, N_q, width)
    return values.swapaxes(1, 2).reshape(gate.shape) * gate
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS


# %%
def test_ex05(attend_then_decode):
    from gta_ref.exercises import check

    verdict = check("ex05", attend_then_decode)
    assert verdict.passed, verdict


# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ### A small example

# %%
a = np.array([[[[0.5, 0.5]], [[1.0, 0.0]]]])  # two maps, one query, two keys
c = np.array([[[[2.0], [4.0]]]])  # one latent head, d_l = 1
w_p = np.array([[[1.0, 10.0]], [[1.0, -1.0]]])  # two columns for each map
print(attend_then_decode(a, c, w_p, np.full((1, 1, 4), 0.5)))

# %% [markdown]
# It should print
#
# ```text
# [[[ 1.5 15.   1.  -1. ]]]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex05", attend_then_decode)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# Compute Z first: `a @ c`, with a copy of its latent head for each map. The shape of Z, (B, n_q, N_q, d_l), no longer
# contains N_k.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `z @ w_p` multiplies map m by matrix m. The result is (B, n_q, N_q, width). To put the heads side by side, swap the
# axes to (B, N_q, n_q, width), then reshape.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# With Eq. 7 a query at the end of 4096 tokens decodes 4096 · n_h · d_h values; with Eq. 8 it decodes n_q latents. This
# is why the cache can hold the narrow latent while a decoding step stays cheap.
