"""A GPU for tests of the benchmark: NumPy in CuPy's place, engine "reference" in that of "cuda", and a PyTorch."""

import importlib.util
import sys
import types
from contextlib import contextmanager, nullcontext

import numpy as np

from gta_ref.bench import gpu, gpu_torch
from gta_ref.bench.gpu_cases import Case
from gta_ref.core import attention_backward, attention_forward

TINY = [
    Case("forward", "bfloat16", 1, 80),
    Case("decode", "bfloat16", 2, 70),
    Case("forward+backward", "float32", 1, 80),
]


class Gpu:
    """A clock that only launches advance, and a log of what happened on streams."""

    def __init__(self):
        self.now, self.graph, self.log, self.capture_fails = 0.0, None, [], False

    def launch(self, milliseconds, host=0.0):
        """A kernel; `host` is the time for which the GPU waits for its launch."""
        if self.graph is not None:
            self.graph.append(milliseconds)
        else:
            self.now += milliseconds + host


class Stream:
    def __init__(self, device):
        self.device = device

    def __enter__(self):
        self.device.log.append("other stream")

    def __exit__(self, *error):
        self.device.log.append("default stream")

    def synchronize(self):
        self.device.log.append("synchronize")

    def begin_capture(self):
        self.device.log.append("begin")
        self.device.graph = []

    def end_capture(self):
        self.device.log.append("end")
        recorded, self.device.graph = self.device.graph, None
        if self.device.capture_fails:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        return types.SimpleNamespace(launch=lambda: self.device.launch(sum(recorded)))


class Memory(np.ndarray):
    """Allocated memory that can be filled, as CuPy's."""

    def memset_async(self, value, size):
        self[:size] = value


