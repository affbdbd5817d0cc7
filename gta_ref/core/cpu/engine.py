"""Engine "numba": the attention core on the CPU without a whole map in memory, for forward, backward and decode.

:mod:`gta_ref.core.cpu.plan` cuts a call into tiles, and :mod:`gta_ref.core.cpu.prepared` keeps what follows from its
shapes. A worker runs all of its tiles in one call of a compiled kernel. `docs/kernels.md` explains the algorithm.
Besides the results, a call needs memory for a few tiles per worker. A backward that has too few sequences and heads to
give each worker some of its own also needs a dk and a dv per worker.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gta_ref.core.cpu import matrix_units
from gta_ref.core.cpu.memory import address, scratch
from gta_ref.core.cpu.plan import FEW
from gta_ref.core.cpu.prepared import SCALARS, Forward
from gta_ref.core.engines import EngineError
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import FLOAT_DTYPES, Array, narrow
from gta_ref.threads import get_threads, run

ALONE = 2**22  # multiply–adds per worker from which waking one more is worthwhile
INFINITE = 0x7F80  # the bits of bfloat16's infinity
# Scores are not larger where a matrix unit is used. The backward computes them in another order, and the error of a
# score is the relative error of its weight: here at most 2^(14 − 23), less than the rounding of a bfloat16 number.
LARGEST_SCORE = 2.0**14
LARGEST_UNSCALED, SMALLEST_SCALE = 2.0**100, 2.0**-60
KEPT = 64  # prepared calls that are remembered


class State(NamedTuple):
    """What the backward needs. z is the array that the caller received; it must not change before the backward."""

    q: Array  # (B, n_q, N_q, d_k)
    k: Array  # (B, n_k, N_k, d_k)
    v: Array  # (B, n_v, N_k, d_v)
    z: Array  # (B, n_q, N_q, d_v), in the precision of computation
    m: Array  # (B, n_q, N_q), the number subtracted from a row's scores, in the unit of softmax.py
    inverse: Array  # (B, n_q, N_q), 1 / Σ 2^(unit · (score − m)); 0 in a row that sees nothing
    ready: Forward


def why_not() -> str | None:
    """Why this engine cannot run here; None if it can."""
    return None


def check(q: Array, k: Array, v: Array) -> None:
    """Raise EngineError unless the arrays are NumPy arrays."""
    if type(q) is type(k) is type(v) is np.ndarray:
        return
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
    dtype = q.dtype
    q, k, v = _readable(q), _readable(k), _readable(v)
    ready = _forward(q, k, v, mask, scale)
    of = ready.of
    z, lse = np.empty(ready.z_shape, of.dtype), np.empty(ready.lse_shape, of.dtype)
    saved = np.empty((2, *ready.lse_shape), of.dtype)
    parts = np.empty(ready.slots * (ready.z_shape[3] + 2), of.dtype) if ready.slots else None
    shares = ready.shares(_workers(ready.work, len(ready.cut.pieces)))
    record = ready.records.take()
    numbers, at = record
    ready.fill(numbers, (q, k, v, z), lse, saved, parts)

    def work(worker: int) -> None:
        mine, count = shares[worker]
        held, memory = scratch(ready.scratch)
        ready.kernel(at, *ready.scalars, mine, count, memory)

    run(len(shares), work)
    if ready.merge is not None:
        held, memory = scratch(ready.scratch)
        ready.merge(at, 1, *ready.merges, memory)
    ready.records.give_back(record)
    state = State(q, k, v, z, saved[0], saved[1], ready) if need_saved else None
    return narrow(z, dtype), lse, state


def backward(
    dz: Array, state: State, dlse: Array | None = None, *, trace: dict[str, Any] | None = None
) -> tuple[Array, Array, Array]:
    """Compute the gradient through z and lse; see :func:`gta_ref.core.attention_backward`. `trace` receives nothing.

    dq does not depend on the number of threads. dk and dv may depend on it in their last bits if there are too few
    sequences and heads to give each worker some of its own, because then each worker sums over its own tiles.
    """
    q, k, v, z, m, inverse, forward = state
    if not isinstance(dz, np.ndarray):
        raise EngineError(f"dz is a {type(dz).__name__}; engine 'numba' takes numpy.ndarray")
    ready, dtype, dz = forward.backward, q.dtype, _readable(dz)
    of = ready.of
    if dlse is not None:
        dlse = _readable(np.asarray(dlse).astype(of.dtype, copy=False))
    shares, alone, _ = ready.shares(_workers(ready.work, len(ready.cut.items)))
    dq = np.empty(q.shape, of.dtype)
    copies = 1 if alone else len(shares)
    sums = [(np.zeros(ready.k_shape, of.dtype), np.zeros(ready.v_shape, of.dtype)) for _ in range(copies)]
    record = ready.records.take()
    numbers, at = record
    ready.fill(numbers, (q, k, v, dz, z, dq), m, inverse, dlse)

    def work(worker: int) -> None:
        (mine, count), (dk, dv) = shares[worker], sums[0 if alone else worker]
        held, memory = scratch(ready.scratch)
        ready.kernel(at, *SCALARS, mine, count, memory, address(dk), address(dv))

    run(len(shares), work)
    ready.records.give_back(record)
    dk, dv = sums[0]
    for more_dk, more_dv in sums[1:]:
        dk += more_dk
        dv += more_dv
    return narrow(dq, dtype), _narrowed(dk, k.shape[3], dtype), _narrowed(dv, v.shape[3], dtype)


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

    exp(score − lse) is 2^(unit · (s − m)) · 1/l with m = lse / (unit · ln 2) and l = 1.
    """
    q, k, v = _readable(q), _readable(k), _readable(v)
    ready = _forward(q, k, v, mask, scale)
    real = ready.of.dtype
    sees = np.isfinite(lse) | np.isnan(lse)
    m = np.where(sees, lse, 0).astype(real) / ready.numbers[3]
    state = State(q, k, v, np.ascontiguousarray(z, real), np.ascontiguousarray(m), sees.astype(real), ready)
    return backward(dz, state, dlse)


