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
# name: ex13
# export_cell: false
# tests:
#     ok_format: false

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

# %% [raw]
# # BEGIN QUESTION
# name: ex13

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

# %% [raw]
# # BEGIN SOLUTION


# %%
def gta_layer(arrays, settings):
    """A GTA layer: out and all gradients, by name."""
    x, config = arrays["x"], settings["config"]
    positions = arrays["positions"][:, None]  # (B, 1, N)
    cos, sin = rope_angles(positions, config["head_dim"], dtype=x.dtype)  # for rope_forward(q, cos, sin) → q, saved
    # BEGIN SOLUTION
    batch, length, _ = x.shape
    n_q, d_l, width = arrays["w_p"].shape
    copies = width // d_l if config.get("decoder_residual") else 0

    def project(letter, heads):
        """X W + b, cut into heads: (B, heads, N, width)."""
        y = x @ arrays[f"w_{letter}"] + arrays.get(f"b_{letter}", x.dtype.type(0))
        return split(y, heads)

    def split(y, heads):
        return y.reshape(batch, length, heads, -1).swapaxes(1, 2)

    def join(y):
        return y.swapaxes(1, 2).reshape(batch, length, -1)

    def spread(y):
        """Repeat the heads so that every map has one."""
        return np.repeat(y, n_q // y.shape[1], axis=1)

    def gather(dy, heads):
        """Sum over the maps that read a head: the backward of spread."""
        return dy.reshape(batch, heads, n_q // heads, length, -1).sum(axis=2)

    # forward
    q, saved_q = rope_forward(project("q", n_q), cos, sin)
    k, saved_k = rope_forward(project("k", config["n_k"]), cos, sin)
    c = project("c", config["n_c"])
    token = np.arange(length)
    inside = (arrays["k_start"][:, None] <= token) & (token < arrays["k_stop"][:, None])  # (B, N)
    visible = inside[:, None, None] & (token <= token[:, None])  # (B, 1, N, N)
    scale = config["head_dim"] ** -0.5
    scores = np.where(visible, q @ spread(k).swapaxes(-1, -2) * scale, -np.inf)
    largest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
    total = weights.sum(axis=-1, keepdims=True)
    map_ = weights / np.where(total == 0, 1, total)  # (B, n_q, N, N)
    z = map_ @ spread(c)  # (B, n_q, N, d_l)
    u = z @ arrays["w_p"]  # (B, n_q, N, width)
    if copies:
        u = u + np.tile(z, copies)
    values = join(u)  # (B, N, n_h·d_h)
    gate = 1 / (1 + np.exp(-join(project("g", n_q))))
    heads = values * gate
    out = heads @ arrays["w_o"]

    # backward
    grads = {}

    def linear_backward(letter, source, d_y):
        """Store the gradients of W and b; return the gradient with respect to the source."""
        rows = d_y.reshape(-1, d_y.shape[-1])
        grads[f"d_w_{letter}"] = source.reshape(-1, source.shape[-1]).T @ rows
        if f"b_{letter}" in arrays:
            grads[f"d_b_{letter}"] = rows.sum(axis=0)
        return d_y @ arrays[f"w_{letter}"].T

    d_heads = linear_backward("o", heads, arrays["d_out"])
    d_u = split(d_heads * gate, n_q)  # (B, n_q, N, width)
    d_x = linear_backward("g", x, d_heads * values * gate * (1 - gate))
    grads["d_w_p"] = (z.swapaxes(-1, -2) @ d_u).sum(axis=0)
    d_z = d_u @ arrays["w_p"].swapaxes(-1, -2)
    if copies:
        d_z = d_z + d_u.reshape(batch, n_q, length, copies, d_l).sum(axis=3)
    d_map = d_z @ spread(c).swapaxes(-1, -2)
    d_scores = map_ * (d_map - (map_ * d_map).sum(axis=-1, keepdims=True))
    d_q = d_scores @ spread(k) * scale
    d_k = gather(d_scores.swapaxes(-1, -2) @ q * scale, k.shape[1])
    d_c = gather(map_.swapaxes(-1, -2) @ d_z, c.shape[1])
    for letter, part in (("q", rope_backward(d_q, saved_q)), ("k", rope_backward(d_k, saved_k)), ("c", d_c)):
        d_x = d_x + linear_backward(letter, x, join(part))
    return {"q": q, "k": k, "c": c, "map": map_, "z": z, "values": values, "out": out, "d_z": d_z, "d_x": d_x, **grads}
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS


# %%
def test_ex13(gta_layer):
    from gta_ref.exercises import check

    verdict = check("ex13", gta_layer)
    assert verdict.passed, verdict


# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

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
