"""One layer of a decoder LM: attention and SwiGLU MLP, each after an RMSNorm and inside a residual.

h = x + attention(rmsnorm(x; g_1))
y = h + (silu(u W_gate) ⊙ u W_up) W_down,   u = rmsnorm(h; g_2)
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gta_ref import ops
from gta_ref.cache import KVCache
from gta_ref.core import Mask, engines
from gta_ref.ops import Array, linear_backward, linear_backward_input, linear_forward
from gta_ref.ops.arrays import Params, add

LEAST = 2**14  # "auto" uses the compiled RMSNorm and SwiGLU from this x.size on; below, compiling them would not pay


class BlockSaved(NamedTuple):
    """What forward saves for backward."""

    mechanism: ModuleType
    rows: ModuleType  # see rows_by
    norm_1: Any
    attention: Any
    mlp: Any


def param_shapes(mechanism: ModuleType, attention: Any, intermediate_size: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of one block's parameters; the names of the attention's begin with ``attention.``."""
    h = attention.hidden_size
    return {
        "norm_1": (h,),
        **{f"attention.{name}": shape for name, shape in mechanism.param_shapes(attention).items()},
        "norm_2": (h,),
        "mlp.w_gate": (h, intermediate_size),
        "mlp.w_up": (h, intermediate_size),
        "mlp.w_down": (intermediate_size, h),
    }


def forward(
    params: Params,
    x: Array,
    mechanism: ModuleType,
    attention: Any,
    eps: float,
    *,
    positions: Array | None = None,
    mask: Mask | None = None,
    engine: Any = "auto",
    trace: dict[str, Array] | None = None,
    need_saved: bool = True,
) -> tuple[Array, BlockSaved | None]:
    """x (B, N, H) → y (B, N, H); the arguments are those of the mechanism's forward.

    `trace` receives the attention's stages, including the map (B, n_q, N, N).
    """
    rows = rows_by("reference" if trace is not None else engine, x)
    normed, norm_1 = rows.rmsnorm_forward(x, params["norm_1"], eps)
    mixed, saved = mechanism.forward(
        select(params, "attention."),
        normed,
        attention,
        positions=positions,
        mask=mask,
        engine=engine,
        trace=trace,
        need_saved=need_saved,
    )
    y, mlp = mlp_forward(params, add(x, mixed), eps, rows)
    return y, BlockSaved(mechanism, rows, norm_1, saved, mlp) if need_saved else None


def decode(
    params: Params, x: Array, cache: KVCache, mechanism: ModuleType, attention: Any, eps: float, *, engine: Any = "auto"
) -> Array:
    """New tokens x (B, N_new, H) → y; what the attention keeps of them is appended to `cache`."""
    rows = rows_by(engine, x)
    normed, _ = rows.rmsnorm_forward(x, params["norm_1"], eps)
    mixed = mechanism.decode(select(params, "attention."), normed, cache, attention, engine=engine)
    return mlp_forward(params, add(x, mixed), eps, rows)[0]


def backward(dy: Array, saved: BlockSaved, *, frozen: bool = False) -> tuple[Array, dict[str, Array]]:
    """dy (B, N, H) → dx, and the gradients under the parameters' names.

    With `frozen`, the MLP's matrices are not trained, and their gradients are not computed.
    """
    mechanism, rows, norm_1, attention, mlp = saved
    dh, grads = _mlp_backward(dy, mlp, rows, frozen)
    d_normed, attention_grads = mechanism.backward(dh, attention)
    dx, grads["norm_1"] = rows.rmsnorm_backward(d_normed, norm_1)
    grads |= {f"attention.{name}": grad for name, grad in attention_grads.items()}
    return add(dh, dx), grads


def rows_by(engine: Any, x: Array) -> ModuleType:
    """The module whose RMSNorm and SwiGLU belong to an engine: gta_ref.ops, or for "numba" the compiled ones.

    An engine that is an object names the engine that it uses in its attribute `inner`.
    """
    engine = getattr(engine, "inner", engine)
    if type(x) is np.ndarray and x.dtype in (np.float32, np.float64):  # only in this machine's byte order
        fused = engine == "auto" and x.size >= LEAST and engines.why_not("numba") is None
        if fused or engine == "numba":
            engines.load("numba")  # says why, if the engine cannot run here
            from gta_ref.lm import compiled

            return compiled
    return ops


def mlp_forward(params: Params, h: Array, eps: float, rows: ModuleType) -> tuple[Array, Any]:
    """The second half of a block: h (B, N, H), after the attention's residual → y, and what its backward needs."""
    u, norm_2 = rows.rmsnorm_forward(h, params["norm_2"], eps)
    a, gate = linear_forward(u, params["mlp.w_gate"])
    b, up = linear_forward(u, params["mlp.w_up"])
    product, swiglu = rows.swiglu_forward(a, b)
    out, down = linear_forward(product, params["mlp.w_down"])
    return add(h, out), (norm_2, gate, up, swiglu, down)


def _mlp_backward(dy: Array, saved: Any, rows: ModuleType, frozen: bool) -> tuple[Array, dict[str, Array]]:
    norm_2, gate, up, swiglu, down = saved
    grads: dict[str, Array] = {}

    def linear(name: str, d_out: Array, of: Any) -> Array:
        if frozen:
            return linear_backward_input(d_out, of)
        d_in, grads[f"mlp.{name}"], _ = linear_backward(d_out, of)
        return d_in

    da, db = rows.swiglu_backward(linear("w_down", dy, down), swiglu)
    du = add(linear("w_gate", da, gate), linear("w_up", db, up))
    dh, grads["norm_2"] = rows.rmsnorm_backward(du, norm_2)
    return add(dy, dh), grads


def select(params: Params, prefix: str) -> dict[str, Array]:
    """Return the entries whose names start with `prefix`, under their names without it."""
    return {name.removeprefix(prefix): x for name, x in params.items() if name.startswith(prefix)}
