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
# # Exercise 7: a decoding step with the cache
#
# 45 minutes · level 3 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
import numpy as np

from gta_ref.exercises import check
from gta_ref.ops import rope_angles, rope_forward

np.set_printoptions(precision=3, suppress=True)


def turn(x, positions):
    """RoPE: x (B, n, N, d), turned by the integer positions (B, N)."""
    cos, sin = rope_angles(positions[:, None], x.shape[-1], dtype=x.dtype)  # (B, 1, N, d/2)
    return rope_forward(x, cos, sin)[0]


# %% [markdown]
# The cache holds $L$ tokens, and $N$ new ones arrive. They are turned (rotated) by RoPE, appended to the cache, and
# attend to everything that it now holds, themselves included. There is one key head and one latent head, as in GTA-1B.
#
# 1. New token $i$ of sequence $b$ has position $\max(0,\ L + i - \mathrm{pad}_b)$: padding is not counted.
# 2. RoPE turns `q` and `k` by the position, never `c`. Held keys were turned when they were new. Use `turn` from above.
# 3. The cache becomes what was held, followed by the new keys and latents.
# 4. Query $i$ may see slot $j$ if $\mathrm{pad}_b \le j \le L + i$. $A$ is the softmax of
#    $Q K^\top / \sqrt{d_h}$ over the slots that it may see, and $Z = A\,C$.
#
# | | shape | |
# | --- | --- | --- |
# | `q`, `k`, `c` | (B, n_q, N, d_h), (B, 1, N, d_h), (B, 1, N, d_l) | of the new tokens, not yet turned |
# | `held_k`, `held_c` | (B, 1, L, d_h), (B, 1, L, d_l) | L may be 0 |
# | `pad` | (B,), int | slots 0 … pad − 1 of a sequence hold no tokens |
# | returns `z` | (B, n_q, N, d_l) | 0 where a query sees nothing |
# | and `new_k`, `new_c` | (B, 1, L + N, d_h), (B, 1, L + N, d_l) | the cache with the new tokens |
#
# The results have to have the dtype of the inputs. You may use `turn` and the two operations that it calls; the rest of
# the library is blocked.


# %%
def decode_step(q, k, c, held_k, held_c, pad):
    """z, and the cache with the new tokens: new_k, new_c."""
    ...


# %% [markdown]
# ### A small example

# %%
ones = np.ones((1, 1, 1, 2))
held_k, held_c = np.zeros((1, 1, 3, 2)), np.array([[[[0.0], [10.0], [20.0]]]])
answer = decode_step(ones, 2 * ones, 30 * ones[..., :1], held_k, held_c, np.array([1]))
for array in () if answer is None else answer:  # slot 0 is padding, so the new token is at position 2
    print(array.ravel())

# %% [markdown]
# It should print
#
# ```text
# [28.414]
# [ 0.     0.     0.     0.     0.     0.    -2.651  0.986]
# [ 0. 10. 20. 30.]
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex07", decode_step)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# Follow the order of the list, and print the shapes as you go. With L = 0 the step is the prefill.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `held + np.arange(new)` is the last slot that each new query sees. Compare it with `np.arange(held + new)`.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# Every token that a model generates goes through this step. Wrong positions or a wrong mask raise no error, which is
# why the verification kit compares decoding in steps with one pass over the whole text.
