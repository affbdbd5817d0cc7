"""gta-ref heal on a tiny model: what it writes, how a stopped healing continues, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from gta_ref.commands import heal as command
from gta_ref.convert import heal, judge, texts, written
from gta_ref.lm import model_files, small, train
from gta_ref.lm import text as trained_on
from gta_ref.weights import pretrained
from gta_ref.weights.load import load_model
from tests.convert import tiny
from tests.convert.commands import one_line, run, use_tiny

SHORT = ("--layer-steps", 3, "--steps", 3, "--batch", 2, "--length", 16, "--texts", 0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder with a converted model under its usual name, to work in."""
    use_tiny(monkeypatch)
    monkeypatch.setattr(command, "_JUDGED", (3, 32))
    monkeypatch.setattr(command, "_QUICK_JUDGED", (3, 32))
    monkeypatch.chdir(tmp_path)
    params, config, _ = tiny.converted(dtype="float32")
    model_files.save("gta.safetensors", model_files.Content(config, params, "smollm2", 512))
    return tmp_path


def files(folder):
    return {path.name for path in folder.iterdir()} - {"gta.safetensors"}


def stop_before(step, monkeypatch, error=KeyboardInterrupt):
    """Let a healing be interrupted in the computation of a step."""

    def take_step(healing, *arguments):
        if healing.state.step == step - 1:
            raise error
        return TAKE_STEP(healing, *arguments)

    monkeypatch.setattr(heal, "take_step", take_step)


TAKE_STEP = heal.take_step


def test_the_healed_model(folder):
    done = run("heal", *SHORT, "--out", "healed.safetensors", "--json", "healed.json")
    assert done.exit_code == 0, done.output
    assert files(folder) == {"healed.safetensors", "healed.json"}
    shown = " ".join(done.output.split())
    assert "Written to healed.safetensors" in shown
    before, found = load_model(Path("gta.safetensors")), load_model(Path("healed.safetensors"))
    assert (found.config, found.context_length) == (before.config, 512)
    settings = heal.Settings(layer_steps=3, steps=3, batch=2, length=16)
    healing = heal.begin(before.params, before.config, settings, texts.corpus(tiny.ENCODE))
    heal.advance(healing, tiny.original("float32"), texts.corpus(tiny.ENCODE))
    for name, w in healing.params.items():
        np.testing.assert_array_equal(found.params[name], w)
    about = json.loads(Path("healed.json").read_text())
    assert heal.Settings(**about["settings"]) == settings
    assert (about["losses"], about["text"]) == (healing.losses, healing.text)
    assert about["seconds"] > 0
    original = tiny.original("float32")
    models = {"original": original, "converted": (before.params, before.config), "healed": (found.params, found.config)}
    assert list(about["judged"]) == list(models)
    for name, of in models.items():
        for kind, one in about["judged"][name].items():
            held_out = texts.windows(tiny.ENCODE, kind, 3, 32, held_out=True)
            assert one == judge.beside(*of, original, held_out)._asdict()
            assert f"{one['loss']:.3f}" in shown
            assert f"{one['agreement']:.1%}" in shown


def test_quick_has_settings_of_its_own(folder):
    done = run("heal", "--quick", "--seed", 3, "--json", "healed.json")
    assert done.exit_code == 0, done.output
    settings = json.loads(Path("healed.json").read_text())["settings"]
    assert settings == {
        "layer_steps": 6,
        "steps": 4,
        "batch": 2,
        "length": 128,
        "layer_rate": 2e-4,
        "rate": 5e-5,
        "seed": 3,
    }
    assert files(folder) == {"gta-healed.safetensors", "healed.json"}  # no text was written by the original


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_ctrl_c_keeps_the_healing(step, folder, monkeypatch):
    """Before the first step, in either stage, between them, and before the last."""
    assert run("heal", *SHORT, "--out", "whole.safetensors").exit_code == 0
    stop_before(step, monkeypatch)
    said = one_line(run("heal", *SHORT, "--out", "part.safetensors"), status=130)
    assert f"stopped after step {step - 1}; part.healing.safetensors has it, and the same command continues" in said
    assert files(folder) == {"whole.safetensors", "part.healing.safetensors"}
    taken = []
    monkeypatch.setattr(heal, "take_step", lambda *arguments: taken.append(1) or TAKE_STEP(*arguments))
    done = run("heal", *SHORT, "--out", "part.safetensors")
    assert done.exit_code == 0, done.output
    assert f"continues after step {step - 1}" in done.output
    assert len(taken) == 7 - step
    assert files(folder) == {"whole.safetensors", "part.safetensors"}
    part, whole = (load_model(Path(f"{name}.safetensors")) for name in ("part", "whole"))
    assert part.config == whole.config
    for name, w in whole.params.items():
        np.testing.assert_array_equal(part.params[name], w)


