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
# # 4. Backward by hand
#
# By the end you will know
#
# - the gradients of linear maps, of the softmax and of the attention core, from the derivation to the line of NumPy;
# - how to check a gradient so that a wrong one cannot pass, and why `loss = y.sum()` is no check;
# - why no backward has to keep the map.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes a few seconds to run.
#
# [previous: cache accounting](03_cache_accounting.ipynb) |
# [next: backward of the whole layer](04b_backward_of_the_whole_layer.ipynb)
#
# An exercise to go with it: [8, backward through the softmax](exercises/ex08_softmax_backward.ipynb).

# %%
# %matplotlib inline
import numpy as np

from gta_ref import ops
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.mechanisms import gta
from gta_ref.plots import backward as plots_backward
from gta_ref.verify.gradcheck import directional_error, elementwise_error

rng = np.random.default_rng(4)

# %% [markdown]
# ## 1. Forward and backward
#
# Here is a small layer in float64. Its 16 output heads share `n_q` = 4 maps; the maps share `n_k` = 2 key heads and
# `n_c` = 1 latent head. The decoder has the released code's residual with e = 2 copies.

# %%
config = gta.Config(64, n_heads=16, head_dim=4, n_q=4, n_k=2, n_c=1, latent_dim=8, decoder_residual=True)
params = gta.init(config, rng, "float64")
for name in ("b_q", "b_k", "b_c", "b_g"):  # with zero biases, a forgotten bias would go unnoticed
    params[name] = 0.1 * rng.standard_normal(params[name].shape)
X = rng.standard_normal((2, 6, 64))  # (B, N, H)

stages = {}
Y, _ = gta.forward(params, X, config, trace=stages)
for name, array in stages.items():
    print(f"{name:8}{array.shape}")

# %% [markdown]
# The loss $L$ is a number that is computed from $Y$ later, outside the layer. The backward never sees it: it is given
# $\mathrm{d}Y = \partial L/\partial Y$, an array in the shape of $Y$, and returns $\mathrm{d}X$ and a gradient for
# every parameter. In general $\mathrm{d}M$ has the shape of $M$, and each element of it says how fast $L$ grows with
# that element of $M$. A gradient that comes in from outside, such as $\mathrm{d}Y$, is also called a *cotangent*: it
# may be any array of that shape, and the backward has to be right for all of them.
#
# The figure shows the forward above and the backward below; read it column by column. The gradient of a stage comes
# from the gradients of its readers, to the right of it, and needs arrays that the forward computed. These arrays are
# the filled boxes of the upper half (the gate's input is kept with the gate). Every linear map also yields the gradient
# of its weights.

# %%
plots_backward.data_flow({"x": X.shape} | {name: a.shape for name, a in stages.items()})

# %% [markdown]
# This notebook and the next fill in the lower half, from simple to hard. One rule will come back four times:
#
# > **What is read several times gets the sum of its readers' gradients.** Reading is copying, and the transpose of
# > copying is adding.

# %% [markdown]
# ## 2. Linear
#
# $y_{tj} = \sum_i x_{ti} W_{ij} + b_j$. Each $x_{ti}$ is read by all $j$, each $W_{ij}$ and $b_j$ by all tokens $t$:
#
# $$\mathrm{d}x_{ti} = \sum_j \mathrm{d}y_{tj}\, W_{ij} \qquad
# \mathrm{d}W_{ij} = \sum_t x_{ti}\, \mathrm{d}y_{tj} \qquad \mathrm{d}b_j = \sum_t \mathrm{d}y_{tj}$$
#
# or $\mathrm{d}x = \mathrm{d}y\,W^\top$, $\mathrm{d}W = x^\top \mathrm{d}y$. No other product of these arrays would
# have the right shape.


# %%
def linear_backward(dy, x, W):
    """dx, dW, db for x (T, d_in), W (d_in, d_out)."""
    return dy @ W.T, x.T @ dy, dy.sum(axis=0)


x, W, b = rng.standard_normal((5, 3)), rng.standard_normal((3, 4)), rng.standard_normal(4)
y, kept = ops.linear_forward(x, W, b)
dy = rng.standard_normal(y.shape)
for mine, theirs in zip(linear_backward(dy, x, W), ops.linear_backward(dy, kept), strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-12)
print("equal to the library's gradients, up to rounding")

