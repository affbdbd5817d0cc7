"""Every kernel is compiled for sm_80, sm_90 and sm_90a without a GPU, to check its resources and its use of tensor cores.

The numbers are those of `gta-ref doctor --kernels`; on a GPU of capability 9.0, Numba compiles for sm_90a.
"""

import dataclasses

import pytest

from gta_cuda import resources

REASON = resources.why_not()
if REASON is not None:
    pytest.skip(f"the kernels cannot be compiled here: {REASON}", allow_module_level=True)

from gta_cuda.catalog import catalog, engine_kernels  # noqa: E402
from gta_cuda.kernels import MOST_SHARED  # noqa: E402

ARCHITECTURES = {resources.architecture(capability): capability for capability in resources.SYSTEM_SHARED}
KERNELS = {kernel.name: kernel for kernel in catalog()}
# bytes of shared memory per block, by hand; the K slab, 32·68, and the weights, 64·36, share a place in float32 kernels
SHARED = {
    "step 1: naive": 0,
    "step 2: tiles": 4 * 32 * 128,
    "step 3: online": 4 * 32 * (64 + 128),
    "step 5a: mma": 2 * 64 * (64 + 128),
    "step 5b: ldmatrix": 2 * 64 * (64 + 128),
    "step 5c: swizzle": 2 * 64 * (64 + 128),
    "step 5d: async": 2 * 2 * 64 * (64 + 128),
    # the queries, and a weight of each row for each key of a tile; in step 4 also what the threads add up
    "decode step 1: naive": 4 * (64 + 128),
    "decode step 2: split": 4 * (64 + 128),
    "decode step 3: rows": 4 * 5 * (64 + 128),
    "decode step 4: wide": 4 * (5 * (64 + 32) + 4 * 128),
    "decode step 2: merge": 0,
    "forward": 4 * (32 * 68 + 32 * 68 + 32 * 128),
    "backward: delta": 0,
    "backward: dQ": 4 * (64 * 68 + 64 * 36 + 32 * 64),
    "backward: dK, dV": 4 * (64 * 68 + 64 * 36 + 32 * 128),
    "backward: sum": 0,
    "backward_bf16: delta": 0,
    "backward_bf16: dQ": 2 * 2 * 64 * (64 + 128),
    "backward_bf16: dK, dV": 4 * 2 * 2 * 64,  # lse and delta; the tiles are in dynamic memory
    "backward_bf16: sum": 0,
    # of 5 rows: queries; of 4 warps: weights of 8 keys and up to 8 rows; of both: two states, results
    "decode": 4 * (5 * 64 + 4 * 8 * 8 + 4 * 5 * (2 + 128)),
    "merge": 4 * 6 * 128,  # of each thread: maximum, sum and 4 columns
    "forward_bf16": 0,  # its tiles are in dynamic memory
    "decode_bf16": 2 * 2 * 4 * 16 * (64 + 128),
    "decode_bf16 to z": 2 * 2 * 4 * 16 * (64 + 128),  # for a single split
    "merge to bf16": 4 * 6 * 128,
    "forward_wgmma": 0,  # its tiles are in dynamic memory
}
# the first steps of the ladder use local memory on purpose; so does step 4 of the decode's ladder on sm_80, where
# shuffles inside a loop are subroutine calls
SPILL = {("step 2: tiles", None), ("step 3: online", None), ("step 5a: mma", None), ("decode step 4: wide", "sm_80")}
# most registers per thread with which enough blocks fit on a multiprocessor
REGISTERS = {"forward": 168, "backward: delta": 64, "merge": 64, "merge to bf16": 64}


# bytes of dynamic shared memory per block; a block can have 99 KiB of both kinds on the smallest of the GPUs from sm_80
DYNAMIC = {"forward_bf16": 2 * 2 * 128 * (64 + 128), "forward_wgmma": 2 * 3 * 64 * (64 + 128)}
# the kernels of the ladders, which compile slowly, are compiled for one or two of the architectures only
MEASURED = [
    (name, architecture)
    for name, kernel in KERNELS.items()
    for architecture, capability in ARCHITECTURES.items()
    if resources.compiles_for(kernel, capability)
    and ("step" not in name or architecture == "sm_90a" or (name == "decode step 4: wide" and architecture == "sm_80"))
]


