"""When a cause is named, for which cases, and that looking for it takes little memory and time."""

import numpy as np
import pytest

from gta_ref.verify import vectors
from gta_ref.verify.compare import compare
from gta_ref.verify.diagnose import applicable, blame, causes, either, explanations, settled
from gta_ref.verify.known import Sketches, key_of
from gta_ref.verify.mutants.table import MUTANTS
from gta_ref.verify.report import CaseResult
from gta_ref.verify.run import verify
from gta_ref.verify.selftest import in_float64
from gta_ref.verify.stepwise.dispatch import STEPS, Stepwise
from tests.verify.unknown_wrong import ABLE, Case, compute

OF = {mutant.cause: mutant for mutant in MUTANTS}
UNSCALED = OF["scores not scaled by 1/√d_k"]
NARROW = OF["mask one place too narrow: a query does not see itself"]
AVERAGED = OF["d_v averaged over the maps of a value head"]
SMALL = ("attention/plain", "attention/gqa-heads", "attention/heads-differ", "attention/left-padded")


def run(*mutants, cases=SMALL, only=None, **more):
    """The report of an implementation with the mistakes of several mutants, which returns some arrays only."""
    implementation = in_float64(Stepwise({name: step for mutant in mutants for name, step in mutant.steps.items()}))

    def call(arrays, settings):
        found = implementation(arrays, settings)
        return {name: x for name, x in found.items() if only is None or name in only}

    return verify(call, cases=cases, repeat=1, **more)


def test_explains_so_many_of_so_many():
    found = run(UNSCALED).blame
    assert found == ("scores", UNSCALED.cause, 4, 4)
    # where the first wrong array has several mistakes, no single one explains it
    assert run(UNSCALED, NARROW, only=("z", "d_q", "d_k", "d_v")).blame[1:] == (None, 0, 4)


def test_of_two_mistakes_the_first_then_the_second():
    assert run(UNSCALED, AVERAGED).blame.cause == UNSCALED.cause
    assert run(AVERAGED).blame.cause == AVERAGED.cause


def test_refused_where_it_predicts_a_wrong_array_that_is_right():
    vector = vectors.make("attention/plain", "float64")
    wrong = {name: np.array(x) for name, x in UNSCALED.implementation()(vector.inputs, vector.settings).items()}
    assert explanations(vector, wrong, compare(vector, wrong)).tried[UNSCALED.cause]
    for name in ("map", "lse"):
        mended = {**wrong, name: vector.expected[name]}
        found = explanations(vector, mended, compare(vector, mended))
        assert found.cause is None
        assert found.tried[UNSCALED.cause] is False


def result(case, tried, stage="z", kind="value"):
    cause = next((name for name, fits in tried.items() if fits), None)
    return CaseResult(f"attention/{case}", "float32", "fail", "", stage=stage, kind=kind, cause=cause, tried=tried)


def test_a_cause_must_explain_half_of_the_failing_cases():
    a, b = UNSCALED.cause, NARROW.cause
    enough = [result("plain", {a: True, b: False}), result("chunk", {a: False, b: False})]
    assert blame(enough) == ("z", a, 1, 2)
    few = [*enough, result("length-2", {a: False})]
    assert blame(few) == ("z", None, 0, 3)
    assert [r.cause for r in settled(few)] == [None] * 3
    assert [r.cause for r in settled(enough)] == [a, None]
    # a case that the cause leaves unchanged, but that fails, speaks against it as well
    assert blame([*enough, result("length-2", {})]).cause is None
    # one in which it cannot run does not
    mla = CaseResult("layer/mla", "float32", "fail", "", stage="z", kind="value")
    layer = OF["decoder residual missing"].cause
    assert blame([result("plain", {}), mla]).of == 2
    gta = CaseResult("layer/gta-released", "float32", "fail", "", stage="z", kind="value", tried={layer: True})
    assert blame([gta, mla, mla]) == ("z", layer, 1, 1)
    assert blame([]) is None


def test_causes_that_differ_in_a_number():
    tiles = [mutant.cause for mutant in MUTANTS if "last whole tile" in mutant.cause][:2]
    assert causes([result("plain", dict.fromkeys(tiles, True))]) == tiles
    assert either(tiles) == "keys after the last whole tile of 16 or 32 dropped"
    # others that explain the same: the first of the table, which is the simplest
    assert causes([result("plain", {UNSCALED.cause: True, tiles[0]: True})]) == [UNSCALED.cause]


@pytest.mark.parametrize("family", STEPS)
def test_every_family_is_diagnosed(family):
    case = {"attention": "attention/gqa-heads", "lm": "lm/gta"}.get(family, f"layer/{family}")
    case = "layer/gta-grouped" if family == "gta" else case
    found = run(UNSCALED, cases=[case])
    assert found.blame.cause == UNSCALED.cause
    able = {mutant.kind for mutant in applicable(vectors.make(case, "float32").settings)}
    assert able - {"attention"} or family == "attention"


def test_numbers_rounded_to_fewer_bits_are_recognised():
    def rounding(case, bits):
        def cut(x):
            mantissa, exponent = np.frexp(x)
            return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent).astype(x.dtype)

        seen, scale = case.mask()[:, None], case.q.dtype.type(case.scale)
        s = np.where(seen, cut(case.q) @ cut(case.k).swapaxes(-1, -2) * scale, -np.inf)
        e = np.exp(s - np.max(s, -1, keepdims=True))
        # the weights are rounded before they are divided by their sum: another order than the kit's
        return {"z": cut(e) @ cut(case.v) / e.sum(-1, keepdims=True)}

    for bits, words in ((8, "bfloat16"), (11, "TF32")):
        report = verify(
            lambda arrays, settings, bits=bits: rounding(Case(arrays, settings), bits),
            cases=["attention/plain", "attention/gqa-heads", "attention/length-65"],
            capabilities=("attention",), repeat=1,
        )  # fmt: skip
        assert words in report.blame.cause


def test_float32_inside_float64():
    def single(arrays, settings):
        case = Case(arrays, settings)
        case.q, case.k, case.v = (x.astype(np.float32) for x in (case.q, case.k, case.v))
        case.d_z = case.d_z.astype(np.float32)
        return {name: x.astype(np.float64) for name, x in compute(case).items()}

    report = verify(single, cases=["attention/plain", "attention/gqa-heads"], dtype="float64", repeat=1)
    assert report.blame.cause == "float64 inputs computed in float32"


def test_sketches_are_forgotten_when_they_take_too_much_memory():
    vector = vectors.make("attention/plain", "float64")
    key, sketches = key_of(vector), Sketches(most_bytes=60_000)
    for mutant in MUTANTS[:40]:
        assert sketches.of(mutant, vector, key)
        assert sketches.nbytes <= 60_000
    assert 1 < len(sketches) < 40


def test_no_cause_is_looked_for_in_a_large_case(monkeypatch):
    monkeypatch.setattr("gta_ref.verify.diagnose.MOST_ELEMENTS", 1000)
    (found,) = run(UNSCALED, cases=["attention/plain"]).results
    assert found.status == "fail"
    assert found.cause is None
    assert "no cause looked for: 50,952 numbers are too many" in found.text


def test_other_inputs_are_diagnosed_too():
    assert run(UNSCALED, seed=5).blame.cause == UNSCALED.cause
    assert run(AVERAGED, dtype="bfloat16", only=ABLE).results  # nothing of use is returned: no exception
    assert run(AVERAGED, dtype="bfloat16").blame.cause == AVERAGED.cause
