"""From a call of the engine to the driver: which arguments a launch passes, and what is made once and kept.

A fake takes the place of CuPy and of the GPU, so nothing here computes.
"""

import re
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest

from gta_cuda import resources

REASON = resources.why_not()
if REASON is not None:
    pytest.skip(f"the kernels cannot be compiled here: {REASON}", allow_module_level=True)

from cuda.core._kernel_arg_handler import ParamHolder  # noqa: E402
from numba.cuda import dispatcher as numba_dispatcher  # noqa: E402
from numba.cuda.cudadrv import driver as numba_driver  # noqa: E402

from gta_cuda import arrays, carried, engine, kernels, launch, launch_decode  # noqa: E402
from gta_cuda.catalog import catalog  # noqa: E402
from gta_cuda.forward_bf16 import Tile as TileBf16  # noqa: E402
from gta_cuda.kernels import COUNT, FLOATS, INTS, NUMBER, STRIDES, Kernel  # noqa: E402
from gta_cuda.tiles import Tile  # noqa: E402
from gta_ref.core import Mask  # noqa: E402
from gta_ref.ops.arrays import as_dtype  # noqa: E402
from tests.gta_cuda import fake_gpu  # noqa: E402

KERNELS = {kernel.name: kernel for kernel in catalog()}
SIZES = {"u64": 8, "u32": 4, "f32": 4}  # of a parameter, by its type in PTX


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(carried, "_chosen", None)
    monkeypatch.setattr(carried, "_asked", True)
    monkeypatch.setattr(arrays, "_bounds", {})
    prepared = {}  # the engine keeps its kernels; what a test has prepared for them ends with the test
    monkeypatch.setattr(Kernel, "_prepared", property(lambda kernel: prepared.setdefault(kernel, {})))
    monkeypatch.setattr(launch_decode, "_prepared", {})
    arrays._size.cache_clear()
    yield fake_gpu.install(monkeypatch)
    arrays._size.cache_clear()


def values(kernel, rng):
    """Arguments of a launch with large and negative numbers, and a scale that float32 rounds."""
    make = {
        NUMBER: lambda: float(rng.standard_normal()),
        COUNT: lambda: int(rng.integers(-(2**31), 2**31)),
        STRIDES: lambda: tuple(int(n) for n in rng.integers(0, 2**62, 9)),
    }
    found = [make.get(kind, lambda: int(rng.integers(0, 2**63)))() for kind in kernel.arguments]
    found[-1] = True  # mask.causal and dlse are passed as they are
    return found


def by_numba_itself(kernel, arguments):
    """The arguments as Numba's own launch converts them."""

    class Overload:
        extensions = ()
        _prepare_args = numba_dispatcher._Kernel._prepare_args

    found = []
    for kind, x in zip(kernel.arguments, arguments, strict=True):
        Overload()._prepare_args(kind, x, 0, [], found)
    return found


def parameters(kernel):
    """Sizes of the parameters of a kernel with these types, as its PTX declares them."""
    names = ", ".join(f"x{i}" for i in range(len(kernel.arguments)))
    empty = replace(kernel, function=eval(f"lambda {names}: None"))
    return [SIZES[kind] for kind in re.findall(r"\.param \.(\w+) ", resources.compile_ptx(empty, (9, 0, "a")))]


@pytest.mark.parametrize("name", KERNELS)
def test_the_bytes_of_all_arguments_are_those_of_numbas_own_launch(name, gpu, rng):
    kernel = replace(KERNELS[name])
    arguments = values(kernel, rng)
    holder = ParamHolder(by_numba_itself(kernel, arguments))
    sizes = parameters(kernel)
    assert len(sizes) == len(kernel.arguments) + 8 * (STRIDES in kernel.arguments)
    want = fake_gpu.read(holder.ptr, sizes)
    kernel._prepared[None] = carried.Loaded(None, 77, kernel)
    kernel.launch((1, 2, 3), 4, *arguments)
    assert fake_gpu.read(gpu.launches[0].arguments, sizes) == want


@pytest.mark.parametrize("name", KERNELS)
def test_numbers_for_cuda_core_have_the_bytes_of_numbas_own_launch(name, numbas, rng):
    kernel = replace(KERNELS[name])
    arguments = values(kernel, rng)
    kernel.launch((1, 2, 3), 0, *arguments)
    sizes = parameters(kernel)
    passed, own = ParamHolder(numbas.launches[0].arguments), ParamHolder(by_numba_itself(kernel, arguments))
    assert fake_gpu.read(passed.ptr, sizes) == fake_gpu.read(own.ptr, sizes)


