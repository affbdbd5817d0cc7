"""The reference against PyTorch's and ONNX's attention in float64, on all attention cases; see `make interop`."""

import importlib.util

import numpy as np
import pytest

from gta_ref.verify import cases, vectors
from gta_ref.verify.compare import compare

CASES = [case for case in cases.CASES if case.level == "attention"]


def prepared(vector):
    """Inputs as these libraries know them: one key and value head per map, a boolean mask, 0 in unused slots.

    Neither library has different numbers of key and value heads, or bounds of its own for each sequence, and both
    multiply unused slots by a weight of 0, which for NaN is NaN.
    """
    a, s = vector.inputs, vector.settings
    n_queries, n_keys = a["q"].shape[2], a["k"].shape[2]
    slot = np.arange(n_keys)
    used = (a["k_start"][:, None] <= slot) & (slot < a["k_stop"][:, None])  # (B, N_k)
    seen = np.broadcast_to(used[:, None, None], (len(used), 1, n_queries, n_keys))
    if s["mask"].get("causal", True):
        seen = seen & (slot <= (a["q_start"][:, None] + np.arange(n_queries))[:, None, :, None])
    k, v = (np.where(used[:, None, :, None], a[name], 0.0) for name in "kv")
    return a["q"], k, v, seen, s.get("scale") or a["q"].shape[3] ** -0.5


def agree(vector, given):
    findings = compare(vector, given, wanted=given)
    assert {f.name for f in findings} == set(given)
    wrong = [f.text for f in findings if f.kind != "ok"]
    assert not wrong


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed; make interop")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_torch(case):
    """scaled_dot_product_attention and autograd; heads are expanded inside the graph, so that it sums their gradients."""
    import torch

    vector = vectors.make(case.name, "float64")
    q, k, v, seen, scale = prepared(vector)
    q, k, v = (torch.tensor(x, requires_grad=True) for x in (q, k, v))
    seen = torch.tensor(seen)
    keys, values = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    z = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen, scale=scale)
    total = (z * torch.tensor(vector.inputs["d_z"])).sum()
    scores = (q @ keys.mT * scale).masked_fill(~seen, -torch.inf)
    lse = torch.logsumexp(scores, dim=-1)  # PyTorch's attention does not return it
    if "d_lse" in vector.inputs:
        total = total + (lse * torch.tensor(vector.inputs["d_lse"])).sum()
    d_q, d_k, d_v = torch.autograd.grad(total, (q, k, v))
    found = {"z": z, "lse": lse, "d_q": d_q, "d_k": d_k, "d_v": d_v}
    agree(vector, {name: x.detach().numpy() for name, x in found.items()})


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="onnx is not installed; make interop")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnx(case):
    """The operator Attention of opset 23 in ONNX's reference evaluator: forward only, and without lse."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    vector = vectors.make(case.name, "float64")
    q, k, v, seen, scale = prepared(vector)
    if not k.shape[2]:
        pytest.skip("ONNX's evaluator takes the maximum over no keys, which NumPy refuses")
    n_q = q.shape[1]
    q = q * scale  # the operator's attribute `scale` is a float32
    arrays = {"Q": q, "K": np.repeat(k, n_q // k.shape[1], 1), "V": np.repeat(v, n_q // v.shape[1], 1), "mask": seen}
    node = helper.make_node("Attention", list(arrays), ["Z", "", "", "weights"], scale=1.0, qk_matmul_output_mode=3)
    kinds = {name: TensorProto.BOOL if name == "mask" else TensorProto.DOUBLE for name in arrays}
    inputs = [helper.make_tensor_value_info(name, kinds[name], x.shape) for name, x in arrays.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in ("Z", "weights")]
    graph = helper.make_graph([node], "attention", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    z, weights = ReferenceEvaluator(model).run(None, arrays)
    agree(vector, {"z": z, "map": weights} if weights.size else {"z": z})
