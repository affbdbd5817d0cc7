"""The attention functions of flax, linen's and nnx's, compiled. Both divide by the root of the width."""

from functools import partial

import flax.linen
import flax.nnx
import jax

from gta_ref.verify.adapters import jax_core


def by(function, static=(), **options):
    """An attention core by one of these functions, without dropout; `static` names arguments of the compilation."""
    attention = jax.jit(partial(function, deterministic=True), static_argnames=static)
    return jax_core(attention, scale=None, order="token-major", **options)


linen_mask = by(flax.linen.dot_product_attention, mask="mask")
# nnx calls jax.nn, which shares heads by itself and wants one width
nnx_mask = by(flax.nnx.dot_product_attention, mask="mask", heads="grouped", widths="pad")
nnx_flag = by(
    flax.nnx.dot_product_attention,
    static="is_causal",
    causal="is_causal",
    align="start",
    heads="grouped",
    widths="pad",
)
