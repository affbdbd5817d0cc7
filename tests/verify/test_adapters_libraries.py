"""docs/examples/adapters and docs/conformance: the table, what is measured, and the adapters that need torch alone."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from docs.conformance import measure, probes, run
from docs.conformance.table import ADAPTERS, Implementation, Known, findings, implementations
from gta_ref.core.mask import dense
from gta_ref.verify import verify
from gta_ref.verify.adapters import numpy_core
from gta_ref.verify.attempt import attempt
from gta_ref.verify.candidate import load
from gta_ref.verify.case_result import CaseResult

TABLE = implementations()
RESULTS = json.loads(run.RESULTS.read_text(encoding="utf-8"))
SMALL = [f"attention/{name}" for name in ("plain", "gqa-heads", "not-causal", "more-queries-than-keys", "blind-rows")]


def pinned():
    """The releases in requirements.txt."""
    text = (ADAPTERS / "requirements.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_an_entry_names_what_exists(one):
    file, _, name = one.object.partition(":")
    assert re.search(rf"^{name} = |^def {name}\(", (ADAPTERS / f"{file}.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(one.packages) <= pinned().keys()
    scripts = {entry["name"] for entry in findings()}
    assert {known.finding for known in one.known if known.finding} <= scripts


def test_every_finding_has_a_script_and_every_script_a_finding():
    names = {entry["name"] for entry in findings()}
    assert names == {file.stem for file in (ADAPTERS / "findings").glob("*.py")}


def test_the_results_are_those_of_the_table():
    assert [row["name"] for row in RESULTS["implementations"]] == [one.name for one in TABLE]
    for row, one in zip(RESULTS["implementations"], TABLE, strict=True):
        assert json.loads(json.dumps(one.shown())) == {key: row[key] for key in one.shown()}, one.name
        # a build of torch may add where it came from: 2.13.0+cpu
        assert {name: pinned()[name] for name in one.packages} == {
            k: v.split("+")[0] for k, v in row["packages"].items()
        }
    assert [entry["name"] for entry in RESULTS["findings"]] == [entry["name"] for entry in findings()]


def test_the_results_hold_no_path_of_a_machine():
    text = run.RESULTS.read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|tmp|work|usr)/", text)


@pytest.mark.parametrize("one", [one for one in TABLE if one.packages == ("torch",)], ids=lambda one: one.name)
def test_torch_does_what_the_page_says(one):
    """A few small cases pass or fail as in results.json."""
    pytest.importorskip("torch", reason="torch is not installed")
    row = next(row for row in RESULTS["implementations"] if row["name"] == one.name)
    wrong = {entry["case"] for entry in row["failed"] if "float32" in entry["dtypes"]}
    impl = load(one.path)
    report = verify(impl, capabilities=set(impl.capabilities) - set(one.without), arrays="torch", cases=SMALL, repeat=1)
    found = {result.case for result in report.results if result.status not in ("pass", "skip")}
    assert found == wrong & set(SMALL)


# --- what is measured, with implementations in NumPy whose answers are known


def attention(q, k, v, scale=None, seen=None, causal=False, blind=0.0, align="start", inner=None):
    """An attention core with grouped heads; `blind` is 0, "mean" or "nan"."""
    scores = (q @ k.swapaxes(2, 3) * np.asarray(scale or q.shape[-1] ** -0.5, q.dtype)).astype(inner or q.dtype)
    if causal:
        n, m = scores.shape[2:]
        seen = np.tri(n, m, m - n if align == "end" else 0, dtype=bool)
    if seen is not None:
        scores = np.where(seen, scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-1e9)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    fill = {"mean": 1 / k.shape[2], "nan": np.nan}.get(blind, 0.0)
    weights = np.where(total > 0, weights / np.where(total > 0, total, 1), fill)
    return (weights @ v).astype(q.dtype)


def entry(**changes):
    """An entry of the table."""
    common = {
        "name": "x",
        "library": "x",
        "object": "x:x",
        "packages": (),
        "dtypes": ("float32",),
        "told": "mask",
        "adapter": "",
    }
    return Implementation(**{**common, **changes})


def ways(**options):
    """A function that runs a job with this implementation, in this process."""
    told = {"mask": "seen"} if "align" not in options else {"causal": "causal", "align": options["align"]}
    impl = numpy_core(lambda q, k, v, **more: attention(q, k, v, **more, **options), **told)
    return impl, lambda job: attempt(impl, job)


@pytest.mark.parametrize("align", ["start", "end"])
def test_alignment_is_read_from_the_keys_that_a_row_sees(align):
    _, call = ways(align=align)
    seen = {(n, m): probes.seen(call, "numpy", n, m) for n, m in ((2, 4), (4, 2))}
    for (n, m), rows in seen.items():
        want = dense(True, np.array([m - n if align == "end" else 0]), np.array([0]), np.array([m]), n, m)[0]
        visible = want if align == "start" else want[-2:]
        assert rows[-len(visible) :] == ["".join("01"[x] for x in row) for row in visible.astype(int)]


@pytest.mark.parametrize(("blind", "word"), [(0.0, "0"), ("mean", "mean of v"), ("nan", "NaN")])
def test_a_row_that_sees_nothing(blind, word):
    _, call = ways(blind=blind)
    assert probes.blind(call, entry(), "numpy", False) == {"z": word}


def test_float64_computed_in_float32_is_told_from_float64():
    exact, narrow = ways()[1], ways(inner=np.float32)[1]
    words = [probes.float64(call, "numpy", "attention/a-head-each", frozenset()) for call in (exact, narrow)]
    assert words == ["kept", "float32 inside"]


@pytest.mark.parametrize(("tile", "word"), [(False, "own"), (True, "tiled")])
def test_the_order_of_grouped_heads(tile, word):
    def grouped(q, k, v, seen, scale):
        times = q.shape[1] // k.shape[1]
        k, v = (np.tile(x, (1, times, 1, 1)) if tile else np.repeat(x, times, 1) for x in (k, v))
        return attention(q, k, v, scale, seen)

    impl = numpy_core(grouped, mask="seen", heads="as-is")
    found = probes.bare(lambda job: attempt(impl, job), "numpy")
    assert found == {"grouped": word, "widths": "own"}


def test_a_failure_of_blind_rows_alone_is_a_convention_and_another_is_not():
    failed = CaseResult("attention/blind-rows", "float32", "fail", "")
    able = frozenset(("attention",))
    mean = ways(blind="mean")[1]
    assert measure._explained(entry(), failed, mean, "numpy", able)["kind"] == "convention"
    off = numpy_core(lambda q, k, v, **more: 1.01 * attention(q, k, v, blind="mean", **more), mask="seen")
    assert measure._explained(entry(), failed, lambda job: attempt(off, job), "numpy", able)["kind"] == "unexplained"


def test_what_the_table_knows_comes_first():
    known = Known(("attention/blind-*",), "bug", "why", says="nan")
    said = [CaseResult("attention/blind-rows", "float32", "fail", text) for text in ("z is nan", "z is 3")]
    kinds = [measure._explained(entry(known=(known,)), one, ways()[1], "numpy", frozenset())["kind"] for one in said]
    assert kinds[0] == "bug"
    assert kinds[1] != "bug"


def test_an_implementation_that_takes_too_long_is_ended():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    assert run._end_in_time(process, time.monotonic() + 0.1)
    assert process.poll() is not None


def test_a_result_is_kept_until_something_changes(tmp_path):
    file = tmp_path / "x.json"
    run._write(file, {"mark": run.mark(entry())})
    assert run._kept(file, run.mark(entry()))
    assert run._kept(file, run.mark(entry(adapter="pads"))) is None
