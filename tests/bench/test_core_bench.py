"""The benchmark of the attention core: what it refuses to time, what it counts, how it judges. Nothing here is timed."""

import numpy as np
import pytest

from gta_ref.bench import contestants, core, goals, memory
from gta_ref.plots.speed import core_speed

TINY = contestants.Case("forward, N 1024", "forward+backward", 2, 4, 1, 1, 70, 8, 16)


class Ceilings:
    """Stands for a machine of 4 operations and 2 bytes a second."""

    def gemm(self):
        return 4.0

    def read(self):
        return 2.0


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(core, "PAUSE", 0)


def wrong_by(change):
    def prepare(case, arrays):
        right = contestants.engine("reference")(case, arrays)

        def compute():
            results = [x.copy() for x in right()]
            change(results)
            return results

        return compute

    return prepare


def scale_dk(results):
    results[2] *= 1.001


def spoil_last_row(results):
    results[0][:, :, -1] = np.nan


def shift_first_row(results):
    results[1][0, 0, 0, 0] += 1e-3


@pytest.mark.parametrize("change", [scale_dk, spoil_last_row, shift_first_row])
def test_a_wrong_result_is_not_timed(monkeypatch, change):
    takes_part = {"numba": contestants.engine("numba"), "liar": wrong_by(change)}
    monkeypatch.setattr(core, "of", lambda case, against_torch: takes_part)
    found = core.measure(TINY, Ceilings(), against_torch=False, quick=True)["contestants"]
    assert found["liar"]["wrong"]
    assert "seconds" not in found["liar"]
    assert not found["numba"]["wrong"]
    assert found["numba"]["times_numba"] == 1


def test_slow_contestants_run_in_fewer_rounds(monkeypatch):
    calls = []
    takes_part = {"numba": contestants.engine("numba"), "slow": lambda case, arrays: lambda: calls.append(1)}
    monkeypatch.setattr(core, "of", lambda case, against_torch: takes_part)
    monkeypatch.setattr(core, "check", lambda *args: ((name, {"wrong": False}) for name in takes_part))
    monkeypatch.setattr(core, "SLOW", 0)  # everybody is slow
    core.measure(TINY, Ceilings(), against_torch=False, quick=True)
    assert len(calls) == 1 + 3  # once to warm up


@pytest.mark.parametrize("kind", ["forward", "forward+backward", "decode"])
def test_engines_are_found_right(kind):
    case = contestants.Case("", kind, 2, 4, 2, 1, 70, 8, 16)
    assert contestants.of(case, against_torch=False).keys() == {"numba", "reference"}
    checks = dict(core.check(case, case.inputs(), contestants.of(case, against_torch=False)))
    assert not any(found["wrong"] for found in checks.values())


@pytest.mark.parametrize("kind", ["forward", "forward+backward", "decode"])
def test_forms_of_torch_are_found_right(kind):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    for heads in ((4, 1, 1), (4, 2, 2)):
        case = contestants.Case("", kind, 2, *heads, 70, 8, 16)
        everybody = contestants.of(case, against_torch=True)
        assert len(everybody) == (6 if kind == "decode" else 5)
        assert not any(found["wrong"] for _, found in core.check(case, case.inputs(), everybody))


def test_operations_are_the_useful_ones():
    # pairs of query and visible key: 1 + 2 + 3, for 4 maps of 2 sequences
    forward = contestants.Case("", "forward", 2, 4, 1, 1, 3, 8, 16)
    assert forward.operations == 2 * (2 * 4 * 6) * (8 + 16)
    both = contestants.Case("", "forward+backward", 2, 4, 1, 1, 3, 8, 16)
    assert both.operations == 2 * (2 * 4 * 6) * (8 + 16 + 3 * 8 + 2 * 16)
    decode = contestants.Case("", "decode", 2, 4, 2, 1, 3, 8, 16)
    assert decode.operations == 2 * (2 * 4 * 3) * (8 + 16)
    assert decode.cache_bytes == 4 * 2 * 3 * (2 * 8 + 16)


def test_cases_are_those_of_the_goals():
    names = [case.name for case in core.cases(quick=False)]
    found = {
        "cases": [{"name": name, "contestants": contestant(2.0)} for name in names],
        "threads": {"forward": 1.8, "gemm": 2.0},
        "memory": {"length": 65536, "inputs": 100, "outputs": 50, "growth": 251},
    }
    judged = goals.judge(found)
    assert len(judged) == 2 * 4 * 2 + 3 * 2 + 2 + 1 + 1 + 1
    missed = [goal["what"] for goal in judged if not goal["reached"]]
    assert missed == ["gain by threads, of sgemm's own", "forward, N 65536, growth with inputs"]
    found["memory"] = None
    assert len(goals.judge(found)) == len(judged) - 1


def contestant(slower):
    """numba at 90 % of its ceiling, everybody else so many times slower; a wrong one does not count."""
    times = {"numba": 1.0, "reference": slower, "torch eager": 3 * slower, "torch SDPA": slower}
    found = {name: {"wrong": False, "of_ceiling": 0.9 / t, "times_numba": t} for name, t in times.items()}
    return {**found, "torch SDPA padded": {"wrong": True}}


def test_goals_against_torch_need_torch():
    found = {"cases": [{"name": "forward, N 2048", "contestants": {"numba": contestant(1)["numba"]}}]}
    judged = goals.judge({**found, "threads": {"forward": 2, "gemm": 2}, "memory": None})
    assert [goal["what"] for goal in judged] == ["forward, N 2048, of sgemm", "gain by threads, of sgemm's own"]


def test_memory_is_that_of_the_call_whatever_this_process_holds():
    held = np.ones(2**26)  # half a gigabyte here, which the other process must not count
    found = memory.forward_growth(8192)
    arrays = found["inputs"] + found["outputs"]
    assert held.nbytes > 4 * arrays
    assert 0.8 * arrays < found["growth"] < 2 * arrays  # less than the arrays: memory of the warming up is used again
    assert found["growth"] < 8192**2 * 4  # a single map


def test_figure():
    cases = [{"name": f"{kind}, N 1024", "kind": kind, "contestants": contestant(2)} for kind in ("forward", "decode")]
    figure = core_speed(cases, "a machine")
    assert [ax.get_ylabel() for ax in figure.axes] == ["forward\nof sgemm", "decode\nof reading memory"]
    assert [bar.get_height() for bar in figure.axes[0].patches][:2] == [0.9, 0.45]


def test_command_names_a_missing_torch(monkeypatch):
    import importlib.util

    from typer.testing import CliRunner

    from gta_ref.cli import app

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["bench", "core", "--against", "torch"])
    assert done.exit_code == 2
    assert "PyTorch, which is not installed" in done.output
    assert CliRunner().invoke(app, ["bench", "core", "--against", "jax"]).exit_code == 2
