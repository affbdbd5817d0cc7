"""The ladder: the same forward five times, each step with one more idea.

Read the steps in this order (name of the step, file, idea):

    naive         step1_naive    the definition, one thread per query
    tiles         step2_tiles    keys and values in shared memory
    online        step3_online   one pass, by the online softmax
    forward       forward        register tiles and 16-byte accesses: the engine's float32 kernel
    forward_bf16  forward_bf16   tensor cores: the engine's bfloat16 kernel

Each of these commands runs one step, or all of them, and compares the results with the definition: on a GPU at GTA-1B's
widths, with the time of a call; in Numba's simulator at a small size.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder naive
    python -m gta_cuda.ladder
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from gta_cuda.needs import missing

if __name__ == "__main__" and (reason := missing("numba_cuda")) is not None:
    print(reason, file=sys.stderr)  # one line, instead of the traceback of the imports below
    sys.exit(2)

from gta_cuda import arrays, forward_bf16, launch, step1_naive, step2_tiles, step3_online
from gta_cuda.intrinsics import SIMULATED
from gta_cuda.kernels import COUNT, FLOATS, INTS, NUMBER, STRIDES, Kernel
from gta_cuda.tiles import Tile
from gta_ref.core import Mask, attention_forward
from gta_ref.ops.arrays import Array, array_module, as_dtype

ARGUMENTS = (FLOATS,) * 5 + (INTS, STRIDES, NUMBER) + (COUNT,) * 5
FIRST = {"naive": step1_naive, "tiles": step2_tiles, "online": step3_online}


def first_steps(d_k: int, d_v: int) -> list[Kernel]:
    """Steps 1 to 3 as kernels."""
    return [
        Kernel(f"step {i}: {name}", step.make_forward(d_k, d_v), ARGUMENTS, step.THREADS, key=f"{name}-{d_k}-{d_v}")
        for i, (name, step) in enumerate(FIRST.items(), 1)
    ]


@lru_cache(maxsize=16)
def first_step(name: str, d_k: int, d_v: int, **measures: int) -> Kernel:
    """One of steps 1 to 3, made once per combination of widths; it is compiled when it is first launched."""
    function = FIRST[name].make_forward(d_k, d_v, **measures)
    key = "-".join([name, str(d_k), str(d_v), *(f"{what}{size}" for what, size in sorted(measures.items()))])
    return Kernel(name, function, ARGUMENTS, measures.get("threads", FIRST[name].THREADS), key=key)


def run_first(
    name: str, q: Array, k: Array, v: Array, mask: Mask, scale: float, **measures: int
) -> tuple[Array, Array]:
    """Compute z and lse in float32 by one of the first three steps.

    measures: `threads` per block and, in steps 2 and 3, `keys` per tile; by default those of the step's file.
    """
    xp = array_module(q)
    (batch, n_q, n_queries, d_k), (_, n_v, n_keys, d_v) = q.shape, v.shape
    z = xp.empty((batch, n_q, n_queries, d_v), np.float32)
    lse = xp.empty((batch, n_q, n_queries), np.float32)
    stream = arrays.current_stream(q)
    kernel = first_step(name, d_k, d_v, **measures)
    kernel.launch(
        (batch * n_q, -(-n_queries // kernel.threads), 1),
        stream,
        *map(arrays.pointer, (q, k, v, z, lse, arrays.bounds(mask, batch, n_queries, n_keys, q, stream))),
        arrays.layout(q, k, v)[0],
        scale,
        n_q,
        n_q // k.shape[1],
        n_q // n_v,
        n_queries,
        mask.causal,
    )
    return z, lse


def steps() -> dict[str, Callable[..., tuple[Array, Array]]]:
    """Every step as a function of q, k, v, mask and scale, with smaller blocks in the simulator."""
    threads, tile, tile_bf16 = (32, Tile(8, 8, 4, 4), forward_bf16.Tile(16, 16)) if SIMULATED else (128, None, None)
    found: dict[str, Callable[..., Any]] = {
        name: lambda *a, name=name: run_first(name, *a, threads=threads) for name in FIRST
    }
    found["forward"] = lambda *a: launch.forward(*a, **({"tile": tile} if tile else {}))
    found["forward_bf16"] = lambda *a: launch.forward_bf16(*a, **({"tile": tile_bf16} if tile_bf16 else {}))
    return found


def show(name: str, function: Callable[..., Any]) -> None:
    """Run one step, and print its error relative to the definition in float64."""
    n_queries, n_keys, d_k, d_v = (10, 21, 16, 16) if SIMULATED else (2048, 2048, 64, 128)
    dtype = as_dtype("bfloat16" if name.endswith("bf16") else "float32")
    rng = np.random.default_rng(0)
    shapes = (1, 2, n_queries, d_k), (1, 1, n_keys, d_k), (1, 1, n_keys, d_v)
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    mask, scale = Mask(k_start=3), d_k**-0.5
    want, _, _ = attention_forward(
        *(x.astype(np.float64) for x in (q, k, v)), mask=mask, scale=scale, need_saved=False, engine="reference"
    )
    if SIMULATED:
        z, _ = function(q, k, v, mask, scale)
        time = "simulated"
    else:
        import cupy
        from cupyx.profiler import benchmark

        on_gpu = [cupy.asarray(x) for x in (q, k, v)]
        z = function(*on_gpu, mask, scale)[0].get()
        measured = benchmark(function, (*on_gpu, mask, scale), n_repeat=20)
        device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        time = f"{np.median(measured.gpu_times) * 1e3:.3f} ms on {device}"
    error = np.linalg.norm(z.astype(np.float64) - want) / np.linalg.norm(want)
    print(f"{name:13} {dtype.name:8}  relative error {error:.1e}  {time}")


def main(names: list[str]) -> int:
    """Run the named steps, or all steps if there are no names; return the exit status."""
    from gta_cuda.engine import why_not

    known = steps()
    unknown = [name for name in names if name not in known]
    reason = f"step {unknown[0]!r} must be one of {', '.join(known)}" if unknown else None
    if reason is None and not SIMULATED:
        reason = why_not()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    for name in names or known:
        show(name, known[name])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
