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
# # 4b. Backward of the whole layer
#
# By the end you will know
#
# - the gradients of RoPE, of the gate and of the decoder with its copies;
# - how they are put together to the backward of a GTA layer, and why its result can be trusted;
# - how many bytes a layer keeps for its backward, with the map in memory and without it.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes some seconds to run.
#
# [previous: backward by hand](04_backward_by_hand.ipynb) |
# [next: online softmax and tiles](05_online_softmax_and_tiles.ipynb)
#
# An exercise to go with it: [9, backward through the gated decoder](exercises/ex09_decoder_backward.ipynb).

# %%
# %matplotlib inline
import numpy as np

from gta_ref import ops
from gta_ref.costs.memory import attention_activations
from gta_ref.mechanisms import gta
from gta_ref.ops.heads import merge_heads
from gta_ref.plots import backward as plots_backward
from gta_ref.verify.gradcheck import directional_error, elementwise_error

rng = np.random.default_rng(4)

# %% [markdown]
# The layer is that of the [previous notebook](04_backward_by_hand.ipynb), and so are the functions of the next cell.

# %%
config = gta.Config(64, n_heads=16, head_dim=4, n_q=4, n_k=2, n_c=1, latent_dim=8, decoder_residual=True)
params = gta.init(config, rng, "float64")
for name in ("b_q", "b_k", "b_c", "b_g"):  # with zero biases, a forgotten bias would go unnoticed
    params[name] = 0.1 * rng.standard_normal(params[name].shape)
X = rng.standard_normal((2, 6, 64))  # (B, N, H)

stages = {}
Y, saved = gta.forward(params, X, config, trace=stages)
C, Q, K, A = (stages[name] for name in ("c", "q", "k", "map"))


def report(errors):
    """Print the errors by name, and stop if one is larger than a right gradient's can be."""
    print("   ".join(f"{name}: {error:.0e}" for name, error in errors.items()))
    assert max(errors.values()) < 1e-7


def linear_backward(dy, x, W):
    """dx, dW, db for x (T, d_in), W (d_in, d_out)."""
    return dy @ W.T, x.T @ dy, dy.sum(axis=0)


def softmax_backward(dA, A):
    """dS = A ⊙ (dA − rowsum(A ⊙ dA)), for any number of rows."""
    D = (A * dA).sum(axis=-1, keepdims=True)
    return A * (dA - D)


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
# ## 1. RoPE: rotate back
#
# RoPE rotates each pair of features, read as the complex number $a + \mathrm{i}b$, by an angle that depends on the
# position: a multiplication by $e^{\mathrm{i}\theta}$. A rotation's transpose is its inverse, so the gradient is
# rotated by $-\theta$. Only the angles have to be saved.

# %%
cos, sin = ops.rope_angles(np.arange(6), d=4)  # (N, d_h/2) each
turned, kept = ops.rope_forward(stages["q_proj"], cos, sin)
np.testing.assert_allclose(turned, Q)

dQ = rng.standard_normal(Q.shape)
pairs = dQ[..., :2] + 1j * dQ[..., 2:]  # "half" pairing: feature t is paired with t + d/2
back = pairs * np.conj(cos + 1j * sin)
back = np.concatenate([back.real, back.imag], axis=-1)
np.testing.assert_allclose(back, ops.rope_backward(dQ, kept), atol=1e-15)


def rope(arrays):
    """Q after RoPE."""
    return ops.rope_forward(arrays["q"], cos, sin)[0]


report(elementwise_error(rope, {"q": stages["q_proj"]}, dQ, {"q": back}))

# %% [markdown]
# ## 2. The gate
#
# $O = U \odot G$ with $G = \sigma(a)$, $a = X W_G + b_G$. From the product rule and $\sigma' = \sigma(1 - \sigma)$:
#
# $$\mathrm{d}U = \mathrm{d}O \odot G \qquad \mathrm{d}G = \mathrm{d}O \odot U \qquad
# \mathrm{d}a = \mathrm{d}G \odot G \odot (1 - G)$$
#
# $\sigma'$ is at most ¼, and near 0 where the gate is shut or wide open.

# %%
U, G = stages["values"], stages["gate"]
dO = rng.standard_normal(U.shape)
a, _ = ops.linear_forward(X, params["w_g"], params["b_g"])
da = dO * U * G * (1 - G)


def gated(arrays):
    """O as a function of U and a."""
    return arrays["u"] * ops.gate_forward(arrays["a"], config.gate)[0]


report({"u and a": directional_error(gated, {"u": U, "a": a}, dO, {"u": dO * G, "a": da}, rng)})
print(f"slopes from {(G * (1 - G)).min():.2f} to {(G * (1 - G)).max():.2f}")

