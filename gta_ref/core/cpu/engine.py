"""Engine "numba": the attention core on the CPU without a whole map in memory, for forward, backward and decode.

:mod:`gta_ref.core.cpu.plan` cuts a call into tiles. A worker runs all of its tiles in one call of a compiled kernel,
:mod:`gta_ref.core.cpu.forward` or :mod:`gta_ref.core.cpu.backward`, which calls BLAS for the products.
`docs/kernels.md` explains the algorithm. Besides the results, a call needs memory for a few tiles per worker. A
backward that has too few sequences and heads to give each worker some of its own also needs a dk and a dv per worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from gta_ref.core.cpu import backward as backward_kernel
from gta_ref.core.cpu import forward as forward_kernel
from gta_ref.core.cpu.compiling import compiled, once
from gta_ref.core.cpu.llvm import gemm_address, why_not_blas
from gta_ref.core.cpu.plan import Plan, costs, plan, share, share_units
from gta_ref.core.cpu.tile import LOG2E
from gta_ref.core.engines import EngineError
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import FLOAT_DTYPES, Array, narrow
from gta_ref.threads import blas, get_threads, run, workspace

# for each dtype: the dtype of the view that the kernels take (see llvm.py), its Numba type, the type to compute in
_STORAGE = {
    "float32": (np.float32, types.float32, types.float32),
    "float64": (np.float64, types.float64, types.float64),
    "float16": (np.uint16, types.uint16, types.float32),
    "bfloat16": (np.int16, types.int16, types.float32),
}
_KERNELS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "forward": (forward_kernel.forward, forward_kernel.forward_signature),
    "merge": (forward_kernel.merge, forward_kernel.merge_signature),
    "backward": (backward_kernel.backward, backward_kernel.backward_signature),
}
ALONE = 2**22  # multiply–adds per worker from which waking one more is worthwhile
SHARED_COPIES = 16  # most workers that each hold a dk and dv of their own


class State(NamedTuple):
    """What the backward needs. z is the array that the caller received; it must not change before the backward."""

    q: Array  # (B, n_q, N_q, d_k)
    k: Array  # (B, n_k, N_k, d_k)
    v: Array  # (B, n_v, N_k, d_v)
    z: Array  # (B, n_q, N_q, d_v), in the precision of computation
    m: Array  # (B, n_q, N_q), the number subtracted from a row's scores, in units of log₂
    inverse: Array  # (B, n_q, N_q), 1 / Σ 2^(score − m); 0 in a row that sees nothing
    cut: Plan
    scale: float


def why_not() -> str | None:
    """Why this engine cannot run here; None if it can."""
    return why_not_blas()


def check(q: Array, k: Array, v: Array) -> None:
    """Raise EngineError unless the arrays are NumPy arrays."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, np.ndarray):
            kind = f"{type(x).__module__}.{type(x).__name__}"
            raise EngineError(
                f"{name} is a {kind}; engine 'numba' takes numpy.ndarray of {', '.join(FLOAT_DTYPES)}, any width"
            )


def forward(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask,
    scale: float,
    *,
    need_saved: bool = True,
    trace: dict[str, Any] | None = None,
) -> tuple[Array, Array, State | None]:
    """Compute z and lse of checked arguments; see :func:`gta_ref.core.attention_forward`. `trace` receives nothing.

    The results do not depend on the number of threads.
    """
    dtype, real = q.dtype, _forms(q.dtype)[1]
    cut = plan(q, k, v, mask)
    batch, n_q, n_queries, d_k = q.shape
    d_v, most = v.shape[3], cut.sizes.rows
    z = np.empty((batch, n_q, n_queries, d_v), real)
    lse, m, inverse = (np.empty((batch, n_q, n_queries), real) for _ in range(3))
    part_o = np.empty((cut.slots, most, d_v), real)
    part_m, part_l = (np.empty((cut.slots, most), real) for _ in range(2))
    arrays = [_stored(x) for x in (q, k, v)]
    kernel, size = _kernel("forward", dtype), forward_kernel.workspace_size(cut.sizes, d_k, d_v)
    shares = cut.pieces_of(_workers(cut, len(cut.pieces), d_k + d_v))

    def work(worker: int) -> None:
        kernel(
            *(cut.pieces, shares[worker], *arrays, cut.q_start, tuple(cut.sizes), *_direct(arrays)),
            *(real.type(scale * LOG2E), gemm_address(real.char)),
            *(z, lse, m, inverse, part_o, part_m, part_l, workspace(size, real)),
        )

    with blas.one_thread() if most > cut.sizes.few else nullcontext():
        run(len(shares), work)
    if cut.slots:
        _kernel("merge", real)(cut.merges, cut.sizes.maps, z, lse, m, inverse, part_o, part_m, part_l)
    state = State(q, k, v, z, m, inverse, cut, scale) if need_saved else None
    return narrow(z, dtype), lse, state


