"""The attention core of each library, and the gradients of a NumPy function that has a backward of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.verify.adapters.core import Core
from gta_ref.verify.adapters.libraries import Jax, Library, Mlx, Named, Torch


def torch_core(fn: Callable[..., Any], device: str | None = None, **options: Any) -> Core:
    """An attention core around a function of PyTorch tensors; autograd computes its gradients, through lse as well.

    Parameters
    ----------
    fn : callable
        ``fn(q, k, v, **told) -> z`` or a tuple that begins with z.
    device : str, optional
        The device on which `fn` computes, such as "cuda".
    **options
        How `fn` is called: the parameters of :class:`~gta_ref.verify.adapters.core.Core` from `mask` on.

    Returns
    -------
    Core
        An implementation for ``gta_ref.verify.verify``, with `capabilities` for it.

    Examples
    --------
    >>> sdpa = functools.partial(torch.nn.functional.scaled_dot_product_attention, enable_gqa=True)
    >>> mine = torch_core(sdpa, mask="attn_mask", heads="grouped")
    """
    return Core(Torch(device), fn, **options)


def jax_core(fn: Callable[..., Any], **options: Any) -> Core:
    """An attention core around a function of JAX arrays; as :func:`torch_core`, with gradients by jax.vjp."""
    return Core(Jax(), fn, **options)


def mlx_core(fn: Callable[..., Any], **options: Any) -> Core:
    """An attention core around a function of MLX arrays; as :func:`torch_core`, with gradients by mx.vjp."""
    return Core(Mlx(), fn, **options)


def numpy_core(fn: Callable[..., Any], backward: Callable[..., Any] | None = None, **options: Any) -> Core:
    """An attention core around a function of NumPy arrays, and perhaps one for its gradients.

    Parameters
    ----------
    fn : callable
        ``fn(q, k, v, **told) -> z`` or a tuple that begins with z.
    backward : callable, optional
        ``backward(d_z, q, k, v, *found, **told) -> (d_q, d_k, d_v)``; `found` is what `fn` returned. In a case with a
        gradient of lse it is an argument `d_lse`. Without `backward`, forwards alone are checked.
    **options
        As for :func:`torch_core`.
    """
    if backward is None:
        return Core(Library(), fn, backward=False, **options)
    return NumpyCore(Library(), fn, pull=backward, **options)


@dataclass(frozen=True)
class NumpyCore(Core):
    """An attention core whose gradients a second function computes.

    Parameters
    ----------
    pull : callable
        ``pull(d_z, q, k, v, *found, **told) -> (d_q, d_k, d_v)``.
    """

    pull: Callable[..., Any] = lambda *_, **__: ()

    def both(
        self, told: Named, settings: Mapping[str, Any], inputs: tuple[Any, Any, Any], cotangents: Mapping[str, Any]
    ) -> Named:
        """The results and the gradients; the transpose of what was done to q, k and v before the call is undone."""
        q, k, v = inputs
        arranged, factor = self.arranged(q, k, v, settings)
        found = self.fn(*arranged, **told, **factor)
        named = self.named(found, v.shape[-1])
        d_z = cotangents["z"]
        if self.widths != "as-is":
            d_z = self.library.pad(d_z, arranged[2].shape[-1])
        if self.order == "token-major":
            d_z = d_z.swapaxes(1, 2)
        parts = found if isinstance(found, tuple | list) else (found,)
        d_lse = {}
        if "lse" in cotangents:
            d_lse = {"d_lse": cotangents["lse"] if "lse" in self.returns else cotangents["lse"].swapaxes(1, 2)}
        grads = self.pull(d_z, *arranged, *parts, **told, **factor, **d_lse)
        for name, x, grad in zip(("d_q", "d_k", "d_v"), inputs, grads, strict=True):
            named[name] = self._undone(np.asarray(grad), x)
        if self.scale is None:  # q was multiplied before the call
            named["d_q"] = self.library.times(named["d_q"], self.factor(settings, q.shape[-1], arranged[0].shape[-1]))
        return named

    def _undone(self, grad: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The gradient of x from that of its padded, repeated and transposed form."""
        if self.order == "token-major":
            grad = grad.swapaxes(1, 2)
        grad = grad[..., : x.shape[-1]]
        batch, heads, *rest = x.shape
        if grad.shape[1] == heads:
            return grad
        summed: np.ndarray = grad.reshape(batch, heads, grad.shape[1] // max(1, heads), *rest).sum(2, dtype=grad.dtype)
        return summed
