"""The stages of `gta-ref bench gpu` on the fake GPU of fake_bench.py: the check, the clock, and PyTorch's contestants."""

import sys
import types

import numpy as np
import pytest

from gta_ref.bench import gpu, gpu_check, gpu_clock, gpu_torch, rows
from gta_ref.bench.gpu_cases import ALLOWED, Case
from gta_ref.core import attention_backward, attention_forward
from tests.gta_cuda import fake_bench
from tests.gta_cuda.fake_bench import TINY, findings, of, spoil


@pytest.fixture
def device(monkeypatch):
    return fake_bench.install(monkeypatch)


@pytest.fixture
def torch(device, monkeypatch):
    return fake_bench.install_torch(monkeypatch, device)


# --- the check


@pytest.mark.parametrize("name", ["z", "lse", "dq", "dk", "dv"])
def test_a_miss_in_any_result_is_recorded_and_the_run_goes_on(device, monkeypatch, name):
    def change(results):
        results[name][..., -1] += 0.1 if name == "lse" else 0.5  # only the last column; in lse only the last query

    spoil(monkeypatch, change, "forward+backward")
    recorded, figures = findings()
    found = of(recorded, "forward+backward")
    assert found["wrong"]
    assert {one for one, error in found["errors"].items() if error > found["allowed"][one]} == {name}
    assert set(found["allowed"].values()) == {ALLOWED["float32"]}
    assert of(recorded, "forward+backward", "kernel")["seconds"] > 0  # it is timed all the same
    assert not of(recorded, "forward")["wrong"]
    assert not of(recorded, "decode")["wrong"]
    (fault,) = gpu.faults(figures)
    assert f"{name} has the error" in fault


def test_one_wrong_key_far_from_the_checked_rows_is_found(device, monkeypatch):
    """dk and dv are compared whole, at the keys between both ends too."""
    monkeypatch.setattr(gpu, "cases", lambda quick: [Case("forward+backward", "float32", 1, 200)])
    spoil(monkeypatch, lambda results: results["dk"][:, :, 100].fill(0), "forward+backward")
    recorded, _ = findings()
    assert of(recorded, "forward+backward")["wrong"]


def test_memory_that_a_kernel_does_not_write_is_found(device, monkeypatch):
    """The check fills new arrays with NaN, so that a missing row is found, even one that is not compared."""

    def unwritten(results):
        whole = sys.modules["cupy"].empty(results["z"].shape, results["z"].dtype)
        whole[:, :, :39], whole[:, :, 40:] = results["z"][:, :, :39], results["z"][:, :, 40:]
        results["z"] = whole

    spoil(monkeypatch, unwritten)
    recorded, figures = findings()
    found = of(recorded, "forward")
    assert found["wrong"]
    assert found["not_finite"] == {"z": 5 * 128, "lse": 0}
    assert np.isfinite(found["errors"]["z"])
    assert "z has 640 elements that are not finite" in "".join(gpu.faults(figures))


def test_rows_between_the_checked_ones_may_hold_anything_finite(device):
    check = gpu_check.Check(TINY[2], gpu.inputs(TINY[2])[0])
    assert list(check.rows) == [*range(32), *range(48, 80)]
    assert not check.inputs[3][:, :, 32:48].any()
    assert check.inputs[3][:, :, check.rows].all()
    assert check.exact["z"].shape == (1, 5, 64, 128)


def test_a_result_of_another_shape_is_refused(device):
    case = TINY[2]
    check = gpu_check.Check(case, gpu.inputs(case)[0])
    results = gpu.compute(case, check.inputs)
    results["dk"] = np.broadcast_to(results["dk"], (1, 5, 80, 64))
    with pytest.raises(ValueError, match=r"dk has shape \(1, 5, 80, 64\); expected \(1, 1, 80, 64\)"):
        check.compare(results)


def test_rows_by_the_definition_are_those_of_the_whole(rng):
    q, k, v, dz = (rng.standard_normal(s) for s in ((2, 4, 90, 8), (2, 2, 90, 8), (2, 1, 90, 16), (2, 4, 90, 16)))
    some = rows.at_both_ends(90)
    z, lse, saved = attention_forward(q, k, v, engine="reference")
    dq, dk, dv = attention_backward(rows.zero_elsewhere(dz, some), saved)
    found = rows.by_definition((q, k, v, dz), some, np.float64, backward=True)
    whole = {"z": z[:, :, some], "lse": lse[:, :, some], "dq": dq[:, :, some], "dk": dk, "dv": dv}
    assert found.keys() == whole.keys()
    for name, x in whole.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-12, atol=1e-12, err_msg=name)


def test_inputs_are_rotated_through_more_than_the_cache(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(asarray=np.asarray))
    monkeypatch.setattr(gpu, "L2_BYTES", 2**20)
    copies = gpu.inputs(Case("decode", "float32", 1, 64))  # 64·(64 + 128)·4 bytes of keys and latents, 1280 of queries
    assert len(copies) == 1 + 2**20 // (64 * 192 * 4 + 1280) > gpu.FEWEST_DECODES
    assert len(gpu.inputs(Case("decode", "float32", 1, 128))) == gpu.FEWEST_DECODES  # as many calls as layers make
    assert len(gpu.inputs(Case("forward", "float32", 1, 1024))) == 1
    assert len({id(x) for arrays in copies for x in arrays}) == 4 * len(copies)
    np.testing.assert_array_equal(copies[0][1], copies[-1][1])


# --- the clock


def test_a_graph_times_the_kernel_without_the_host(device):
    recorded, _ = findings()
    assert of(recorded, "decode", "host")["seconds"] == pytest.approx(3e-3)
    assert of(recorded, "decode", "kernel")["seconds"] == pytest.approx(2e-3)
    assert of(recorded, "decode", "kernel")["rate"] == pytest.approx(TINY[1].cache_bytes / 2e-3)