# %% [markdown]
# ## 3. How to check a gradient
#
# Two people can make the same mistake, so we ask the forward itself. Choose a random cotangent $\mathrm{d}Y$, call
# $L = \sum \mathrm{d}Y \odot Y$ the loss, move the inputs by $\pm h$ and $\pm 2h$, and compare the change of $L$ with
# what the gradient predicts. `elementwise_error` moves one element at a time; `directional_error` moves all of them
# along one random direction, which takes four runs of the forward at any size.

# %%
inputs = {"x": x, "w": W, "b": b}


def report(errors):
    """Print the errors by name, and stop if one is larger than a right gradient's can be."""
    print("   ".join(f"{name}: {error:.0e}" for name, error in errors.items()))
    assert max(errors.values()) < 1e-7


def linear(arrays):
    """The forward as a function of named arrays."""
    return ops.linear_forward(arrays["x"], arrays["w"], arrays["b"])[0]


grads = dict(zip(inputs, linear_backward(dy, x, W), strict=True))
report(elementwise_error(linear, inputs, dy, grads))
report({"along a direction": directional_error(linear, inputs, dy, grads, rng)})

# %% [markdown]
# How small is small enough? As the step shrinks, the error of a right gradient falls like $h^4$, until rounding takes
# over. The error of a wrong gradient stays where it is. Look for the valley (the right gradient) and the two plateaus
# (wrong ones: a gate's slope taken at the wrong place, and a bias's gradient that is a mean over the tokens instead of
# a sum).

# %%
a = rng.standard_normal((6, 8))
g, kept = ops.gate_forward(a, "sigmoid")
dg = rng.standard_normal(a.shape)
claims = {
    "gate: right": {"a": ops.gate_backward(dg, kept)},
    "gate: slope taken at σ(a), not at a": {"a": ops.gate_backward(dg, (g, "sigmoid"))},
    "linear: db is a mean, not a sum": grads | {"b": dy.mean(axis=0)},
}
functions = [lambda arrays: ops.gate_forward(arrays["a"])[0]] * 2 + [linear]
steps = np.logspace(-6, 0, 13)
errors = {}
for (name, claim), function in zip(claims.items(), functions, strict=True):
    given, cotangent = (inputs, dy) if function is linear else ({"a": a}, dg)
    errors[name] = [
        directional_error(function, given, cotangent, claim, np.random.default_rng(0), step=h) for h in steps
    ]
plots_backward.step_sizes(steps, errors)

# %% [markdown]
# So `report` accepts a gradient if its error is below $10^{-7}$: far above the valley's floor, far below any plateau.
#
# ## 4. Softmax
#
# One row of the map is $A_j = e^{S_j} / \sum_l e^{S_l}$. Differentiate: the numerator contributes $A_j$ where $j = l$,
# the denominator $-A_j A_l$ everywhere.
#
# $$\frac{\partial A_j}{\partial S_l} = A_j(\delta_{jl} - A_l), \qquad J = \operatorname{diag}(A) - A A^\top$$
#
# Look at the last row of the figure: each column sums to 0. The weight that one key gains is lost by the others.

# %%
row = ops.softmax_forward(np.array([1.2, 0.1, -0.6, 1.9, 0.3]))[0]
plots_backward.softmax_jacobian(row)

# %% [markdown]
# $J$ has N × N numbers for each row of the map, but it need not be built. Put it into the chain rule, and all that a
# row needs is one number, $D$:
#
# $$\mathrm{d}S_l = \sum_j \mathrm{d}A_j\, A_j(\delta_{jl} - A_l) = A_l\,(\mathrm{d}A_l - D), \qquad
# D = \sum_j A_j\, \mathrm{d}A_j = \operatorname{rowsum}(A \odot \mathrm{d}A)$$
#
# (Papers on fused kernels call the map $P$.) $D$ is the mean of $\mathrm{d}A$ under the row's own weights:
# $\mathrm{d}S_l$ is positive if $\mathrm{d}A_l$ is above that mean, and negative if it is below.