def _forward(q: Array, k: Array, v: Array, mask: Mask, scale: float) -> Forward:
    """The prepared forward of these shapes, strides and mask; up to KEPT are remembered."""
    bounds = (b.tobytes() if isinstance(b, np.ndarray) else b for b in (mask.q_start, mask.k_start, mask.k_stop))
    unit = _unit(q, k, v, scale)
    key = (q.dtype, q.shape, k.shape, v.shape, q.strides, k.strides, v.strides, scale, unit, mask.causal, *bounds)
    found = _kept.get(key)
    if found is None:
        found = Forward(q, k, v, mask, scale, unit)
        if len(_kept) >= KEPT:
            _kept.clear()
        _kept[key] = found
    return found


_kept: dict[Any, Forward] = {}


def _unit(q: Array, k: Array, v: Array, scale: float) -> str | None:
    """The form of the matrix unit that computes this forward; None for float32 arithmetic.

    A unit takes bfloat16 numbers, and scores before they are scaled. The arithmetic is float32 if a number is infinite
    or NaN, or if a score could be very large. With few rows, as in decoding, no unit is used and nothing is read here.
    """
    # the size first, because NumPy builds a dtype's name anew at every access
    form = matrix_units.form() if q.dtype.itemsize == 2 and q.dtype.name == "bfloat16" else None
    rows = q.shape[2] * math.gcd(q.shape[1] // k.shape[1], q.shape[1] // v.shape[1])
    if form is None or rows <= FEW or scale < SMALLEST_SCALE:
        return None
    codes = [_largest_code(x) for x in (q, k, v)]
    largest_q, largest_k = (2.0 ** ((code >> 7) - 126) for code in codes[:2])  # a power of two above every number
    unscaled = largest_q * largest_k * q.shape[3]
    fits = max(codes) < INFINITE and unscaled <= LARGEST_UNSCALED and unscaled * scale <= LARGEST_SCORE
    return form if fits else None


def _largest_code(x: Array) -> int:
    """The bits of the bfloat16 number that is largest without its sign; those of infinity and NaN are larger still."""
    return int((x.view(np.uint16) & 0x7FFF).max(initial=0))


def _readable(x: Array) -> Array:
    """The array itself, or a copy if its byte order is not the machine's or its numbers are not aligned."""
    return x if x.flags.aligned and x.dtype.isnative else np.array(x, x.dtype.newbyteorder("="))


def _narrowed(x: Array, width: int, dtype: Any) -> Array:
    """The first `width` numbers of each row, rounded to the storage type, as an array without gaps."""
    return narrow(x, dtype) if x.shape[3] == width else np.ascontiguousarray(narrow(x[..., :width], dtype))


def _workers(work: int, parts: int) -> int:
    """Number of workers for `work` multiply–adds in `parts` items; one if a second would wake too late."""
    return max(1, min(get_threads(), parts, -(-work // ALONE))) if work > ALONE else 1
