"""The predictions: their arithmetic, that the docs show them, and that every measured figure is one of cuda/results/."""

import json
import re
from pathlib import Path

import pytest

from gta_cuda import predict

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs" / "cuda.md").exists():
    pytest.skip("the docs and the results are not here", allow_module_level=True)

PAGE = (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")
RUN = ROOT / "cuda" / "results" / "2026-11-26-h200"
RESULTS = [json.loads(line) for line in (RUN / "after.jsonl").read_text(encoding="utf-8").splitlines()]


def kernel(kind, dtype, length, batch=1):
    """Seconds of one of our kernels alone, from the results."""
    (found,) = (
        one["seconds"]
        for one in RESULTS
        if (one.get("what"), one.get("contestant")) == ("kernel", "cuda")
        and (one["kind"], one["dtype"], one["batch"], one["length"]) == (kind, dtype, batch, length)
    )
    return found


def step5(name):
    (found,) = (one["ms"] for one in RESULTS if one["step"] == "5" and one["name"] == name)
    return found


@pytest.mark.parametrize("table", ["forward_table", "decode_table", "backward_table"])
def test_the_docs_show_the_tables(table):
    assert getattr(predict, table)() in PAGE, "python -m gta_cuda.predict prints the tables of docs/cuda.md"


def test_the_peaks_were_measured():
    peaks = {one["case"]: one["rate"] for one in RESULTS if one.get("what") == "ceiling"}
    assert predict.H200.copy == pytest.approx(peaks["copy"], rel=1e-3)
    assert predict.H200.product == pytest.approx(peaks["product"], rel=1e-3)
    assert "1980 MHz" in json.dumps(RESULTS)
    assert any(one.get("multiprocessors") == predict.H200.multiprocessors for one in RESULTS)


def test_what_was_measured_is_in_the_results():
    rates = {name: measured for name, (_, _, measured) in predict.FORWARD.items()}
    middle = predict.operations(8192) / 1e9
    for name in ("naive", "tiles", "online", "forward"):
        assert rates[name][1] == pytest.approx(middle / step5(f"ladder, {name}"), rel=0.06)
    assert rates["forward_bf16"][1] == pytest.approx(middle / step5("forward with mma, N 8192"), rel=5e-3)
    for name, tile in (("addresses", "128x64x1x1"), ("rows", "128x32x2x1")):
        assert rates[name][1] == pytest.approx(middle / step5(f"forward bfloat16, {tile}"), rel=5e-3)
    tries = (RUN / "tries" / "mma2.txt").read_text(encoding="utf-8") + (RUN / "tries" / "mma.txt").read_text("utf-8")
    for name, label in (
        ("addresses", "addr+lazy 128x64"),
        ("rows", "new 128x32x2x1"),
        ("forward_bf16", "new 64x128x2x4"),
    ):
        rows = [tuple(map(float, row)) for row in re.findall(rf"{re.escape(label)} +\S+ +(\S+) +(\S+)", tries)]
        assert any(rates[name][::2] == pytest.approx(row, abs=0.6) for row in rows), (name, rows)
    for name, dtype, columns in (("forward", "float32", (0, 2)), ("forward_wgmma", "bfloat16", (0, 1, 2))):
        for i in columns:
            length = predict.LENGTHS[i]
            rate = predict.operations(length) / kernel("forward", dtype, length) / 1e12
            assert rates[name][i] == pytest.approx(rate, rel=5e-3)
    for name, dtype in (("backward", "float32"), ("backward_bf16", "bfloat16")):
        for length, ms in zip(predict.BACKWARD_LENGTHS, predict.BACKWARD[name].measured, strict=True):
            both, alone = kernel("forward+backward", dtype, length), kernel("forward", dtype, length)
            assert ms == pytest.approx(1e3 * (both - alone), rel=0.02)
    for name, row in (("decode", "float32, B 1"), ("decode_bf16", "bfloat16, B 1")):
        assert re.search(rf"\| {row}, N 131,072 \| {predict.DECODE[name][2]} \|", PAGE)


def test_a_prediction_is_a_bound():
    """No kernel was measured to be faster than its count allows."""
    for name, (_, work, measured) in predict.FORWARD.items():
        for length, rate in zip(predict.LENGTHS, measured, strict=True):
            most = predict.operations(length) / predict.forward_seconds(work, length) / 1e12
            assert rate is None or rate < most, name
    for name, (_, work, measured) in predict.DECODE.items():
        assert measured is None or measured > 1e6 * predict.decode_seconds(work), name
    for name, work in predict.BACKWARD.items():
        for length, measured in zip(predict.BACKWARD_LENGTHS, work.measured, strict=True):
            assert measured is None or measured > 1e3 * predict.backward_seconds(work, length), name


def test_the_schedule():
    """Three multiprocessors: the blocks 5, 4, 3, 2, 1 end after 5; in the other order, the last one ends after 7."""
    gpu = predict.H200._replace(multiprocessors=3)
    assert predict._shared_out([5, 4, 3, 2, 1], gpu) == 5
    assert predict._shared_out([1, 2, 3, 4, 5], gpu) == 7


def test_a_forward_by_hand():
    """One multiprocessor, 256 queries in two blocks per map: 3 steps of 128 · 128 scores for each of five maps."""
    gpu = predict.H200._replace(multiprocessors=1, clock=1e9, round_trip=1e-7)
    work = predict.Work(128, 128, shared=1000, issue=10)
    assert work.limit == ("shared", 1000)
    assert predict.forward_seconds(work, 256, gpu) == pytest.approx(5 * 3 * 1000 / 1e9)
    assert predict.forward_seconds(work._replace(waits=1), 256, gpu) == pytest.approx(5 * 3 * 1100 / 1e9)
    assert predict.operations(2) == 2 * 192 * 5 * 3


def test_a_decode_by_hand():
    """Two blocks on a multiprocessor that has room for one take twice as long; one map reads 100.7 MB."""
    gpu = predict.H200._replace(multiprocessors=1, clock=1e9, round_trip=1e-6)
    work = predict.Cache(keys=131072, blocks=1, groups=1, splits=2, issue=1000, waits=3, merge=0.0)
    parts = predict.decode_parts(work, gpu)
    assert parts["tiles in turn"] == pytest.approx(2 * (1e-6 + 3e-6))
    assert parts["issue"] == pytest.approx(2e-6)
    assert parts["memory"] == pytest.approx(131072 * 192 * 4 / gpu.copy)
    assert predict.in_order(264, gpu) == pytest.approx(2 * 66e-6)


def test_every_step_of_the_ladders_has_a_prediction():
    """The names are those of the ladder's docstring, which the simulator's tests run."""
    text = (ROOT / "cuda" / "ladder.py").read_text(encoding="utf-8").split('"""')[1]
    names = re.findall(r"^    (\w+) +(?:step|decode|forward|backward)\w* ", text, re.M)
    assert names == [*predict.FORWARD, *predict.DECODE, *predict.BACKWARD]
