"""What an implementation is given is its own, and whatever it does, it cannot pass without being right."""

import copy
import sys

import numpy as np
import pytest

from gta_ref.verify import vectors, verify
from gta_ref.verify.attempt import Job, attempt
from gta_ref.verify.candidate import load
from gta_ref.verify.selftest import by_engine

reference = by_engine("reference")
PLAIN = {"cases": "attention/plain"}


def one(impl, **options):
    (result,) = verify(impl, **{**PLAIN, **options}).results
    return result


def test_settings_and_inputs_are_private():
    kept = []

    def rewrites(arrays, settings):
        kept.append((copy.deepcopy(settings), {name: x.copy() for name, x in arrays.items()}))
        found = reference(arrays, settings)
        settings["mask"]["causal"] = False
        settings["sizes"].clear()
        settings["level"] = "lm"
        arrays.clear()
        return found

    before = copy.deepcopy(dict(vectors.make("attention/plain", "float32").settings))
    for _ in range(2):
        assert one(rewrites).status == "pass"
    assert len(kept) == 4
    assert all(settings == kept[0][0] for settings, _ in kept)
    assert all((x == kept[0][1][name]).all() for _, arrays in kept for name, x in arrays.items())
    assert vectors.make("attention/plain", "float32").settings == before
    assert "case" not in before
    assert "attention/plain" not in str(before)


def test_a_mask_that_is_rewritten_makes_nothing_right():
    def not_causal(arrays, settings):
        settings["mask"]["causal"] = False
        return reference(arrays, settings)

    assert one(not_causal).status == "fail"
    assert one(reference).status == "pass"


def test_inputs_that_are_kept_and_written_later():
    kept = []

    def late(arrays, settings):
        for old in kept:  # those of the run before
            old["q"][...] = 0
        kept.append(arrays)
        return reference(arrays, settings)

    assert one(late, repeat=3).status == "pass"  # they were its own, and they are not read any more

    def own_outputs(arrays, settings):
        found = reference(arrays, settings)
        for old in kept[:]:
            old["z"][...] = np.nan  # the result of the run before, which was copied
        kept.append(found)
        return found

    kept.clear()
    assert one(own_outputs, repeat=3).status == "pass"


def test_one_buffer_for_all_runs_hides_no_difference():
    buffer, calls = {}, []

    def unsteady(arrays, settings):
        calls.append(0)
        found = reference(arrays, settings)
        buffer.setdefault("z", np.zeros_like(found["z"]))[...] = found["z"] * np.float32(1 + 1e-7 * (len(calls) % 2))
        return {**found, "z": buffer["z"]}

    assert one(unsteady).text == "z differs from run to run (run 1 and run 2)"


@pytest.mark.parametrize("period, found", [(2, True), (9, True), (11, False)])
def test_a_race_is_found_by_repeats(period, found):
    calls = []

    def racy(arrays, settings):
        calls.append(0)
        scale = np.float32(1 + 3e-7 if len(calls) % period == 0 else 1)
        return {name: x * scale if name == "d_k" else x for name, x in reference(arrays, settings).items()}

    result = one(racy, repeat=10)
    assert (result.status == "fail") == found
    if found:
        assert result.text == f"d_k differs from run to run (run 1 and run {period})"


def test_without_deterministic_every_run_is_judged():
    calls = []

    def sometimes_wrong(arrays, settings):
        calls.append(0)
        found = reference(arrays, settings)
        return {**found, "z": found["z"] * (2 if len(calls) == 3 else np.float32(1 + 1e-7 * len(calls)))}

    assert one(sometimes_wrong, repeat=2, without="deterministic").status == "pass"
    calls.clear()
    assert one(sometimes_wrong, repeat=4, without="deterministic").stage == "z"
    assert len(calls) == 4
    calls.clear()
    one(sometimes_wrong, without="deterministic")
    assert len(calls) == 1


def test_a_remembered_answer_does_not_survive_another_seed():
    known = {}

    def remembers(arrays, settings):
        key = str(settings)
        if key not in known:
            known[key] = reference(arrays, settings)
        return {name: x.copy() for name, x in known[key].items()}

    assert one(remembers).status == "pass"
    assert one(remembers).status == "pass"
    report = verify(remembers, **PLAIN, seed=7)
    assert report.results[0].status == "fail"
    assert report.run["seed"] == 7
    assert "seed 7" in report.summary
    assert verify(reference, "attention", seed=7).passed


def exits(arrays, settings):
    sys.exit(0)


def test_an_exit_is_an_error_of_its_case_and_ctrl_c_is_not():
    result = one(exits)
    assert (result.status, result.kind) == ("error", None)
    assert result.text.startswith("it called sys.exit(0) (")
    assert result.where.startswith("tests/verify/test_candidate.py:")

    def interrupted(arrays, settings):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one(interrupted)