def test_dynamic_memory():
    for name, needed in DYNAMIC.items():
        assert KERNELS[name].shared == needed <= 99 * 1024


def test_the_table_is_complete():
    assert set(KERNELS) == set(SHARED)


def test_every_kernel_is_measured_for_the_gpus_of_today():
    assert {name for name, architecture in MEASURED if architecture == "sm_90a"} == set(KERNELS)
    assert [one for one in MEASURED if one[0] == "forward_wgmma"] == [("forward_wgmma", "sm_90a")]
    assert KERNELS["forward_wgmma"].only == (9, 0, "a")


def test_the_table_has_what_compiles(monkeypatch):
    """Each kernel for all three capabilities, except the one with wgmma."""
    monkeypatch.setattr(resources, "measure", lambda kernel, capability: (kernel.name, capability))
    found = resources.table()
    for name in KERNELS:
        wanted = [(9, 0, "a")] if name == "forward_wgmma" else [(8, 0), (9, 0), (9, 0, "a")]
        assert [capability for kernel, capability in found if kernel == name] == wanted


@pytest.mark.parametrize("name, architecture", MEASURED)
def test_resources(name, architecture):
    kernel = KERNELS[name]
    needs = resources.measure(kernel, ARCHITECTURES[architecture])
    assert needs["arch"] == architecture
    assert needs["shared"] == SHARED[name] <= MOST_SHARED
    assert needs["registers"] <= min(REGISTERS.get(name, 255), kernel.most_registers)
    if SPILL & {(name, None), (name, architecture)}:
        assert needs["stack"] > 0
    else:
        assert (needs["spills"], needs["stack"]) == (0, 0)
        assert not needs["local"]  # None if nvdisasm is missing
    if needs["hmma"] is not None:
        assert (needs["hmma"] > 0) == kernel.tensor_cores


@pytest.mark.parametrize(
    "kernel", engine_kernels(33, 17, wide=False, rows=3), ids=lambda kernel: f"{kernel.name}, 33 and 17 wide"
)
def test_widths_without_16_byte_loads(kernel):
    needs = resources.measure(kernel, (9, 0, "a"))
    assert (needs["spills"], needs["stack"]) == (0, 0)
    assert needs["shared"] <= MOST_SHARED


def test_what_does_not_fit_is_seen():
    """The measurement detects a spill: the tensor-core kernel spills if it has 128 registers less."""
    kernel = KERNELS["forward_bf16"]
    squeezed = type(kernel)(kernel.name, kernel.function, kernel.arguments, kernel.threads, blocks=2)
    needs = resources.measure(squeezed, (9, 0))
    assert needs["registers"] <= 128
    assert needs["spills"] > 0
    assert needs["stack"] > 0
    assert needs["local"] is None or needs["local"] > 0


def test_a_capability_that_is_not_known():
    with pytest.raises(ValueError, match=r"capability=\(7, 5\) must be one of \(8, 0\), \(9, 0\), \(9, 0, 'a'\)$"):
        resources.measure(KERNELS["merge"], (7, 5))


def test_what_numba_launches_is_what_is_measured(monkeypatch):
    """On a GPU of capability 9.0, Numba's launch compiles the kernel for sm_90a, to the code that `measure` sees."""
    from types import SimpleNamespace

    from numba.cuda import codegen, dispatcher

    device = SimpleNamespace(compute_capability=(9, 0), id=0)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    monkeypatch.setattr(codegen.devices, "get_context", lambda number=None: SimpleNamespace(device=device))
    monkeypatch.setattr(dispatcher._Kernel, "bind", lambda kernel: kernel._codelibrary.get_cubin())
    kernel = KERNELS["merge"]
    library = next(iter(dataclasses.replace(kernel).compiled.overloads.values())).library
    assert list(library._cubin_cache) == [(9, 0, "a")]
    launched = resources.instructions(bytes(library.get_cubin(cc=(9, 0, "a")).code))
    assert launched == resources.instructions(resources.compile_kernel(kernel, (9, 0, "a"))[0])
