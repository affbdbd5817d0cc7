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
# # Exercise 11: attention in tiles
#
# 60 minutes · level 3 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
import numpy as np

from gta_ref.exercises import check

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# The map of 100,000 tokens has 10¹⁰ elements. A fused kernel never stores it: it reads the keys in tiles and keeps,
# for each query, three things: the largest score so far $\mu$, the sum so far $\ell$, and the unfinished result $z$.
# For each tile with scores $S$ and values $V$:
#
# $$\mu' = \max(\mu, \max_j S_j), \qquad \ell \leftarrow e^{\mu - \mu'} \ell + \sum_j e^{S_j - \mu'}, \qquad
# z \leftarrow e^{\mu - \mu'} z + \sum_j e^{S_j - \mu'} V_j$$
#
# At the end, $z / \ell$ is the result and $\mathrm{lse} = \mu + \log \ell$. Your function computes one head of one
# sequence:
#
# | | shape | |
# | --- | --- | --- |
# | `q`, `k`, `v` | (N_q, d), (N_k, d), (N_k, d_v) | scores are scaled by 1/√d |
# | `tile` | int | keys in a tile; the last one may be smaller |
# | returns `z`, `lse` | (N_q, d_v), (N_q,) | a query that sees nothing: z = 0, lse = −∞ |
#
# The mask is causal and aligned to the end: query $i$ sees key $j$ if $j \le N_k - N_q + i$. Loop over the tiles of
# keys; you may process all queries at once. No array of N_q × N_k elements may exist, neither a map nor a mask, and no
# query may hold its scores with all keys. The check measures the memory, and whether the size of the tile has an
# effect.


# %%
def attention_in_tiles(q, k, v, tile):
    """z (N_q, d_v) and lse (N_q,), by the online softmax."""
    ...


# %% [markdown]
# ### A small example

# %%
rng = np.random.default_rng(3)
q, k, v = rng.standard_normal((3, 4)), rng.standard_normal((5, 4)), rng.standard_normal((5, 2))
for tile in (5, 2):  # the size of a tile changes nothing
    answer = attention_in_tiles(q, k, v, tile)
    for array in () if answer is None else answer:
        print(array.ravel())

# %% [markdown]
# It should print
#
# ```text
# [ 0.245  0.653  0.336  0.566 -1.75   0.562]
# [1.533 1.503 3.221]
# [ 0.245  0.653  0.336  0.566 -1.75   0.562]
# [1.533 1.503 3.221]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex11", attention_in_tiles)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# Start with μ = −∞, ℓ = 0, z = 0. The factor of the first tile is then e^(−∞ − μ′) = 0, and what it multiplies is 0
# anyway.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# As long as a query has seen nothing, μ′ is −∞, and −∞ − −∞ is NaN: use 0 for μ′ in the exponents of that query.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# The library's fused engines, on the CPU and on a GPU, are this loop. In GTA the latent takes the place of the values,
# so z is d_l wide, and there are only n_q of them.
