"""jax.nn.dot_product_attention on the CPU, compiled; it returns lse besides."""

from functools import partial

import jax

from gta_ref.verify.adapters import jax_core

attention = jax.jit(partial(jax.nn.dot_product_attention, return_residual=True), static_argnames=("scale", "is_causal"))
core = partial(jax_core, attention, heads="grouped", widths="pad", order="token-major", returns=("z", "lse.T"))
mask = core(mask="mask")
flag = core(causal="is_causal", align="start", k_stop="key_value_seq_lengths")
