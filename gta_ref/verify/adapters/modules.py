"""Make a torch.nn.Module into an attention layer that can be verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.core.mask import dense
from gta_ref.errors import check_choice, listed, shown
from gta_ref.verify.abilities import MECHANISMS
from gta_ref.verify.exchange import from_numpy, to_numpy

Source = str | tuple[str, ...] | Callable[[Mapping[str, Any]], Any]


def torch_module(
    factory: Callable[[Mapping[str, Any]], Any],
    names: Mapping[str, Source],
    mechanism: str,
    mask: str | None = None,
    positions: str | None = None,
    call: Callable[..., Any] | None = None,
    device: str | None = None,
) -> ModuleLayer:
    """An attention layer around a module of PyTorch with parameter names of its own.

    Parameters
    ----------
    factory : callable
        From the `config` of a case (the fields of the mechanism's Config that are not at their default) to a module.
    names : mapping
        For each parameter of the module, in its own name, what it is in ours: ``"b_q"``; ``"w_q.T"`` for the weight of
        a Linear, which is (out, in) where ours is (in, out); a tuple of these, which are concatenated along the first
        axis (``in_proj_weight``); or a function from our parameters to the tensor. An entry of a parameter that a case
        does not have, such as a bias, is left out.
    mechanism : str
        "mha", "gqa", "mla", "gva", "gha" or "gta".
    mask : str, optional
        Name of the module's argument for a boolean mask (B, 1, N, N), True where a token sees another. Without it, the
        module has to be causal, and cases with padding are skipped.
    positions : str, optional
        Name of its argument for the positions (B, N). Without it, the module has to count from 0.
    call : callable, optional
        ``call(module, x, **told) -> out``; default ``module(x, **told)``, of whose result the first part is taken if it
        is a tuple.
    device : str, optional
        The device to which the module is moved, such as "cuda".

    Returns
    -------
    ModuleLayer
        An implementation for ``gta_ref.verify.verify``, with `capabilities` for it. Autograd
        computes the gradients, in our names and shapes, since the module's parameters are computed from ours.
    """
    check_choice("mechanism", mechanism, MECHANISMS)
    if not callable(factory):
        raise ValueError(f"factory={shown(factory)} must be a function from a config to a module")
    return ModuleLayer(factory, dict(names), mechanism, mask, positions, call, device)


@dataclass(frozen=True)
class ModuleLayer:
    """An implementation of attention layers; ``torch_module`` makes it and describes its parts."""

    factory: Callable[[Mapping[str, Any]], Any]
    names: Mapping[str, Source]
    mechanism: str
    mask: str | None
    positions: str | None
    call: Callable[..., Any] | None
    device: str | None

    arrays = "torch"  # the library

    @property
    def capabilities(self) -> frozenset[str]:
        """What can be asked of the module; for the argument `capabilities` of verify."""
        padding = {"padding"} if self.mask is not None else set()
        return frozenset({"layer", self.mechanism, "backward", "deterministic", *padding})

    def __call__(self, arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Compute a layer case; arrays of NumPy are converted first."""
        import torch
        from torch.func import functional_call

        if settings["level"] != "layer" or settings["mechanism"] != self.mechanism:
            raise NotImplementedError(
                f"{settings.get('mechanism', settings['level'])}; this module is {self.mechanism}"
            )
        if settings.get("chunks"):
            raise NotImplementedError("decoding from a cache")
        if isinstance(arrays["x"], np.ndarray):
            arrays = from_numpy(arrays, "torch")
        if self.device is not None:
            arrays = {name: x.to(self.device) for name, x in arrays.items()}
        told = self._told(arrays, settings)
        ours = {
            name: arrays[name].detach().requires_grad_() for name in arrays if name.startswith(("w_", "b_", "norm_"))
        }
        x = arrays["x"].detach().requires_grad_()
        module = self.factory(settings["config"]).to(self.device).eval()  # .to(None) changes nothing
        caller = _caller(module, self.call)
        found = functional_call(caller, self._parameters(module, ours), (x,), told)
        out = found[0] if isinstance(found, tuple | list) else found
        leaves = {"x": x, **ours}
        grads = torch.autograd.grad(out, list(leaves.values()), arrays["d_out"].to(out.dtype), allow_unused=True)
        pairs = zip(leaves, grads, strict=True)
        return {"out": out.detach(), **{f"d_{name}": grad for name, grad in pairs if grad is not None}}

    def _told(self, arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """The mask and the positions as keyword arguments of the module."""
        import torch

        batch, n = arrays["x"].shape[:2]
        causal = settings.get("mask", {}).get("causal", True)
        k_start, k_stop = (to_numpy(arrays[name], name) for name in ("k_start", "k_stop"))
        told = {}
        if self.mask is not None:
            seen = dense(causal, np.zeros(batch, np.int64), k_start, k_stop, n, n)
            told[self.mask] = torch.from_numpy(np.array(seen[:, None])).to(arrays["x"].device)
        elif not causal or (k_start > 0).any() or (k_stop < n).any():
            raise NotImplementedError("the case's mask, for which the module has no argument")
        if self.positions is not None:
            told[self.positions] = arrays["positions"]
        elif (to_numpy(arrays["positions"]) != np.arange(n)).any():
            raise NotImplementedError("the case's positions, for which the module has no argument")
        return told

    def _parameters(self, module: Any, ours: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of the module, in its names, computed from ours.

        Raises
        ------
        ValueError
            If a parameter of the module or one of ours is left over, or a shape does not fit.
        """
        own = dict(module.named_parameters())
        read = _Read(ours)
        found = {}
        for name, source in self.names.items():
            value = source(read) if callable(source) else _assembled(source, read)
            if value is None:
                continue
            if name not in own:
                raise ValueError(f"names: the module has no parameter {name!r}; it has {listed(list(own))}")
            if value.shape != own[name].shape:
                text = "a function's result" if callable(source) else source
                raise ValueError(f"{name} has shape {tuple(own[name].shape)}; {text} has {tuple(value.shape)}")
            found[name] = value
        if own.keys() - found.keys():
            raise ValueError(f"names lacks the module's {listed(sorted(own.keys() - found.keys()))}")
        if ours.keys() - read.names:
            raise ValueError(f"names does not use {listed(sorted(ours.keys() - read.names))}, which the case has")
        return {f"inner.{name}": value for name, value in found.items()}


class _Read(Mapping[str, Any]):
    """Our parameters, and in `names` those that were read."""

    def __init__(self, ours: Mapping[str, Any]) -> None:
        self.ours = ours
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return self.ours[name]

    def __contains__(self, name: object) -> bool:
        return name in self.ours

    def __iter__(self) -> Iterator[str]:
        return iter(self.ours)

    def __len__(self) -> int:
        return len(self.ours)


def _assembled(source: Any, ours: Mapping[str, Any]) -> Any:
    """A tensor from one or several of our parameters; None if one of them is not there."""
    import torch

    texts = (source,) if isinstance(source, str) else source
    names = [text.removesuffix(".T") for text in texts]
    if not all(name in ours for name in names):
        return None
    parts = [ours[name].mT if text.endswith(".T") else ours[name] for name, text in zip(names, texts, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _caller(module: Any, call: Callable[..., Any] | None) -> Any:
    """A module around another that calls it in its own way; the parameters' names begin with ``inner.``."""
    import torch

    class Caller(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Any, **told: Any) -> Any:
            return self.inner(x, **told) if call is None else call(self.inner, x, **told)

    return Caller()
