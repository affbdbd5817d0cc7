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
# # Exercise 9: backward through the gated decoder
#
# 40 minutes · level 3 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
import numpy as np

from gta_ref.exercises import check

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# For each map $m$, with all the heads that it serves side by side, the forward is
#
# $$U_m = Z_m W_{P,m} \;\big(+\ [Z_m\ Z_m \dots Z_m]\big), \qquad O = U \odot \sigma(a)$$
#
# The term in parentheses is the residual of the released code: `copies` says whether it is present. It consists of $e =
# \mathrm{width}/d_l$ copies of $Z_m$ side by side, which are added to $Z_m W_{P,m}$.
#
# Given $\mathrm{d}O$, find $\mathrm{d}Z$, $\mathrm{d}W_P$ and $\mathrm{d}a$. $U$ holds the results of all maps side by
# side: map $m$ has the columns $m \cdot \mathrm{width}$ to $(m+1) \cdot \mathrm{width} - 1$. You will need $\sigma' =
# \sigma(1 - \sigma)$.
#
# | | shape | |
# | --- | --- | --- |
# | `d_heads` | (B, N, n_q·width) | dO |
# | `z` | (B, n_q, N, d_l) | |
# | `w_p` | (n_q, d_l, width) | |
# | `a` | (B, N, n_q·width) | the gate before σ |
# | `copies` | bool | |
# | returns `d_z`, `d_w_p`, `d_a` | the shapes of z, w_p and a | |


# %%
def decoder_backward(d_heads, z, w_p, a, copies):
    """d_z, d_w_p and d_a, with the shapes of z, w_p and a."""
    ...


# %% [markdown]
# ### A small example

# %%
z, w_p, a = np.array([[[[2.0]]]]), np.array([[[1.0, 3.0]]]), np.zeros((1, 1, 2))  # one map, d_l = 1, width = 2
for copies in (False, True):
    answer = decoder_backward(np.ones((1, 1, 2)), z, w_p, a, copies)
    for gradient in () if answer is None else answer:
        print(gradient.ravel())

# %% [markdown]
# It should print
#
# ```text
# [2.]
# [1. 1.]
# [0.5 1.5]
# [3.]
# [1. 1.]
# [1. 2.]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex09", decoder_backward)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# Apply the product rule to ⊙: dU = dO ⊙ σ(a), and da = dO ⊙ U ⊙ σ′(a).
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# For U = Z W: dZ = dU Wᵀ and dW = Zᵀ dU, summed over all tokens of all sequences. With copies, Z also went into each of
# the e slices of U, so the sum of the slices' gradients is added to dZ.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# This decoder exists only in GTA, and the copies are a point in which the paper and the released code differ. A
# forgotten slice raises no error: the model trains with a wrong gradient.