def test_the_capture_follows_a_warm_up_on_its_own_stream(device):
    launch = gpu_clock.capture(lambda: device.log.append("round"))
    expected = ["synchronize", "other stream", "round", "synchronize", "begin", "round", "end", "default stream"]
    assert device.log == expected
    assert callable(launch)


def test_a_capture_that_fails_is_recorded_and_ended(device, monkeypatch):
    right = gpu.compute

    def compute(case, arrays):
        if device.graph is not None:
            device.capture_fails = True
            raise RuntimeError("operation not permitted when stream is capturing")
        device.capture_fails = False
        return right(case, arrays)

    monkeypatch.setattr(gpu, "compute", compute)
    recorded, figures = findings()
    found = of(recorded, "forward", "kernel")
    assert found["why_not"] == "RuntimeError: operation not permitted when stream is capturing"
    assert of(recorded, "decode", "host")["seconds"] == pytest.approx(3e-3)  # time passes again
    assert device.log.count("begin") == device.log.count("end") == len(TINY)
    assert not list(gpu.faults(figures))


def test_slow_work_runs_in_fewer_rounds(device):
    assert len(gpu_clock.time(lambda: device.launch(2.0), 1, 20)) == 20
    assert len(gpu_clock.time(lambda: device.launch(600.0), 1, 20)) == 3


def test_ceilings_are_measured_on_random_numbers(monkeypatch):
    monkeypatch.setattr(gpu_clock, "COPIED", 64)
    monkeypatch.setattr(gpu_clock, "PRODUCT", 8)
    copied, times = [], []
    fake = types.SimpleNamespace(
        asarray=np.asarray, tile=np.tile, empty_like=np.empty_like, copyto=lambda *pair: copied.append(pair)
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(gpu_clock, "time", lambda work, calls, rounds: times.append(work()) or [2.0])
    found = dict(gpu.measure_ceilings())
    assert found == {"copy": {"rate": 2 * 64 * 4 / 2}, "product": {"rate": 2 * 8**3 / 2}}
    ((target, source),) = copied
    assert target.nbytes == source.nbytes == 256
    assert len(np.unique(source)) == 64
    assert len(np.unique(times[1])) > 32

    def fail():
        raise ImportError("libcublas.so.13")

    monkeypatch.setattr(gpu, "product_ceiling", fail)
    found = dict(gpu.measure_ceilings())
    assert found["product"] == {"why_not": "ImportError: libcublas.so.13"}
    assert "rate" in found["copy"]


# --- PyTorch


def test_efficient_attention_gets_as_many_heads_as_queries_without_a_copy(torch):
    recorded, _ = findings(against_torch=True)
    for kind in ("forward", "decode", "forward+backward"):
        found = of(recorded, kind, "check", gpu_torch.EFFICIENT)
        assert "why_not" not in found
        assert not found["wrong"]
    assert found["errors"].keys() == {"z", "dq", "dk", "dv"}
    keys = [k.x for backend, k in torch.seen if backend == "efficient"]
    assert keys
    assert all(k.shape[1] == 5 and k.strides[1] == 0 for k in keys)
    assert of(recorded, "forward+backward", "kernel", gpu_torch.EFFICIENT)["seconds"] > 0


def test_flash_attention_gets_equal_widths(torch):
    recorded, _ = findings(against_torch=True)
    assert not of(recorded, "forward", "check", gpu_torch.FLASH)["wrong"]
    assert of(recorded, "forward", "kernel", gpu_torch.FLASH)["seconds"] == pytest.approx(7e-3 / 3)  # three copies


def test_every_peer_fails_by_itself(torch):
    recorded, figures = findings(against_torch=True)
    assert of(recorded, "forward", "check", gpu_torch.CUDNN)["why_not"] == "TypeError"
    assert of(recorded, "forward", "check", gpu_torch.FLEX)["why_not"] == "ImportError: no triton"
    assert not of(recorded, "forward", "check", gpu_torch.EFFICIENT)["wrong"]  # it follows cuDNN
    assert of(recorded, "decode", "kernel")["seconds"] > 0
    assert not list(gpu.faults(figures))


def test_a_torch_that_cannot_be_imported_ends_nothing(torch, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    recorded, _ = findings(against_torch=True)
    assert "ModuleNotFoundError" in of(recorded, "decode", "check", gpu_torch.FLASH)["why_not"]
    assert of(recorded, "forward+backward", "kernel")["seconds"] > 0


def test_an_interrupt_ends_the_run(torch, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_torch, "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        findings(against_torch=True)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("name", [gpu_torch.FLASH, gpu_torch.EFFICIENT, gpu_torch.FLEX])
@pytest.mark.parametrize("case", [Case("forward+backward", "float32", 1, 130), Case("decode", "float32", 2, 70)])
def test_forms_of_the_real_torch_are_right_on_the_cpu(device, monkeypatch, name, case):
    """SDPA's own form in place of each back end, and flex attention without compilation."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if name == gpu_torch.FLEX and case.backward:
        case = Case("forward", "float32", 1, 130)  # on the CPU it has no backward
    monkeypatch.setattr(gpu_torch, "BACKENDS", dict.fromkeys(gpu_torch.BACKENDS, "MATH"))
    compile_it = torch.compile  # which flex attention calls as well, with other options
    monkeypatch.setattr(torch, "compile", lambda f, **how: f if how == {"dynamic": False} else compile_it(f, **how))
    copies = gpu.inputs(case)
    check = gpu_check.Check(case, copies[0])
    work = gpu_torch.prepare(name, case, [check.inputs, *copies])
    found = check.compare(work.first())
    assert not found["wrong"], found
    work.round()
