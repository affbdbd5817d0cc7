"""ONNX Runtime's MultiHeadAttention with unidirectional=1: the mask starts at key 0, and the last row has none.

All scores are 0 and v is the identity, so that entry (i, j) of z is positive where row i sees key j.
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

node = helper.make_node("MultiHeadAttention", list("qkv"), ["z"], domain="com.microsoft", num_heads=1, unidirectional=1)
inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, 8]) for name in "qkv"]
graph = helper.make_graph([node], "attention", inputs, [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
print("onnxruntime", onnxruntime.__version__)
for n_q, n_k in ((4, 4), (2, 4), (3, 6), (4, 2)):
    v = np.eye(n_k, 8, dtype=np.float32)[None]
    (z,) = session.run(None, {"q": np.zeros((1, n_q, 8), np.float32), "k": np.zeros_like(v), "v": v})
    print(f"N_q = {n_q}, N_k = {n_k}:", *("".join("01"[int(x > 0)] for x in row) for row in z[0, :, :n_k]))
