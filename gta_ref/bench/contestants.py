"""The contestants of a benchmark of attention: this package's engines, and PyTorch in each form that is usual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.core import attention_backward, attention_forward
from gta_ref.ops import as_dtype
from gta_ref.verify.exchange import from_numpy

Arrays = tuple[np.ndarray, ...]
STREAM = 2**28  # fewest bytes of keys and values that one timing of a decoding step reads


@dataclass(frozen=True)
class Case:
    """One shape to measure, with causal attention; N_q = N_k, or one query after the last of N_k keys."""

    name: str
    kind: str  # "forward", "forward+backward" or "decode"
    batch: int
    n_q: int
    n_k: int
    n_v: int
    length: int  # keys
    d_k: int
    d_v: int
    dtype: str = "float32"

    @property
    def queries(self) -> int:
        """Number of queries per sequence."""
        return 1 if self.kind == "decode" else self.length

    @property
    def operations(self) -> int:
        """Useful operations: two per multiply–add, for pairs of a query and a visible key only.

        The forward has two products; the backward counts as five, so that nothing is counted twice.
        """
        pairs = self.batch * self.n_q * (self.queries * (2 * self.length - self.queries + 1) // 2)
        widths = self.d_k + self.d_v
        if self.kind == "forward+backward":
            widths += 3 * self.d_k + 2 * self.d_v
        return 2 * pairs * widths

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values in float32, which a decoding step reads once."""
        return 4 * self.batch * self.length * (self.n_k * self.d_k + self.n_v * self.d_v)

    @property
    def copies(self) -> int:
        """Number of copies of the inputs that a timing uses in turn, as a model does with its layers.

        There are enough copies that no cache of the CPU still holds one when it is used again.
        """
        return -(-STREAM // self.cache_bytes) if self.kind == "decode" else 1

    @property
    def backward(self) -> bool:
        """Whether gradients are computed, too."""
        return self.kind == "forward+backward"

    def inputs(self) -> Arrays:
        """Random q, k, v and dz."""
        rng = np.random.default_rng(0)
        shapes = (
            (self.batch, self.n_q, self.queries, self.d_k),
            (self.batch, self.n_k, self.length, self.d_k),
            (self.batch, self.n_v, self.length, self.d_v),
            (self.batch, self.n_q, self.queries, self.d_v),
        )
        return tuple(rng.standard_normal(shape, np.float32).astype(as_dtype(self.dtype)) for shape in shapes)


# q, k, v, dz → a function without arguments that computes (z,) or (z, dq, dk, dv)
Contestant = Callable[[Case, Arrays], Callable[[], Any]]


def engine(name: Any) -> Contestant:
    """The contestant that is an engine of this package, or the engine itself."""

    def prepare(case: Case, arrays: Arrays) -> Callable[[], Any]:
        q, k, v, dz = arrays

        def compute() -> Arrays:
            z, _, saved = attention_forward(q, k, v, engine=name, need_saved=case.backward)
            return (z, *attention_backward(dz, saved)) if case.backward else (z,)

        return compute

    return prepare


def torch_form(form: Callable[..., Any]) -> Contestant:
    """The contestant that computes `form` with PyTorch, with automatic differentiation if the case has a backward."""

    def prepare(case: Case, arrays: Arrays) -> Callable[[], Any]:
        import torch

        q, k, v, dz = from_numpy(dict(zip("qkvd", arrays, strict=True)), "torch").values()
        inputs = [x.requires_grad_(case.backward) for x in (q, k, v)]

        def compute() -> tuple[Any, ...]:
            z = form(case, *inputs)
            return (z, *torch.autograd.grad(z, inputs, dz)) if case.backward else (z,)

        return compute

    return prepare


def eager(case: Case, q: Any, k: Any, v: Any) -> Any:
    """The form of the authors' code: repeat the heads and write the map to memory."""
    import torch

    k, v = (x.repeat_interleave(case.n_q // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(2, 3) / case.d_k**0.5
    if case.queries > 1:
        hidden = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ v


def sdpa(case: Case, q: Any, k: Any, v: Any) -> Any:
    """scaled_dot_product_attention with unchanged inputs; if d_k ≠ d_v, PyTorch falls back to a map in memory."""
    from torch.nn.functional import scaled_dot_product_attention

    k, v = (x.expand(-1, case.n_q, -1, -1) if x.shape[1] == 1 else x for x in (k, v))
    return scaled_dot_product_attention(
        q, k, v, is_causal=case.queries > 1, scale=case.d_k**-0.5, enable_gqa=k.shape[1] < case.n_q
    )


def sdpa_padded(case: Case, q: Any, k: Any, v: Any) -> Any:
    """The same with q and k padded by zeros to d_v, so that PyTorch uses its fused kernel."""
    from torch.nn.functional import pad

    wider = [0, case.d_v - case.d_k]
    return sdpa(case, pad(q, wider), pad(k, wider), v)


def folded(case: Case, q: Any, k: Any, v: Any) -> Any:
    """Decoding with the queries of all maps as rows of one matrix, so that every key and value is read once."""
    q = q.reshape(case.batch, case.n_k, -1, case.d_k)
    return ((q @ k.transpose(2, 3) / case.d_k**0.5).softmax(-1) @ v).reshape(case.batch, case.n_q, 1, case.d_v)


def of(case: Case, against_torch: bool) -> dict[str, Contestant]:
    """The contestants of a case. Forms that write the map take part up to a length of 4096, then it needs gigabytes."""
    maps_fit = case.length <= 4096 or case.kind == "decode"
    found = {"numba": engine("numba")}
    if maps_fit:
        found["reference"] = engine("reference")
    if not against_torch:
        return found
    wide = case.d_k == case.d_v
    if maps_fit:
        found["torch eager"] = torch_form(eager)
    if maps_fit or wide:
        found["torch SDPA"] = torch_form(sdpa)
    if not wide:
        found["torch SDPA padded"] = torch_form(sdpa_padded)
    if case.kind == "decode" and case.n_k == case.n_v:
        found["torch folded"] = torch_form(folded)
    return found