# %%
def softmax_backward(dA, A):
    """dS = A ⊙ (dA − rowsum(A ⊙ dA)), for any number of rows."""
    D = (A * dA).sum(axis=-1, keepdims=True)
    return A * (dA - D)


dA = rng.standard_normal(row.shape)
J = np.diag(row) - np.outer(row, row)
np.testing.assert_allclose(softmax_backward(dA, row), J.T @ dA, atol=1e-15)

S = rng.standard_normal((4, 5))
A, kept = ops.softmax_forward(S)
dA = rng.standard_normal(S.shape)
dS = softmax_backward(dA, A)
np.testing.assert_allclose(dS, ops.softmax_backward(dA, kept), atol=1e-15)
report(elementwise_error(lambda arrays: ops.softmax_forward(arrays["s"])[0], {"s": S}, dA, {"s": dS}))

# %% [markdown]
# ## 5. Why `.sum()` is no check
#
# `loss = y.sum()` means $\mathrm{d}A = 1$ everywhere. A row of the map sums to 1 whatever the scores are, so the true
# gradient is 0, and any backward that returns 0 for a constant $\mathrm{d}A$ passes the check. Here are four wrong
# ones. Compare the columns: with ones all four pass, with a random $\mathrm{d}A$ none does.

# %%
wrong = {
    "always 0": lambda dA, A: 0 * A,
    "D as a plain mean": lambda dA, A: A * (dA - dA.mean(-1, keepdims=True)),
    "factor A forgotten": lambda dA, A: dA - (A * dA).sum(-1, keepdims=True),
    "twice as large": lambda dA, A: 2 * softmax_backward(dA, A),
    "(the right one)": softmax_backward,
}
with_ones = {}
print(f"{'largest error of dS':22}{'dA = ones':>12}{'dA random':>12}")
for name, backward in wrong.items():
    off = [np.abs(backward(d, A) - softmax_backward(d, A)).max() for d in (np.ones_like(A), dA)]
    print(f"{name:22}{off[0]:12.0e}{off[1]:12.0e}")
    with_ones[name] = off[0]
    assert off[1] > 0.1 or backward is softmax_backward
assert max(with_ones.values()) < 1e-14

# %% [markdown]
# **Try it.** Is `loss = (y ** 2).sum()` any better for a softmax? Predict before you run: replace `np.ones_like(A)` by
# `2 * A`.
#
# <details><summary>Answer</summary>
#
# Much better here (the last assertion, which expects a blind check, fails): dA = 2A differs within each row, and all
# four mistakes are found. But 2A is not a random direction. If all weights of a row are equal (a model at
# initialisation is close to that), dA is constant again and the check is as blind as before. A random cotangent costs
# nothing and has no such blind spot.
#
# </details>

# %% [markdown]
# ## 6. The attention core
#
# For map $m$ with key head $k(m)$ and latent head $c(m)$, and $s = 1/\sqrt{d_h}$: $S_m = s\,Q_m K_{k(m)}^\top$,
# $A_m = \operatorname{softmax}(S_m)$, $Z_m = A_m C_{c(m)}$. Going backwards, each line is the backward of a linear map
# or of the softmax:
#
# $$\mathrm{d}A_m = \mathrm{d}Z_m\, C_{c(m)}^\top \qquad \mathrm{d}S_m = A_m \odot (\mathrm{d}A_m - D_m) \qquad
# \mathrm{d}Q_m = s\; \mathrm{d}S_m\, K_{k(m)}$$
#
# $$\mathrm{d}C_h = \sum_{m:\,c(m)=h} A_m^\top\, \mathrm{d}Z_m \qquad
# \mathrm{d}K_h = s \sum_{m:\,k(m)=h} \mathrm{d}S_m^\top\, Q_m$$
#
# The two sums are the rule again: a key head is read by n_q/n_k maps, a latent head by n_q/n_c. In the code they are
# the `+=`. ($C$ is what the core calls v, so $\mathrm{d}C$ is its dV; $\mathrm{d}A$ is often written dP.)