def test_a_killed_healing_continues_from_what_was_saved(folder, monkeypatch):
    monkeypatch.setattr(command, "SAVE_EVERY", 2)
    stop_before(6, monkeypatch, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        run("heal", *SHORT)
    assert files(folder) == {"gta-healed.healing.safetensors"}
    monkeypatch.setattr(heal, "take_step", TAKE_STEP)
    assert "continues after step 4" in run("heal", *SHORT).output
    assert files(folder) == {"gta-healed.safetensors"}


def test_what_is_in_the_way(folder, monkeypatch):
    """A healing with other settings, or of another model of the same sizes, or no healing."""
    stop_before(3, monkeypatch)
    run("heal", *SHORT)
    saved = Path("gta-healed.healing.safetensors")
    kept = saved.read_bytes()
    said = one_line(run("heal", *SHORT, "--rate", 0.1))
    assert f"{saved}: its settings has rate=0.0002; expected 0.1; delete the file to begin anew" in said
    params, config, _ = tiny.converted(dtype="float32", seed=1)
    model_files.save("other.safetensors", model_files.Content(config, params, "smollm2", 512))
    said = one_line(run("heal", *SHORT, "--model", "other.safetensors"))
    assert f"{saved}: it began with another model of the same sizes; delete the file to begin anew" in said
    assert saved.read_bytes() == kept
    saved.write_bytes(kept[:-1])
    assert "not a complete safetensors file" in one_line(run("heal", *SHORT))
    saved.write_bytes(Path("gta.safetensors").read_bytes())
    assert "not a healing" in one_line(run("heal", *SHORT))


def test_divergence(folder):
    said = one_line(run("heal", *SHORT, "--layer-rate", 1e30))
    assert "step 2: the loss is" in said
    assert said.endswith("; try a smaller --layer-rate or --rate\n")
    assert files(folder) == set()


def test_the_original_writes_first(folder, monkeypatch):
    monkeypatch.setattr(written, "LENGTH", 100)
    write = written.texts
    monkeypatch.setattr(written, "texts", lambda *of, **options: write(*of, **options).replace("\n", "\r\n"))
    arguments = ("heal", *SHORT, "--texts", 3, "--written", "own.txt", "--json", "healed.json")
    assert run(*arguments).exit_code == 0
    text = Path("own.txt").read_bytes().decode()
    assert text == written.texts(pretrained.load(), 3)
    learnt_from = json.loads(Path("healed.json").read_text())["text"]
    assert f"written {len(text):,} characters" in learnt_from
    first = load_model(Path("gta-healed.safetensors")).params

    def no_work(*arguments, **options):
        raise AssertionError("it is written again")

    monkeypatch.setattr(written, "texts", no_work)
    assert run(*arguments).exit_code == 0
    assert json.loads(Path("healed.json").read_text())["text"] == learnt_from  # to the last character
    for name, w in load_model(Path("gta-healed.safetensors")).params.items():
        np.testing.assert_array_equal(w, first[name])


def test_texts_that_cannot_be_used(folder, monkeypatch):
    def no_work(*arguments, **options):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(written, "write", no_work)
    said = one_line(run("heal", *SHORT, "--texts", 3, "--written", "none/own.txt"))
    assert "none/own.txt: there is no folder none" in said
    Path("own.txt").write_bytes(b"\xff\xfe\xfd")
    assert "own.txt: not a text in UTF-8" in one_line(run("heal", *SHORT, "--texts", 3, "--written", "own.txt"))
    Path("own.txt").write_text("short")
    said = one_line(run("heal", *SHORT, "--texts", 3, "--written", "own.txt"))
    assert "the text 'written' has too few tokens for a window of length=16" in said
    assert files(folder) == {"own.txt"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--out", "healed.gguf"), "out='healed.gguf' must end in .safetensors"),
        (("--out", "none/healed.safetensors"), "none/healed.safetensors: there is no folder none"),
        (("--json", "none/healed.json"), "none/healed.json: there is no folder none"),
        (("--batch", 0), "batch=0 must be a whole number of at least 1"),
        (("--steps", -1), "steps=-1 must be a whole number of at least 0"),
        (("--rate", "nan"), "rate=nan must be"),
        (("--seed", -1), "seed=-1 must be a whole number of at least 0"),
        (("--model", "none.safetensors"), "none.safetensors: no such file"),
        (
            ("--model", "run.safetensors"),
            "run.safetensors: not a converted model; expected a file that gta-ref convert",
        ),
        (("--model", "cut.safetensors"), "cut.safetensors: not a complete safetensors file"),
        (("--model", "gqa.safetensors"), "mechanism='gqa' must be 'gta': only a converted model is healed"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_refused(arguments, message, folder, monkeypatch):
    """Before any step, and nothing is written."""
    monkeypatch.setattr(heal, "take_step", None)
    small_run = train.begin(
        small.config("gta", hidden_size=32, n_layers=1),
        train.Settings(),
        trained_on.Text("letters", np.zeros(900, np.uint8), np.zeros(900, np.uint8)),
    )
    train.save("run.safetensors", small_run)
    Path("cut.safetensors").write_bytes(Path("gta.safetensors").read_bytes()[:-9])
    original = tiny.original("float32")
    model_files.save("gqa.safetensors", model_files.Content(original.config, original.params, "smollm2", 512))
    before = files(folder)
    assert message in one_line(run("heal", *SHORT, *arguments))
    assert files(folder) == before


def test_a_saved_healing_is_a_file_of_its_own_kind(folder, monkeypatch):
    """It is refused where a model is expected."""
    stop_before(2, monkeypatch)
    run("heal", *SHORT)
    healing = "gta-healed.healing.safetensors"
    assert "not a converted model" in one_line(run("heal", *SHORT, "--model", healing))
