"""The report: what was not checked, the summary, the repro line, and JSON that conforms to its schema."""

import json
import math

import numpy as np
import pytest

from gta_ref import __version__
from gta_ref.verify import verify
from gta_ref.verify.report import CaseResult, Report
from gta_ref.verify.report_schema import REPORT
from gta_ref.verify.selftest import by_engine

reference = by_engine("reference")
FEW = ["attention/plain", "attention/left-padded", "attention/through-lse"]


def check(value, schema, path="report"):
    """The part of JSON Schema that REPORT uses; any other keyword in it is an error here."""
    assert schema.keys() <= {
        "$schema",
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "minimum",
    }
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    if "const" in schema:
        assert value == schema["const"], path
    if "enum" in schema:
        assert value in schema["enum"], path
    if "type" in schema:
        allowed = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        fits = [
            isinstance(value, kinds[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in allowed
        ]
        assert any(fits), f"{path}: {value!r} is none of {allowed}"
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            assert name in value, f"{path}.{name} is missing"
        for name, inner in value.items():
            check(
                inner, schema.get("properties", {}).get(name, schema.get("additionalProperties", {})), f"{path}.{name}"
            )
    if isinstance(value, list):
        for i, inner in enumerate(value):
            check(inner, schema.get("items", {}), f"{path}[{i}]")
    if "minimum" in schema and value is not None:
        assert value >= schema["minimum"], path


def wrong_in_all_ways(arrays, settings):
    found = reference(arrays, settings)
    kind = arrays["q"].shape[2] if "q" in arrays else 0
    if kind == 33:
        return {**found, "z": np.full_like(found["z"], np.nan), "d_q": found["d_q"] * 3, "lse": found["lse"][:1]}
    if kind == 24:
        raise ZeroDivisionError("1 / 0")
    if kind == 21:
        return {"z": found["z"] * np.inf, "lse": found["lse"].astype(int)}
    if kind == 12:
        raise NotImplementedError("chunks")
    return {name: x for name, x in found.items() if name != "d_v"}


def test_json_conforms_to_the_schema():
    cases = [*FEW, "attention/chunk", "attention/not-causal", "layer/gta-decode"]
    report = verify(wrong_in_all_ways, cases=cases, dtype=["float32", "bfloat16"], without="lse-gradient")
    assert set(report.counts.values()) != {0}
    assert {r.status for r in report.results} == {"pass", "fail", "error", "missing", "skip"}
    text = json.dumps(report.to_dict(), allow_nan=False)
    content = json.loads(text)
    check(content, REPORT)
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(REPORT)
    jsonschema.validate(content, REPORT)
    for name, value in (("version", 2), ("counts", {}), ("exit_status", "1"), ("results", [{}]), ("blame", 5)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**content, name: value}, REPORT)
        with pytest.raises(AssertionError):
            check({**content, name: value}, REPORT)


def test_json_of_no_case():
    for report in (Report([]), Report([CaseResult("x", "", "error", "text", ratio=math.nan)])):
        check(json.loads(json.dumps(report.to_dict(), allow_nan=False)), REPORT)


def test_the_schema_names_every_field():
    (result,) = verify(reference, cases="attention/plain").to_dict()["results"]
    assert result.keys() == REPORT["properties"]["results"]["items"]["properties"].keys()
    assert verify(reference, cases="attention/plain").to_dict().keys() == REPORT["properties"].keys()


def test_what_was_not_checked():
    def withholds(arrays, settings):
        found = reference(arrays, settings)
        plain = arrays["q"].shape[2] == 33
        return {name: x for name, x in found.items() if name != "lse" or not plain}

    report = verify(withholds, cases=FEW, capabilities="attention,backward")
    assert report.passed
    assert report.not_checked == [
        "1 case skipped (needs padding, not declared)",
        "3 gradients were not checked (needs lse-gradient, not declared)",
        "lse was not returned in 1 of 2 cases, and so was not checked there",
        "inner stages were not returned everywhere: scores, map, d_map, d_scores",
        "levels without any case that ran: layer, lm",
        "dtypes without any case that ran: float64, bfloat16, float16",
    ]
    assert report.to_dict()["not_checked"] == report.not_checked
    assert report.to_dict()["withheld"]["lse"] == {"cases": 1, "of": 2}
    assert str(report).splitlines()[-6:] == [f"not checked: {line}" for line in report.not_checked]
    assert report.summary == (
        f"gta_ref {__version__} selected cases float32: 2 pass, 0 fail, 1 skip; 3 gradients, lse in 1 of 2 not checked"
    )


def test_a_wrong_lse_that_is_withheld_is_said_in_one_line():
    def no_lse(arrays, settings):
        return {name: x for name, x in reference(arrays, settings).items() if name != "lse"}

    report = verify(no_lse, "attention", cases="attention/length-*")
    n = len(report.results)
    assert f"lse was not returned in {n} of {n} cases, and so was not checked there" in report.not_checked
    assert report.summary == f"gta_ref {__version__} attention float32: {n} pass, 0 fail; lse not checked"
    full = verify(reference, "attention", cases="attention/length-*")
    assert not [line for line in full.not_checked if "lse" in line]
    assert full.summary == f"gta_ref {__version__} attention float32: {n} pass, 0 fail"


def mine(arrays, settings):
    return reference(arrays, settings)


def test_repro():
    report = verify(mine, cases="attention/plain", seed=3)
    line = f"gta-ref verify --impl {__name__}:mine --case attention/plain --dtype float32 --seed 3"
    assert report.repro(report.results[0]) == line
    report = verify(
        mine, cases="attention/plain", capabilities={"padding", "attention"}, without=["scale"], head_dim=[(16, 32), 8],
        repeat=3, products="tf32",
    )  # fmt: skip
    assert report.repro(report.results[0]) == (
        f"gta-ref verify --impl {__name__}:mine --case attention/plain --dtype float32 --seed 0 "
        "--capabilities attention,padding --without scale --head-dim 8x8,16x32 --products tf32 --repeat 3"
    )
    assert report.to_dict()["results"][0]["repro"] is None  # it passed

    def local(arrays, settings):
        return {}

    report = verify(local, cases="attention/plain")
    assert report.repro(report.results[0]) is None  # nothing can be imported by this name
    assert Report(report.results).repro(report.results[0]) is None


def test_seconds_and_progress():
    import time

    def slow(arrays, settings):
        time.sleep(0.05)
        return reference(arrays, settings)

    told = []
    report = verify(slow, cases=FEW, progress=told.append)
    assert told == [f"{n} of 3 {result.case}" for n, result in enumerate(report.results, start=1)]
    assert all(0.1 <= result.seconds < 20 for result in report.results)
