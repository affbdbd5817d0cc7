"""A stand-in for CuPy and for a GPU of capability 9.0, which only notes down what is asked of it. Nothing is computed."""

import ctypes
import itertools
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np


class Gpu:
    """What was asked of the GPU: launches, copies to it, functions that were loaded, and the attributes they were given.

    `addresses` are those of the arguments of the last launch: the driver reads the arguments during the call.
    """

    def __init__(self):
        self.launches, self.copies, self.loaded, self.attributes = [], [], [], []
        self.capturing = False
        self.stream = 0
        self.fault = None
        self.during_a_launch = lambda: None
        self.next = itertools.count(1 << 20)

    def array(self, shape, dtype, offset=0):
        """An array in C order, whose address is `offset` bytes after a multiple of 512."""
        x = ndarray()
        x.gpu, x.shape, x.dtype = self, tuple(shape), np.dtype(dtype)
        x.itemsize = x.dtype.itemsize
        strides, size = [], 1
        for n in reversed(x.shape):
            strides.append(size * x.itemsize)
            size *= n
        x.strides, x.size = tuple(strides[::-1]), size
        x.data, x.device = MemoryPointer(512 * next(self.next) + offset), DEVICE
        return x

    def launch(self, handle, x, y, z, threads, threads_y, threads_z, shared, stream, arguments, extra):
        assert (threads_y, threads_z, extra) == (1, 1, 0)
        self.during_a_launch()
        self.launches.append(
            SimpleNamespace(
                handle=handle, grid=(x, y, z), threads=threads, shared=shared, stream=stream, arguments=arguments
            )
        )


class MemoryPointer(NamedTuple):
    """The attributes of an array's memory that a launch reads."""

    ptr: int
    device_id: int = 0


DEVICE = SimpleNamespace(id=0)


class ndarray:  # noqa: N801  as in CuPy
    """The attributes of an array that a launch reads."""

    def astype(self, dtype, copy=True):
        if dtype == self.dtype and not copy:
            return self
        return self.gpu.array(self.shape, dtype)


ndarray.__module__ = "cupy"


class RawKernel:
    def __init__(self, gpu, path, entry):
        self.gpu, self.path, self.entry = gpu, path, entry

    @property
    def kernel(self):
        if self.gpu.fault is not None:
            raise RuntimeError(self.gpu.fault)
        self.gpu.loaded.append((self.path, self.entry))
        return SimpleNamespace(ptr=77)

    def __setattr__(self, name, value):
        if name == "max_dynamic_shared_size_bytes":
            self.gpu.attributes.append((self.entry, value))
        super().__setattr__(name, value)


def install(monkeypatch):
    """Let `import cupy` import a fake for the rest of a test; return its GPU."""
    gpu, cupy = Gpu(), ModuleType("cupy")
    cupy.ndarray = ndarray
    cupy.empty = gpu.array
    cupy.empty_like = lambda x: gpu.array(x.shape, x.dtype)
    cupy.ascontiguousarray = lambda x: x

    def asarray(x):
        if isinstance(x, ndarray):
            return x
        gpu.copies.append(x.copy())
        return gpu.array(x.shape, x.dtype)

    cupy.asarray = asarray
    stream = SimpleNamespace(is_capturing=lambda: gpu.capturing)
    device = SimpleNamespace(
        compute_capability="90", attributes={"MultiProcessorCount": 132, "MaxSharedMemoryPerMultiprocessor": 233472}
    )
    cupy.cuda = SimpleNamespace(
        get_current_stream=lambda: SimpleNamespace(ptr=gpu.stream, **vars(stream)),
        Device=lambda number=0: device,
        alloc=lambda size: MemoryPointer(512 * next(gpu.next)),
        driver=SimpleNamespace(launchKernel=gpu.launch),
        runtime=SimpleNamespace(getDevice=lambda: 0),
    )
    cupy.RawModule = lambda *, path: SimpleNamespace(get_function=lambda entry: RawKernel(gpu, path, entry))
    monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
    return gpu


def read(addresses, sizes):
    """The bytes of each argument, from the addresses that the driver is given."""
    pointers = ctypes.cast(addresses, ctypes.POINTER(ctypes.c_void_p))
    return [ctypes.string_at(pointers[i], size) for i, size in enumerate(sizes)]
