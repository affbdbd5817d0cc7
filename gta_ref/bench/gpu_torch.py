"""PyTorch's attention as a contestant of ``gta-ref bench gpu``: each back end of its SDPA, and its flex attention.

SDPA is scaled_dot_product_attention. Before the clock starts, the inputs are brought into the form that a back end
needs. Apart from the padding they use CuPy's memory without a copy:

    flash       requires keys and values of the same width: d_k 64 is padded with zeros to d_v 128
    cuDNN       accepts different widths, and fewer heads of keys and values than of queries
    efficient   requires as many heads of keys and values as of queries: the one head is expanded, which is a view. In
                a backward, adding up the gradients of these heads is timed, too. Of SDPA's back ends only this
                one accepts float32
    flex        is compiled for every shape, which takes several seconds
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from gta_ref.bench.gpu_cases import D_K, D_V, N_Q, Case
from gta_ref.bench.gpu_clock import Round, Work

FLASH, CUDNN, EFFICIENT = "torch, flash, padded", "torch, cuDNN", "torch, efficient"
FLEX = "torch, flex"
BACKENDS = {FLASH: "FLASH_ATTENTION", CUDNN: "CUDNN_ATTENTION", EFFICIENT: "EFFICIENT_ATTENTION"}


def sdpa(case: Case) -> list[str]:
    """The names of SDPA's back ends for a case."""
    return [EFFICIENT] if case.dtype == "float32" else list(BACKENDS)


def prepare(name: str, case: Case, copies: list[tuple[Any, ...]]) -> Work:
    """The work of a contestant for copies of (q, k, c, dz) on the GPU. Raises whatever PyTorch raises."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    tensors = [_inputs(name, case, one) for one in copies]
    device = tensors[0][1].device
    attend = _flex(case, device) if name == FLEX else _sdpa(case, enable_gqa=name != EFFICIENT)

    def call(arrays: Any) -> dict[str, Any]:
        inputs, dz = arrays
        z = attend(*inputs)
        if not case.backward:
            return {"z": z}
        dq, dk, dv = torch.autograd.grad(z, inputs, dz)
        if name == EFFICIENT:  # the maps share one head, so their gradients are added up
            dk, dv = dk.sum(1, keepdim=True), dv.sum(1, keepdim=True)
        return {"z": z, "dq": dq[..., :D_K], "dk": dk[..., :D_K], "dv": dv}

    setting = nullcontext if name == FLEX else lambda: sdpa_kernel(getattr(SDPBackend, BACKENDS[name]))
    return Work(call, tensors, capture, setting)


def _inputs(name: str, case: Case, arrays: tuple[Any, ...]) -> tuple[list[Any], Any]:
    """The tensors q, k and v in the form that the back end needs, and dz."""
    from torch.nn.functional import pad

    q, k, v, dz = (_tensor(x) for x in arrays)
    if name == FLASH:
        q, k = (pad(x, (0, D_V - D_K)) for x in (q, k))
    if name == EFFICIENT:
        k, v = (x.expand(-1, N_Q, -1, -1) for x in (k, v))
    return [x.requires_grad_(case.backward) for x in (q, k, v)], dz


def _tensor(x: Any) -> Any:
    import torch

    if x.dtype.name == "bfloat16":
        return torch.from_dlpack(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_dlpack(x)


def _sdpa(case: Case, enable_gqa: bool) -> Callable[..., Any]:
    from torch.nn.functional import scaled_dot_product_attention

    def attend(q: Any, k: Any, v: Any) -> Any:
        return scaled_dot_product_attention(q, k, v, is_causal=case.queries > 1, scale=D_K**-0.5, enable_gqa=enable_gqa)

    return attend


def _flex(case: Case, device: Any) -> Callable[..., Any]:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def causal(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return query >= key

    sizes = (None, None, case.queries, case.length)
    block_mask = create_block_mask(causal, *sizes, device=device) if case.queries > 1 else None
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Any, k: Any, v: Any) -> Any:
        return compiled(q, k, v, block_mask=block_mask, scale=D_K**-0.5, enable_gqa=True)

    return attend


def capture(work: Round) -> Round:
    """Record a round as a CUDA graph, after a warm-up on another stream; the function returned launches it."""
    import torch

    current, other = torch.cuda.current_stream(), torch.cuda.Stream()
    other.wait_stream(current)
    with torch.cuda.stream(other):
        work()
    current.wait_stream(other)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    replay: Round = graph.replay
    return replay
