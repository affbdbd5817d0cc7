"""OpenVINO's ScaledDotProductAttention over zero keys returns what lay in memory, where a sum over nothing is 0."""

import numpy as np
import openvino as ov
from openvino import opset13

q, k, v = (opset13.parameter([1, 3, n, 16], ov.Type.f32) for n in (4, -1, -1))
graph = ov.Model([opset13.scaled_dot_product_attention(q, k, v, causal=False)], [q, k, v], "attention")
attention = ov.compile_model(graph, "CPU")
queries, no_keys = np.ones((1, 3, 4, 16), np.float32), np.zeros((1, 3, 0, 16), np.float32)
print("openvino", ov.__version__)
for value in (1.0, 2.0, 3.0):
    keys = np.full((1, 3, 500, 16), value, np.float32)
    attention([queries, keys, keys])  # a call before, whose values are all the same
    z = attention([queries, no_keys, no_keys])[0]
    print(f"after a call with values {value:g}: z over zero keys has {np.unique(z)[:4]}")
