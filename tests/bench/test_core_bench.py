"""The benchmark of the attention core: what it refuses to time, what it counts, how it judges. Nothing here is timed."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gta_ref.bench import contestants, core, goals, memory, peak
from gta_ref.core.cpu import matrix_units
from gta_ref.core.cpu.lanes import VECTOR_BYTES
from gta_ref.core.cpu.memory import address
from gta_ref.plots.speed import core_speed
from tests.support import MATRIX_UNITS

GOALS = Path(__file__).with_name("goals.json")
TINY = contestants.Case("forward, N 1024", "forward+backward", 2, 4, 1, 1, 70, 8, 16)


class Ceilings:
    """A stand-in for a machine with 4 operations, 64 on its matrix unit, and 2 bytes per second."""

    def multiply(self):
        return 4.0

    def products(self):
        return 64.0

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
    monkeypatch.setattr(core, "SLOW", 0)  # every contestant counts as slow
    core.measure(TINY, Ceilings(), against_torch=False, quick=True)
    assert len(calls) == 1 + 3  # one warm-up and three rounds


@pytest.mark.parametrize(
    "kind, dtype, form, ceiling",
    [
        ("forward", "float32", "amx", 4.0),
        ("forward", "bfloat16", None, 4.0),
        ("forward", "bfloat16", "emulated", 4.0),
        ("forward", "bfloat16", "amx", 64.0),
        ("decode", "bfloat16", "amx", 2.0),
    ],
)
def test_a_share_is_one_of_what_computes(monkeypatch, kind, dtype, form, ceiling):
    case = contestants.Case("", kind, 2, 4, 1, 1, 70, 8, 16, dtype)
    monkeypatch.setattr(core, "of", lambda case, against_torch: {"numba": lambda case, arrays: lambda: None})
    monkeypatch.setattr(core, "check", lambda *args: [("numba", {"wrong": False})])
    monkeypatch.setattr(core.matrix_units, "form", lambda: form)
    found = core.measure(case, Ceilings(), against_torch=False, quick=True)
    numba = found["contestants"]["numba"]
    work = case.cache_bytes if kind == "decode" else case.operations
    assert numba["best_of_ceiling"] == pytest.approx(work / numba["least"] / ceiling)
    assert found.get("products") == (64.0 if ceiling == 64.0 else None)


@pytest.mark.parametrize("form", MATRIX_UNITS)
def test_the_loop_of_tile_products(form):
    """A tile of ones times itself, n times: every sum is 32 n."""
    configuration, tile = matrix_units.configuration(), np.full((16, 32), 1, ml_dtypes.bfloat16)
    peak.products_kernel(form)(address(configuration), 5, address(tile), np.int16(0), np.float32(1))
    np.testing.assert_array_equal(tile.view(np.float32)[:, : VECTOR_BYTES // 4], 5 * 32)


@pytest.mark.parametrize("kind", ["forward", "forward+backward", "decode"])
def test_engines_are_found_right(kind):
    case = contestants.Case("", kind, 2, 4, 2, 1, 70, 8, 16)
    assert contestants.of(case, against_torch=False).keys() == {"numba", "reference"}
    checks = dict(core.check(case, case.inputs(), contestants.of(case, against_torch=False)))
    assert not any(found["wrong"] for found in checks.values())


@pytest.mark.parametrize("kind", ["forward", "forward+backward", "decode"])
def test_forms_of_torch_are_found_right(kind):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    for heads, dtype in (((4, 1, 1), "float32"), ((4, 2, 2), "float32"), ((4, 2, 2), "bfloat16")):
        case = contestants.Case("", kind, 2, *heads, 70, 8, 16, dtype)
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


def read_goals():
    return goals.read(GOALS, [case.name for case in core.cases(quick=False)])


def test_the_projects_goals():
    found = {
        "cases": [
            {"name": case.name, "contestants": contestant(2.0), "unit": "amx"} for case in core.cases(quick=False)
        ],
        "threads": {"forward": 1.8, "fma": 2.0},
        "memory": {"length": 65536, "inputs": 100, "outputs": 50, "growth": 251},
    }
    judged = goals.judge(found, read_goals())
    assert len(judged) == len(read_goals()) == 2 * 4 * 2 + 3 * 2 + 4 + 1 + 3 + 1 + 1
    assert {verdict["case"] for verdict in judged} >= {case["name"] for case in found["cases"]}
    missed = {verdict["case"]: verdict["got"] for verdict in judged if not verdict["reached"]}
    assert missed == {"threads": 0.9, "memory": 1.01}
    found["memory"] = None
    assert len(goals.judge(found, read_goals())) == len(judged) - 1
    for case in found["cases"]:
        case["unit"] = None  # without a matrix unit, its goals are left out
    assert len(goals.judge(found, read_goals())) == len(judged) - 4


@pytest.mark.parametrize(
    "bound, reached", [({"least": 0.9}, True), ({"least": 0.91}, False), ({"most": 0.9}, True), ({"most": 0.89}, False)]
)
def test_a_bound_counts_as_reached(bound, reached):
    found = {"cases": [{"name": "a", "contestants": contestant(2.0)}], "threads": None, "memory": None}
    (verdict,) = goals.judge(found, [goals.Goal("a", "of_ceiling", **bound)])
    assert verdict == {"case": "a", "figure": "of_ceiling", **bound, "got": 0.9, "reached": reached}


def contestant(slower):
    """The contestants of a case: numba at 90 % of its ceiling, and others with the given multiples of its time."""
    times = {"numba": 1.0, "reference": slower, "torch eager": 3 * slower, "torch SDPA": slower}
    found = {name: {"wrong": False, "of_ceiling": 0.9 / t, "times_numba": t} for name, t in times.items()}
    return {**found, "torch SDPA padded": {"wrong": True}}


def test_goals_against_torch_need_torch():
    found = {"cases": [{"name": "forward, N 2048", "contestants": {"numba": contestant(1)["numba"]}}]}
    judged = goals.judge({**found, "threads": {"forward": 2, "fma": 2}, "memory": None}, read_goals())
    assert [(verdict["case"], verdict["figure"]) for verdict in judged] == [
        ("forward, N 2048", "of_ceiling"),
        ("threads", "forward over fma"),
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        ("[", "goals.json: not a JSON file"),
        ("{}", "goals.json holds a dict; expected a list of goals"),
        ("[1]", "goal 1 is a int; expected an object"),
        ('[{"case": "a", "figure": "of_ceiling"}]', "goal 1: missing least; expected case, figure, least"),
        ('[{"case": "a", "figure": "of_ceiling", "least": 1, "most": 1}]', "goal 1: unknown least; expected"),
        ('[{"case": "a", "figure": "of_ceiling", "least": "1 %"}]', "goal 1: least='1 %' must be a number above 0"),
        ('[{"case": "a", "figure": "speed", "least": 1}]', "goal 1: figure='speed' must be one of 'of_ceiling'"),
        ('[{"case": "b", "figure": "of_ceiling", "least": 1}]', "goal 1: case='b' must be one of 'a'"),
        ('[{"case": "a", "figure": "forward over fma", "least": 1}]', "goal 1: case='a' must be one of 'threads'"),
    ],
)
def test_a_wrong_file_of_goals(tmp_path, content, message):
    (tmp_path / "goals.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        goals.read(tmp_path / "goals.json", ["a"])


def test_memory_is_that_of_the_call_whatever_this_process_holds():
    held = np.ones(2**26)  # half a gigabyte of this process, which the other process must not count
    found = memory.forward_growth(8192)
    arrays = found["inputs"] + found["outputs"]
    assert held.nbytes > 4 * arrays
    # the growth may be less than the arrays, because memory of the warm-up is used again
    assert 0.8 * arrays < found["growth"] < 2 * arrays
    assert found["growth"] < 8192**2 * 4  # less than a single map


def test_figure():
    cases = [{"name": f"{kind}, N 1024", "kind": kind, "contestants": contestant(2)} for kind in ("forward", "decode")]
    figure = core_speed(cases, "a machine")
    assert [ax.get_ylabel() for ax in figure.axes] == ["forward\nof multiply–adds", "decode\nof reading memory"]
    assert [bar.get_height() for bar in figure.axes[0].patches][:2] == [0.9, 0.45]


def command(*arguments):
    from typer.testing import CliRunner

    from gta_ref.cli import app

    return CliRunner().invoke(app, ["bench", "core", *map(str, arguments)], env={"COLUMNS": "200"})


def one_run(against_torch, quick, progress):
    numba = {**contestant(1)["numba"], "seconds": 1e-3, "least": 1e-3, "rate": 1e9, "best_of_ceiling": 1, "error": 1e-7}
    case = {"name": "forward, N 1024", "kind": "forward", "fma": 1e9, "read": 1e9, "contestants": {"numba": numba}}
    machine = {"cpu": "a machine", "threads": 2, "python": "3", "packages": {}, "blas": []}
    return {"machine": machine, "cases": [case], "avx2": [], "threads": {"forward": 1.8, "fma": 2.0}, "memory": None}


def test_command_shows_which_goals_are_reached(monkeypatch, tmp_path):
    monkeypatch.setattr(core, "run", one_run)
    done = command("--goals", GOALS, "--json", tmp_path / "bench.json")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert "forward, N 1024: numba's share of the ceiling ≥ 70% 90% reached" in lines
    assert "threads: speed-up of the forward ÷ speed-up of multiply–adds ≥ 95% 90% not reached" in lines
    judged = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["goals"]
    assert [verdict["reached"] for verdict in judged] == [True, False]
    assert "reached" not in command().output


def test_command_names_the_ceiling(monkeypatch):
    for products, line in ((None, "multiply–adds 1 GFLOP/s"), (3e9, "multiply–adds of the matrix unit 3 GFLOP/s")):
        found = one_run(False, False, None)
        if products is not None:
            found["cases"][0]["products"] = products
        monkeypatch.setattr(core, "run", lambda *args, found=found: found)
        assert line in [" ".join(shown.split()) for shown in command().output.splitlines()]


def test_command_refuses_wrong_goals_before_it_measures(monkeypatch, tmp_path):
    monkeypatch.setattr(core, "run", lambda *args: pytest.fail("measured"))
    (tmp_path / "goals.json").write_text("{}")
    for file, message in ((tmp_path / "goals.json", "expected a list"), (tmp_path / "none.json", "No such file")):
        done = command("--goals", file)
        assert done.exit_code == 2
        assert message in done.output


def test_command_names_a_missing_torch(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = command("--against", "torch")
    assert done.exit_code == 2
    assert "PyTorch, which is not installed" in done.output
    assert command("--against", "jax").exit_code == 2