def install(monkeypatch):
    """A module called cupy around NumPy, with events, streams, graphs and allocators; the benchmark in tiny cases."""
    found = Gpu()
    allocators = [lambda size: np.zeros(size, np.uint8).view(Memory)]

    class Event:
        def record(self):
            self.at = found.now

        def synchronize(self):
            pass

    @contextmanager
    def using_allocator(allocate):
        allocators.append(allocate)
        yield
        allocators.pop()

    def empty(shape, dtype):
        return (
            allocators[-1](int(np.prod(shape)) * np.dtype(dtype).itemsize).view(np.ndarray).view(dtype).reshape(shape)
        )

    def stream(non_blocking=False):
        assert non_blocking
        return Stream(found)

    stream.null = Stream(found)
    properties = {"name": b"a fake GPU"}
    cuda = types.SimpleNamespace(
        Event=Event,
        Stream=stream,
        get_elapsed_time=lambda start, stop: stop.at - start.at,
        using_allocator=using_allocator,
        runtime=types.SimpleNamespace(getDeviceProperties=lambda i: properties, driverGetVersion=lambda: 13000),
    )
    fake = types.ModuleType("cupy")
    fake.__dict__.update(
        cuda=cuda,
        asarray=np.asarray,
        empty=empty,
        get_default_memory_pool=lambda: types.SimpleNamespace(malloc=allocators[0]),
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(gpu.engines, "why_not", lambda name: None)
    monkeypatch.setattr(gpu, "cases", lambda quick: TINY)
    monkeypatch.setattr(gpu, "measure_ceilings", lambda: iter([("copy", {"rate": 1e6}), ("product", {"rate": 1e9})]))
    monkeypatch.setattr(gpu, "compute", lambda case, arrays: compute(found, case, arrays))
    monkeypatch.setattr(gpu, "MOST_COPIES", 3)
    monkeypatch.setattr(gpu, "FEWEST_DECODES", 1)
    return found


def compute(device, case, arrays):
    """The results by the definition; a kernel of 2 ms, for whose launch the GPU waits 1 ms."""
    device.launch(2.0, host=1.0)
    q, k, c, dz = arrays
    z, lse, saved = attention_forward(q, k, c, engine="reference")
    grads = attention_backward(dz, saved) if case.backward else ()
    return {"z": z, "lse": lse, **dict(zip(("dq", "dk", "dv"), grads, strict=bool(grads)))}


def spoil(monkeypatch, change, kind="forward"):
    """Let `change` modify the results of one kind of case."""
    right = gpu.compute

    def wrong(case, arrays):
        results = right(case, arrays)
        if case.kind == kind:
            change(results)
        return results

    monkeypatch.setattr(gpu, "compute", wrong)


def findings(**options):
    """What a run hands to `record`, and what it returns."""
    recorded = []
    figures = gpu.run(options.pop("against_torch", False), True, record=recorded.append, **options)
    return recorded, figures


def of(recorded, kind, what="check", contestant="cuda"):
    """The one finding of this kind of case and stage."""
    fits = {"what": what, "kind": kind, "contestant": contestant}
    (found,) = [one for one in recorded if fits.items() <= one.items()]
    return found


class Tensor:
    """What gpu_torch uses of PyTorch's tensors, around an array."""

    device = "fake"

    def __init__(self, x):
        self.x = x

    shape = property(lambda self: self.x.shape)

    def __getitem__(self, key):
        return Tensor(self.x[key])

    def requires_grad_(self, wanted):
        return self

    def expand(self, *sizes):
        return Tensor(np.broadcast_to(self.x, [n if m == -1 else m for m, n in zip(sizes, self.x.shape, strict=True)]))

    def sum(self, axis, keepdim):
        return Tensor(self.x.sum(axis, keepdims=keepdim))

    def detach(self):
        return self

    def float(self):
        return Tensor(self.x.astype(np.float32))

    def cpu(self):
        return self

    def numpy(self):
        return self.x


def install_torch(monkeypatch, device):
    """Modules called torch. Efficient attention wants equal heads, flash equal widths; cuDNN and flex always fail."""
    backend = []

    @contextmanager
    def sdpa_kernel(which):
        backend.append(which)
        yield
        backend.pop()

    def attention(q, k, v, is_causal, scale, enable_gqa):
        if backend[-1] == "cuDNN":
            raise TypeError  # neither a RuntimeError nor a message
        if backend[-1] == "flash" and q.shape[3] != v.shape[3]:
            raise RuntimeError("No available kernel")
        if backend[-1] == "efficient" and (enable_gqa or k.shape[1] != q.shape[1]):
            raise RuntimeError("No available kernel")
        assert is_causal == (q.shape[2] > 1)
        device.launch(1.0)
        z, _, found.saved = attention_forward(q.x, k.x, v.x, scale=scale, engine="reference")
        found.seen.append((backend[-1], k))
        return Tensor(z)

    def compiled(function, dynamic):
        raise ImportError("no triton\nno compiler")

    found = types.SimpleNamespace(seen=[])
    grad = types.SimpleNamespace(grad=lambda z, inputs, dz: [Tensor(x) for x in attention_backward(dz.x, found.saved)])
    waiting = types.SimpleNamespace(wait_stream=lambda other: None)
    cuda = types.SimpleNamespace(
        Stream=lambda: waiting,
        current_stream=lambda: waiting,
        stream=lambda stream: nullcontext(),
        CUDAGraph=lambda: types.SimpleNamespace(replay=lambda: device.launch(7.0)),
        graph=lambda graph: nullcontext(),
    )
    backends = {f"{name.upper()}_ATTENTION": name for name in ("flash", "efficient")}
    kinds = types.SimpleNamespace(**backends, CUDNN_ATTENTION="cuDNN")
    modules = {
        "torch": {"from_dlpack": Tensor, "autograd": grad, "compile": compiled, "cuda": cuda},
        "torch.nn": {},
        "torch.nn.functional": {
            "scaled_dot_product_attention": attention,
            "pad": lambda x, widths: Tensor(np.pad(x.x, [(0, 0)] * 3 + [widths])),
        },
        "torch.nn.attention": {"SDPBackend": kinds, "sdpa_kernel": sdpa_kernel},
        "torch.nn.attention.flex_attention": {
            "create_block_mask": lambda *sizes, device: sizes,
            "flex_attention": None,
        },
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(gpu_torch, "_tensor", Tensor)  # the fake has bfloat16, which the real one views as integers
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return found