def backward(
    dz: Array, state: State, dlse: Array | None = None, *, trace: dict[str, Any] | None = None
) -> tuple[Array, Array, Array]:
    """Compute the gradient through z and lse; see :func:`gta_ref.core.attention_backward`. `trace` receives nothing.

    dq does not depend on the number of threads. dk and dv may depend on it in their last bits if there are too few
    sequences and heads to give each worker some of its own, because then each worker sums over its own tiles.
    """
    q, k, v, z, m, inverse, cut, scale = state
    if not isinstance(dz, np.ndarray):
        raise EngineError(f"dz is a {type(dz).__name__}; engine 'numba' takes numpy.ndarray")
    dtype, real = q.dtype, _forms(q.dtype)[1]
    dlse = (
        np.broadcast_to(real.type(0), m.shape) if dlse is None else _aligned(np.asarray(dlse).astype(real, copy=False))
    )
    arrays, dz = [_stored(x) for x in (q, k, v)], _stored(dz)
    kernel, size = _kernel("backward", dtype), backward_kernel.workspace_size(cut.sizes, q.shape[3], v.shape[3])
    workers = _workers(cut, len(cut.items), 3 * q.shape[3] + 2 * v.shape[3])
    shares = share_units(cut, workers)
    alone = shares is not None
    if shares is None:
        shares = share(costs(cut.items), min(workers, SHARED_COPIES))
    dq = np.zeros(q.shape, real)
    sums = [(np.zeros(k.shape, real), np.zeros(v.shape, real)) for _ in range(1 if alone else len(shares))]

    def work(worker: int) -> None:
        kernel(
            *(cut.items, shares[worker], *arrays, cut.q_start, tuple(cut.sizes), *_direct(arrays)),
            *(real.type(scale * LOG2E), real.type(scale), gemm_address(real.char)),
            *(dz, dlse, z, m, inverse, dq, *sums[0 if alone else worker], workspace(size, real)),
        )

    with blas.one_thread():
        run(len(shares), work)
    dk, dv = sums[0]
    for more_dk, more_dv in sums[1:]:
        dk += more_dk
        dv += more_dv
    return narrow(dq, dtype), narrow(dk, dtype), narrow(dv, dtype)


@once
def _kernel(name: str, dtype: np.dtype) -> Any:
    """The compiled kernel of this name for a dtype."""
    _, storage, real = _STORAGE[dtype.name]
    kernel, signature = _KERNELS[name]
    return compiled(kernel, signature(storage, real))


@cache
def _forms(dtype: np.dtype) -> tuple[Any, np.dtype]:
    """The dtype of the view that the kernels take of an array, and the dtype in which they compute."""
    return _STORAGE[dtype.name][0], np.dtype(np.float64 if dtype.name == "float64" else np.float32)


def _stored(x: Array) -> Array:
    """The view of an array that is passed to the kernels."""
    return _aligned(x).view(_forms(x.dtype)[0])


def _aligned(x: Array) -> Array:
    """The array itself, or a copy if its byte order is not the machine's or its numbers are not aligned."""
    return x if x.flags.aligned and x.dtype.isnative else np.array(x, x.dtype.newbyteorder("="))


def _direct(arrays: list[Array]) -> list[bool]:
    """Whether BLAS can read the rows of k, and those of v, in place: packed, in ascending order, without overlap."""
    size = arrays[0].itemsize
    return [
        x.dtype.kind == "f" and x.strides[3] == size and x.strides[2] >= x.shape[3] * size and x.strides[2] % size == 0
        for x in arrays[1:]
    ]


def _workers(cut: Plan, parts: int, widths: int) -> int:
    """Number of workers for a call with `parts` items, at `widths` multiply–adds per map and pair of query and key."""
    work = cut.cost * cut.sizes.maps * widths
    return max(1, min(get_threads(), parts, math.ceil(work / ALONE)))  # one if a second would wake too late