# %% [markdown]
# ## 3. The decoder
#
# Map $m$ serves n_h/n_q heads, whose decoders are side by side in $W_{P,m}$ (d_l × width). The released code adds e =
# width / d_l copies of $Z_m$:
#
# $$U_m = Z_m W_{P,m} + [Z_m \dots Z_m] \qquad\Rightarrow\qquad \mathrm{d}Z_m = \mathrm{d}U_m W_{P,m}^\top +
# \sum_{r=1}^{e} \mathrm{d}U_m^{(r)}, \qquad \mathrm{d}W_{P,m} = Z_m^\top\, \mathrm{d}U_m$$
#
# where $\mathrm{d}U_m^{(r)}$ is the $r$-th slice of d_l columns: $Z_m$ was copied e times, so the slices are added. The
# heads that share the map are summed too, inside the product:
# $\mathrm{d}U_m W_{P,m}^\top = \sum_i \mathrm{d}U_i W_{P,i}^\top$.


# %%
def decoder_backward(dU, Z, W_P, copies):
    """dZ (B, n_q, N, d_l) and dW_P (n_q, d_l, width) from dU (B, N, n_q·width)."""
    dZ, dW_P = np.zeros_like(Z), np.zeros_like(W_P)
    d_l = Z.shape[-1]
    for m, dU_m in enumerate(np.split(dU, len(W_P), axis=-1)):  # (B, N, width)
        dZ[:, m] = dU_m @ W_P[m].T
        if copies:
            dZ[:, m] += sum(dU_m[..., r : r + d_l] for r in range(0, dU_m.shape[-1], d_l))
        dW_P[m] = np.einsum("bti,btj->ij", Z[:, m], dU_m)
    return dZ, dW_P


Z, W_P, dU = stages["z"], params["w_p"], rng.standard_normal(U.shape)
_, kept = ops.decoder_forward(Z, W_P, residual=True)
for mine, theirs in zip(decoder_backward(dU, Z, W_P, True), ops.decoder_backward(dU, kept), strict=True):
    np.testing.assert_allclose(mine, theirs, atol=1e-13)

# %% [markdown]
# Now we check it with finite differences, and then check the version that forgets the copies: its error is large, but
# only $\mathrm{d}Z$ shows it.


# %%
def decode(arrays):
    """U, with copies."""
    return ops.decoder_forward(arrays["z"], arrays["w_p"], residual=True)[0]


small, dU = {"z": Z[:1, :, :2], "w_p": W_P}, dU[:1, :2]  # two tokens are enough
claim = dict(zip(small, decoder_backward(dU, *small.values(), True), strict=True))
report(elementwise_error(decode, small, dU, claim))
claim = dict(zip(small, decoder_backward(dU, *small.values(), False), strict=True))
without = elementwise_error(decode, small, dU, claim)
print("copies forgotten:", {name: f"{error:.0e}" for name, error in without.items()})
assert without["z"] > 0.1

# %% [markdown]
# ## 4. The whole chain
#
# Now we go from $\mathrm{d}Y$ to $\mathrm{d}X$, with our own functions and the names that `gta.backward` uses in its
# trace. First the end of the layer: $W_O$, gate, decoder.


# %%
def flat(x):
    """All tokens in one matrix: (B, N, width) → (B·N, width)."""
    return x.reshape(-1, x.shape[-1])


dY = rng.standard_normal(Y.shape)
d, grads = {"d_out": dY}, {}

grads["w_o"] = flat(stages["heads"]).T @ flat(dY)
d["d_heads"] = dY @ params["w_o"].T
d["d_gate"] = d["d_heads"] * U
d["d_values"] = d["d_heads"] * G
d["d_z"], grads["w_p"] = decoder_backward(d["d_values"], Z, W_P, config.decoder_residual)
print({name: x.shape for name, x in d.items()})

# %% [markdown]
# Then the core and RoPE.

