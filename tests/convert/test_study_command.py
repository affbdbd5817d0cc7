"""gta-ref study convert on a tiny model: what it shows and writes, and how a stopped study continues."""

import json
from pathlib import Path

import pytest

from gta_ref.commands import study_convert as command
from gta_ref.convert import heal, study, texts, whole, written
from gta_ref.convert import plan as plans
from tests.convert import tiny
from tests.convert.commands import one_line, run, use_tiny


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    use_tiny(monkeypatch)
    monkeypatch.setattr(study, "_SAMPLE", 5)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quick(*arguments):
    return run("study", "convert", "--quick", "--out", "runs", *arguments)


@pytest.fixture
def no_work(monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("the work has begun")

    for module, name in ((whole, "convert"), (heal, "begin"), (written, "texts")):
        monkeypatch.setattr(module, name, work)


def test_what_it_shows_and_writes(folder):
    done = quick("--json", "study.json", "--plot", "study.png")
    assert done.exit_code == 0, done.output
    found = json.loads(Path("study.json").read_text())
    expected = study.Study(tiny.language_model(), plans.quick(), texts.corpus(tiny.ENCODE), Path("runs")).run()
    assert found == expected  # from the files of the folder
    assert [len(point["healed"]) for point in found["points"]] == [0, 1]
    assert Path("study.png").stat().st_size > 20_000
    lines = [line.split() for line in done.output.splitlines()]
    for of in (found["original"], *found["points"], *found["points"][1]["healed"]):
        prose, code = (of["held_out"][kind] for kind in ("prose", "code"))
        mean = {name: (prose[name] + code[name]) / 2 for name in ("divergence", "agreement")}
        cells = f"{prose['loss']:.3f} {code['loss']:.3f} {mean['divergence']:.3f} {mean['agreement']:.1%}".split()
        assert any(line[-4:] == cells for line in lines), cells
    assert "healed 6+4, seed 0" in done.output
    for kind, healed in found["points"][1]["healed"][0]["held_out"].items():  # so few steps must be small ones
        assert healed["divergence"] < 1.1 * found["points"][1]["held_out"][kind]["divergence"]
    alone = found["sharing"]["divergence"]
    assert f"most in layer {alone.index(max(alone))}" in " ".join(done.output.split())


def test_a_finished_study_is_only_shown(folder, monkeypatch):
    first = quick("--json", "first.json")
    assert first.exit_code == 0, first.output

    def work(*arguments, **options):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(whole, "convert", work)
    second = quick("--json", "second.json")
    assert second.exit_code == 0, second.output
    assert Path("first.json").read_text() == Path("second.json").read_text()


def test_ctrl_c_and_the_same_command(folder, monkeypatch):
    assert run("study", "convert", "--quick", "--out", "whole", "--json", "whole.json").exit_code == 0

    def stops(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(heal, "take_step", stops)
        assert one_line(quick(), status=130) == "gta-ref: stopped; the same command continues where it was\n"
    kept = {path.name: path.read_bytes() for path in Path("runs").iterdir()}
    assert kept.keys() == {
        "study.json",
        "sharing.json",
        "original.json",
        "9_maps-d_l_64.json",
        "3_maps_in_15_layers.json",
    }
    assert quick("--json", "study.json").exit_code == 0
    found, expected = (json.loads(Path(name).read_text()) for name in ("study.json", "whole.json"))
    for of in (found, expected):
        of["points"][1]["healed"][0]["seconds"] = None
    assert found == expected
    assert all((Path("runs") / name).read_bytes() == content for name, content in kept.items())


def test_the_whole_study_reads_what_the_original_writes(folder, monkeypatch):
    """And does not mix its results with those of the quick one."""
    monkeypatch.setattr(command, "_TEXTS", 2)
    monkeypatch.setattr(written, "LENGTH", 300)
    plan = plans.quick()
    for name in ("Plan", "quick"):
        monkeypatch.setattr(plans, name, lambda: plan)
    whole_study = ("study", "convert", "--out", "runs")
    assert run(*whole_study, "--json", "study.json").exit_code == 0
    text = Path("runs/written.txt").read_text("utf-8")
    assert f"written {len(text):,} characters" in json.loads(Path("study.json").read_text())["text"]
    assert "runs: the results there have text=" in one_line(quick())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("convert", "--executor", "mpi"), "executor='mpi' must be 'local' in the study convert"),
        (("convert", "--executor", "cloud"), "executor='cloud' must be one of 'local', 'mpi'"),
        (("conversion",), "study='conversion' must be one of"),
        (("convert", "--json", "none/a.json"), "none/a.json: there is no folder none"),
        (("convert", "--out", "file"), "file"),
        (("convert", "--out", "damaged"), "damaged/sharing.json: missing divergence"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refused(arguments, message, folder, no_work):
    Path("file").write_text("")
    Path("damaged").mkdir()
    Path("damaged/sharing.json").write_text('{"n_q": 3}')
    said = one_line(run("study", *arguments, "--quick"))
    assert message in said
    if arguments == ("conversion",):
        assert "'convert'" in said
