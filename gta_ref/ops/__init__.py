"""Operations, each a forward next to its backward.

``y, saved = softmax_forward(x)`` and ``dx = softmax_backward(dy, saved)``: pure functions that never write to their
inputs and run on NumPy arrays as well as on CuPy arrays. `saved` holds what the backward needs.
"""

from gta_ref.ops.arrays import Array, as_dtype
from gta_ref.ops.cross_entropy import cross_entropy_backward, cross_entropy_forward
from gta_ref.ops.embedding import embedding_backward, embedding_forward
from gta_ref.ops.gate import gate_backward, gate_forward
from gta_ref.ops.kl import kl_backward, kl_forward
from gta_ref.ops.linear import decoder_backward, decoder_forward, linear_backward, linear_backward_input, linear_forward
from gta_ref.ops.rmsnorm import rmsnorm_backward, rmsnorm_forward
from gta_ref.ops.rope import rope_angles, rope_backward, rope_forward, rope_tables
from gta_ref.ops.softmax import softmax_backward, softmax_forward, softmax_lse_forward
from gta_ref.ops.swiglu import swiglu_backward, swiglu_forward

__all__ = [
    "Array",
    "as_dtype",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "decoder_backward",
    "decoder_forward",
    "embedding_backward",
    "embedding_forward",
    "gate_backward",
    "gate_forward",
    "kl_backward",
    "kl_forward",
    "linear_backward",
    "linear_backward_input",
    "linear_forward",
    "rmsnorm_backward",
    "rmsnorm_forward",
    "rope_angles",
    "rope_backward",
    "rope_forward",
    "rope_tables",
    "softmax_backward",
    "softmax_forward",
    "softmax_lse_forward",
    "swiglu_backward",
    "swiglu_forward",
]
