"""What the kernels need of a multiprocessor, found by compiling them to machine code; no GPU takes part.

    gta-ref doctor --kernels

Registers of a thread and shared memory of a block decide how many blocks a multiprocessor holds at once. Spills and
stack are traffic with memory that the source does not show: a kernel of the engine has none. HMMA are the
instructions of the tensor cores, LDL and STL the ones of spills and stack.
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

CAPABILITIES = ((8, 0), (9, 0))
# what every launch has on sm_90 besides what the kernel asks for; the linker counts it in
SYSTEM_SHARED = {(8, 0): 0, (9, 0): 1024}


def why_not() -> str | None:
    """Why kernels cannot be compiled here, in one line; None where they can."""
    if (reason := missing("numba_cuda", "cuda.core", "cuda.bindings")) is not None:
        return reason
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "NUMBA_ENABLE_CUDASIM=1 is set: Numba simulates and does not compile"
    return None


def table(capabilities: tuple[tuple[int, int], ...] = CAPABILITIES) -> list[dict[str, Any]]:
    """One dict for every kernel of ``catalog`` and every capability; see :func:`measure`."""
    from gta_cuda.catalog import catalog

    return [measure(kernel, capability) for kernel in catalog() for capability in capabilities]


def measure(kernel: Any, capability: tuple[int, int]) -> dict[str, Any]:
    """Compile one kernel.

    Parameters
    ----------
    kernel : gta_cuda.kernels.Kernel
    capability : (int, int)
        One of CAPABILITIES; (9, 0) for sm_90.

    Returns
    -------
    resources : dict
        kernel, arch, threads, registers (of a thread), spills, stack (bytes of a thread), shared (bytes of a block,
        without the system's), blocks (that a multiprocessor's registers and threads allow), hmma and local (LDL and
        STL), the last two None where nvdisasm is not installed.
    """
    if capability not in SYSTEM_SHARED:
        raise ValueError(f"capability={capability} must be one of {', '.join(map(str, CAPABILITIES))}")
    binary, log = compile_kernel(kernel, capability)
    registers = _largest(r"[Uu]sed (\d+) registers", log)
    counts = instructions(binary)
    return {
        "kernel": kernel.name,
        "arch": f"sm_{capability[0]}{capability[1]}",
        "threads": kernel.threads,
        "registers": registers,
        "spills": _largest(r"(\d+) bytes spill stores", log) + _largest(r"(\d+) bytes spill loads", log),
        "stack": _largest(r"(\d+) bytes stack frame", log),
        "shared": max(0, _largest(r"(\d+) bytes smem", log) - SYSTEM_SHARED[capability]),
        "blocks": min(65536 // (-(-registers // 8) * 8 * kernel.threads), 2048 // kernel.threads),
        "hmma": None if counts is None else counts["HMMA"],
        "local": None if counts is None else counts["LDL"] + counts["STL"],
    }


def compile_kernel(kernel: Any, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Machine code of a kernel, and what the linker has to say about it."""
    from cuda.core import Linker, LinkerOptions, ObjectCode
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
    options = LinkerOptions(arch=f"sm_{capability[0]}{capability[1]}", verbose=True, ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=options)
    binary = linker.link("cubin")
    return bytes(binary.code), linker.get_info_log()


def instructions(binary: bytes) -> Counter | None:
    """How often each instruction stands in machine code; None where nvdisasm is not installed."""
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
def _compiling_for(capability: tuple[int, int]) -> Iterator[None]:
    """Numba asks the current GPU for its capability when it compiles a device function: answer in its place."""
    from numba.cuda import dispatcher

    original = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = original


def _largest(pattern: str, text: str) -> int:
    return max((int(n) for n in re.findall(pattern, text)), default=0)
