"""gta-ref doctor --course says what is missing, with exit status 1."""

import shutil
from collections import namedtuple

from typer.testing import CliRunner

from gta_ref import cli, doctor
from gta_ref.files import read_json


def run(*words):
    return CliRunner().invoke(cli.app, ["doctor", "--course", *map(str, words)])


def test_everything_is_there(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "version", lambda package: "1.0")
    monkeypatch.setattr(doctor, "_simulator", lambda: "runs a kernel")  # it is in exercise 12's tests
    result = run("--json", tmp_path / "d.json")
    assert result.exit_code == 0, result.output
    found = read_json(tmp_path / "d.json")["course"]
    assert [one["what"] for one in found] == ["Jupyter", "course", "CUDA simulator", "CPU kernels", "disk"]
    assert all(one["ready"] for one in found)


def test_what_is_missing_is_named(monkeypatch):
    def missing():
        raise RuntimeError("there is no simulator")

    monkeypatch.setattr(doctor, "version", lambda package: None if package == "ipykernel" else "1.0")
    monkeypatch.setattr(doctor, "_simulator", missing)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(7e6))
    result = run()
    assert result.exit_code == 1
    words = " ".join(result.output.split())
    for text in (
        "Jupyter no ipykernel not installed",
        "CUDA simulator no there is no simulator",
        "disk no 7 MB are free here",
    ):
        assert text in words


def test_two_questions_at_once_are_refused():
    result = run("--kernels")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
