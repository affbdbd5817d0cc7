"""gta-ref verify --impl, as a user types it: options, what is printed and where, exit status, and the repro line."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gta_ref import cli
from gta_ref.commands import verify_output
from gta_ref.verify.report_schema import REPORT

ROOT = Path(__file__).parents[2]
CODE = """
import os, sys
from gta_ref.verify.selftest import by_engine

def right(arrays, settings):
    print("noise"); os.write(1, b"noise of C\\n")
    return by_engine("reference")(arrays, settings)

def wrong(arrays, settings):
    found = right(arrays, settings)
    return {**found, "z": found["z"] * 2} if arrays["q"].shape[2] == 33 else found

def fails(arrays, settings):
    return helper(arrays)

def helper(arrays):
    raise RuntimeError("[bold]no luck[/]")

def exits(arrays, settings):
    sys.exit(0)

def unfinished(arrays, settings):
    raise NotImplementedError("no backward yet")

def no_lse(arrays, settings):
    return {name: x for name, x in right(arrays, settings).items() if name != "lse"}
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "mine_command.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    sys.modules.pop("mine_command", None)


def run(*arguments):
    result = CliRunner().invoke(cli.app, ["verify", *map(str, arguments)], catch_exceptions=False)
    sys.modules.pop("mine_command", None)
    return result


def shell(*arguments, **environment):
    command = [sys.executable, "-m", "gta_ref", "verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_an_exit_is_never_a_silent_success():
    for more in ((), ("--isolate",)):
        done = shell("--impl", "mine_command:exits", "--case", "attention/plain", *more)
        assert done.returncode == 1
        assert "it called sys.exit(0) (mine_command.py:" in done.stdout
        assert "1 error" in done.stdout


def test_what_is_printed_does_not_damage_the_json():
    done = shell("--impl", "mine_command:right", "--case", "attention/plain", "--json", "/dev/stdout")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["schema"] == REPORT["properties"]["schema"]["const"]
    assert "noise of C" in done.stderr
    assert "1 pass" in done.stderr
    done = shell("--impl", "mine_command:right", "--case", "attention/plain")
    assert "noise" not in done.stdout
    assert done.stdout.startswith("pass    attention/plain float32")


def test_a_repro_line_repeats_its_case(tmp_path):
    result = run(
        "--impl",
        "mine_command:wrong",
        "--case",
        "attention/*plain*",
        "--case",
        "attention/chunk",
        "--seed",
        5,
        "--without",
        "poison",
    )
    assert result.exit_code == 1
    (line,) = re.findall(r"repro: (gta-ref verify .*)", result.stdout)
    assert "--case attention/plain --dtype float32 --seed 5 --without poison" in line
    words = shlex.split(line)
    done = shell(*words[2:])
    assert done.returncode == 1
    assert "1 fail; seed 5" in done.stdout
    (first, again) = (re.search(r"z\[.*", text).group() for text in (result.stdout, done.stdout))
    assert first == again


def test_wrong_places_come_last_and_what_was_not_checked_ends_the_report():
    result = run("--impl", "mine_command:wrong", "--case", "attention/plain", "--case", "attention/chunk")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("pass    attention/chunk float32")
    assert lines[1].split() == ["fail", "attention/plain", "float32", "first", "wrong:", "z"]
    assert lines[2].startswith("    z[")
    assert "1 pass, 1 fail; seed 0" in lines
    assert lines[lines.index("Not checked:") + 1 :] == [
        "  - inner stages were not returned everywhere: scores, map, d_map, d_scores",
        "  - levels without any case that ran: layer, lm",
        "  - dtypes without any case that ran: float64, bfloat16, float16",
    ]
    result = run("--impl", "mine_command:no_lse", "--case", "attention/plain")
    assert "  - lse was not returned in 1 of 1 cases, and so was not checked there" in result.stdout


def test_place_and_traceback_of_an_exception():
    result = run("--impl", "mine_command:fails", "--case", "attention/plain")
    assert "    RuntimeError: [bold]no luck[/] (mine_command.py:17)" in result.stdout
    assert "Traceback" not in result.stdout
    result = run("--impl", "mine_command:fails", "--case", "attention/plain", "--traceback")
    assert "Traceback (most recent call last):" in result.stdout
    assert "in fails" in result.stdout
    assert "in helper" in result.stdout


def test_summary():
    few = ["--case", "attention/length-*", "--case", "attention/*-padded"]
    result = run("--impl", "mine_command:no_lse", "--suite", "attention", *few, "--summary", "--without", "padding")
    assert result.exit_code == 0
    assert re.fullmatch(r"gta_ref \S+ attention float32: \d+ pass, 0 fail, \d+ skip; lse not checked\n", result.stdout)


def test_everything_skipped_is_no_success():
    result = run("--impl", "mine_command:unfinished", "--suite", "attention")
    assert result.exit_code == 2
    assert re.search(r"  - \d+ cases skipped \(NotImplementedError: no backward yet\)", result.stdout)


def test_the_json_path_is_checked_before_the_run(tmp_path):
    (tmp_path / "mine_command.py").write_text("raise SystemExit('it was imported')")
    for path, reason in (("nowhere/x.json", "there is no folder nowhere"), (".", "Is a directory")):
        result = run("--impl", "mine_command:right", "--json", path)
        assert result.exit_code == 2
        assert reason in result.stderr
        assert "imported" not in result.stderr


def test_progress_without_a_terminal(monkeypatch):
    result = run("--impl", "mine_command:right", "--case", "attention/length-6*")
    told = [line for line in result.stderr.splitlines() if " of " in line and "attention" in line]
    assert told == ["1 of 3 attention/length-63"]  # the next one only some seconds later
    monkeypatch.setattr(verify_output, "EVERY", 0.0)
    result = run("--impl", "mine_command:right", "--case", "attention/length-6*")
    assert [f"{n} of 3 attention/length-{62 + n}" in result.stderr for n in (1, 2, 3)] == [True] * 3
    assert "of 3" not in result.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_no_line_but_a_command_is_wider(columns):
    from rich.console import Console

    from gta_ref.verify import verify

    sys.path.insert(0, ".")
    try:
        report = verify("mine_command:wrong", cases=["attention/plain", "attention/chunk"])
    finally:
        sys.path.pop(0)
        sys.modules.pop("mine_command", None)
    with open(os.devnull, "w") as nowhere:
        console = Console(width=columns, record=True, force_terminal=True, file=nowhere)
        verify_output.show(console, report)
    lines = [line for line in console.export_text().splitlines() if "repro:" not in line]
    assert max(map(len, lines)) <= columns
    assert len(lines) > 6


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--case", "attention/plian"], "did you mean attention/plain?"),
        (
            ["--suite", "layer", "--case", "attention/plain"],
            "case='attention/plain' matches no case in the suite layer",
        ),
        (["--without", "speed"], "without='speed' must be one of"),
        (["--head-dim", "0"], "head_dim=0 must be"),
        (["--timeout", "3"], "timeout needs isolate"),
        (["--repeat", "0"], "repeat=0 must be"),
        (["--products", "fp8"], "products='fp8' must be one of"),
        (["--dtype", "float32,"], "dtype='float32,' must name one or several"),
    ],
)
def test_wrong_options(arguments, message):
    result = run("--impl", "mine_command:right", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2  # and a line of progress
