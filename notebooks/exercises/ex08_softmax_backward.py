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
# # Exercise 8: backward through the softmax
#
# 20 minutes · level 2 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`

# %%
import numpy as np

from gta_ref.exercises import check

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# Each row of the map is $A_j = e^{S_j} / \sum_l e^{S_l}$. A score changes every weight of its row:
#
# $$\frac{\partial A_j}{\partial S_l} = A_j\,(\delta_{jl} - A_l)$$
#
# Given $\mathrm{d}A$, the gradient of the loss by the map, find $\mathrm{d}S$, the gradient by the scores, for all
# rows at once. Do not build the Jacobian: put the formula above into $\mathrm{d}S_l = \sum_j \mathrm{d}A_j\, \partial
# A_j/\partial S_l$ and simplify on paper first.
#
# | | shape | |
# | --- | --- | --- |
# | `d_map` | (B, n_q, N_q, N_k) | |
# | `map` | (B, n_q, N_q, N_k) | a row is 0 where the query sees nothing; then its gradient is 0 |
# | returns `d_scores` | (B, n_q, N_q, N_k) | |


# %%
def map_backward(d_map, map):
    """Gradient by the scores: (B, n_q, N_q, N_k)."""
    ...


# %% [markdown]
# ### A small example

# %%
map = np.array([[[[0.25, 0.25, 0.5]]]])
print(map_backward(np.array([[[[1.0, 0.0, 0.0]]]]), map))  # one row of the Jacobian
print(map_backward(np.ones((1, 1, 1, 3)), map))  # the loss is the row's sum, which is always 1

# %% [markdown]
# It should print
#
# ```text
# [[[[ 0.188 -0.062 -0.125]]]]
# [[[[0. 0. 0.]]]]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex08", map_backward)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# Split the sum at δ: one term is A_l dA_l, the other is A_l times a number that is the same for the whole row.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# The row's number, rowsum(A ⊙ dA), equals rowsum(Z ⊙ dZ). That is how a fused kernel finds it without the map, so that
# training needs no N² memory either.
