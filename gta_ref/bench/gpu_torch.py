"""PyTorch's scaled_dot_product_attention as a contestant of ``gta-ref bench gpu``, one back end at a time.

The flash back end requires keys and values of the same width, so that d_k 64 is padded with zeros to d_v 128 before the
clock starts. The cuDNN back end accepts different widths. The tensors use CuPy's memory without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gta_ref.bench.gpu_cases import D_K, D_V, Case

Prepare = Callable[[list[tuple[Any, ...]]], tuple[Callable[[Any], Any], list[Any]]]


def contestants(case: Case) -> dict[str, Prepare]:
    """For each name, a function that turns copies of (q, k, c, dz) into the work to time and its inputs."""
    from torch.nn.attention import SDPBackend

    backends = {"torch, flash, padded": (SDPBackend.FLASH_ATTENTION, D_V)}
    backends["torch, cuDNN"] = (SDPBackend.CUDNN_ATTENTION, D_K)
    if case.dtype == "float32":  # the other two support only 16-bit dtypes
        backends = {"torch, efficient": (SDPBackend.EFFICIENT_ATTENTION, D_K)}
    return {name: _prepare(case, *how) for name, how in backends.items()}


def _prepare(case: Case, backend: Any, width: int) -> Prepare:
    import torch
    import torch.nn.functional as functional
    from torch.nn.attention import sdpa_kernel

    backward = case.kind == "forward+backward"

    def convert(x: Any, pad: int = 0) -> Any:
        import cupy

        if x.dtype.name == "bfloat16":
            found = torch.from_dlpack(x.view(cupy.uint16)).view(torch.bfloat16)
        else:
            found = torch.from_dlpack(x)
        return functional.pad(found, (0, pad)) if pad else found

    def prepare(copies: list[tuple[Any, ...]]) -> tuple[Callable[[Any], Any], list[Any]]:
        prepared = []
        for q, k, c, dz in copies:
            tensors = [convert(q, width - D_K), convert(k, width - D_K), convert(c)]
            prepared.append(([x.requires_grad_(backward) for x in tensors], convert(dz)))

        def work(arrays: Any) -> None:
            (q, k, c), dz = arrays
            with sdpa_kernel(backend):
                z = functional.scaled_dot_product_attention(
                    q, k, c, is_causal=case.queries > 1, scale=D_K**-0.5, enable_gqa=True
                )
            if backward:
                torch.autograd.grad(z, (q, k, c), dz)

        return work, prepared

    return prepare
