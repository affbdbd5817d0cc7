"""Machine code that is built here and loaded elsewhere: what is built, how it is found, and what is said if it fails."""

import json
import os
import subprocess
import sys

import pytest

from gta_cuda import resources

REASON = resources.why_not()
if REASON is not None:
    pytest.skip(f"the kernels cannot be compiled here: {REASON}", allow_module_level=True)

import numpy as np  # noqa: E402

from gta_cuda import carried, engine, kernels, launch, pack  # noqa: E402
from gta_cuda.catalog import catalog, engine_kernels  # noqa: E402
from gta_cuda.kernels import MOST_SHARED, Kernel  # noqa: E402
from gta_ref.core import EngineError, Mask  # noqa: E402
from gta_ref.ops.arrays import as_dtype  # noqa: E402
from tests.gta_cuda import fake_gpu  # noqa: E402

BUILT = ("delta-128-4", "merge-128-128")  # the two that compile fastest


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A pack with two kernels."""
    folder = tmp_path_factory.mktemp("pack") / "new"
    size = pack.build(folder, small=True, keys=BUILT)
    assert size == sum(path.stat().st_size for path in folder.glob("*.cubin"))
    return folder


@pytest.fixture
def folder(built, tmp_path):
    """A copy of it that a test may damage."""
    for path in built.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(carried, "_chosen", None)
    monkeypatch.setattr(carried, "_asked", False)
    monkeypatch.delenv("GTA_CUDA_PACK", raising=False)
    prepared = {}
    monkeypatch.setattr(Kernel, "_prepared", property(lambda kernel: prepared.setdefault(kernel, {})))
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def by_numba(monkeypatch):
    """The kernels that are left to Numba, which is not called."""
    found = []

    def prepare(kernel):
        return lambda *launched: found.append(kernel.key)

    monkeypatch.setattr(kernels, "by_numba", prepare)
    return found


def launch_delta(warps=4):
    launch.delta_kernel(128, warps).launch((1, 1, 1), 0, 1, 2, 3, 4, 5, False)


# ---- what is built


def test_the_manifest_describes_the_files(built):
    manifest = json.loads((built / "manifest.json").read_text())
    assert list(manifest) == list(BUILT)
    files = {one["file"] for about in manifest.values() for one in about["arch"].values()}
    assert {path.name for path in built.iterdir()} == {*files, "manifest.json"}  # and no temporary file is left
    delta = launch.delta_kernel(128)
    about = manifest[delta.key]
    assert (about["name"], about["threads"], about["sources"]) == (delta.name, delta.threads, carried.sources())
    assert list(about["arch"]) == ["sm_80", "sm_90a"]
    for name, one in about["arch"].items():
        assert one["file"] == f"delta-128-4.{name}.cubin"
        code = (built / one["file"]).read_bytes()
        assert code[:4] == b"\x7fELF"
        assert one["entry"].encode() + b"\0" in code
        measured = resources.measure(delta, pack.ARCHITECTURES[name])
        assert {what: one[what] for what in ("registers", "spills", "stack", "shared")} == {
            what: measured[what] for what in ("registers", "spills", "stack", "shared")
        }


def test_the_machine_code_is_for_the_architecture_of_its_name(built):
    for name, number in (("sm_80", 80), ("sm_90a", 90)):
        code = (built / f"delta-128-4.{name}.cubin").read_bytes()
        flags = int.from_bytes(code[48:52], "little")  # of an ELF header; its second byte is the architecture's number
        assert flags >> 8 & 0xFF == number


def test_a_build_that_fails_leaves_the_old_pack(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KeyError):
        pack.build(folder, ("sm_90a",), small=True, keys=("no such kernel",))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_kernels_of_the_catalog_are_in_the_small_pack():
    small = pack.engine_kernels((pack.GTA_1B,))
    assert set(small) >= {kernel.key for kernel in engine_kernels()}
    assert not set(small) & {kernel.key for kernel in catalog() if "step" in kernel.name}


# sizes as in test_gpu.py: (B, n_q, n_k, n_v, N_q, N_k, d_k, d_v)
CASES = {
    "GTA-1B": (2, 5, 1, 1, 200, 200, 64, 128),
    "GTA-1B, decode": (3, 5, 1, 1, 1, 1500, 64, 128),
    "GTA-1B, three queries": (1, 5, 1, 1, 3, 700, 64, 128),
    "other numbers of heads": (1, 20, 2, 5, 3, 700, 64, 128),
    "GTA4, decode": (1, 10, 1, 1, 1, 700, 64, 256),
    "GQA-1B": (1, 20, 5, 5, 70, 150, 64, 64),
    "GQA-1B, decode": (1, 20, 5, 5, 1, 150, 64, 64),
    "MLA, absorbed": (1, 4, 1, 1, 33, 40, 576, 512),
    "MLA, absorbed, decode": (1, 4, 1, 1, 1, 4000, 576, 512),
    "odd widths": (1, 4, 2, 1, 67, 99, 33, 150),
    "odd widths, decode": (1, 4, 2, 1, 1, 99, 33, 150),
}


@pytest.fixture(scope="module")
def everything():
    return pack.engine_kernels()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_what_the_engine_launches_at_these_widths_is_in_the_pack(case, dtype, everything):
    batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v = CASES[case]
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    q, k, v = (np.zeros(shape, as_dtype(dtype)) for shape in shapes)
    with pack.noted() as kernels, np.errstate(all="ignore"):
        z, lse = engine.run(q, k, v, Mask(), 0.1)
        engine.run_backward(np.zeros_like(z), engine.State(q, k, v, z, lse, Mask(), 0.1, False), None)
    assert kernels
    assert set(kernels) <= set(everything)


def test_the_pack_has_what_it_says(everything):
    names = {kernel.name for kernel in everything.values()}
    assert names == {kernel.name for kernel in engine_kernels()}
    rows = {key for key in everything if key.startswith("decode-64-128-wide-")}
    assert rows == {f"decode-64-128-wide-{n}x4" for n in range(1, 9)}  # more than 8 rows are several blocks
    widths = {key.partition("-")[2].rpartition("-")[0] for key in everything if key.startswith("forward_bf16-")}
    assert widths == {"64-128-wide", "64-128", "64-64-wide", "64-256-wide", "33-150"}  # d_k <= 256


@pytest.mark.parametrize("key", ["decode-64-128-5x4", "forward_bf16-64-256-wide-64x128x2x4", "decode-576-512-wide-2x4"])
def test_other_kernels_of_the_pack_do_not_spill_where_they_are_to_run(key, everything):
    needs = resources.measure(everything[key], (9, 0, "a"))
    assert (needs["spills"], needs["stack"]) == (0, 0)
    assert needs["shared"] <= MOST_SHARED


def run_pack(*arguments, **environment):
    command = [sys.executable, "-m", "gta_cuda.pack", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_the_command_refuses_what_it_cannot_build(tmp_path):
    done = run_pack(tmp_path, "--arch", "sm_75")
    assert done.returncode == 2
    assert "'sm_75' (choose from" in done.stderr
    done = run_pack(tmp_path, NUMBA_ENABLE_CUDASIM="1")
    assert done.returncode == 2
    assert done.stderr.startswith("the kernels cannot be compiled here: NUMBA_ENABLE_CUDASIM=1 is set")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_counts_and_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pack, "build", lambda folder, names, small: 12_345 if small else 10**8)
    assert pack.main([str(tmp_path), "--small"]) == 0
    assert f"{len(pack._kernels(True))} kernels, 12,345 bytes, 0 s" in capsys.readouterr().out
    assert pack.main([str(tmp_path)]) == 1
    assert "the machine code has 100,000,000 bytes; expected 10,000,000 at most" in capsys.readouterr().err


# ---- how it is used


def test_a_kernel_is_loaded_once_from_its_file(folder, gpu, by_numba):
    carried.use(folder)
    for _ in range(3):
        launch_delta()
    entry = json.loads((folder / "manifest.json").read_text())["delta-128-4"]["arch"]["sm_90a"]["entry"]
    assert gpu.loaded == [(str(folder / "delta-128-4.sm_90a.cubin"), entry)]
    assert [(one.handle, one.threads) for one in gpu.launches] == [(77, 128)] * 3
    assert gpu.attributes == []
    assert by_numba == []


def test_a_kernel_that_is_not_in_the_pack_is_left_to_numba(folder, gpu, by_numba):
    carried.use(folder)
    launch_delta(warps=2)
    assert by_numba == ["delta-128-2"]
    assert gpu.launches == []


def test_a_gpu_without_code_in_the_pack_is_left_to_numba(folder, gpu, by_numba):
    import cupy

    carried.use(folder)
    cupy.cuda.Device().compute_capability = "100"
    launch_delta()
    assert by_numba == ["delta-128-4"]


@pytest.mark.parametrize(
    "capability, built, expected",
    [
        ("90", ["sm_80", "sm_90a"], "sm_90a"),
        ("90", ["sm_90", "sm_80"], "sm_90"),
        ("89", ["sm_80", "sm_90a"], "sm_80"),
        ("80", ["sm_86", "sm_90a"], None),
        ("100", ["sm_80", "sm_90a"], None),
        ("120", ["sm_120a"], "sm_120a"),
    ],
)
def test_which_machine_code_a_gpu_can_run(capability, built, expected):
    assert next((name for name in carried.architectures(capability) if name in built), None) == expected


def test_the_environment_names_the_folder(folder, gpu, by_numba, monkeypatch):
    monkeypatch.setenv("GTA_CUDA_PACK", str(folder))
    launch_delta()
    assert len(gpu.launches) == 1
    carried.use(None)
    launch_delta()
    assert by_numba == ["delta-128-4"]
    carried.use(folder)
    launch_delta()
    assert len(gpu.launches) == 2


def test_without_a_folder_numba_compiles(gpu, by_numba):
    launch_delta()
    assert by_numba == ["delta-128-4"]


@pytest.mark.parametrize("shared", [0, 100_000])
def test_the_driver_is_told_of_dynamic_shared_memory_exactly_if_a_kernel_asks_for_it(shared, folder, gpu):
    carried.use(folder)
    delta = launch.delta_kernel(128)
    kernel = Kernel(delta.name, delta.function, delta.arguments, delta.threads, key=delta.key, shared=shared)
    for _ in range(2):
        kernel.launch((1, 1, 1), 0, 1, 2, 3, 4, 5, False)
    assert [value for _, value in gpu.attributes] == ([100_000] if shared else [])
    assert [one.shared for one in gpu.launches] == [shared] * 2


# ---- what is said if it fails


def refused(action):
    with pytest.raises(EngineError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda code: code[:-7], lambda code: code[:99] + b"?" + code[100:], lambda code: b""]
)
def test_a_damaged_file_is_named(damage, folder, gpu):
    path = folder / "delta-128-4.sm_90a.cubin"
    path.write_bytes(damage(path.read_bytes()))
    carried.use(folder)
    assert refused(launch_delta).startswith(f"{path} is damaged: its ")
    assert gpu.launches == []


def test_a_missing_file_is_named(folder, gpu):
    path = folder / "delta-128-4.sm_90a.cubin"
    path.unlink()
    carried.use(folder)
    assert refused(launch_delta) == f"{path} cannot be read: No such file or directory"


def test_code_for_another_architecture_is_named(folder, gpu):
    carried.use(folder)
    gpu.fault = "CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available for execution on the device\nand more"
    assert refused(launch_delta) == (
        f"{folder / 'delta-128-4.sm_90a.cubin'} cannot be loaded: "
        "CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available for execution on the device"
    )


def test_a_folder_that_is_no_pack_is_named(tmp_path):
    path = tmp_path / "manifest.json"
    assert refused(lambda: carried.use(tmp_path)) == f"{path} cannot be read: No such file or directory"
    path.write_text("{")
    assert refused(lambda: carried.use(tmp_path)).startswith(f"{path} cannot be read: Expecting ")


def test_a_pack_of_other_sources_is_refused(folder, gpu, monkeypatch):
    monkeypatch.setattr(carried, "sources", lambda: "other")
    assert refused(lambda: carried.use(folder)).endswith(f"build them again: python -m gta_cuda.pack {folder}")


def test_the_digest_covers_what_the_kernels_are_made_of():
    code = "import sys, gta_cuda.launch; print(*(m[9:] for m in sys.modules if m.startswith('gta_cuda.')))"
    environment = {name: x for name, x in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    on_the_host = {"arrays", "carried", "needs"}
    assert set(done.stdout.split()) - on_the_host == set(carried.SOURCES)
