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
# name: ex10
# export_cell: false
# tests:
#     ok_format: false

# %% [markdown]
# # Exercise 10: merging two partial results
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
# name: ex10

# %% [markdown]
# The keys are cut into two parts. For every query, each part has its own result $z$ (with the softmax over that part
# alone) and $\mathrm{lse} = \log \sum_j e^{S_j}$, the logarithm of its sum. The sums determine how much each part
# weighs:
#
# $$z = \frac{e^{\mathrm{lse}_1} z_1 + e^{\mathrm{lse}_2} z_2}{e^{\mathrm{lse}_1} + e^{\mathrm{lse}_2}}, \qquad
# \mathrm{lse} = \log\big(e^{\mathrm{lse}_1} + e^{\mathrm{lse}_2}\big)$$
#
# lse may be 1000 or −1000, so that $e^{\mathrm{lse}}$ overflows to ∞ or underflows to 0. If a query sees nothing in a
# part, that part has lse = −∞ and z = 0. If it sees nothing in either part, the result also has lse = −∞ and z = 0.
#
# | | shape |
# | --- | --- |
# | `z1`, `z2` | (B, n_q, N, d) |
# | `lse1`, `lse2` | (B, n_q, N) |
# | returns `z`, `lse` | (B, n_q, N, d), (B, n_q, N) |

# %% [raw]
# # BEGIN SOLUTION


# %%
def merge(z1, lse1, z2, lse2):
    """z and lse over all keys of both parts."""
    # BEGIN SOLUTION
    largest = np.maximum(lse1, lse2)
    largest = np.where(np.isfinite(largest), largest, 0)  # −∞ − −∞ would be NaN
    w1, w2 = np.exp(lse1 - largest), np.exp(lse2 - largest)  # the larger weight is 1
    total = w1 + w2
    weighted = w1[..., None] * z1 + w2[..., None] * z2
    z = weighted / np.where(total == 0, 1, total)[..., None]
    with np.errstate(divide="ignore"):  # log 0 = −∞ is intended
        return z, largest + np.log(total)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS


# %%
def test_ex10(merge):
    from gta_ref.exercises import check

    verdict = check("ex10", merge)
    assert verdict.passed, verdict


# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ### A small example

# %%
z1, z2 = np.full((1, 1, 3, 1), 10.0), np.full((1, 1, 3, 1), 20.0)
lse1, lse2 = np.log([[[1.0, 1.0, 3.0]]]), np.log([[[1.0, 3.0, 1.0]]])  # sums 1 and 1, 1 and 3, 3 and 1
answer = merge(z1, lse1, z2, lse2)
for array in () if answer is None else answer:
    print(array.ravel())

# %% [markdown]
# It should print
#
# ```text
# [15.  17.5 12.5]
# [0.693 1.386 1.386]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex10", merge)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# Only the difference of the two lse matters. Subtract the larger one from both before exp, and add it back to the
# logarithm.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Where both are −∞, subtract 0 instead. The sum is then 0, so divide by 1 there.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# A GPU that decodes one token has one query and thousands of keys. It gives each part of the keys to a different
# multiprocessor and merges the results like this (split-KV, Flash-Decoding). With only 5 maps in GTA-1B, there are even
# fewer rows to distribute, so this matters more.