# %%
def core_backward(dZ, Q, K, C, A, scale):
    """dQ, dK, dC, one map after the other."""
    n_q, n_k, n_c = Q.shape[1], K.shape[1], C.shape[1]
    dQ, dK, dC = np.zeros_like(Q), np.zeros_like(K), np.zeros_like(C)
    for m in range(n_q):
        k, c = m // (n_q // n_k), m // (n_q // n_c)
        dC[:, c] += A[:, m].mT @ dZ[:, m]
        dA = dZ[:, m] @ C[:, c].mT  # (B, N_q, N_k)
        dS = softmax_backward(dA, A[:, m])
        dQ[:, m] += scale * dS @ K[:, k]
        dK[:, k] += scale * dS.mT @ Q[:, m]
    return dQ, dK, dC


# %% [markdown]
# Compare with the library, and with the forward itself.

# %%
Q, K, C, A = (stages[name] for name in ("q", "k", "c", "map"))
Z, _, core = attention_forward(Q, K, C)
dZ = rng.standard_normal(Z.shape)
mine = core_backward(dZ, Q, K, C, A, config.scale)
for name, one, other in zip("QKC", mine, attention_backward(dZ, core), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-13)
    print(f"d{name} {one.shape}")


def core_of(arrays):
    """Z as a function of q, k and c."""
    return attention_forward(arrays["q"], arrays["k"], arrays["c"], need_saved=False)[0]


qkc = {"q": Q, "k": K, "c": C}
report(elementwise_error(core_of, qkc, dZ, dict(zip(qkc, mine, strict=True))))

# %% [markdown]
# The mask needs no line of its own. Where a query may not look, $A = 0$, and $\mathrm{d}S = A \odot (\dots)$ is 0 as
# well. A query that sees nothing has a row of zeros, and no gradient passes through it. Here the first token of
# sequence 1 is padding:

# %%
padded = Mask(k_start=np.array([0, 1]))
_, _, core = attention_forward(Q, K, C, mask=padded)
dQ, dK, dC = attention_backward(dZ, core)
print("sequence 1, token 0:", [float(np.abs(d[1, :, 0]).max()) for d in (dQ, dK, dC)])
assert not any(d[1, :, 0].any() for d in (dQ, dK, dC))

# %% [markdown]
# **Try it.** In `core_backward`, write `dK[:, k] = …` instead of `+=`. The shapes stay right. Which assertion finds
# it, and which elements of dK are still right?
#
# <details><summary>Answer</summary>
#
# The comparison of dK; dQ and dC are still right. No element of dK is: each key head keeps the contribution of its last
# map (1 and 3) and loses the other's. In training the loss would most likely still fall, only more slowly. That is why
# sharing needs a gradient check, and not only a loss curve.
#
# </details>

# %% [markdown]
# ### D without the map
#
# $D_t = \sum_j A_{tj}\,\mathrm{d}A_{tj}$ looks as if it needed whole rows of two N × N arrays. It does not:
#
# $$D_t = \sum_j A_{tj} \sum_l \mathrm{d}Z_{tl}\, C_{jl}
# = \sum_l \mathrm{d}Z_{tl} \sum_j A_{tj}\, C_{jl} = \sum_l \mathrm{d}Z_{tl}\, Z_{tl}$$
#
# So $D = \operatorname{rowsum}(\mathrm{d}Z \odot Z)$. With this and each row's lse (the logarithm of its sum of
# exponentials), a fused kernel recomputes $A$ and $\mathrm{d}S$ one tile at a time and never needs a whole row at once.

# %%
from_map = (A * (dZ @ np.repeat(C, 4, axis=1).mT)).sum(axis=-1)
from_z = (dZ * Z).sum(axis=-1)
print(f"largest difference: {np.abs(from_map - from_z).max():.0e}; largest D: {np.abs(from_z).max():.1f}")
np.testing.assert_allclose(from_map, from_z, atol=1e-13)

# %% [markdown]
# ## Summary
#
# - Every gradient here is a linear map's transpose or $A \odot (\mathrm{d}A - D)$; what is read several times (biases,
#   key and latent heads) gets a sum.
# - A random cotangent and finite differences in float64 find a wrong gradient; `.sum()` on a softmax finds none.
# - $D = \operatorname{rowsum}(\mathrm{d}Z \odot Z)$ needs no map. The rest of the layer follows in the next notebook.
#
# [previous: cache accounting](03_cache_accounting.ipynb) |
# [next: backward of the whole layer](04b_backward_of_the_whole_layer.ipynb)
