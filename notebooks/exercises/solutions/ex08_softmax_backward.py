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
# name: ex08
# export_cell: false
# tests:
#     ok_format: false

# %% [markdown]
# # Exercise 8: backward through the softmax
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
# name: ex08

# %% [markdown]
# Each row of the map is $A_j = e^{S_j} / \sum_l e^{S_l}$. A score changes every weight of its row:
#
# $$\frac{\partial A_j}{\partial S_l} = A_j\,(\delta_{jl} - A_l)$$
#
# Given $\mathrm{d}A$, the gradient of the loss with respect to the map, find $\mathrm{d}S$, the gradient with respect
# to the scores, for all rows at once. Do not build the Jacobian: put the formula above into $\mathrm{d}S_l = \sum_j
# \mathrm{d}A_j\, \partial A_j/\partial S_l$ and simplify on paper first. The check limits the memory.
#
# | | shape | |
# | --- | --- | --- |
# | `d_map` | (B, n_q, N_q, N_k) | |
# | `map` | (B, n_q, N_q, N_k) | if a query sees nothing, its row is 0, and so is its gradient |
# | returns `d_scores` | (B, n_q, N_q, N_k) | |

# %% [raw]
# # BEGIN SOLUTION


# %%
def map_backward(d_map, map):
    """Gradient with respect to the scores: (B, n_q, N_q, N_k)."""
    # BEGIN SOLUTION
    # dS_l = Σ_j dA_j A_j (δ_jl − A_l) = A_l dA_l − A_l Σ_j dA_j A_j
    return map * (d_map - (map * d_map).sum(axis=-1, keepdims=True))
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS


# %%
def test_ex08(map_backward):
    from gta_ref.exercises import check

    verdict = check("ex08", map_backward)
    assert verdict.passed, verdict


# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ### A small example

# %%
map = np.array([[[[0.25, 0.25, 0.5]]]])
print(map_backward(np.array([[[[1.0, 0.0, 0.0]]]]), map))  # one row of the Jacobian
print(map_backward(np.ones((1, 1, 1, 3)), map))  # the loss is the sum of the row, which is always 1

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
# Split the bracket into its two terms: δ gives A_l dA_l, and the other gives −A_l times a number that is the same for
# the whole row.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# The number that each row needs, rowsum(A ⊙ dA), equals rowsum(Z ⊙ dZ). A fused kernel can therefore compute it without
# the map, so training needs no N² memory either.
