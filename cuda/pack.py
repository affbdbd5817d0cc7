"""Build the machine code of the engine's kernels, for a machine on which nothing should be compiled. No GPU is needed.

    python -m gta_cuda.pack FOLDER [--arch sm_80 --arch sm_90a] [--small]

FOLDER receives one file per kernel and architecture, and ``manifest.json``, which describes them:

    key of the kernel → name, threads, sources (a digest of the kernels' modules)
                        arch → name of the architecture → file, entry (name of the function in it), sha256,
                               registers, spills, stack, shared (as in ``resources.measure``)

``gta_cuda.carried`` uses such a folder. Which kernels there are is not listed here: the engine runs at the widths
below, with launches that only note down which kernel they would launch.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from gta_cuda import carried, resources
from gta_ref.core import Mask
from gta_ref.files import atomic_path, write_json
from gta_ref.ops.arrays import Array, as_dtype

MOST_BYTES = 10 * 10**6


class Heads(NamedTuple):
    """Heads and widths that the engine is to run at; all maps share one key head and one value head."""

    d_k: int
    d_v: int
    maps: tuple[int, ...]  # numbers of maps to run at, the usual one first; in a decode, they are the rows of a block


GTA_1B = Heads(64, 128, (5,))
ALL = (
    Heads(64, 128, (5, *range(1, 17))),  # GTA-1B, and other numbers of maps at its widths
    Heads(64, 64, (4, 1, 2, 5, 8)),  # GQA-1B, likewise
    Heads(64, 256, (10,)),  # GTA4
    Heads(576, 512, (4,)),  # MLA, absorbed
    Heads(33, 150, (2, 4)),  # rows that are not multiples of 16 bytes
)
ARCHITECTURES = {resources.architecture(capability): capability for capability in resources.SYSTEM_SHARED}
USUAL = ("sm_80", "sm_90a")


def engine_kernels(heads: tuple[Heads, ...] = ALL) -> dict[str, Any]:
    """The kernels that the engine launches for these heads, by key: forward, decode and backward.

    Each runs in float32 and in bfloat16, with rows that begin at multiples of 16 bytes; GTA-1B also with others.
    """
    from gta_cuda import engine

    mask, scale = Mask(), 0.125
    with noted() as kernels, np.errstate(all="ignore"):
        for d_k, d_v, maps in heads:
            shifts = (0, 1) if (d_k, d_v) == GTA_1B[:2] else (0,)  # of the rows, in elements
            for dtype, shift in ((dtype, shift) for dtype in ("float32", "bfloat16") for shift in shifts):
                # few queries, with one split and with several; then many
                decodes = [(m, 1, n) for m in (maps[:1] if shift else maps) for n in (16, 8192)]
                for n_q, n_queries, n_keys in (*decodes, (maps[0], 256, 256)):
                    q = _blank((1, n_q, n_queries, d_k), dtype, shift)
                    k, v = (_blank((1, 1, n_keys, width), dtype, shift) for width in (d_k, d_v))
                    z, lse = engine.run(q, k, v, mask, scale)
                    if n_queries > 1:
                        dz = _blank(z.shape, dtype, shift)
                        engine.run_backward(dz, engine.State(q, k, v, z, lse, mask, scale, False), None)
    return kernels


def wgmma_kernels(heads: tuple[Heads, ...] = ALL) -> dict[str, Any]:
    """The kernels that the engine launches in addition on a GPU with wgmma, by key."""
    from gta_cuda import engine, launch_forward

    has = mock.patch.object(launch_forward, "has_wgmma", return_value=True)
    with noted() as kernels, has, np.errstate(all="ignore"):
        for d_k, d_v, maps in heads:
            q, k, v = (_blank((1, n, 256, width), "bfloat16", 0) for n, width in ((maps[0], d_k), (1, d_k), (1, d_v)))
            engine.run(q, k, v, Mask(), 0.125)
    return {key: kernel for key, kernel in kernels.items() if kernel.name == "forward_wgmma"}


def _blank(shape: tuple[int, ...], dtype: str, shift: int) -> Array:
    """Zeros; with `shift`, their rows begin that many elements after multiples of 16 bytes and lie further apart."""
    *outer, width = shape
    whole = np.zeros((*outer, width + 16 * shift), as_dtype(dtype))  # the system sets the memory aside when it is read
    return whole[..., shift : shift + width]


@contextmanager
def noted() -> Iterator[dict[str, Any]]:
    """Within the block, a launch does nothing but note down its kernel, and the GPU is as large as an H100."""
    from gta_cuda import arrays
    from gta_cuda.kernels import Kernel

    found: dict[str, Any] = {}

    def note(kernel: Any, *arguments: Any) -> None:
        found.setdefault(kernel.key, kernel)

    with (
        mock.patch.object(Kernel, "launch", note),
        mock.patch.object(arrays, "pointer", return_value=0),
        mock.patch.object(arrays, "multiprocessors", return_value=132),
    ):
        yield found


@cache
def _kernels(small: bool) -> dict[str, Any]:
    """The kernels of a pack, in each process that compiles some of them."""
    heads = (GTA_1B,) if small else ALL
    return {**engine_kernels(heads), **wgmma_kernels(heads)}


def build_one(key: str, small: bool, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Compile one kernel for all architectures: its part of the manifest, and its machine code by file."""
    kernel = _kernels(small)[key]
    about: dict[str, Any] = {"name": kernel.name, "threads": kernel.threads, "sources": carried.sources(), "arch": {}}
    codes = {}
    for name in names:
        capability = ARCHITECTURES[name]
        if not resources.compiles_for(kernel, capability):
            continue
        ptx = resources.compile_ptx(kernel, capability)
        code, log = resources.link(ptx, capability)
        entry = re.search(r"\.visible \.entry (\w+)\(", ptx)
        assert entry is not None
        file = f"{key}.{name}.cubin"
        codes[file] = code
        about["arch"][name] = {
            "file": file,
            "entry": entry[1],
            "sha256": hashlib.sha256(code).hexdigest(),
            **resources.read_log(log, capability),
        }
    return about, codes