# %%
per_map = np.repeat(C, config.n_q // config.n_c, axis=1)  # the C that each map reads
d["d_map"] = d["d_z"] @ per_map.mT
d["d_scores"] = softmax_backward(d["d_map"], A)
d["d_q"], d["d_k"], d["d_c"] = core_backward(d["d_z"], Q, K, C, A, config.scale)
d["d_q_proj"] = ops.rope_backward(d["d_q"], (cos, sin, "half"))
d["d_k_proj"] = ops.rope_backward(d["d_k"], (cos, sin, "half"))
print({name: d[name].shape for name in ("d_map", "d_scores", "d_q", "d_k", "d_c")})

# %% [markdown]
# $X$ has four readers: the projections to Q, K and C, and the gate. So $\mathrm{d}X$ is the sum of four terms.

# %%
d_gate_input = d["d_gate"] * G * (1 - G)
into = {"q": d["d_q_proj"], "k": d["d_k_proj"], "c": d["d_c"]}
reads = {name: merge_heads(x) for name, x in into.items()} | {"g": d_gate_input}  # (B, N, heads·width)
dX = 0
for name, dy in reads.items():
    part, grads[f"w_{name}"], grads[f"b_{name}"] = linear_backward(flat(dy), flat(X), params[f"w_{name}"])
    print(f"through W_{name.upper()}: |dX| = {np.linalg.norm(part):6.2f}")
    dX += part.reshape(X.shape)
print(f"sum:         |dX| = {np.linalg.norm(dX):6.2f}")

# %% [markdown]
# Compare every stage and every gradient with the library's.

# %%
trace = {}
dX_library, grads_library = gta.backward(dY, saved, trace=trace)
print(" → ".join(trace))
assert set(trace) == set(d)
assert set(grads_library) == set(grads)
pairs = [(d[name], trace[name]) for name in trace] + [(grads[name], grads_library[name]) for name in grads]
worst = max(np.abs(mine - theirs).max() / np.abs(theirs).max() for mine, theirs in [*pairs, (dX, dX_library)])
print(f"{len(pairs) + 1} arrays, largest relative difference {worst:.0e}")
assert worst < 1e-12

# %% [markdown]
# Two gradients that agree could both be wrong. So the forward has the last word: we move each parameter, and X, one at
# a time.

# %%
everything = {**params, "x": X}
claim = {**grads, "x": dX}


def layer(some):
    """Y after some of X and the parameters have moved."""
    arrays = everything | some
    return gta.forward({n: arrays[n] for n in params}, arrays["x"], config, need_saved=False)[0]


report({n: directional_error(layer, {n: a}, dY, claim, rng) for n, a in everything.items()})

# %% [markdown]
# **Try it.** `b_k` got a gradient. What would its norm be in a layer without RoPE? Predict, then run
#
# ```python
# from dataclasses import replace
#
# _, kept = gta.forward(params, X, replace(config, rope_pairing="none"))
# np.linalg.norm(grads["b_k"]), np.linalg.norm(gta.backward(dY, kept)[1]["b_k"])
# ```
#
# <details><summary>Answer</summary>
#
# 0, up to rounding. A bias on the keys adds the same number $Q_t \cdot b_k$ to all scores of a row, and a softmax does
# not notice. RoPE rotates the bias by each key's position, so with RoPE it does matter.
#
# </details>

# %% [markdown]
# ## 5. What is kept, and how many bytes
#
# The arrays in the figure's filled boxes stay in memory until the backward runs. All of them grow in proportion to N,
# except one: the map has $n_q N^2$ elements. The definition (the engine "reference") keeps it. A fused engine keeps $Z$
# (which the decoder keeps anyway) and, for each row, the two numbers that the softmax subtracted and divided by, and
# recomputes the map from them. Let us count the bytes for a layer of GTA-1B in float32, in the arrays that `saved`
# really holds:

# %%
big = gta.Config.preset("gta-1b")
big_params = gta.init(big, rng, "float32")


def arrays_in(x):
    """All arrays in nested tuples; of a view, the array that owns the memory."""
    if isinstance(x, np.ndarray):
        yield x if x.base is None else x.base
    elif isinstance(x, tuple):
        for part in x:
            yield from arrays_in(part)


def held(length, engine):
    """Bytes held between forward and backward, each array counted once, without parameters."""
    x = rng.standard_normal((1, length, big.hidden_size), np.float32)
    owners = {id(a): a for a in arrays_in(gta.forward(big_params, x, big, engine=engine)[1])}
    return sum(a.nbytes for i, a in owners.items() if i not in {id(p) for p in big_params.values()})


# %% [markdown]
# Look at the slopes: on these axes N² is twice as steep as N. Lines are the cost model's formula, points are measured.
# (The engine "numba" compiles for some seconds when it is first used on a machine.)

# %%
engines = {"the definition (map kept)": "reference", "fused (map recomputed)": "numba"}
measured = {name: {n: held(n, engine) for n in (128, 256, 512, 1024)} for name, engine in engines.items()}
lengths = [2**i for i in range(7, 16)]
structure = gta.structure(big)
formula = {
    name: [4 * attention_activations(structure, 1, n, fused=engine == "numba") for n in lengths]
    for name, engine in engines.items()
}
plots_backward.kept_for_backward(lengths, formula, measured)

# %% [markdown]
# And this is where the bytes are, at N = 4096:

# %%
n = 4096
for name, elements in structure.kept.items():
    print(f"{name:11}{4 * n * elements / 2**20:8.1f} MiB")
print(f"{'map':11}{4 * n * n * structure.n_q / 2**20:8.1f} MiB   only in the definition")
print(f"{'lse':11}{4 * n * structure.n_q / 2**20:8.1f} MiB   only if fused")
for name, engine in engines.items():
    off = measured[name][1024] / (4 * attention_activations(structure, 1, 1024, fused=engine == "numba")) - 1
    print(f"{name}: held {off:+.2%} against the formula at N = 1024")
    assert abs(off) < 0.02

# %% [markdown]
# The small surplus has two causes: the formula leaves out RoPE's tables of cos and sin, and the CPU engine keeps two
# numbers per row where one lse would be enough.
#
# ## Summary
#
# - A rotation is undone by its transpose, a product has the product rule, and copies are summed; X has four readers, so
#   its gradient is a sum of four terms.
# - Two gradients that agree may both be wrong; finite differences of the forward have the last word.
# - The map is the only thing kept that grows with N²; $D = \operatorname{rowsum}(\mathrm{d}Z \odot Z)$ and the rows'
#   lse replace it. The next notebook shows how a forward does without the map.
#
# [previous: backward by hand](04_backward_by_hand.ipynb) |
# [next: online softmax and tiles](05_online_softmax_and_tiles.ipynb)
