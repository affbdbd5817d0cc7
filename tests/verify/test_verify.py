"""verify(): right implementations pass, misbehaving ones get one clear line, and the other cases go on."""

import json

import numpy as np
import pytest

from gta_ref.core import engines
from gta_ref.verify import cases, vectors, verify
from gta_ref.verify.plain import Plain
from gta_ref.verify.run import judge, load
from gta_ref.verify.selftest import GTA, by_engine, in_float64

DTYPES = ("float64", "float32", "bfloat16", "float16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_independent_implementation_passes(dtype):
    report = verify(in_float64(Plain()), "core", dtype, GTA)
    assert report.passed, str(report)
    assert report.counts["pass"] >= 39
    assert report.counts["skip"] == len(cases.suite("core", dtype)) - report.counts["pass"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", [e for e in engines.MODULES if e != "cuda" and engines.why_not(e) is None])
def test_every_engine_passes(engine, dtype):
    report = verify(by_engine(engine), "core", dtype)
    assert report.passed, "\n".join(line for line in str(report).splitlines() if not line.startswith("pass"))
    assert report.counts["pass"] == len(report.results)


def core(arrays, settings):
    return by_engine("reference")(arrays, settings)


def only(name, impl, **options):
    """The result of one case."""
    report = verify(impl, "attention", capabilities={"attention", "backward", "deterministic"}, **options)
    return next(result for result in report.results if result.case == f"attention/{name}"), report


def throws(arrays, settings):
    if settings["case"] == "attention/plain":
        raise RuntimeError("out\nof   luck")
    return core(arrays, settings)


def writes(arrays, settings):
    found = core(arrays, settings)
    arrays["k"][...] = 0
    return found


def aliases(arrays, settings):
    found = core(arrays, settings)
    arrays["d_z"][...] = found["z"]
    arrays["d_z"][...] = arrays["d_z"]
    return {**found, "d_q": arrays["q"]}


class Unsteady:
    calls = 0

    def __call__(self, arrays, settings):
        self.calls += 1
        found = core(arrays, settings)
        return {**found, "z": found["z"] * np.float32(1 + self.calls * 1e-7)}


def nan(arrays, settings):
    found = core(arrays, settings)
    found["z"][0, 1, 2, 3] = np.nan
    return found


@pytest.mark.parametrize(
    "impl, status, text",
    [
        (throws, "error", "RuntimeError: out of luck"),
        (writes, "fail", "writes into its input k"),
        (aliases, "fail", "writes into its input d_z"),
        (lambda a, s: {**core(a, s), "d_q": a["q"]}, "fail", "d_q shares memory with an input"),
        (Unsteady(), "fail", "z differs from run to run"),
        (nan, "fail", "z[0, 1, 2, 3] is nan; expected"),
        (lambda a, s: 5, "error", "TypeError: returned a int; expected a mapping of names to arrays"),
        (lambda a, s: {**core(a, s), "z": "text"}, "error", "ValueError: z is a str; expected an array"),
        (lambda a, s: {**core(a, s), "z": core(a, s)["z"][:, :1]}, "fail", "z has shape (2, 1, 33, 32); expected (2, 4, 33, 32)"),
        (lambda a, s: {**core(a, s), "d_k": core(a, s)["d_k"].astype("float64")}, "fail", "d_k has dtype float64; expected float32"),
        (lambda a, s: {**core(a, s), "lse": np.zeros((2, 4, 33), int)}, "fail", "lse has dtype int64; expected a floating-point"),
        (lambda a, s: {k: x for k, x in core(a, s).items() if k != "d_v"}, "missing", "not given: d_v"),
        (lambda a, s: {**core(a, s), "z": core(a, s)["z"] * 1.001}, "fail", "times its budget"),
    ],
)  # fmt: skip
def test_misbehaviour_is_one_clear_line(impl, status, text):
    result, report = only("plain", impl)
    assert result.status == status
    assert text in result.text
    assert "\n" not in result.text
    assert report.exit_status == (3 if status == "missing" else 1)
    assert len(report.results) == len(cases.suite("attention", "float32"))
    if impl is throws:  # the other cases went on
        assert report.counts["error"] == 1


def test_capabilities_are_counted():
    report = verify(core, "core", "float32", {"attention", "gta", "float32"})
    needs = [result.text for result in report.results if result.status == "skip"]
    assert "needs backward, not declared" in needs
    assert report.counts["skip"] == len(report.results)  # every case of the core suite has gradients or decodes
    assert report.exit_status == 2
    with pytest.raises(ValueError, match="capabilities='telepathy' must be one of"):
        verify(core, capabilities={"telepathy"})


class Split:
    """An object instead of a function."""

    def forward(self, arrays, settings):
        assert "d_z" not in arrays
        z, lse, saved = engines.attention_forward(
            arrays["q"], arrays["k"], arrays["v"], engines.Mask(**settings["mask"]), settings.get("scale")
        )
        return {"z": z, "lse": lse}, saved

    def backward(self, cotangents, saved, settings):
        grads = engines.attention_backward(cotangents["d_z"], saved, cotangents.get("d_lse"))
        return dict(zip(("d_q", "d_k", "d_v"), grads, strict=True))


def test_an_object_with_forward_and_backward():
    report = verify(Split(), "attention", "float32")
    assert report.passed, str(report)
    assert report.counts["pass"] == len(report.results)
    with pytest.raises(ValueError, match="impl is a int; expected a function or an object with forward"):
        verify(3)


def test_no_cause_is_named_that_is_none():
    """In a case with one key head, tiled heads are right heads: they explain no error, however small it is."""
    vector = vectors.make("attention/plain", "float32")
    given = {name: vector.expected[name].astype("float32") for name in vector.required}
    assert judge(vector, given).status == "pass"
    given["d_v"] = given["d_v"] + np.float32(2 * vector.budgets["d_v"])
    result = judge(vector, given)
    assert (result.status, result.stage, result.cause) == ("fail", "d_v", None)
    assert 1 < result.ratio < 4


def test_report_as_json():
    report = verify(nan, "attention", "float32")
    content = json.loads(json.dumps(report.to_dict()))
    assert content["exit_status"] == 1
    assert content["blame"]["stage"] == "z"
    assert {result["ratio"] for result in content["results"] if result["kind"] == "nonfinite"} == {None}


@pytest.mark.parametrize("text", ["gta_ref.core", "gta_ref.core:", ":x", "gta_ref.nowhere:x", "gta_ref.core:nothing"])
def test_what_cannot_be_loaded(text):
    with pytest.raises(ValueError, match="impl="):
        load(text)
