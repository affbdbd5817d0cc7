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
# # Exercise 13: the whole layer, forward and backward
#
# an afternoon · level 4 of 4 · equations and symbols: arXiv 2506.17286, `docs/notation.md`
#
# Set up once: `python -m pip install "gta-ref[notebooks]"`; in a clone, `python -m pip install -e '.[notebooks]'`

# %%
import numpy as np

from gta_ref.exercises import check
from gta_ref.ops import rope_angles, rope_backward, rope_forward
from gta_ref.verify.vectors import make

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# Put everything together: write a GTA layer with its gradients. It is checked by `gta_ref.verify`, the verification kit
# that also checks real implementations. Your function gets a dict of arrays and a dict of settings, and returns a dict
# of named arrays.
#
# $$Q, K, C = X W_Q + b_Q,\; X W_K + b_K,\; X W_C + b_C \qquad \text{RoPE on } Q, K$$
# $$A_m = \mathrm{softmax}(Q_m K_{k(m)}^\top/\sqrt{d_h}), \qquad Z_m = A_m C_{c(m)}, \qquad
# U_m = Z_m W_{P,m} \,(+\, [Z_m \dots Z_m])$$
# $$O = U \odot \sigma(X W_G + b_G), \qquad Y = O W_O$$
#
# `arrays` contains `x` (B, N, H), `positions` (B, N), `k_start` and `k_stop` (B,), `d_out` (B, N, H), the weights `w_q`
# (H, n_q·d_h), `w_k`, `w_c`, `w_g` (H, n_h·d_h), `w_o` (n_h·d_h, H), `w_p` (n_q, d_l, width), and `b_q`, `b_k`, `b_c`,
# `b_g`, which are absent in a case without biases. `settings["config"]` contains `n_heads`, `head_dim`, `n_q`, `n_k`,
# `n_c`, `latent_dim`, and `decoder_residual`, which is absent or False if there are no copies of Z.
#
# Query i sees key j if `k_start` ≤ j < `k_stop` and j ≤ i. A query that sees nothing has z = 0 and passes on no
# gradient.
#
# Return `out` and the gradients of Σ d_out ⊙ out: `d_x`, and `d_w_q`, `d_b_q` … for every weight and bias in `arrays`.
# You may also return any inner stage (`q`, `k`, `c`, `map`, `z`, `values`, `gate`, `heads`) and its gradient, with `d_`
# in front of the name: the check then says which of them is the first that differs. Only `out` and the gradients of x,
# weights and biases decide; a stage that you define differently leads to advice, no more.
#
# You may use `rope_angles`, `rope_forward` and `rope_backward`. Start with `out` alone; the check says what is still
# missing.


# %%
def gta_layer(arrays, settings):
    """A GTA layer: out and all gradients, by name."""
    x, config = arrays["x"], settings["config"]
    positions = arrays["positions"][:, None]  # (B, 1, N)
    cos, sin = rope_angles(positions, config["head_dim"], dtype=x.dtype)  # for rope_forward(q, cos, sin) → q, saved
    ...


# %% [markdown]
# ### A small example

# %%
case = make("layer/gta-paper", "float64")  # one case of the kit, with its expected results
answer = gta_layer(case.inputs, case.settings) or {}
for name in ("out", "d_w_p", "d_x"):
    print(name, case.expected[name].shape, name in answer and np.allclose(answer[name], case.expected[name]))

# %% [markdown]
# It should print
#
# ```text
# out (2, 11, 48) True
# d_w_p (4, 16, 16) True
# d_x (2, 11, 48) True
# ```

# %% [markdown]
# ### Check it
#
# The check calls your function with arrays that are not shown here.

# %%
check("ex13", gta_layer)

# %% [markdown]
# ### If you are stuck
#
# <details><summary>Hint 1</summary>
#
# Exercises 3, 5, 8 and 9 contain four fifths of the solution. Write the forward, check it, and then go backwards line
# by line.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Where several maps read one key or latent head, its gradient is the sum over them: the backward of `np.repeat` is
# `reshape(B, n_k, n_q // n_k, …).sum(axis=2)`.
#
# </details>

# %% [markdown]
# ### Why it matters for GTA
#
# This is a complete reference implementation of GTA in about 70 lines. The same cases check an implementation in
# PyTorch, Triton or C++: see `docs/verify.md`.
