"""Engine "cuda": the attention core on a GPU, with CuPy's arrays and on CuPy's current stream.

The module has the functions that ``gta_ref.core.engines`` expects of an engine. Arrays with contiguous rows are not
copied, and views of a cache are read in place. The kernels depend on the dtype:

    float32     forward, decode and backward compute in float32
    bfloat16    all use tensor cores: forward and decode for d_k up to 256, the backward for d_k and d_v up to 256
                together. The map and its gradient are rounded to bfloat16 before they are multiplied. Larger widths are
                widened to float32, and results are rounded once.
    float16     inputs are widened to float32, and results are rounded once

A forward with few queries uses the decode kernel. This module imports neither CuPy nor Numba before a call has to be
computed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gta_cuda.needs import cannot_compile, missing
from gta_ref.core.engines import EngineError
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module, narrow, widen

_numpy_accepted: ContextVar[bool] = ContextVar("numpy_accepted", default=False)

DTYPES = ("float32", "bfloat16", "float16")
LEAST_CAPABILITY = (8, 0)  # the first with bfloat16 tensor cores and asynchronous copies
MOST_LENGTH = 65535 * 64  # the most tiles of a grid times the rows of a tile
# queries times maps that share a key: more rows fill the forward's tiles better
MOST_DECODE_ROWS = 16
# the same if the forward, which does not cut the keys, would leave most of the GPU idle, as for a chunk of a prompt;
# ``decode_bf16`` says how long either would take
MOST_SPLIT_ROWS = 320


class State(NamedTuple):
    """What the backward needs: inputs and results. It recomputes the map."""

    q: Array  # (B, n_q, N_q, d_k)
    k: Array  # (B, n_k, N_k, d_k)
    v: Array  # (B, n_v, N_k, d_v)
    z: Array  # (B, n_q, N_q, d_v)
    lse: Array  # (B, n_q, N_q)
    mask: Mask
    scale: float
    to_numpy: bool


_can_run = False


def why_not() -> str | None:
    """Why this engine cannot run here, in one line; None if it can.

    Every call of the engine asks this. A process remembers that the engine can run; if something is missing, the next
    call looks for it again.
    """
    global _can_run
    reason = None if _can_run else _look()
    _can_run = reason is None
    return reason


def _look() -> str | None:
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "NUMBA_ENABLE_CUDASIM=1 is set: Numba simulates a GPU, which serves only to test the kernels"
    if (reason := missing("numba_cuda", "cupy")) is not None:
        return reason
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver ({library} was not found)"
    count, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or count.value == 0:
        return f"the NVIDIA driver finds no GPU (status {status})"
    # attributes 75 and 76 of device 0: its compute capability
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
    if (major.value, minor.value) < LEAST_CAPABILITY:
        return f"the GPU has compute capability {major.value}.{minor.value}; the kernels need 8.0 or above"
    return _no_code()


def _no_code() -> str | None:
    """Why there cannot be machine code of any kernel, in one line; None if there can."""
    reason = cannot_compile()
    if reason is None:
        return None
    from gta_cuda import carried

    try:
        return reason if carried.current() is None else None
    except EngineError as error:
        return str(error)


def check(q: Array, k: Array, v: Array) -> None:
    """Raise EngineError unless the arrays are CuPy arrays whose dtype and sizes the kernels support.

    Within ``with accept_numpy():``, NumPy arrays are accepted too.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_place(name, x)
    if _name(q.dtype) not in DTYPES:
        raise EngineError(
            f"q has dtype {q.dtype}; engine 'cuda' takes {', '.join(DTYPES)} "
            "(engine 'reference' computes float64 on CuPy arrays too)"
        )
    (batch, n_q, n_queries, _), n_keys = q.shape, k.shape[2]
    if n_queries > MOST_LENGTH or n_keys > MOST_LENGTH or batch * n_q * n_queries >= 2**31:
        raise EngineError(
            f"q has shape {tuple(q.shape)} and k has N_k={n_keys}; engine 'cuda' takes up to {MOST_LENGTH:,} "
            "queries and keys of a sequence and 2³¹ rows of q in all"
        )


# the name of a dtype, which NumPy builds anew at every access; whether a type is one of CuPy's
_name = lru_cache(64)(lambda dtype: dtype.name)
_of_cupy = lru_cache(64)(lambda kind: kind.__module__.partition(".")[0] == "cupy")


def _check_place(name: str, x: Any) -> None:
    kind: Any = type(x)
    if _of_cupy(kind):
        if x.device.id:
            raise EngineError(
                f"{name} is on GPU {x.device.id}; engine 'cuda' takes arrays on GPU 0: "
                "choose that GPU with CUDA_VISIBLE_DEVICES"
            )
        return
    if _numpy_accepted.get() and isinstance(x, np.ndarray):
        return
    raise EngineError(
        f"{name} is a {kind.__module__}.{kind.__name__}; engine 'cuda' takes CuPy arrays: "
        f"move it with cupy.asarray({name}), or call within `with gta_cuda.engine.accept_numpy():`, "
        "which copies it at every call"
    )