def test_the_place_of_an_exception_is_in_the_implementation():
    def deep(arrays, settings):
        return np.linalg.inv(np.zeros((2, 2)))

    result = one(deep)
    assert result.text.startswith("LinAlgError: Singular matrix (tests/verify/test_candidate.py:")
    assert "np.linalg.inv(np.zeros((2, 2)))" in result.traceback
    assert "attempt.py" not in result.traceback


def test_not_implemented_is_a_skip_with_its_reason():
    def small_only(arrays, settings):
        if settings["sizes"]["d_k"] > 16:
            raise NotImplementedError("head_dim must be\n16 at most")
        return reference(arrays, settings)

    report = verify(small_only, "attention")
    assert report.passed
    skipped = [r for r in report.results if r.status == "skip"]
    assert {r.text for r in skipped} == {"NotImplementedError: head_dim must be 16 at most"}
    assert f"{len(skipped)} cases skipped (NotImplementedError: head_dim must be 16 at most)" in report.not_checked
    assert f"{len(skipped)} skip" in report.summary

    def nothing(arrays, settings):
        raise NotImplementedError

    report = verify(nothing, "attention")
    assert (report.exit_status, report.counts["skip"]) == (2, len(report.results))
    calls = []

    def second_time(arrays, settings):
        calls.append(0)
        if len(calls) == 2:
            raise NotImplementedError("no more")
        return reference(arrays, settings)

    assert one(second_time).status == "error"


def test_a_backward_that_is_not_implemented_leaves_the_forward():
    class Forward:
        def forward(self, arrays, settings):
            given = {
                **arrays,
                "d_z": np.zeros_like(
                    reference(
                        {**arrays, "d_z": arrays["q"] @ arrays["k"][:, :1].swapaxes(-1, -2) @ arrays["v"][:, :1]},
                        settings,
                    )["z"]
                ),
            }
            return {name: x for name, x in reference(given, settings).items() if name in ("z", "lse")}, None

        def backward(self, cotangents, saved, settings):
            raise NotImplementedError("no backward yet")

    report = verify(Forward(), **PLAIN)
    assert report.passed, str(report)
    assert report.unchecked == {"NotImplementedError: no backward yet": 3}
    assert "3 gradients were not checked (NotImplementedError: no backward yet)" in report.not_checked
    assert (
        verify(Forward(), cases="layer/gta-decode").results[0].text == "NotImplementedError: the object has no decode"
    )


def test_a_torch_module_is_not_the_object_protocol():
    torch = pytest.importorskip("torch")

    class Layer(torch.nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(
        ValueError, match=r"impl is the torch.nn.Module Layer; expected a function of \(arrays, settings\)"
    ):
        verify(Layer(), arrays="torch")

    class Mine(torch.nn.Module):
        def forward(self, arrays, settings):
            q, k, v = (arrays[name].requires_grad_() for name in "qkv")
            scores = q @ k.repeat_interleave(q.shape[1], 1).mT * q.shape[-1] ** -0.5
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            z = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v.repeat_interleave(q.shape[1], 1)
            grads = torch.autograd.grad(z, (q, k, v), arrays["d_z"])
            return {"z": z, **dict(zip(("d_q", "d_k", "d_v"), grads, strict=True))}

        def decode(self, arrays, settings):  # like the decode of a model, which makes no object of it either
            raise AssertionError

    assert one(Mine(), arrays="torch").status == "pass"


@pytest.mark.parametrize(
    "impl, message",
    [
        (lambda q, k, v: None, r"impl is a function <lambda>\(q, k, v\); expected a function of \(arrays, settings\)"),
        (
            type("Split", (), {"forward": None, "backward": None}),
            r"impl is the class Split; expected an object: Split\(…\)",
        ),
        (None, "impl is None; expected a function"),
        ("os:nothing", "impl='os:nothing': os has no nothing"),
    ],
)
def test_what_is_no_implementation(impl, message):
    with pytest.raises(ValueError, match=message):
        verify(impl, **PLAIN)


def test_a_name_within_a_module():
    assert load("gta_ref.verify.stepwise.dispatch:Stepwise.__call__").__name__ == "__call__"


def test_names_that_are_not_known_are_told():
    def other_names(arrays, settings):
        return {name.replace("d_", "grad_"): x for name, x in reference(arrays, settings).items()}

    assert one(other_names).text == "not given: d_q, d_k, d_v; unknown: grad_q, grad_k, grad_v"


def test_the_job_holds_nothing_that_is_expected():
    vector = vectors.make("attention/plain", "float32")
    given = []

    def keeps(arrays, settings):
        given.append(sys._getframe(1).f_locals["job"])
        return reference(arrays, settings)

    job = Job(vector.inputs, vector.settings, "numpy", 1, True, True, frozenset(vector.expected))
    assert attempt(keeps, job).status is None
    arrays = [x for value in vars(given[0]).values() if isinstance(value, dict) for x in value.values()]
    expected = [x for x in vector.expected.values() if x.size]
    assert not any(np.shares_memory(x, y) for x in arrays if isinstance(x, np.ndarray) for y in expected)
