"""The resources that the kernels need on a multiprocessor, found by compiling them to machine code; this needs no GPU.

    gta-ref doctor --kernels

The registers per thread and the shared memory per block limit how many blocks a multiprocessor holds at once. Spills
and stack cause memory traffic that is not visible in the source; the engine's kernels have none. HMMA is the
instruction of the tensor cores; LDL and STL are those of spills and stack.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gta_cuda.needs import missing

Capability = tuple[int, int] | tuple[int, int, str]

CAPABILITIES: tuple[Capability, ...] = ((8, 0), (9, 0), (9, 0, "a"))  # those of the table
# Bytes of shared memory that the system adds to every block on sm_90; the linker's number includes them. (9, 0, "a") is
# sm_90 with the instructions that only this generation has: what Numba compiles for on such a GPU.
SYSTEM_SHARED: dict[Capability, int] = {(8, 0): 0, (9, 0): 1024, (9, 0, "a"): 1024}


def why_not() -> str | None:
    """Why kernels cannot be compiled here, in one line; None if they can."""
    if (reason := missing("numba_cuda", "cuda.core", "cuda.bindings")) is not None:
        return reason
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "NUMBA_ENABLE_CUDASIM=1 is set: Numba simulates kernels instead of compiling them"
    return None


def architecture(capability: Capability) -> str:
    """The name of the machine code for a compute capability: (9, 0, "a") is sm_90a."""
    return "sm_" + "".join(map(str, capability))


def compiles_for(kernel: Any, capability: Capability) -> bool:
    """Whether machine code for this capability can have all instructions of a kernel (``Kernel.only``)."""
    return kernel.only in (None, capability)


def table(capabilities: tuple[Capability, ...] = CAPABILITIES) -> list[dict[str, Any]]:
    """The resources of every kernel of ``catalog`` for every capability that it compiles for; see :func:`measure`."""
    from gta_cuda.catalog import catalog

    return [
        measure(kernel, capability)
        for kernel in catalog()
        for capability in capabilities
        if compiles_for(kernel, capability)
    ]


def measure(kernel: Any, capability: Capability) -> dict[str, Any]:
    """Compile one kernel and report its resources.

    Parameters
    ----------
    kernel : gta_cuda.kernels.Kernel
    capability : (int, int) or (int, int, str)
        Compute capability: (8, 0), (9, 0) or (9, 0, "a"); the last is sm_90a.

    Returns
    -------
    resources : dict
        ``kernel`` and ``arch`` (names), ``threads`` (per block), ``registers`` (per thread), ``spills`` and ``stack``
        (bytes per thread), ``shared`` (bytes of static memory per block, without the system's), ``blocks`` (most blocks
        that the registers and threads of a multiprocessor allow), ``hmma`` (number of HMMA and HGMMA instructions) and
        ``local`` (of LDL and STL); the last two are None if nvdisasm is not installed.
    """
    if capability not in SYSTEM_SHARED:
        raise ValueError(f"capability={capability} must be one of {', '.join(map(str, SYSTEM_SHARED))}")
    binary, log = compile_kernel(kernel, capability)
    found = read_log(log, capability)
    counts = instructions(binary)
    return {
        "kernel": kernel.name,
        "arch": architecture(capability),
        "threads": kernel.threads,
        **found,
        "blocks": min(65536 // (-(-found["registers"] // 8) * 8 * kernel.threads), 2048 // kernel.threads),
        "hmma": None if counts is None else counts["HMMA"] + counts["HGMMA"],
        "local": None if counts is None else counts["LDL"] + counts["STL"],
    }


def read_log(log: str, capability: Capability) -> dict[str, int]:
    """Registers, spills, stack and static shared memory, as the linker's log gives them; see :func:`measure`."""
    return {
        "registers": _largest(r"[Uu]sed (\d+) registers", log),
        "spills": _largest(r"(\d+) bytes spill stores", log) + _largest(r"(\d+) bytes spill loads", log),
        "stack": _largest(r"(\d+) bytes stack frame", log),
        "shared": max(0, _largest(r"(\d+) bytes smem", log) - SYSTEM_SHARED[capability]),
    }


def compile_kernel(kernel: Any, capability: Capability) -> tuple[bytes, str]:
    """Machine code of a kernel, and the linker's log."""
    return link(compile_ptx(kernel, capability), capability)


def compile_ptx(kernel: Any, capability: Capability) -> str:
    """The PTX of a kernel, as Numba compiles it when it is launched."""
    from numba import cuda

    with _compiling_for(capability):
        ptx, _ = cuda.compile(
            kernel.function,
            kernel.arguments,
            device=False,
            abi="numba",
            cc=capability,
            launch_bounds=(kernel.threads, kernel.blocks),
        )
    return ptx


def link(ptx: str, capability: Capability) -> tuple[bytes, str]:
    """Machine code from PTX, and the linker's log."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch=architecture(capability), verbose=True, ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=options)
    binary = linker.link("cubin")
    return bytes(binary.code), linker.get_info_log()


def instructions(binary: bytes) -> Counter | None:
    """How often each instruction occurs in machine code; None if nvdisasm is not installed."""
    tool = shutil.which("nvdisasm")
    if tool is None:
        wheel = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
        tool = next((str(p) for p in sorted(wheel.glob("*/bin/nvdisasm*"))), None)
    if tool is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        text = subprocess.run([tool, "-c", str(path)], capture_output=True, text=True, check=True).stdout
    return Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_]+)", text, flags=re.MULTILINE))


@contextmanager
def _compiling_for(capability: Capability) -> Iterator[None]:
    """Let Numba compile device functions without a GPU: answer its question for the current GPU's capability."""
    from numba.cuda import dispatcher

    original = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability[:2])
    try:
        yield
    finally:
        dispatcher.get_current_device = original


def _largest(pattern: str, text: str) -> int:
    return max((int(n) for n in re.findall(pattern, text)), default=0)