@contextmanager
def accept_numpy() -> Iterator[None]:
    """Let the engine accept NumPy arrays within a block: it copies them to the GPU, and its results back.

    Every call copies, in every layer of a model, so this is for trying the engine out. The block applies only to the
    thread that opened it. A backward returns NumPy arrays if its forward received some, inside and outside the block.

    >>> with accept_numpy():
    ...     z, lse, saved = attention_forward(q, k, v, engine="cuda")
    """
    before = _numpy_accepted.set(True)
    try:
        yield
    finally:
        _numpy_accepted.reset(before)


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
    """Compute z and lse of checked arguments; see :func:`gta_ref.core.attention_forward`. `trace` receives nothing."""
    import cupy

    if cupy.cuda.runtime.getDevice():  # new arrays are allocated on the GPU that holds the inputs
        with cupy.cuda.Device(0):
            return forward(q, k, v, mask, scale, need_saved=need_saved)
    to_numpy = isinstance(q, np.ndarray)
    if not type(q) is type(k) is type(v) is cupy.ndarray:
        q, k, v = (cupy.asarray(x) for x in (q, k, v))
    z, lse = run(q, k, v, mask, scale)
    state = State(q, k, v, z, lse, mask, scale, to_numpy) if need_saved else None
    return _back(z, to_numpy), _back(lse, to_numpy), state


def backward(
    dz: Array, state: State, dlse: Array | None = None, *, trace: dict[str, Any] | None = None
) -> tuple[Array, Array, Array]:
    """Compute the gradient through z and lse; see :func:`gta_ref.core.attention_backward`. `trace` receives nothing."""
    import cupy

    if not state.to_numpy:
        for name, x in (("dz", dz), ("dlse", dlse)):
            if x is not None:
                _check_place(name, x)
    with cupy.cuda.Device(0):
        grads = run_backward(cupy.asarray(dz), state, None if dlse is None else cupy.asarray(dlse))
        return tuple(_back(x, state.to_numpy) for x in grads)  # type: ignore[return-value]


def backward_part(
    dz: Array,
    q: Array,
    k: Array,
    v: Array,
    z: Array,
    lse: Array,
    mask: Mask,
    scale: float,
    dlse: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Compute the gradient by some of the keys; see :func:`gta_ref.core.engines.attention_backward_part`.

    The kernels recompute the map from lse and take the row sum from z, so that those of all keys are all they need.
    """
    import cupy

    to_numpy = isinstance(q, np.ndarray)
    q, k, v, z, lse = (cupy.asarray(x) for x in (q, k, v, z, lse))
    return backward(dz, State(q, k, v, z, lse, mask, scale, to_numpy), dlse)


def run(q: Array, k: Array, v: Array, mask: Mask, scale: float) -> tuple[Array, Array]:
    """Run the forward with the kernel that suits the case, on CuPy arrays, or on NumPy arrays in the simulator."""
    from gta_cuda import arrays, launch

    key = launch.signature(q, k, v, mask.causal, scale)
    ready = launch.prepared(key)
    if ready is not None:  # nothing below has to be found out again
        return ready(q, k, v, mask)
    (batch, n_q, n_queries, d_k), (n_keys, d_v) = q.shape, v.shape[2:]
    if 0 in (*q.shape, n_keys, d_v):
        xp = array_module(q)
        shape = (batch, n_q, n_queries)
        lse = xp.full(shape, -np.inf, np.float32)
        if d_v == 0 and n_keys:  # lse exists even without values
            lse = run(q, k, xp.zeros((*v.shape[:3], 4), v.dtype), mask, scale)[1]
        return xp.zeros((*shape, d_v), q.dtype), lse
    dtype, given = q.dtype, (q, k, v)
    if dtype.name == "float16" or (dtype.name == "bfloat16" and not launch.takes_bf16(d_k)):
        q, k, v = widen(q), widen(k), widen(v)
    q, k, v = (arrays.rows(x) for x in (q, k, v))
    most = MOST_SPLIT_ROWS if launch.leaves_idle(q, k) else MOST_DECODE_ROWS
    if launch.takes_decode(q, k, v, most):
        ready = launch.prepare(q, k, v, mask.causal, scale)
        if key is not None and all(x is y for x, y in zip(given, (q, k, v), strict=True)):
            launch.remember(key, ready)
        z, lse = ready(q, k, v, mask)
    elif q.dtype.name == "bfloat16":
        z, lse = launch.forward_bf16(q, k, v, mask, scale)
    else:
        z, lse = launch.forward(q, k, v, mask, scale)
    return narrow(z, dtype), lse


def run_backward(dz: Array, state: State, dlse: Array | None) -> tuple[Array, Array, Array]:
    """Run the backward with the kernels that suit the case, on CuPy arrays, or on NumPy arrays in the simulator."""
    from gta_cuda import arrays, launch

    q, k, v, z, lse, mask, scale, _ = state
    xp = array_module(q)
    if 0 in (*q.shape, *v.shape):
        if v.shape[3] == 0 and dlse is not None and 0 not in (*q.shape, *v.shape[:3]):
            wide = state._replace(v=xp.zeros((*v.shape[:3], 4), v.dtype), z=xp.zeros((*z.shape[:3], 4), z.dtype))
            dq, dk, _ = run_backward(xp.zeros_like(wide.z), wide, dlse)
            return dq, dk, xp.zeros_like(v)
        return xp.zeros_like(q), xp.zeros_like(k), xp.zeros_like(v)
    if dlse is not None:
        dlse = xp.ascontiguousarray(dlse.astype(np.float32, copy=False))
    if q.dtype.name == "bfloat16" and launch.takes_bf16_backward(q.shape[3], v.shape[3]):
        inputs = [arrays.rows(x) for x in (q, k, v)]
        whole = [xp.ascontiguousarray(x) for x in (z, lse, dz)]
        return launch.backward_bf16(*inputs, *whole, dlse, mask, scale)
    inputs = [arrays.rows(widen(x)) for x in (q, k, v)]
    whole = [xp.ascontiguousarray(widen(x)) for x in (z, lse, dz)]
    dq, dk, dv = launch.backward(*inputs, *whole, dlse, mask, scale)
    return narrow(dq, q.dtype), narrow(dk, k.dtype), narrow(dv, v.dtype)


def _back(x: Any, to_numpy: bool) -> Array:
    return x.get() if to_numpy else x