@pytest.fixture
def numbas(monkeypatch, gpu):
    """Numba's internals as far as a launch uses them, without compiling: what they are asked is noted down."""
    found = SimpleNamespace(launches=[], attributes=[], configurations=0, own=[])
    function = SimpleNamespace(kernel="code", handle="handle", device=SimpleNamespace(id=0))
    found.library = SimpleNamespace(get_cufunc=lambda: function)

    class Dispatcher:
        @property
        def overloads(self):
            return {(): SimpleNamespace(library=found.library)}

        def __getitem__(self, configuration):
            return lambda *arguments: found.own.append((configuration, arguments))

    def configure(grid, block, shmem_size):
        found.configurations += 1
        return grid, block, shmem_size

    def launched(stream, configuration, code, *arguments):
        assert code == "code"
        found.launches.append(SimpleNamespace(stream=stream, configuration=configuration, arguments=arguments))

    monkeypatch.setattr(Kernel, "compiled", Dispatcher())
    monkeypatch.setattr(numba_dispatcher, "launch", launched)
    monkeypatch.setattr(numba_dispatcher, "LaunchConfig", configure)
    monkeypatch.setattr(
        numba_driver, "ExperimentalStream", SimpleNamespace(from_handle=lambda handle: ("stream", handle))
    )
    asked_of_the_driver = SimpleNamespace(cuKernelSetAttribute=lambda *asked: found.attributes.append(asked))
    monkeypatch.setattr(numba_driver, "driver", asked_of_the_driver)
    return found


def small_kernel(shared=0):
    return Kernel("small", lambda x, strides, n: None, (FLOATS, STRIDES, COUNT), 96, key="small", shared=shared)


STRIDES_9 = tuple(range(9))


def test_grid_block_and_stream_are_passed_to_the_driver(gpu):
    kernel = small_kernel()
    kernel._prepared[None] = carried.Loaded(None, 77, kernel)
    kernel.launch((5, 6, 7), 1234, 1, STRIDES_9, 3)
    one = gpu.launches[0]
    assert (one.handle, one.grid, one.threads, one.shared, one.stream) == (77, (5, 6, 7), 96, 0, 1234)


def test_grid_block_and_stream_are_passed_to_cuda_core(numbas):
    kernel = small_kernel()
    for _ in range(3):
        kernel.launch((5, 6, 7), 1234, 1, STRIDES_9, 3)
    assert numbas.launches[0].configuration == ((5, 6, 7), (96, 1, 1), 0)
    assert numbas.launches[0].stream == ("stream", 1234)
    assert len(numbas.launches) == 3
    assert numbas.configurations == 1  # kept from launch to launch


def test_numbas_own_launch_is_used_if_its_internals_are_other_ones(numbas, monkeypatch):
    numbas.library = SimpleNamespace()
    monkeypatch.setattr(kernels.cuda, "external_stream", lambda handle: ("external", handle))
    kernel = small_kernel()
    kernel.launch((5, 6, 7), 1234, 1, STRIDES_9, 3)
    kernel.launch((5, 6, 7), 0, 1, STRIDES_9, 3)
    assert numbas.own == [
        (((5, 6, 7), 96, ("external", 1234)), (1, STRIDES_9, 3)),
        (((5, 6, 7), 96, 0), (1, STRIDES_9, 3)),
    ]
    with pytest.raises(NotImplementedError, match="small: this version of numba-cuda cannot be asked for"):
        small_kernel(1).launch((1, 1, 1), 0, 1, STRIDES_9, 3)


@pytest.mark.parametrize("shared", [0, 100_000])
def test_numba_is_told_of_dynamic_shared_memory_exactly_if_a_kernel_asks_for_it(shared, numbas):
    kernel = small_kernel(shared)
    for _ in range(2):
        kernel.launch((1, 1, 1), 0, 1, STRIDES_9, 3)
    most = numba_driver.binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert numbas.attributes == ([(most, 100_000, "handle", 0)] if shared else [])
    assert numbas.launches[0].configuration == ((1, 1, 1), (96, 1, 1), shared)


