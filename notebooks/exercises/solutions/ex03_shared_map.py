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
# name: ex03
# export_cell: false
# tests:
#     ok_format: false

# %% [markdown]
# # Exercise 3: the shared map
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
# name: ex03

# %% [markdown]
# Compute one attention map for each query head $m$:
#
# $$A_m = \mathrm{softmax}\!\left(\frac{Q_m K_{k(m)}^\top}{\sqrt{d_h}}\right),
# \qquad k(m) = \left\lfloor \frac{m}{n_q/n_k} \right\rfloor$$
#
# The softmax goes over the keys that the query may see; the others have weight 0. A query that sees nothing, as happens
# in padding, has a row of zeros.
#
# | | shape | |
# | --- | --- | --- |
# | `q` | (B, n_q, N_q, d_h) | |
# | `k` | (B, n_k, N_k, d_h) | n_k divides n_q |
# | `visible` | (B, N_q, N_k), bool | True where the query may see the key |
# | returns `map` | (B, n_q, N_q, N_k) | rows sum to 1, or are 0 |
#
# Scores may be large: exp(1000) overflows, although the softmax itself is always finite. The result has to have the
# dtype of the inputs.

# %% [raw]
# # BEGIN SOLUTION


# %%
def shared_map(q, k, visible):
    """All maps: (B, n_q, N_q, N_k)."""
    # BEGIN SOLUTION
    keys = np.repeat(k, q.shape[1] // k.shape[1], axis=1)  # (B, n_q, N_k, d_h)
    scores = q @ keys.swapaxes(-1, -2) * q.shape[-1] ** -0.5  # (B, n_q, N_q, N_k)
    scores = np.where(visible[:, None], scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0))  # −∞ − −∞ would be NaN
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS


# %%
def test_ex03(shared_map):
    from gta_ref.exercises import check

    verdict = check("ex03", shared_map)
    assert verdict.passed, verdict


# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ### A small example

# %%
q = np.array([[[[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]]])  # one map, 3 tokens, d_h = 2
k = np.array([[[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]])
causal = np.tri(3, dtype=bool)[None]
print(shared_map(q, k, causal))

# %% [markdown]
# It should print
#
# ```text
# [[[[1.    0.    0.   ]
#    [0.196 0.804 0.   ]
#    [0.248 0.248 0.503]]]]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex03", shared_map)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# A score of −∞ has weight exp(−∞) = 0: `np.where(visible[:, None], scores, -np.inf)`.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Subtracting the same number from all scores of a row does not change the softmax, since the numerator and the
# denominator shrink by the same factor. Subtract the largest, and no exp is above 1. In a row that sees nothing the
# largest is −∞: subtract 0 there.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# A GTA layer computes only these $n_q$ maps, whose cost grows with N²: GTA-1B computes 5 where its GQA baseline
# computes 20.
