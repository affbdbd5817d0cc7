"""verify(): right implementations pass; one that misbehaves in a case gets one clear line, and the other cases run."""

import dataclasses
import json

import numpy as np
import pytest

import gta_ref
from gta_ref.core import engines
from gta_ref.verify import abilities, cases, vectors, verify
from gta_ref.verify.candidate import load
from gta_ref.verify.mutants.table import MUTANTS
from gta_ref.verify.run import judge
from gta_ref.verify.selftest import GTA, by_engine, in_float64
from gta_ref.verify.stepwise.attention import AttentionSteps
from gta_ref.verify.stepwise.dispatch import Stepwise
from gta_ref.verify.truth import wide

DTYPES = ("float64", "float32", "bfloat16", "float16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_independent_implementation_passes(dtype):
    report = verify(in_float64(Stepwise()), "core", dtype, GTA)
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
    """The result of one case, and the report with another one."""
    names = [f"attention/{name}", "attention/chunk"]
    report = verify(impl, cases=names, capabilities={"attention", "backward", "deterministic"}, **options)
    return next(result for result in report.results if result.case == f"attention/{name}"), report


def throws(arrays, settings):
    assert "case" not in settings
    if arrays["q"].shape == (2, 4, 33, 16):
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
    if found["z"].shape[2] == 33:
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
        (lambda a, s: {**core(a, s), "d_k": core(a, s)["d_k"].astype("float16")}, "fail", "d_k has dtype float16; expected float32"),
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
    assert len(report.results) == 2
    if impl is throws:  # the other cases still ran
        assert report.counts["error"] == 1


def forward_only(arrays, settings):
    """The reference's forward with wrong gradients, which are not to be checked."""
    found = core(arrays, settings)
    return {name: -x if name.startswith("d_") else x for name, x in found.items()}


def test_without_a_backward_every_forward_is_checked():
    able = {"attention", "padding", "decode"}
    few = [
        "attention/plain",
        "attention/*padded",
        "attention/through-lse",
        "attention/no-*",
        "attention/length-*",
        "lm/gta",
    ]
    report = verify(forward_only, "core", "float32", able, cases=few)
    ran = [result for result in report.results if result.status != "skip"]
    assert {result.case for result in report.results} - {result.case for result in ran} == {"lm/gta"}
    assert report.passed, str(report)
    assert report.counts["pass"] == len(ran)
    assert all(result.unchecked == ("d_q", "d_k", "d_v") for result in ran)
    n_lse = 1
    assert report.unchecked == {
        "needs backward, not declared": 3 * (len(ran) - n_lse),
        "needs backward, lse-gradient, not declared": 3 * n_lse,
    }
    assert "3 gradients not checked" in ran[0].text
    assert f"{3 * (len(ran) - n_lse)} gradients were not checked (needs backward, not declared)" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["unchecked"] == report.unchecked
    # and a wrong forward is detected in each of these cases, except for those whose z is 0
    few = ["attention/no-*", "attention/length-*", "attention/*padded"]
    wrong = verify(lambda a, s: {**core(a, s), "z": core(a, s)["z"] * 2}, "attention", "float32", able, cases=few)
    zero = {"attention/no-key", "attention/no-token"}
    assert {result.case for result in wrong.results if result.status == "pass"} == zero
    assert {result.stage for result in wrong.results if result.status == "fail"} == {"z"}
    assert all(result.unchecked == ("d_q", "d_k", "d_v") for result in wrong.results)


def test_without_lse_its_case_is_checked_but_for_the_gradients():
    def no_lse(arrays, settings):
        assert "d_lse" not in arrays
        return core(arrays, settings)

    report = verify(
        no_lse, "attention", "float32", {"attention", "backward"}, cases=["attention/plain", "attention/*-lse"]
    )
    assert report.passed, str(report)
    through = {case.name for case in cases.suite("attention", "float32") if case.settings.get("dlse")} & {
        r.case for r in report.results
    }
    assert through
    assert report.unchecked == {"needs lse-gradient, not declared": 3 * len(through)}
    assert {result.case for result in report.results if result.unchecked} == through
    result = next(result for result in report.results if result.case == "attention/through-lse")
    assert [finding.name for finding in result.findings] == ["z", "lse"]


def test_capabilities_are_counted():
    report = verify(core, "core", "float32", {"attention", "gta", "float32"})
    skipped = {result.case: result.text for result in report.results if result.status == "skip"}
    assert skipped["attention/one-query"] == "needs decode, not declared"
    assert skipped["attention/left-padded"] == "needs padding, not declared"
    assert skipped["attention/decode-padded"] == "needs decode, padding, not declared"
    assert skipped["layer/gta-paper"] == "needs layer, not declared"
    assert skipped["layer/mla-decode"] == "needs layer, mla, decode, not declared"
    assert skipped["lm/gqa-untied"] == "needs lm, gqa, not declared"
    able = {"attention", "gta", "float32", *abilities.FEATURES}
    assert skipped.keys() == {
        c.name for c in cases.suite("core", "float32") if not able.issuperset(abilities.needs(c, "float32"))
    }
    assert verify(core, "lm", "float32", {"attention"}).exit_status == 2  # nothing ran
    with pytest.raises(ValueError, match="capabilities='telepathy' must be one of"):
        verify(core, capabilities={"telepathy"})


class Split:
    """An implementation that is an object instead of a function."""

    def forward(self, arrays, settings):
        assert "d_z" not in arrays
        z, lse, saved = engines.attention_forward(
            arrays["q"],
            arrays["k"],
            arrays["v"],
            mask=engines.Mask(**settings["mask"]),
            scale=settings.get("scale"),
            engine="reference",
        )
        return {"z": z, "lse": lse}, saved

    def backward(self, cotangents, saved, settings):
        grads = engines.attention_backward(cotangents["d_z"], saved, dlse=cotangents.get("d_lse"))
        return dict(zip(("d_q", "d_k", "d_v"), grads, strict=True))


def test_an_object_without_a_backward():
    class Forward:
        forward = Split.forward

    few = ["attention/plain", "attention/left-padded", "attention/through-lse"]
    report = verify(Forward(), "attention", "float32", {"attention", "padding"}, cases=few)
    assert report.passed, str(report)
    assert report.unchecked.keys() == {"needs backward, not declared", "needs backward, lse-gradient, not declared"}

    class Unfinished(Split):
        def backward(self, cotangents, saved, settings):
            raise NotImplementedError

    assert str(verify(Unfinished(), "attention", "float32", {"attention", "padding"}, cases=few)) == str(report)
    report = verify(Forward(), "attention", "float32", cases=few)  # it does not declare that it has no backward
    assert report.exit_status == 3
    assert {result.text for result in report.results} == {"not given: d_q, d_k, d_v"}


def test_an_object_with_forward_and_backward():
    report = verify(
        Split(), "attention", "float32", cases=["attention/plain", "attention/*padded", "attention/through-lse"]
    )
    assert report.passed, str(report)
    assert report.counts["pass"] == len(report.results)
    with pytest.raises(ValueError, match=r"impl is a int; expected a function of \(arrays, settings\)"):
        verify(3)


def test_no_cause_is_named_that_is_none():
    """In a case with one key head, tiled heads are right, so that they explain no error, however small it is."""
    vector = vectors.make("attention/plain", "float32")
    given = {name: vector.expected[name].astype("float32") for name in vector.required}
    assert judge(vector, given).status == "pass"
    given["d_v"] = given["d_v"] + np.float32(2 * vector.budgets["d_v"])
    result = judge(vector, given)
    assert (result.status, result.stage, result.cause) == ("fail", "d_v", None)
    assert 1 < result.ratio < 4


NAN_CAUSE = "NaN of unused slots reaches the result"


def test_nan_of_unused_slots_is_named_where_it_is_seen():
    """An implementation that reads unused slots returns NaN if they hold NaN, and finite scores of them otherwise."""

    reads = Stepwise({"clean": lambda self, x, k_start, k_stop: x})
    few = ["attention/*padded", "attention/nan-*", "layer/gta*padded"]
    report = verify(in_float64(reads), "core", "float64", GTA, cases=few)
    run = {result.case for result in report.results}
    poisoned = {case.name for case in cases.suite("core", "float64") if case.settings.get("poison")} & run
    assert len(poisoned) >= 2
    failed = {result.case: result for result in report.results if result.status == "fail"}
    # in most of the failing cases it is not NaN that is seen, so that the run as a whole does not bear this cause out
    assert {name for name, result in failed.items() if result.tried.get(NAN_CAUSE)} == poisoned
    assert NAN_CAUSE not in {result.cause for result in report.results}
    alone = verify(in_float64(reads), "core", "float64", GTA, cases=sorted(poisoned))
    assert {result.cause for result in alone.results} == {NAN_CAUSE}
    for name in failed.keys() - poisoned:
        assert (failed[name].stage, failed[name].kind) == ("scores", "value")
        assert failed[name].cause == "content of unused slots in scores and d_map, where they count as 0"
    assert "attention/left-padded" in failed
    assert "layer/gta-left-padded" not in failed  # what a layer shows for unused slots is not compared

    def results_alone(arrays, settings):
        found = in_float64(reads)(arrays, settings)
        return {name: x for name, x in found.items() if name in ("out", "z", "lse") or name.startswith("d_w_")}

    report = verify(results_alone, "core", "float64", set(GTA) - {"backward"}, cases=few)
    assert {result.case for result in report.results if result.status == "fail"} == poisoned
    assert report.blame[:2] == ("z", NAN_CAUSE)


@pytest.mark.parametrize("keep", ["keys", "values"])
def test_finite_wrong_numbers_are_not_blamed_on_nan(keep):
    """Finite numbers of unused slots reach scores (from keys) or d_map (from values), while NaN is kept out."""

    def reads(self, x, k_start, k_stop):
        self.cleaned = not getattr(self, "cleaned", False)  # keys first, then values
        mine = self.cleaned == (keep == "keys")
        return np.nan_to_num(x) if mine else AttentionSteps.clean(self, x, k_start, k_stop)

    report = verify(in_float64(Stepwise({"clean": reads})), "attention", "float64", GTA, cases="attention/*padded")
    failed = [result for result in report.results if result.status == "fail"]
    assert {result.case for result in failed} >= {"attention/left-padded", "attention/right-padded"}
    assert {result.stage for result in failed} == {"scores" if keep == "keys" else "d_map"}
    assert NAN_CAUSE not in {result.cause for result in failed}


def test_slots_without_nan_explain_no_nan():
    """In the same case from a file whose unused slots hold 0, NaN in a result must have another cause."""
    vector = vectors.make("attention/nan-in-unused-slots", "float32")
    numbers = {name: x.astype("float32") for name, x in vector.expected.items()}
    (mutant,) = (mutant for mutant in MUTANTS if mutant.cause == NAN_CAUSE)
    numbers["z"] = mutant.implementation()(wide(vector.inputs), vector.settings)["z"].astype("float32")
    given = {name: numbers[name] for name in vector.required}
    assert judge(vector, given).cause == NAN_CAUSE
    zeros = {name: np.nan_to_num(x) if name in "kv" else x for name, x in vector.inputs.items()}
    result = judge(dataclasses.replace(vector, inputs=zeros), given)
    assert (result.status, result.stage, result.kind, result.cause) == ("fail", "z", "nonfinite", None)


def test_report_as_json():
    report = verify(nan, "attention", "float32", cases=["attention/plain", "attention/chunk"])
    content = json.loads(json.dumps(report.to_dict()))
    assert content["exit_status"] == 1
    assert content["blame"]["stage"] == "z"
    assert {result["ratio"] for result in content["results"] if result["kind"] == "nonfinite"} == {None}


@pytest.mark.parametrize("text", ["gta_ref.core", "gta_ref.core:", ":x", "gta_ref.nowhere:x", "gta_ref.core:nothing"])
def test_what_cannot_be_loaded(text):
    with pytest.raises(ValueError, match="impl="):
        load(text)


def test_the_front_door_verifies():
    """`gta_ref.verify` is this package, and calls its function of the same name."""
    report = gta_ref.verify(in_float64(Stepwise()), "attention", "float32", GTA, cases="attention/length-*")
    assert report.exit_status == 0
    assert report.counts["pass"] == len(report.results)
