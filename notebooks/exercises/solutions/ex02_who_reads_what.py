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
# name: ex02
# export_cell: false
# tests:
#     ok_format: false

# %% [markdown]
# # Exercise 2: which head reads what
#
# 10 minutes · level 1 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
import numpy as np

from gta_ref.exercises import check

np.set_printoptions(precision=3, suppress=True)

# %% [raw]
# # BEGIN QUESTION
# name: ex02

# %% [markdown]
# GTA has four kinds of heads: $n_h$ output heads, $n_q$ maps (query heads), $n_k$ key heads and $n_c$ latent heads.
# $n_q$ divides $n_h$, and both $n_k$ and $n_c$ divide $n_q$. Heads are assigned in contiguous runs:
#
# $$q(i) = \left\lfloor \frac{i}{n_h/n_q} \right\rfloor, \qquad
# k(m) = \left\lfloor \frac{m}{n_q/n_k} \right\rfloor, \qquad
# c(m) = \left\lfloor \frac{m}{n_q/n_c} \right\rfloor$$
#
# Output head $i$ uses map $m = q(i)$. Map $m$ is computed from key head $k(m)$, and its weights are applied to latent
# head $c(m)$.
#
# Return three arrays (or lists) of $n_h$ whole numbers: for each output head its map, its key head and its latent head.

# %% [raw]
# # BEGIN SOLUTION


# %%
def who_reads_what(n_h, n_q, n_k, n_c):
    """map_of_head, key_of_head, latent_of_head: (n_h,) each."""
    # BEGIN SOLUTION
    m = np.arange(n_h) // (n_h // n_q)
    return m, m // (n_q // n_k), m // (n_q // n_c)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS


# %%
def test_ex02(who_reads_what):
    from gta_ref.exercises import check

    verdict = check("ex02", who_reads_what)
    assert verdict.passed, verdict


# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ### A small example

# %%
answer = who_reads_what(12, 6, 3, 2)
for readers in () if answer is None else answer:
    print(readers)

# %% [markdown]
# It should print
#
# ```text
# [0 0 1 1 2 2 3 3 4 4 5 5]
# [0 0 0 0 1 1 1 1 2 2 2 2]
# [0 0 0 0 0 0 1 1 1 1 1 1]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with counts of heads that are not shown here.

# %%
check("ex02", who_reads_what)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# `//` divides and drops the remainder. It works on arrays too.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The key head is found from the map, not from the output head: first m, then m // (n_q // n_k).
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# The other order, i % n_q, would be just as good a design, but weights that were trained with one order give wrong
# results with the other. Nothing crashes: all shapes are the same.
