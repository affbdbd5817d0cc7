"""What an adapter needs of a library: repeated heads, padded widths, and the gradients of a function."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

Named = dict[str, Any]
Inputs = tuple[Any, Any, Any]
Function = Callable[[Any, Any, Any], Named]  # (q, k, v) → z, lse and others by name
GRADIENTS = ("d_q", "d_k", "d_v")


class Library:
    """The operations of NumPy, and of libraries whose functions have the same names, on arrays (B, heads, N, width)."""

    name = "numpy"
    module = "numpy"

    def place(self, x: Any) -> Any:
        """The array on the device on which the function computes."""
        return x

    def repeat(self, x: Any, times: int, expand: bool) -> Any:
        """Repeat each head; with `expand`, a single head without a copy if the library can."""
        return importlib.import_module(self.module).repeat(x, times, axis=1)

    def pad(self, x: Any, width: int) -> Any:
        """Add zeros to the last axis up to `width`."""
        margins = [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])]
        return importlib.import_module(self.module).pad(x, margins)

    def times(self, x: Any, factor: float) -> Any:
        """x · factor, rounded once: a factor that was rounded to 16 bits itself would be off by up to 0.4 %."""
        if x.dtype.itemsize > 2:
            return x * x.dtype.type(factor)
        return (x.astype("float32") * factor).astype(x.dtype)

    def forward(self, function: Function, inputs: Inputs) -> Named:
        """The results without gradients."""
        return function(*inputs)

    def both(self, function: Function, inputs: Inputs, cotangents: Mapping[str, Any]) -> Named:
        """The results, and d_q, d_k, d_v for cotangents of some results, given by the results' names."""
        raise NotImplementedError(f"gradients, which {self.name} does not compute")


class Jax(Library):
    """JAX, with gradients by jax.vjp."""

    name, module = "jax", "jax.numpy"

    def both(self, function: Function, inputs: Inputs, cotangents: Mapping[str, Any]) -> Named:
        """The results and the gradients; a result without a cotangent has a zero one."""
        import jax
        import jax.numpy as jnp

        found, pull = jax.vjp(function, *inputs)
        weights = {name: cotangents.get(name, jnp.zeros_like(x)).astype(x.dtype) for name, x in found.items()}
        return {**found, **dict(zip(GRADIENTS, pull(weights), strict=True))}


class Mlx(Library):
    """MLX, with gradients by mx.vjp."""

    name, module = "mlx", "mlx.core"

    def times(self, x: Any, factor: float) -> Any:
        """x · factor, rounded once."""
        import mlx.core as mx

        return x * factor if x.dtype.size > 2 else (x.astype(mx.float32) * factor).astype(x.dtype)

    def both(self, function: Function, inputs: Inputs, cotangents: Mapping[str, Any]) -> Named:
        """The results and the gradients; the function runs once for each."""
        import mlx.core as mx

        found = function(*inputs)
        weights = [x.astype(found[name].dtype) for name, x in cotangents.items()]

        def roots(*inputs: Any) -> list[Any]:
            again = function(*inputs)
            return [again[name] for name in cotangents]

        _, grads = mx.vjp(roots, list(inputs), weights)
        return {**found, **dict(zip(GRADIENTS, grads, strict=True))}


class Torch(Library):
    """PyTorch, with gradients by autograd, on a device such as "cuda"; None leaves tensors where they are."""

    name = "torch"

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def place(self, x: Any) -> Any:
        """The tensor on the device."""
        return x if self.device is None else x.to(self.device)

    def repeat(self, x: Any, times: int, expand: bool) -> Any:
        """Repeat each head; with `expand`, a single head gets the stride 0."""
        if expand and x.shape[1] == 1:
            return x.expand(-1, times, -1, -1)
        return x.repeat_interleave(times, dim=1)

    def times(self, x: Any, factor: float) -> Any:
        """x · factor; PyTorch computes it in float32 and rounds once."""
        return x * factor

    def pad(self, x: Any, width: int) -> Any:
        """Add zeros to the last axis up to `width`."""
        import torch

        return torch.nn.functional.pad(x, (0, width - x.shape[-1]))

    def forward(self, function: Function, inputs: Inputs) -> Named:
        """The results, detached."""
        return {name: x.detach() for name, x in function(*(x.detach() for x in inputs)).items()}

    def both(self, function: Function, inputs: Inputs, cotangents: Mapping[str, Any]) -> Named:
        """The results and the gradients; none of an input on which the results do not depend."""
        import torch

        leaves = [x.detach().requires_grad_() for x in inputs]
        found = function(leaves[0], leaves[1], leaves[2])
        for name in cotangents:
            if not found[name].requires_grad:
                raise ValueError(f"{name} has no gradient; expected one by autograd, or the option backward=False")
        # a result may have another dtype than it should: the comparison says so, not autograd
        weights = [x.to(found[name].dtype) for name, x in cotangents.items()]
        grads = torch.autograd.grad([found[name] for name in cotangents], leaves, weights, allow_unused=True)
        for name, leaf, grad in zip(GRADIENTS, leaves, grads, strict=True):
            if grad is not None or not leaf.numel():
                found[name] = torch.zeros_like(leaf) if grad is None else grad
        return {name: x.detach() for name, x in found.items()}
