"""OpenVINO's ScaledDotProductAttention of operator set 13 on the CPU, with products in float32; no gradients."""

from functools import cache

import numpy as np
import openvino
from openvino import opset13

from gta_ref.verify.adapters import numpy_core


@cache
def compiled(shapes, dtype, scale, causal):
    """A graph for arrays of these shapes: q, k, v and perhaps a boolean mask."""
    inputs = [opset13.parameter(shape, openvino.Type(np.dtype(dtype))) for shape in shapes[:3]]
    inputs += [opset13.parameter(shape, openvino.Type.boolean) for shape in shapes[3:]]
    more = dict(zip(("attention_mask",), inputs[3:], strict=False))
    factor = opset13.constant(np.array(scale, dtype))
    node = opset13.scaled_dot_product_attention(*inputs[:3], **more, scale=factor, causal=causal)
    graph = openvino.Model([node], inputs, "attention")
    return openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def attention(q, k, v, scale, seen=None, causal=False):
    """Attention by a graph, which is compiled at the first call with these shapes."""
    arrays = [q, k, v] if seen is None else [q, k, v, seen]
    graph = compiled(tuple(x.shape for x in arrays), q.dtype.name, scale, causal)
    return np.array(graph([np.ascontiguousarray(x) for x in arrays])[0])


mask = numpy_core(attention, mask="seen")
flag = numpy_core(attention, causal="causal", align="start")
