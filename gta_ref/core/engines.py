"""The engines by name, and the two functions of the attention core that everything else calls.

An engine is a module with five functions: ``forward``, ``backward``, ``backward_part`` (the backward for some of the
keys), ``check`` (raises EngineError for a case that the engine does not support) and ``why_not`` (says why the engine
cannot run on this machine). It is imported when it is first used.

Instead of a name, functions also take an object with ``forward``, ``backward`` and ``check``, which then compute the
attention core: :mod:`gta_ref.distributed` has such engines, whose keys lie in several processes.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gta_ref.core.mask import Mask, as_mask
from gta_ref.errors import as_positive_float, check_bool, check_choice, check_divides, check_shape
from gta_ref.ops.arrays import Array, array_module, as_saved, check_cotangent, check_float, check_trace, is_float

MODULES = {
    "reference": "gta_ref.core.reference",
    "numba": "gta_ref.core.cpu.engine",
    "cuda": "gta_cuda.engine",
}
ENGINES = (*MODULES, "auto")
# Multiply–adds of a call, and of the maps that share both heads in one sequence, from which "auto" chooses "numba". It
# was measured to be faster from there on, with a backward and without. A forward with less than 2^17 is a toy example,
# for which compiling is not worthwhile.
LEAST_WITH_BACKWARD = 2**21, 120_000
LEAST_FORWARD = 2**17, 1024


class EngineError(ValueError):
    """An engine cannot run here or does not support this case; the message says why."""


class AttentionSaved(NamedTuple):
    """What a forward saves for its backward: the engine that ran (its name, or the object) and that engine's state."""

    engine: Any
    state: Any
    z_shape: tuple[int, ...]
    z_dtype: Any


def why_not(engine: str) -> str | None:
    """Why an engine cannot run here, in one line; None if it can."""
    check_choice("engine", engine, tuple(MODULES))
    return _module(engine)[1]


def check_engine(engine: Any) -> None:
    """Raise ValueError unless `engine` is the name of an engine, or an object that is one."""
    if not all(callable(getattr(engine, name, None)) for name in ("forward", "backward", "check")):
        check_choice("engine", engine, ENGINES)


def load(engine: Any) -> Any:
    """The engine of this name, or the object itself. Raises EngineError, with the reason, if it cannot run here."""
    if not isinstance(engine, str):
        return engine
    module, reason = _module(engine)
    if module is None or reason is not None:
        raise EngineError(f"engine {engine!r} cannot run here: {reason}")
    return module


def _module(engine: str) -> tuple[ModuleType | None, str | None]:
    """The module of an engine, and why the engine cannot run here."""
    module = sys.modules.get(MODULES[engine])
    if module is None or _is_unfinished(module):
        if engine == "numba" and _compiles_nothing():
            return None, "NUMBA_DISABLE_JIT is set, and the engine's kernels have to be compiled"
        try:
            module = importlib.import_module(MODULES[engine])  # waits if another thread is importing it
        except (ImportError, RuntimeError) as error:  # RuntimeError from some packages when Python ends
            return None, f"it cannot be imported ({' '.join(str(error).split())})"
        if _is_unfinished(module):
            return None, "it is being imported, by the code that this call has interrupted"
    return module, module.why_not()


def _is_unfinished(module: ModuleType) -> bool:
    """Whether a module is still being imported; a signal handler may meet it then."""
    return getattr(module.__spec__, "_initializing", False)


def _compiles_nothing() -> bool:
    """Whether Numba is told to leave functions as they are."""
    config = sys.modules.get("numba.core.config")
    if config is not None and hasattr(config, "DISABLE_JIT"):
        return bool(config.DISABLE_JIT)
    try:
        return int(os.environ.get("NUMBA_DISABLE_JIT", "0")) != 0
    except ValueError:  # Numba then uses its default
        return False