def test_two_threads_do_not_mix_their_arguments(gpu):
    kernel = small_kernel()
    kernel._prepared[None] = carried.Loaded(None, 77, kernel)
    read, want = [], [(n, n) for n in range(8)]
    sizes = [8] * 10 + [4]

    def driver(*asked):
        time.sleep(0.01)  # the driver lets other threads run
        found = fake_gpu.read(asked[9], sizes)
        read.append((int.from_bytes(found[0], "little"), int.from_bytes(found[-1], "little")))

    kernel._prepared[None].call = driver
    threads = [threading.Thread(target=kernel.launch, args=((1, 1, 1), 0, n, STRIDES_9, n)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == want


def test_a_number_that_does_not_fit_into_32_bits_is_refused(gpu):
    kernel = small_kernel()
    kernel._prepared[None] = carried.Loaded(None, 77, kernel)
    with pytest.raises(struct.error):
        kernel.launch((1, 1, 1), 0, 1, STRIDES_9, 2**31)
    assert not gpu.launches


def inputs(gpu, n_queries, dtype, offset=0):
    shapes = (2, 5, n_queries, 64), (2, 1, 300, 64), (2, 1, 300, 128)
    return [gpu.array(shape, as_dtype(dtype), offset) for shape in shapes]


@pytest.mark.parametrize("dtype, n_queries", [("float32", 1), ("float32", 70), ("bfloat16", 1), ("bfloat16", 70)])
def test_the_bounds_are_copied_once(dtype, n_queries, gpu, numbas):
    """Each call gets a mask of its own with the same values, as a model makes one for each batch."""
    calls = []
    for _ in range(2):
        engine.run(*inputs(gpu, n_queries, dtype), Mask(k_start=[0, 7]), 0.125)
        calls.append([one.arguments for one in numbas.launches])
        numbas.launches.clear()
    assert len(gpu.copies) == 1
    first = 300 - n_queries
    np.testing.assert_array_equal(gpu.copies[0], [first, first, 0, 7, 300, 300])
    bounds = [call[0][5] for call in calls]  # the sixth pointer
    assert bounds[0] == bounds[1]


def test_a_call_after_a_warm_up_can_be_captured(gpu, numbas):
    """It copies nothing; without the warm-up, the message says what to do."""
    call = (*inputs(gpu, 1, "bfloat16"), Mask(), 0.125)
    gpu.capturing = True
    with pytest.raises(RuntimeError, match=r"run the same call once on this stream before the capture$"):
        engine.run(*call)
    gpu.capturing = False
    engine.run(*call)
    gpu.capturing = True
    engine.run(*call)
    assert len(gpu.copies) == 1


def test_other_bounds_are_other_arrays(gpu):
    like = gpu.array((1,), np.float32)

    def made(mask, batch=2, n_queries=1, n_keys=9, stream=0):
        return arrays.bounds(mask, batch, n_queries, n_keys, like, stream).data.ptr

    usual = made(Mask())
    assert made(Mask(causal=False)) == usual  # the kernels have an argument for that
    assert made(Mask(k_start=[0, 0])) != usual
    assert made(Mask(k_start=1)) != usual
    assert made(Mask(k_stop=[9, 8])) != made(Mask(k_stop=[8, 9]))
    assert len({made(Mask()), made(Mask(), batch=3), made(Mask(), n_queries=2), made(Mask(), n_keys=8)}) == 4
    assert made(Mask(), stream=5) != usual  # a copy on one stream is not ordered with work on another


def test_only_the_last_bounds_are_kept(gpu, monkeypatch):
    monkeypatch.setattr(arrays, "MOST_BOUNDS", 3)
    like = gpu.array((1,), np.float32)
    for n in (1, 2, 3, 4, 4, 1):
        arrays.bounds(Mask(), 1, 1, n, like, 0)
    assert len(gpu.copies) == 5
    assert len(arrays._bounds) == 3


def test_the_size_of_the_gpu_is_asked_once(gpu):
    import cupy

    asked, device = [], cupy.cuda.Device
    cupy.cuda.Device = lambda number: asked.append(number) or device(number)
    assert [arrays.multiprocessors(gpu.array((1,), np.float32)) for _ in range(3)] == [132] * 3
    assert asked == [0]


@pytest.mark.parametrize(
    "n_queries, n_keys, dtype, idle",
    [
        (60, 8192, "bfloat16", True),  # 5 blocks of 128 queries on 132 multiprocessors
        (60, 8192, "float32", True),
        (8192, 8192, "bfloat16", False),  # 320 blocks
        (60, 512, "bfloat16", False),  # too few keys to cut
    ],
)
def test_a_chunk_over_a_long_cache_cuts_its_keys(gpu, n_queries, n_keys, dtype, idle):
    shapes = (1, 5, n_queries, 64), (1, 1, n_keys, 64), (1, 1, n_keys, 128)
    q, k, v = (gpu.array(shape, as_dtype(dtype)) for shape in shapes)
    assert launch.leaves_idle(q, k) == idle
    assert launch.takes_decode(q, k, v, engine.MOST_SPLIT_ROWS if idle else engine.MOST_DECODE_ROWS) == idle


def addresses(numbas):
    """The addresses that each launch was given so far, without those of results and parts."""
    return [[int(x) for i, x in enumerate(one.arguments[:6]) if i not in (3, 4)] for one in numbas.launches]


def test_a_decode_is_prepared_once_per_layout(gpu, numbas, monkeypatch):
    made, prepare = [], launch.prepare
    monkeypatch.setattr(launch, "prepare", lambda *given: made.append(given) or prepare(*given))
    q, k, v = inputs(gpu, 1, "bfloat16")
    first = engine.run(q, k, v, Mask(), 0.125)
    other = inputs(gpu, 1, "bfloat16")
    again = engine.run(*other, Mask(), 0.125)
    assert len(made) == 1
    assert [x.shape for x in first] == [x.shape for x in again] == [(2, 5, 1, 128), (2, 5, 1)]
    assert [x.dtype for x in again] == [q.dtype, np.float32]
    decodes = addresses(numbas)[:: len(numbas.launches) // 2]
    assert decodes[0][:3] == [x.data.ptr for x in (q, k, v)]
    assert decodes[1][:3] == [x.data.ptr for x in other]
    for changed, (arguments, mask, scale) in enumerate(
        [
            (inputs(gpu, 1, "bfloat16", offset=2), Mask(), 0.125),  # no longer aligned to 16 bytes
            (inputs(gpu, 1, "bfloat16"), Mask(causal=False), 0.125),
            (inputs(gpu, 1, "bfloat16"), Mask(), 0.25),
            (inputs(gpu, 1, "float32"), Mask(), 0.125),
            (inputs(gpu, 2, "bfloat16"), Mask(), 0.125),
        ],
        2,
    ):
        for _ in range(2):
            engine.run(*arguments, mask, scale)
        assert len(made) == changed
    q.strides = (0, *q.strides[1:])
    engine.run(q, k, v, Mask(), 0.125)
    assert len(made) == 7


def test_a_prepared_decode_reads_the_bounds_of_its_mask(gpu, numbas):
    """They are no part of what is prepared: a mask may change from call to call, and each stream has its own copy."""
    call = inputs(gpu, 1, "bfloat16")
    for mask, stream in ((Mask(), 0), (Mask(k_start=[0, 7]), 0), (Mask(), 5), (Mask(), 0)):
        gpu.stream = stream
        engine.run(*call, mask, 0.125)
    assert len(launch_decode._prepared) == 1
    decodes = numbas.launches[:: len(numbas.launches) // 4]
    usual, padded, elsewhere, last = (int(one.arguments[5]) for one in decodes)
    assert usual == last
    assert len({usual, padded, elsewhere}) == 3
    assert [one.stream for one in decodes] == [("stream", n) for n in (0, 0, 5, 0)]


def test_what_had_to_be_converted_is_not_prepared(gpu, numbas):
    """The arrays of such a call are new ones each time, and its result has to be converted back."""
    engine.run(*inputs(gpu, 1, "float16"), Mask(), 0.125)
    assert not launch_decode._prepared


def test_only_the_last_prepared_decodes_are_kept(gpu, numbas, monkeypatch):
    monkeypatch.setattr(launch_decode, "MOST_PREPARED", 3)
    call = inputs(gpu, 1, "bfloat16")
    for n in range(1, 6):
        engine.run(*call, Mask(), n / 8)
    assert [key[8] for key in launch_decode._prepared] == [3 / 8, 4 / 8, 5 / 8]


def test_the_parts_of_all_splits_are_one_piece_of_memory(gpu, numbas):
    shapes = (1, 5, 1, 64), (1, 1, 8192, 64), (1, 1, 8192, 128)
    z, lse = engine.run(*(gpu.array(shape, as_dtype("bfloat16")) for shape in shapes), Mask(), 0.125)
    decode, merge = (one.arguments for one in numbas.launches)
    splits = int(merge[5])
    assert splits == numbas.launches[0].configuration[0][2] == 64
    assert int(decode[4]) - int(decode[3]) == 4 * splits * 5 * 128
    assert tuple(int(x) for x in merge[:4]) == (int(decode[3]), int(decode[4]), z.data.ptr, lse.data.ptr)
    *_, quads, lanes = (int(x) for x in merge)
    assert numbas.launches[1].configuration[0] == (5, 128 // (4 * quads), 1)
    assert quads * lanes == 128


def test_layout(gpu):
    x, y = gpu.array((2, 3, 5, 8), np.float32), gpu.array((2, 1, 7, 8), np.float32)
    strides, wide = arrays.layout(x, y)
    assert strides == (120, 40, 8, 56, 56, 8)
    assert wide
    assert not arrays.layout(x, gpu.array((2, 1, 7, 8), np.float32, offset=4))[1]
    assert not arrays.layout(gpu.array((2, 1, 7, 6), np.float32), x)[1]


def test_a_launch_reads_addresses_and_strides_from_the_arrays(gpu, numbas):
    q, k, v = inputs(gpu, 70, "float32")
    z, lse = launch.forward(q, k, v, Mask(), 0.125)
    passed = numbas.launches[0].arguments
    assert passed[:5] == tuple(x.data.ptr for x in (q, k, v, z, lse))
    strides = [stride // 4 for x in (q, k, v) for stride in x.strides[:3]]
    assert list(passed[6:15]) == strides
    assert [type(x) for x in passed[15:]] == [np.float32] + [np.int32] * 5
    assert passed[15:] == (0.125, 5, 5, 5, 70, 1)


def test_what_decides_the_machine_code_is_in_the_key():
    tile, tile_bf16 = Tile(8, 8, 4, 4), TileBf16(32, 16)
    made = [
        *(
            launch.forward_kernel(*a)
            for a in ((64, 128, True), (64, 128, False), (128, 64, True), (64, 128, True, tile))
        ),
        *(launch.forward_bf16_kernel(64, 128, w, t) for w in (True, False) for t in (TileBf16.of(64), tile_bf16)),
        *(launch.delta_kernel(*a) for a in ((128,), (64,), (128, 1))),
        *(launch.backward_queries_kernel(64, 128, *a) for a in ((True,), (False,), (True, tile))),
        *(launch.backward_keys_kernel(64, 128, *a) for a in ((True,), (False,), (True, tile))),
        *(launch.decode_kernel(64, 128, *a) for a in ((True, 5), (False, 5), (True, 4), (True, 5, 2))),
        *(launch.merge_kernel(*a) for a in ((128, True), (128, False), (64, False), (128, False, 64))),
        *(launch.decode_bf16_kernel(64, 128, *a) for a in ((True, 4, True), (True, 4, False), (False, 4, True))),
        launch.decode_bf16_kernel(64, 128, True, 2, True),
        *KERNELS.values(),
    ]
    by_key = {}
    for kernel in made:
        assert re.fullmatch(r"[a-z0-9_-]+", kernel.key)
        assert by_key.setdefault(kernel.key, kernel) is kernel
    assert launch.forward_bf16_kernel(64, 128, True, TileBf16.of(64)).key == "forward_bf16-64-128-wide-64x128x2x4"


def test_bounds_are_an_argument_of_int32():
    assert all(kernel.arguments.count(INTS) == (STRIDES in kernel.arguments) for kernel in KERNELS.values())


WITHOUT_ROW_STACK = """
import numpy as np
del np.row_stack
from gta_cuda import carried, engine, needs
from gta_cuda.kernels import FLOATS, Kernel, by_numba
kernel = Kernel("small", lambda x: None, (FLOATS,), 32, key="small-1")
for folder in (None, FOLDER):
    carried.use(folder)
    print(engine._no_code())
    try:
        by_numba(kernel)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


def test_a_numpy_without_row_stack_is_named(tmp_path):
    """As NumPy 2.5 is. Then numba-cuda 0.30.4 fails deep inside its compiler."""
    (tmp_path / carried.MANIFEST).write_text("{}", encoding="utf-8")
    program = WITHOUT_ROW_STACK.replace("FOLDER", repr(str(tmp_path)))
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    if metadata.version("numba-cuda") != "0.30.4":
        pytest.skip("another version of numba-cuda may not need the name")
    why = (
        f"numba-cuda 0.30.4 cannot compile with NumPy {np.__version__}, which has no np.row_stack: "
        "install numpy<2.5, or use carried machine code (GTA_CUDA_PACK)"
    )
    assert ran.stdout.splitlines() == [
        why,
        f"EngineError: {why}",
        "None",
        f"EngineError: {tmp_path} has no machine code for small-1, and {why}",
    ]
