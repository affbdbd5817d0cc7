"""The ladders: the forward, the decode and the backward, each written several times with one more idea per step.

Read the steps in this order (name, file, idea):

    naive          step1_naive    the definition, one thread per query
    tiles          step2_tiles    keys and values in shared memory
    online         step3_online   one pass, by the online softmax
    forward        forward        register tiles and 16-byte accesses: the engine's float32 kernel
    mma            step5_mma      5a  tensor cores, fragments read pair by pair
    ldmatrix       step5_mma      5b  fragments read by one instruction
    swizzle        step5_mma      5c  tiles without bank conflicts
    async          step5_mma      5d  the next tile is copied while this one is used
    addresses      forward_bf16   5e  one address per thread
    rows           forward_bf16   5f, 5g  32 queries per warp; bases renewed only if needed
    forward_bf16   forward_bf16   5h  groups of warps share a step's keys: the engine's kernel
    forward_wgmma  forward_wgmma  products of whole warpgroups

    decode_naive   decode_step1   one block per map walks over the whole cache
    decode_split   decode_step2   several blocks share the keys, and a merge
    decode_rows    decode_step3   the maps of a cache are the rows of one block
    decode_wide    decode_step4   16 bytes per read, and a merge in parallel
    decode         decode         reads under way all the time: the engine's float32 kernel
    decode_bf16    decode_bf16    half the bytes, tensor cores

    backward_whole backward       three kernels, whose blocks own their queries or keys alone
    backward       backward       several blocks share the same queries or keys
    backward_bf16  backward_bf16  tensor cores

Each of these commands runs some steps, or all of them, and compares the results with the definition: on a GPU at
GTA-1B's widths, with the time of a call; in Numba's simulator at a small size.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder naive decode_rows
    python -m gta_cuda.ladder

``predict`` counts what each step needs, and how long that takes at least.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gta_cuda.needs import no_kernels

if __name__ == "__main__" and (reason := no_kernels()) is not None:
    print(reason, file=sys.stderr)  # one line, instead of the traceback of the imports below
    sys.exit(2)

from gta_cuda import backward_bf16, backward_bf16_queries, forward_bf16, forward_wgmma, launch
from gta_cuda.intrinsics import SIMULATED
from gta_cuda.ladder_steps import DECODE, FIRST, MMA, first_step, kernels, run_decode, run_first, run_mma
from gta_cuda.tiles import Tile
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.ops.arrays import Array, as_dtype

__all__ = ["FIRST", "Sizes", "backward_steps", "decode_steps", "first_step", "kernels", "run_first", "show", "steps"]

Steps = dict[str, Callable[..., Any]]


def steps() -> Steps:
    """Every step of the forward as a function of q, k, v, mask and scale, with smaller blocks in the simulator."""
    tile = forward_bf16.Tile
    first: dict[str, int] = {"threads": 32} if SIMULATED else {}
    mma: dict[str, int] = {"rows": 16, "keys": 16} if SIMULATED else {}
    tiles = {"addresses": tile(128, 64), "rows": tile(128, 32, 2), "forward_bf16": tile.of(64)}
    if SIMULATED:
        tiles = {"addresses": tile(16, 16), "rows": tile(32, 16, 2), "forward_bf16": tile(16, 16)}
    return {
        **{name: partial(run_first, name, **first) for name in FIRST},
        "forward": partial(launch.forward, **({"tile": Tile(8, 8, 4, 4)} if SIMULATED else {})),
        **{name: partial(run_mma, name, **mma) for name in MMA},
        **{name: partial(launch.forward_bf16, tile=one) for name, one in tiles.items()},
        "forward_wgmma": partial(launch.forward_wgmma, **({"tile": forward_wgmma.Tile(64, 16)} if SIMULATED else {})),
    }


def decode_steps() -> Steps:
    """Every step of the decode as a function of q, k, v, mask and scale."""
    small: dict[str, Any] = {"threads": 32, "splits": 3} if SIMULATED else {}
    found: Steps = {name: partial(run_decode, name, **small) for name in DECODE}
    if SIMULATED:
        found["decode_wide"] = partial(run_decode, "decode_wide", keys=8, **small)
    engine = partial(launch.decode, **({"splits": 2, "warps": 1} if SIMULATED else {}))
    return {**found, "decode": engine, "decode_bf16": engine}


def backward_steps() -> Steps:
    """Every step of the backward as a function of q, k, v, z, lse, dz, dlse, mask and scale."""
    small: dict[str, Any] = {"tile": Tile(8, 8, 4, 4)} if SIMULATED else {}
    small_bf16: dict[str, Any] = {}
    if SIMULATED:
        small_bf16 = {
            "tile_q": backward_bf16_queries.Tile(32, 16, 16, 1),
            "tile_k": backward_bf16.Tile(32, 16, 16),
        }
    return {
        "backward_whole": partial(launch.backward, parts=(1, 1), **small),
        "backward": partial(launch.backward, **small),
        "backward_bf16": partial(launch.backward_bf16, **small_bf16),
    }


def dtype_of(name: str) -> str:
    """The dtype of the arrays that a step takes."""
    return "bfloat16" if name in (*MMA, "addresses", "rows", "forward_wgmma") or name.endswith("bf16") else "float32"


class Sizes(NamedTuple):
    """Maps, queries and keys, and the widths of a key and of a value; the maps share one key and one value head."""

    n_q: int
    n_queries: int
    n_keys: int
    d_k: int
    d_v: int


def sizes_of(name: str) -> Sizes:
    """The sizes at which :func:`show` runs a step."""
    if name.startswith("decode"):
        return Sizes(2, 1, 21, 16, 16) if SIMULATED else Sizes(5, 1, 131072, 64, 128)
    return Sizes(2, 10, 21, 16, 16) if SIMULATED else Sizes(2, 2048, 2048, 64, 128)


def show(name: str, function: Callable[..., Any]) -> None:
    """Run one step, and print its error relative to the definition in float64."""
    n_q, n_queries, n_keys, d_k, d_v = sizes_of(name)
    rng = np.random.default_rng(0)
    shapes = (1, n_q, n_queries, d_k), (1, 1, n_keys, d_k), (1, 1, n_keys, d_v)
    q, k, v = (rng.standard_normal(shape).astype(as_dtype(dtype_of(name))) for shape in shapes)
    mask, scale = Mask(k_start=3), d_k**-0.5
    wide = [x.astype(np.float64) for x in (q, k, v)]
    z, lse, saved = attention_forward(*wide, mask=mask, scale=scale, engine="reference")
    given, want = [q, k, v], z
    if name.startswith("backward"):
        dz = np.asarray(rng.standard_normal(z.shape)).astype(q.dtype)
        want = np.concatenate([x.ravel() for x in attention_backward(dz.astype(np.float64), saved)])
        given += [z.astype(q.dtype), lse.astype(np.float32), dz]
    got, time = _run(function, given, mask, scale, name.startswith("backward"))
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    print(f"{name:14} {q.dtype.name:8}  relative error {error:.1e}  {time}")


def _run(
    function: Callable[..., Any], given: list[Array], mask: Mask, scale: float, backward: bool
) -> tuple[Array, str]:
    """What a step returns, as one float64 array, and how long a call takes, in words."""
    more: list[Any] = [None] if backward else []  # no gradient of lse
    if SIMULATED:
        found, back, time = function(*given, *more, mask, scale), np.asarray, "simulated"
    else:
        import cupy
        from cupyx.profiler import benchmark

        arguments = [*map(cupy.asarray, given), *more, mask, scale]
        found, back = function(*arguments), cupy.asnumpy
        measured = benchmark(function, tuple(arguments), n_repeat=20)
        device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        time = f"{np.median(measured.gpu_times) * 1e3:.3f} ms on {device}"
    if backward:
        return np.concatenate([back(x).astype(np.float64).ravel() for x in found]), time
    return back(found[0]).astype(np.float64), time


def main(names: list[str]) -> int:
    """Run the named steps, or all steps if there are no names; return the exit status."""
    from gta_cuda.engine import why_not

    known = {**steps(), **decode_steps(), **backward_steps()}
    unknown = [name for name in names if name not in known]
    reason = f"step {unknown[0]!r} must be one of {', '.join(known)}" if unknown else None
    if reason is None and not SIMULATED:
        reason = why_not()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    if SIMULATED:
        sys.setswitchinterval(2e-4)  # the simulator's threads wait for each other, by default 5 ms at a time
    for name in names or known:
        if name == "forward_wgmma" and not SIMULATED and not _has_wgmma():
            print(f"{name:14} left out: this GPU has no wgmma")
            continue
        show(name, known[name])
    return 0


def _has_wgmma() -> bool:
    import cupy

    from gta_cuda.launch_forward import has_wgmma

    return has_wgmma(cupy.zeros(1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