def choose(q: Array, k: Array, v: Array, *, need_saved: bool, trace: dict[str, Array] | None) -> str:
    """The engine that "auto" means in this case.

    A trace needs the stages that only "reference" has. "cuda" computes CuPy arrays if it supports their dtype, and
    "reference" computes the others. "numba" computes NumPy arrays, except in small calls and calls with small tiles, in
    which cutting the work into tiles would take longer than the work itself.
    """
    if trace is not None:
        return "reference"
    if array_module(q) is not np:
        return "cuda" if _takes("cuda", q, k, v) else "reference"
    (batch, n_q, n_queries, d_k), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
    one_map = n_queries * n_keys * (d_k + d_v)
    tile = math.gcd(n_q // n_k, n_q // n_v) * one_map
    least_work, least_tile = LEAST_WITH_BACKWARD if need_saved else LEAST_FORWARD
    small = batch * n_q * one_map < least_work or tile < least_tile
    return "reference" if small or why_not("numba") is not None else "numba"


def _takes(engine: str, q: Array, k: Array, v: Array) -> bool:
    try:
        load(engine).check(q, k, v)
    except EngineError:
        return False
    return True


def attention_forward(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    engine: Any = "auto",
    need_saved: bool = True,
    trace: dict[str, Array] | None = None,
) -> tuple[Array, Array, AttentionSaved | None]:
    """Z_m = softmax(scale · Q_m K_{k(m)}ᵀ, masked) V_{v(m)} for each of n_q maps (arXiv 2506.17286, Eq. 8).

    Parameters
    ----------
    q : (B, n_q, N_q, d_k)
    k : (B, n_k, N_k, d_k)
        n_k divides n_q; map m reads key head m // (n_q/n_k).
    v : (B, n_v, N_k, d_v)
        n_v divides n_q; map m reads value head m // (n_q/n_v). d_v may differ from d_k.
    mask : Mask, optional
        Default ``Mask()``: causal, aligned to the end.
    scale : float, optional
        Default 1/√d_k.
    engine : {"reference", "numba", "cuda", "auto"}, or an engine
        Default "auto": the fastest engine that supports this case, including its backward unless
        need_saved is False. An object with forward, backward and check is an engine itself.
    need_saved : bool
        Whether a backward follows. Default True; False saves memory.
    trace : dict, optional
        Receives the stages ``scores`` and ``map`` if the engine computes them as arrays.

    Returns
    -------
    z : (B, n_q, N_q, d_v), in the dtype of q
        0 in a row that sees nothing.
    lse : (B, n_q, N_q), float32 or float64
        Natural logarithm of Σ exp(score); −inf in a row that sees nothing.
    saved : AttentionSaved, or None with need_saved=False
        For :func:`attention_backward`.

    Raises
    ------
    ValueError
        If a shape, dtype or mask does not fit; the message names it.
    EngineError
        If the named engine cannot run here or does not support this case.
    """
    mask = as_mask(mask)
    check_bool("need_saved", need_saved)
    check_trace(trace)
    _check(q, k, v, mask)
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else as_positive_float("scale", scale)
    return attend(q, k, v, mask, scale, engine, need_saved=need_saved, trace=trace)


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask,
    scale: float,
    engine: Any,
    *,
    need_saved: bool = True,
    trace: dict[str, Array] | None = None,
) -> tuple[Array, Array, AttentionSaved | None]:
    """Run :func:`gta_ref.core.attention_forward` on arrays that need no check; only the engine's name is checked."""
    if type(engine) is not str or engine not in ENGINES:
        check_engine(engine)
    if engine == "auto":
        engine = choose(q, k, v, need_saved=need_saved, trace=trace)
    module = load(engine)
    module.check(q, k, v)
    z, lse, state = module.forward(q, k, v, mask, scale, need_saved=need_saved, trace=trace)
    return z, lse, AttentionSaved(engine, state, z.shape, z.dtype) if need_saved else None


