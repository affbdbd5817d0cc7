"""Make a function of (q, k, v) into an attention core that can be verified."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.core.mask import dense
from gta_ref.errors import check_choice, shown
from gta_ref.verify.abilities import FEATURES, features
from gta_ref.verify.adapters.libraries import Library, Named
from gta_ref.verify.cases import Case
from gta_ref.verify.exchange import from_numpy, to_numpy

HEADS = ("repeat", "expand", "grouped", "as-is")
ORDERS = ("heads-first", "token-major")
BOUNDS = ("q_start", "k_start", "k_stop")


@dataclass(frozen=True)
class Core:
    """An implementation of the attention core around a function ``fn(q, k, v, **told)``.

    Parameters
    ----------
    library : Library
    fn : callable
        Returns z, or a tuple that begins with what `returns` names.
    mask : str, optional
        Name of the argument of `fn` for a boolean mask (B, 1, N_q, N_k), True where a query sees a key.
    causal : str or bool, optional
        Name of its causal flag. True or False for a function that always is causal, or never. The flag is used where it
        says the whole mask, and the argument `mask`, if there is one, elsewhere.
    align : {"end", "start"}
        Which key row 0 of a causal function sees last: that of slot N_k − N_q, so that the last query sees the last
        key, or slot 0.
    scale : str or None
        Name of the argument for the factor of the scores. None for a function that divides by the root of its width;
        where a case has another scale, q is multiplied.
    q_start, k_start, k_stop : str, optional
        Names of arguments for bounds (B,), as in :class:`gta_ref.core.Mask`.
    heads : {"repeat", "expand", "grouped", "as-is"}
        Before the call, repeat the heads of k and v up to those of q; "expand" does it without a copy where there is
        one head. "grouped": `fn` shares key and value heads by itself if there are as many of both; where there are
        not, they are repeated to a common number. "as-is": `fn` accepts any n_k and n_v.
    widths : "as-is", "pad" or a collection of int
        "pad": q and k, or v, are padded with zeros to a common width, and z is cut. With several widths, all are padded
        to the smallest of them that holds both.
    order : {"heads-first", "token-major"}
        Whether `fn` has arrays (B, heads, N, width), or (B, N, heads, width).
    returns : tuple of str
        What `fn` returns, in order: "z", "lse" and other stages of a case. "lse.T" for an lse (B, N_q, n_q).
    backward : bool
        Whether gradients are computed.
    without : collection of str
        Features for which `fn` is not made, such as "blind" (rows that see no key), "poison" or "empty".
    """

    library: Library
    fn: Callable[..., Any]
    mask: str | None = None
    causal: str | bool | None = None
    align: str = "end"
    scale: str | None = "scale"
    q_start: str | None = None
    k_start: str | None = None
    k_stop: str | None = None
    heads: str = "repeat"
    widths: str | Collection[int] = "as-is"
    order: str = "heads-first"
    returns: tuple[str, ...] = ("z",)
    backward: bool = True
    without: Collection[str] = ()

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ValueError(f"fn={shown(self.fn)} must be a function of q, k, v")
        if self.mask is None and self.causal is None:
            raise ValueError("mask and causal are None; expected the name of fn's argument for one of them")
        check_choice("heads", self.heads, HEADS)
        check_choice("order", self.order, ORDERS)
        check_choice("align", self.align, ("end", "start"))
        if isinstance(self.widths, str):
            check_choice("widths", self.widths, ("as-is", "pad"))
        for name in ("returns", "without"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={shown(getattr(self, name))} must be a tuple of names")
        if "z" not in self.returns:
            raise ValueError(f"returns={shown(self.returns)} must name z")
        for feature in self.without:
            check_choice("without", feature, tuple(FEATURES))

    @property
    def arrays(self) -> str:
        """The library whose arrays `fn` accepts."""
        return self.library.name

    @property
    def capabilities(self) -> frozenset[str]:
        """What can be asked of `fn` as it is described; for the argument `capabilities` of verify."""
        masked = self.mask is not None
        able = {"attention", "deterministic", "decode"}
        able |= {"padding"} if masked or self.k_start or self.k_stop else set()
        able |= {"backward"} if self.backward else set()
        if "lse" in self._names:
            able |= {"lse", "lse-gradient"} if self.backward else {"lse"}
        lacks = set(self.without)
        if not masked:
            lacks |= set() if isinstance(self.causal, str) or self.causal is False else {"noncausal"}
            lacks |= set() if self.q_start or self.align == "start" or self.causal is False else {"offset"}
        return frozenset(able | (FEATURES.keys() - lacks))

    def __call__(self, arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> Named:
        """Compute an attention case; arrays of NumPy are converted first."""
        if settings["level"] != "attention":
            raise NotImplementedError(f"the level {settings['level']}; this is an attention core")
        case = Case("", "attention", (), 0, settings)
        unmade = [feature for feature in features(case) if feature in self.without]
        if unmade:
            raise NotImplementedError(", ".join(f"{FEATURES[feature]} ({feature})" for feature in unmade))
        told = self._told(arrays, settings)
        given = self._own({name: arrays[name] for name in ("q", "k", "v")})
        inputs = given["q"], given["k"], given["v"]
        weights = self._own({name[2:]: arrays[name] for name in ("d_z", "d_lse") if name in arrays})
        if not self.backward:
            return self.library.forward(self._function(told, settings), inputs)
        if "lse" in weights and "lse" not in self._names:
            raise NotImplementedError("a gradient of lse (d_lse); lse is not returned")
        return self.both(told, settings, inputs, weights)

    def both(
        self, told: Named, settings: Mapping[str, Any], inputs: tuple[Any, Any, Any], cotangents: Mapping[str, Any]
    ) -> Named:
        """The results and the gradients of q, k and v, for cotangents of z and perhaps of lse."""
        return self.library.both(self._function(told, settings), inputs, cotangents)

    @property
    def _names(self) -> list[str]:
        return [name.removesuffix(".T") for name in self.returns]

    def _own(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays as arrays of the library, on its device."""
        foreign = {name: x for name, x in arrays.items() if isinstance(x, np.ndarray)}
        own = {**arrays, **from_numpy(foreign, self.library.name)}
        return {name: self.library.place(x) for name, x in own.items()}

    def _told(self, arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> Named:
        """The mask of a case as keyword arguments of `fn`.

        Raises
        ------
        NotImplementedError
            If `fn` has no arguments for it.
        """
        n_queries, n_keys = arrays["q"].shape[2], arrays["k"].shape[2]
        causal = settings.get("mask", {}).get("causal", True)
        bounds = {name: to_numpy(arrays[name], name) for name in BOUNDS}
        usual = {"q_start": n_keys - n_queries if self.align == "end" else 0, "k_start": 0, "k_stop": n_keys}
        named = {name: argument for name in BOUNDS if (argument := getattr(self, name)) is not None}
        told = self._own({argument: bounds[name].astype(np.int32) for name, argument in named.items()})
        untold = [
            name
            for name, bound in bounds.items()
            if name not in named and (bound != usual[name]).any() and (causal or name != "q_start")
        ]
        if isinstance(self.causal, bool):
            untold += ["causal"] if self.causal != causal else []
        elif self.causal is None:
            untold += ["causal"]
        else:
            told[self.causal] = causal
        if not untold:
            return told
        if self.mask is None:
            raise NotImplementedError(f"the case's {', '.join(untold)}, for which fn has no argument")
        if isinstance(self.causal, str):
            told[self.causal] = False
        seen = dense(causal, bounds["q_start"], bounds["k_start"], bounds["k_stop"], n_queries, n_keys)
        return {**told, **self._own({self.mask: np.array(seen[:, None])})}

    def _function(self, told: Named, settings: Mapping[str, Any]) -> Callable[[Any, Any, Any], Named]:
        """The function (q, k, v) → results by name, with arrays as a case has them."""

        def function(q: Any, k: Any, v: Any) -> Named:
            inputs, factor = self.arranged(q, k, v, settings)
            return self.named(self.fn(*inputs, **told, **factor), v.shape[-1])

        return function

    def arranged(self, q: Any, k: Any, v: Any, settings: Mapping[str, Any]) -> tuple[tuple[Any, Any, Any], Named]:
        """The arrays q, k, v as `fn` has them, and the argument for the scale."""
        d_k, d_v = q.shape[-1], v.shape[-1]
        common = self._common_heads(q.shape[1], k.shape[1], v.shape[1])
        if common:
            expand = self.heads == "expand"
            k, v = (x if x.shape[1] == common else self.library.repeat(x, common // x.shape[1], expand) for x in (k, v))
        width = self._width(d_k, d_v)
        if width:
            q, k, v = (x if x.shape[-1] == width else self.library.pad(x, width) for x in (q, k, v))
        if self.scale is None:
            factor = self.factor(settings, d_k, q.shape[-1])
            q = q if factor == 1.0 else self.library.times(q, factor)
        if self.order == "token-major":
            q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        return (q, k, v), {} if self.scale is None else {self.scale: settings.get("scale") or d_k**-0.5}

    @staticmethod
    def factor(settings: Mapping[str, Any], d_k: int, width: int) -> float:
        """What q is multiplied by if `fn` divides by the root of the width that it is given."""
        factor = (settings.get("scale") or d_k**-0.5) * width**0.5
        return 1.0 if math.isclose(factor, 1.0) else factor

    def _common_heads(self, n_q: int, n_k: int, n_v: int) -> int | None:
        """To how many heads k and v are repeated; None if they stay as they are."""
        return {"as-is": None, "grouped": math.lcm(n_k, n_v)}.get(self.heads, n_q)

    def _width(self, d_k: int, d_v: int) -> int | None:
        """To which width all arrays are padded; None if they stay as they are."""
        if self.widths == "as-is":
            return None
        wide = max(d_k, d_v)
        if isinstance(self.widths, str):
            return wide
        width = min((width for width in self.widths if width >= wide), default=None)
        if width is None:
            raise NotImplementedError(f"the width {wide}; fn has {', '.join(map(str, sorted(self.widths)))}")
        return width

    def named(self, found: Any, d_v: int) -> Named:
        """The results of `fn` by name, with shapes as a case has them."""
        parts = found if isinstance(found, tuple | list) else (found,)
        if len(parts) < len(self.returns):
            raise ValueError(f"fn returned {len(parts)} arrays; expected {', '.join(self.returns)}")
        named = dict(zip(self._names, parts, strict=False))
        for name in self.returns:
            if name.endswith(".T"):
                named[name.removesuffix(".T")] = named[name.removesuffix(".T")].swapaxes(-1, -2)
        if getattr(named["z"], "ndim", 0) == 4:  # anything else is refused when it is compared
            z = named["z"].swapaxes(1, 2) if self.order == "token-major" else named["z"]
            named["z"] = z if self.widths == "as-is" else z[..., :d_v]
        return named
