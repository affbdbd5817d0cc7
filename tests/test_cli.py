"""The commands as a user types them: exit status, what is printed, what is written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

import gta_ref
from gta_ref import cli
from gta_ref import tour as steps
from gta_ref.core import engines

ROOT = Path(__file__).parents[1]


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)


def test_tour(tmp_path):
    result = run("tour", "--out", tmp_path / "new" / "folder", "--json", tmp_path / "copy.json")
    assert result.exit_code == 0, result.output
    assert "The weights are random" in result.output
    for name in ("maps.png", "cache.png"):
        image = imread(tmp_path / "new" / "folder" / name)
        assert image.shape[0] > 400
        assert image.shape[1] > 1000
        assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100  # a drawing, not a blank page
    figures = json.loads((tmp_path / "new" / "folder" / "tour.json").read_text())
    assert figures == json.loads((tmp_path / "copy.json").read_text())
    assert figures["weights"] == "random"
    assert figures["stages"]["map"] == {"shape": [1, 5, 192, 192], "dtype": "float32", "bytes": 5 * 192 * 192 * 4}
    assert figures["equation_7_is_8"]["relative_error"] <= 1e-12
    assert max(figures["gradients"]["relative_error"].values()) <= 1e-7
    assert len(figures["gradients"]["relative_error"]) == 12
    assert figures["decoding"]["relative_error"] <= 1e-12
    assert figures["decoding"]["left_padding"] == [0, 5, 17]
    costs = figures["costs"]
    assert costs["cache_bytes"] == {"gta-1b": 54 * 2048 * 192 * 2, "gqa-1b": 54 * 2048 * 640 * 2}
    assert costs["cache_ratio"] == pytest.approx(0.3)
    assert costs["attention_ratio"] == 0.375
    assert "192" in result.output
    assert re.search(r"0\.300", result.output)
    assert re.search(r"0\.375", result.output)


def test_tour_reads_a_text_of_ones_own(tmp_path):
    text = tmp_path / "mine.txt"
    text.write_bytes("Größe, naïveté, 数学. ".encode() * 5)
    result = run("tour", "--text", text, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "mine.txt" in json.loads((tmp_path / "out" / "tour.json").read_text())["text"]


def test_tour_of_a_text_of_one_letter(tmp_path):
    """All latent values are then equal, whatever the maps are, so the gradient by queries and keys is 0."""
    text = tmp_path / "a.txt"
    text.write_text("a" * 64)
    result = run("tour", "--text", text, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "tour.json").read_text())["gradients"]["holds"]


@pytest.mark.parametrize(
    "text, name, size_of",
    [(b"a" * 64, "w_q", "w_c"), (b"a" * 64, "b_k", "w_c"), (None, "b_k", "b_k"), (None, "w_o", "w_o")],
    ids=lambda x: "Python" if x is None else str(x)[:4],
)
def test_tour_sees_a_wrong_gradient(text, name, size_of, monkeypatch):
    """The error is a thousandth of the gradient or, if that is 0, a thousandth of another gradient's size."""
    tour = steps.start(*steps.default_text(), 0) if text is None else steps.start("a", text, 0)
    backward = steps.gta.backward

    def wrong(*arguments):
        dx, grads = backward(*arguments)
        size = np.abs(grads[size_of]).max()
        return dx, {**grads, name: grads[name] + 1e-3 * size * np.sign(tour.params[name])}

    monkeypatch.setattr(steps.gta, "backward", wrong)
    found = steps.gradients(tour)
    assert not found["holds"]
    assert {n for n, error in found["relative_error"].items() if error > found["bound"]} == {name, "all at once"}


def test_tour_fails_when_a_claim_does(tmp_path, monkeypatch):
    """A wrong Eq. 7 has to end in exit status 1, with the step named."""
    right = steps.gta.forward_unabsorbed
    monkeypatch.setattr(steps.gta, "forward_unabsorbed", lambda *a, **k: right(*a, **k) * (1 + 1e-9))
    result = run("tour", "--out", tmp_path)
    assert result.exit_code == 1
    assert "failed: equation_7_is_8" in result.output
    assert not json.loads((tmp_path / "tour.json").read_text())["equation_7_is_8"]["holds"]


@pytest.mark.parametrize(
    "content, message",
    [(None, "nothing.txt: No such file or directory"), (b"short", "has 5 bytes; expected at least 40")],
)
def test_tour_with_a_bad_text(tmp_path, content, message):
    text = tmp_path / "nothing.txt"
    if content is not None:
        text.write_bytes(content)
    command = [sys.executable, "-m", "gta_ref.cli", "tour", "--text", str(text), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_doctor(tmp_path):
    result = run("doctor", "--json", tmp_path / "d.json")
    assert result.exit_code == 0
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["packages"]["numpy"] == np.__version__
    assert found["engines"].keys() == engines.MODULES.keys()
    assert found["engines"]["reference"] is None
    for name, reason in found["engines"].items():
        assert name in result.output
        assert reason is None or "\n" not in reason


@pytest.mark.parametrize(
    "arguments", [["tour", "--seed", "x"], ["tour", "--seed", "-1"], ["dance"], ["tour", "--depth"]]
)
def test_wrong_usage_is_status_2(arguments):
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("command", [[], ["tour"], ["doctor"]])
def test_help(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def start(*arguments, **environment):
    """The command in a process of its own, without a shell that completion could find out."""
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", **environment}
    command = [sys.executable, "-m", "gta_ref", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_version():
    assert start("--version") == f"gta_ref {gta_ref.__version__}\n"


def test_python_m_gta_ref_is_the_command():
    assert start("--help").startswith("Usage: gta-ref [OPTIONS] COMMAND [ARGS]...\n")


def test_completion():
    script = start("--show-completion", "bash")
    assert "_GTA_REF_COMPLETE=complete_bash" in script
    assert "complete -o default -F _gta_ref_completion gta-ref" in script
    assert start(_GTA_REF_COMPLETE="complete_bash", COMP_WORDS="gta-ref tr", COMP_CWORD="1").split() == ["train"]


@pytest.mark.parametrize("chosen, seen", [(None, "20"), ("26", "26")])
def test_blas_threads_are_told_to_stop_looking_before_numpy_is_there(chosen, seen):
    code = (
        "import os, sys; from gta_ref import cli; assert 'numpy' not in sys.modules; sys.argv = ['gta-ref', '--help']\n"
        "try: cli.main()\n"
        "finally: print(os.environ['OPENBLAS_THREAD_TIMEOUT'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    environment |= {} if chosen is None else {"OPENBLAS_THREAD_TIMEOUT": chosen}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == seen, found.stderr