def attention_backward(
    dz: Array, saved: AttentionSaved | None, *, dlse: Array | None = None, trace: dict[str, Array] | None = None
) -> tuple[Array, Array, Array]:
    """Gradient of Σ dz ⊙ z + Σ dlse ⊙ lse with respect to q, k and v, by the engine that ran the forward.

    Parameters
    ----------
    dz : (B, n_q, N_q, d_v)
        Cotangent of z.
    saved : AttentionSaved
        The third result of :func:`attention_forward`.
    dlse : (B, n_q, N_q), optional
        Cotangent of lse; default 0. Only callers that merge partial results need it. It has no effect in a
        row that sees nothing, because lse is constant there.
    trace : dict, optional
        Receives the stages ``d_map`` and ``d_scores`` if the engine computes them as arrays.

    Returns
    -------
    dq, dk, dv : with the shapes and dtypes of q, k and v
    """
    saved = as_saved(saved, AttentionSaved, trace, "attention_forward")
    check_cotangent("dz", dz, saved.z_shape, saved.z_dtype, "z")
    if dlse is not None:
        check_float("dlse", dlse)
        check_shape("dlse", dlse, saved.z_shape[:3])
    dq, dk, dv = load(saved.engine).backward(dz, saved.state, dlse, trace=trace)
    return dq, dk, dv


def attention_backward_part(
    dz: Array,
    q: Array,
    k: Array,
    v: Array,
    z: Array,
    lse: Array,
    *,
    mask: Mask,
    scale: float,
    engine: str = "auto",
    dlse: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradient by some of the keys and values, given z and lse of all of them.

    The weights of softmax over all keys are A_j = exp(S_j − lse), and the row sum in its derivative is dz · z. With z
    and lse of all keys, each part of the keys can therefore be computed alone:

        dS_j = A_j ⊙ (dz · v_j − dz · z + dlse)      dq = scale · Σ_j dS_j k_j  (of this part; the parts are added)

    Parameters
    ----------
    dz : (B, n_q, N_q, d_v)
    q : (B, n_q, N_q, d_k)
    k, v : (B, n_k, N_part, d_k), (B, n_v, N_part, d_v)
        Some of the keys and values.
    z, lse : (B, n_q, N_q, d_v), (B, n_q, N_q)
        Results for all keys.
    mask : Mask
        For the keys of this part; slots are counted from its first key.
    scale : float
    engine : str
        Default "auto".
    dlse : (B, n_q, N_q), optional

    Returns
    -------
    dq, dk, dv : with the shapes of q, k and v
    """
    if engine == "auto":
        engine = choose(q, k, v, need_saved=True, trace=None)
    dq, dk, dv = load(engine).backward_part(dz, q, k, v, z, lse, mask, scale, dlse)
    return dq, dk, dv


def _check(q: Array, k: Array, v: Array, mask: Mask) -> None:
    if not _fits(q, k, v):
        _refuse(q, k, v)
    if not (mask.q_start is mask.k_start is mask.k_stop is None):  # the defaults are always valid
        mask.resolve(q.shape[0], q.shape[2], k.shape[2])


def _fits(q: Array, k: Array, v: Array) -> bool:
    """Whether the arrays hold floats and fit together: the checks of `_refuse` at once, in a tenth of their time."""
    try:
        dtype, (batch, n_q, _, d_k) = q.dtype, q.shape
        (batch_k, n_k, n_keys, width), (batch_v, n_v, n_values, _) = k.shape, v.shape
        return (
            (k.dtype is dtype or k.dtype == dtype)
            and (v.dtype is dtype or v.dtype == dtype)
            and is_float(dtype)
            and batch == batch_k == batch_v
            and n_keys == n_values
            and d_k == width > 0
            and n_q > 0
            and n_q % n_k == n_q % n_v == 0
        )
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):  # no arrays, other axes, no heads
        return False


def _refuse(q: Array, k: Array, v: Array) -> None:
    """Raise the ValueError that says what does not fit."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_float(name, x)
        if x.dtype != q.dtype:
            raise ValueError(f"{name} has dtype {x.dtype}; expected {q.dtype}, as q")
    check_shape("q", q, ("B", "n_q", "N_q", "d_k"))
    batch, n_q, _, d_k = q.shape
    if n_q == 0:
        raise ValueError("n_q=0 must be a whole number of at least 1")
    if d_k == 0:
        raise ValueError(f"q has shape {q.shape}; expected a d_k of at least 1")
    check_shape("k", k, (batch, "n_k", "N_k", d_k))
    check_shape("v", v, (batch, "n_v", k.shape[2], "d_v"))
    for name, x in (("n_k", k), ("n_v", v)):
        if x.shape[1] == 0:
            raise ValueError(f"{name}=0 must divide n_q={n_q}")
        check_divides(name, x.shape[1], "n_q", n_q)
