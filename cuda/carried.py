"""Machine code that was built elsewhere, loaded from a folder and launched by CuPy; no compiler is needed.

    python -m gta_cuda.pack FOLDER         builds such a folder, without a GPU
    GTA_CUDA_PACK=FOLDER python ...        uses it, as ``gta_cuda.carried.use(FOLDER)`` does

From then on a kernel whose key is in the folder's ``manifest.json``, with machine code for this GPU, is loaded from
there. Every other kernel is compiled by Numba as usual.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
import threading
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gta_ref.core.engines import EngineError

if TYPE_CHECKING:
    from gta_cuda.kernels import Grid, Kernel, Launch

MANIFEST = "manifest.json"
# the modules that decide the machine code of the kernels and the order of their arguments
SOURCES = (
    *("backward", "backward_bf16", "backward_bf16_queries", "backward_parts", "backward_tiles"),
    *("decode", "decode_bf16", "forward", "forward_bf16", "forward_wgmma", "groups_bf16", "intrinsics", "kernels"),
    *("launch", "launch_backward", "launch_backward_bf16", "launch_decode", "launch_forward", "merge"),
    *("ptx", "ptx_address", "tiles", "tiles_bf16", "tiles_wgmma", "wgmma"),
)


class Pack:
    """A folder with machine code.

    Parameters
    ----------
    folder : str or path

    Raises
    ------
    gta_ref.core.EngineError
        If the folder has no readable manifest, or was built from other sources of the kernels than these.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EngineError(f"{path} cannot be read: {_one_line(error)}") from error
        if any(one["sources"] != sources() for one in self.manifest.values()):
            raise EngineError(
                f"{path} describes kernels that were built from other sources than those of this version; "
                f"build them again: python -m gta_cuda.pack {self.folder}"
            )

    def find(self, key: str, capability: str) -> dict[str, Any] | None:
        """What the manifest says about the machine code of a kernel for a GPU; None if there is none.

        capability: the GPU's compute capability as CuPy gives it, such as "90".
        """
        built = self.manifest.get(key, {}).get("arch", {})
        found: dict[str, Any] | None = next((built[name] for name in architectures(capability) if name in built), None)
        return found

    def prepare(self, kernel: Kernel) -> Launch | None:
        """Load a kernel, and return the function that launches it; None if the folder has no code for it here.

        Raises
        ------
        gta_ref.core.EngineError
            If the file is missing, is damaged, or cannot be loaded; the message names it and says why.
        """
        import cupy

        found = self.find(kernel.key, cupy.cuda.Device().compute_capability)
        if found is None:
            return None
        path = self.folder / found["file"]
        try:
            code = path.read_bytes()
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {_one_line(error)}") from error
        if hashlib.sha256(code).hexdigest() != found["sha256"]:
            raise EngineError(f"{path} is damaged: its {len(code):,} bytes are not those that {MANIFEST} describes")
        try:
            function = cupy.RawModule(path=str(path)).get_function(found["entry"])
            handle = function.kernel.ptr  # CuPy loads the file here
            if kernel.shared:
                function.max_dynamic_shared_size_bytes = kernel.shared
        except RuntimeError as error:  # the class of CuPy's errors
            raise EngineError(f"{path} cannot be loaded: {_one_line(error)}") from error
        return Loaded(function, handle, kernel)


class Loaded:
    """Loaded machine code of a kernel. An instance is called to launch it.

    function: CuPy's RawKernel, which keeps the code loaded.
    handle: the driver's handle of the code.
    """

    def __init__(self, function: Any, handle: int, kernel: Kernel) -> None:
        import cupy

        self.function, self.handle = function, handle
        self.arguments = Arguments(kernel)
        self.threads, self.shared = kernel.threads, kernel.shared
        self.call = cupy.cuda.driver.launchKernel
        self.lock = threading.Lock()

    def __call__(self, grid: Grid, stream: int, flat: tuple[Any, ...]) -> None:
        """Launch the kernel; `flat` are its arguments, with the strides one by one."""
        with self.lock:  # until the driver has copied the arguments, no other thread may write its own
            self.arguments.write(*flat)
            self.call(self.handle, *grid, self.threads, 1, 1, self.shared, stream, self.arguments.address, 0)


class Arguments:
    """Memory for the arguments of a kernel, in the form in which the driver reads them.

    Numba's kernels have one parameter per pointer (8 bytes), one per stride (int64), and one per number (float32 or
    int32). Each has a place of 8 bytes here. `address` is that of an array with the address of each argument.
    """

    def __init__(self, kernel: Kernel) -> None:
        from gta_cuda.kernels import COUNT, NUMBER, STRIDES

        places = {NUMBER: "f4x", COUNT: "i4x", STRIDES: "q" * 9}
        layout = struct.Struct("=" + "".join(places.get(kind, "Q") for kind in kernel.arguments))
        self.memory = ctypes.create_string_buffer(layout.size)
        start = ctypes.addressof(self.memory)
        self.addresses = (ctypes.c_void_p * (layout.size // 8))(*range(start, start + layout.size, 8))
        self.address = ctypes.addressof(self.addresses)
        self.write = partial(layout.pack_into, self.memory, 0)


def architectures(capability: str) -> list[str]:
    """Names of the machine code that a GPU can run, best first: its own, then that of smaller minor versions.

    >>> architectures("86")[:3]
    ['sm_86a', 'sm_86', 'sm_85']
    """
    major, minor = capability[:-1], int(capability[-1])
    return [f"sm_{capability}a", *(f"sm_{major}{n}" for n in range(minor, -1, -1))]


@cache
def sources() -> str:
    """A digest of the modules that decide the machine code of the kernels."""
    folder = Path(__file__).parent
    found = hashlib.sha256()
    for name in SOURCES:
        found.update((folder / f"{name}.py").read_bytes())
    return found.hexdigest()[:16]


_chosen: Pack | None = None
_asked = False  # whether the environment has been asked, or `use` has been called


def use(folder: str | os.PathLike[str] | None) -> None:
    """Use the machine code in this folder from now on, in the whole process; with None, let Numba compile everything.

    Raises
    ------
    gta_ref.core.EngineError
        If the folder has no readable manifest, or was built from other sources of the kernels than these.
    """
    global _chosen, _asked
    _chosen, _asked = None if folder is None else Pack(folder), True


def current() -> Pack | None:
    """The folder in use: that of :func:`use`, at first that of the environment variable GTA_CUDA_PACK, or none."""
    if not _asked:
        use(os.environ.get("GTA_CUDA_PACK") or None)
    return _chosen


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0]
