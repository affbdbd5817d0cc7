"""ONNX's operator Attention, by ONNX Runtime and by onnx's reference evaluator. There are no gradients."""

from functools import lru_cache, partial

import numpy as np
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

from gta_ref.verify.adapters import numpy_core

onnxruntime.set_default_logger_severity(4)


@lru_cache
def model(engine, operator, domain, inputs, outputs, attributes):
    """A program that is one operator; `inputs` are pairs (name, dtype), with "" for one that is left out."""
    node = helper.make_node(operator, [name for name, _ in inputs], outputs, domain=domain, **dict(attributes))
    given = [(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))) for name, dtype in inputs if name]
    ports = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in given]
    results = [helper.make_tensor_value_info(name, given[0][1], None) for name in outputs]
    opsets = [helper.make_opsetid("", 24 if not domain else 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", ports, results)
    program = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    if engine == "reference":
        return ReferenceEvaluator(program)
    return onnxruntime.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])


def run(operator, arrays, engine="runtime", domain="", outputs=("z",), **attributes):
    """Run one operator; an array that is None is left out."""
    inputs = tuple((name, x.dtype.name) if x is not None else ("", "") for name, x in arrays.items())
    program = model(engine, operator, domain, inputs, outputs, tuple(sorted(attributes.items())))
    feeds = {name: np.ascontiguousarray(x) for name, x in arrays.items() if x is not None}
    return program.run(None, feeds)[0]


def attention(engine, q, k, v, scale, seen=None, is_causal=False):
    """The operator Attention of opset 24."""
    arrays = {"q": q, "k": k, "v": v} | ({} if seen is None else {"seen": seen})
    return run("Attention", arrays, engine, scale=float(scale), is_causal=int(is_causal))


runtime_mask = numpy_core(partial(attention, "runtime"), mask="seen", heads="grouped")
runtime_flag = numpy_core(partial(attention, "runtime"), causal="is_causal", align="start", heads="grouped")
reference_mask = numpy_core(partial(attention, "reference"), mask="seen", heads="grouped")
reference_flag = numpy_core(partial(attention, "reference"), causal="is_causal", align="start", heads="grouped")


def lengths(q, k, v, scale, k_stop):
    """The same with a length for each sequence: the last query sees the last key of its sequence."""
    arrays = {"q": q, "k": k, "v": v, "mask": None, "past_k": None, "past_v": None, "lengths": k_stop.astype(np.int64)}
    return run("Attention", arrays, scale=float(scale), is_causal=1)


runtime_lengths = numpy_core(lengths, causal=True, k_stop="k_stop", heads="grouped")


def flat(x):
    """(B, heads, N, width) to (B, N, heads·width)."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], x.shape[1] * x.shape[3])


def heads_of(z, n_heads):
    """(B, N, heads·width) to (B, heads, N, width)."""
    return z.reshape(*z.shape[:2], n_heads, -1).swapaxes(1, 2)


def group_query(q, k, v, scale, k_stop):
    """com.microsoft GroupQueryAttention: the last N_q keys are new, those before them come as the cache."""
    n, old = q.shape[1], k.shape[2] - q.shape[2]
    if old < 0:
        raise NotImplementedError("more queries than keys")
    if old and (k_stop < k.shape[2]).any():
        raise NotImplementedError("lengths with a cache, which are those of the cache")
    new = {"q": flat(q), "k": flat(k[:, :, old:]), "v": flat(v[:, :, old:])}
    past = {"past_k": k[:, :, :old], "past_v": v[:, :, :old]}
    arrays = {**new, **past, "last": (k_stop - 1).astype(np.int32), "total": np.array(k.shape[2], np.int32)}
    heads = {"num_heads": n, "kv_num_heads": k.shape[1]}
    outputs = ("z", "k_cache", "v_cache")
    z = run("GroupQueryAttention", arrays, domain="com.microsoft", outputs=outputs, scale=float(scale), **heads)
    return heads_of(z, n)


runtime_group_query = numpy_core(group_query, causal=True, k_stop="k_stop", heads="grouped", widths="pad")


def multi_head(q, k, v, scale, seen=None, causal=False):
    """com.microsoft MultiHeadAttention, with a mask that is added or with its causal flag."""
    arrays = {"q": flat(q), "k": flat(k), "v": flat(v)}
    if seen is not None:
        arrays |= {"bias": None, "padding": None, "added": np.where(seen, 0, -np.inf).astype(q.dtype)}
    flag = {"unidirectional": int(causal)}
    z = run("MultiHeadAttention", arrays, domain="com.microsoft", num_heads=q.shape[1], scale=float(scale), **flag)
    return heads_of(z, q.shape[1])


runtime_multi_head_mask = numpy_core(multi_head, mask="seen")
runtime_multi_head_flag = numpy_core(multi_head, causal="causal")