def build(
    folder: str | os.PathLike[str],
    names: tuple[str, ...] = USUAL,
    small: bool = False,
    keys: tuple[str, ...] | None = None,
) -> int:
    """Build a pack, and print one line per kernel; return the size of the machine code in bytes.

    Parameters
    ----------
    folder : str or path
        It is created if it does not exist. Each file gets its name when it is complete, the manifest last.
    names : tuple of str
        Architectures to build for, keys of ARCHITECTURES; default sm_80 and sm_90a.
    small : bool
        Whether to build only the kernels for GTA-1B's heads and widths; default False.
    keys : tuple of str, optional
        Keys of the kernels to build; by default all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keys = tuple(_kernels(small)) if keys is None else keys
    manifest, size = {}, 0
    context = multiprocessing.get_context("spawn")  # the compiler's locks do not survive a fork
    with ProcessPoolExecutor(_cores(), context) as pool:
        built = pool.map(partial(build_one, small=small, names=names), keys)
        for key, (about, codes) in zip(keys, built, strict=True):
            for file, code in codes.items():
                with atomic_path(folder / file) as path:
                    path.write_bytes(code)
                size += len(code)
            manifest[key] = about
            print(f"{key:34} {'; '.join(_line(name, one) for name, one in about['arch'].items())}", flush=True)
    write_json(folder / carried.MANIFEST, manifest)
    return size


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _line(name: str, one: dict[str, Any]) -> str:
    extra = "".join(f", {one[what]} bytes of {what}" for what in ("spills", "stack") if one[what])
    return f"{name}: {one['registers']} registers, {one['shared']:,} bytes shared{extra}"


def main(arguments: list[str] | None = None) -> int:
    """Build a pack as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gta_cuda.pack", description="Build the machine code of the engine's kernels. No GPU is needed."
    )
    parser.add_argument("folder", help="folder for the machine code; it is created if it does not exist")
    parser.add_argument(
        "--arch",
        action="append",
        choices=list(ARCHITECTURES),
        help="architecture to build for; may be repeated; default sm_80 and sm_90a",
    )
    parser.add_argument("--small", action="store_true", help="build only the kernels for GTA-1B's heads and widths")
    chosen = parser.parse_args(arguments)
    if (reason := resources.why_not()) is not None:
        print(f"the kernels cannot be compiled here: {reason}", file=sys.stderr)
        return 2
    begin = time.perf_counter()
    size = build(chosen.folder, tuple(chosen.arch or USUAL), chosen.small)
    count = len(_kernels(chosen.small))
    print(f"{count} kernels, {size:,} bytes, {time.perf_counter() - begin:.0f} s: {chosen.folder}")
    if size > MOST_BYTES:
        print(f"the machine code has {size:,} bytes; expected {MOST_BYTES:,} at most", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
