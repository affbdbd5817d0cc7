"""The attention core and the GTA layer in JAX with jax.vjp, checked with gta_ref.

gta-ref verify --impl docs.examples.gta_jax:gta --arrays jax \
        --capabilities attention,layer,gta,backward,padding,deterministic
"""

import jax
import jax.numpy as jnp

# matrix products in full float32; this is the default on CPUs, but not on accelerators
jax.config.update("jax_default_matmul_precision", "highest")


def attention(q, k, v, seen, scale):
    """Attention that does not copy heads: the maps of a key head, or of a value head, form one group of rows."""
    (batch, n_q, n, d), m = q.shape, k.shape[2]
    used = jnp.swapaxes(seen.any(axis=2), 1, 2)[:, None]  # (B, 1, M, 1)
    k, v = jnp.where(used, k, 0), jnp.where(used, v, 0)
    grouped = q.reshape(batch, k.shape[1], n_q // k.shape[1], n, d)
    scores = jnp.einsum("bgrid,bgjd->bgrij", grouped, k).reshape(batch, n_q, n, m) * scale
    # in a row that sees nothing, take the softmax over all keys and set it to 0 afterwards; else its gradient is NaN
    blind = ~seen.any(axis=-1, keepdims=True)
    hidden = jnp.where(seen | blind, scores, -jnp.inf)
    wide = jnp.promote_types(hidden.dtype, jnp.float32)  # in 16 bits, the gradient of the softmax would be too coarse
    weights = jax.nn.softmax(hidden.astype(wide), axis=-1).astype(hidden.dtype) if m else scores
    weights = jnp.where(blind, 0, weights)
    per_value = weights.reshape(batch, v.shape[1], n_q // v.shape[1], n, m)
    return jnp.einsum("bgrij,bgjd->bgrid", per_value, v).reshape(batch, n_q, n, v.shape[3])


def visible(q_start, k_start, k_stop, n, m, causal=True):
    """Which query i sees which key j, (B, 1, N, M): k_start <= j < k_stop and, if causal, j <= q_start + i."""
    j, i = jnp.arange(m), jnp.arange(n)[:, None]
    seen = (j >= k_start[:, None, None]) & (j < k_stop[:, None, None]) & (i >= 0)
    return (seen & (j <= q_start[:, None, None] + i) if causal else seen)[:, None]


def rope(x, angle, pairing):
    """Rotate each pair of features by its angle; angle is (B, 1, N, d/2)."""
    if pairing == "none":
        return x
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1) if pairing == "half" else (x[..., 0::2], x[..., 1::2])
    turned = (a * cos - b * sin, b * cos + a * sin)
    return jnp.concatenate(turned, -1) if pairing == "half" else jnp.stack(turned, -1).reshape(x.shape)


GATES = {"sigmoid": jax.nn.sigmoid, "silu": jax.nn.silu, "relu2": lambda a: jnp.square(jax.nn.relu(a))}


def layer(p, x, c, positions, k_start, k_stop):
    """One GTA layer over whole sequences."""
    d = c["head_dim"]
    frequency = c.get("rope_theta", 10000.0) ** (-jnp.arange(0, d, 2) / d)
    angle = positions[:, None, :, None] * frequency

    def heads(name):
        flat = x @ p[f"w_{name}"] + p.get(f"b_{name}", 0)
        return jnp.swapaxes(flat.reshape(*flat.shape[:2], c[f"n_{name}"], -1), 1, 2)

    pairing, n = c.get("rope_pairing", "half"), x.shape[1]
    seen = visible(jnp.zeros_like(k_start), k_start, k_stop, n, n)
    z = attention(rope(heads("q"), angle, pairing), rope(heads("k"), angle, pairing), heads("c"), seen, d**-0.5)
    values = jnp.einsum("bmnl,mlw->bnmw", z, p["w_p"])
    if c.get("decoder_residual"):
        values = values + jnp.tile(jnp.swapaxes(z, 1, 2), values.shape[-1] // z.shape[-1])
    values = values.reshape(*x.shape[:2], -1)
    if c.get("gate", "sigmoid") != "none":
        values = values * GATES[c.get("gate", "sigmoid")](x @ p["w_g"] + p.get("b_g", 0))
    return values @ p["w_o"]


def gta(arrays, settings):
    """The function that gta_ref calls: it accepts named arrays and returns named arrays."""
    if settings["level"] == "attention":
        q, k, v = (arrays[name] for name in "qkv")
        bounds = (arrays[name] for name in ("q_start", "k_start", "k_stop"))
        seen = visible(*bounds, q.shape[2], k.shape[2], settings["mask"].get("causal", True))
        scale = settings.get("scale") or q.shape[-1] ** -0.5
        z, pull = jax.vjp(lambda *qkv: attention(*qkv, seen, scale), q, k, v)
        return {"z": z, **{f"d_{name}": grad for name, grad in zip("qkv", pull(arrays["d_z"]), strict=True)}}
    p = {name: a for name, a in arrays.items() if name.startswith(("w_", "b_"))}
    rest = (arrays[name] for name in ("positions", "k_start", "k_stop"))
    fixed = tuple(rest)
    out, pull = jax.vjp(lambda p, x: layer(p, x, settings["config"], *fixed), p, arrays["x"])
    d_p, d_x = pull(arrays["d_out"])
    return {"out": out, "d_x": d_x, **{f"d_{name}": grad for name, grad in d_p.items()}}
