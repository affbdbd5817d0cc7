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
# name: ex01
# export_cell: false
# tests:
#     ok_format: false

# %% [markdown]
# # Exercise 1: several heads read one map
#
# 5 minutes · level 1 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
import numpy as np

from gta_ref.exercises import check

np.set_printoptions(precision=3, suppress=True)

# %% [raw]
# # BEGIN QUESTION
# name: ex01

# %% [markdown]
# In multi-head attention each of the $n_h$ output heads has an attention map of its own. GTA computes only $n_q < n_h$
# maps, and each run of $n_h/n_q$ consecutive heads reads the same one:
#
# $$O_i = A_{q(i)} V_i, \qquad q(i) = \left\lfloor \frac{i}{n_h/n_q} \right\rfloor$$
#
# With 2 maps and 6 heads, heads 0, 1, 2 read map 0, and heads 3, 4, 5 read map 1.
#
# | | shape | |
# | --- | --- | --- |
# | `maps` | (B, n_q, N_q, N_k) | the weights: a row for each query, a column for each key |
# | `values` | (B, n_h, N_k, d_h) | a value head for each output head |
# | returns `heads` | (B, n_h, N_q, d_h) | |
#
# The result has to have the dtype of the inputs. Two lines are enough if NumPy does the looping.

# %% [raw]
# # BEGIN SOLUTION


# %%
def heads_from_maps(maps, values):
    """Every head's values, summed with the weights of its map: (B, n_h, N_q, d_h)."""
    # BEGIN SOLUTION
    per_head = np.repeat(maps, values.shape[1] // maps.shape[1], axis=1)  # (B, n_h, N_q, N_k)
    return per_head @ values
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS


# %%
def test_ex01(heads_from_maps):
    from gta_ref.exercises import check

    verdict = check("ex01", heads_from_maps)
    assert verdict.passed, verdict


# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ### A small example

# %%
maps = np.array([[[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]]])  # map 0 copies, map 1 averages
values = np.arange(8.0).reshape(1, 4, 2, 1)  # 4 heads, 2 keys
heads = heads_from_maps(maps, values)
print(heads if heads is None else heads[0, :, :, 0])  # a row for each head

# %% [markdown]
# It should print
#
# ```text
# [[0.  1. ]
#  [2.  3. ]
#  [4.5 4.5]
#  [6.5 6.5]]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex01", heads_from_maps)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# `np.repeat` and `np.tile` both make copies. Try both on `[0, 1]` and look at the order.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Once there is a map for each head, `@` multiplies the last two axes of all heads at once.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# This is the "grouped-head" in the name: GTA-1B computes 5 maps for its 20 heads, so the scores and the softmax, whose
# cost grows with N², cost a quarter.
