"""gta-ref train in several processes: the losses of one process, runs that change their number, and ranks that fail."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gta_ref.lm import train as training
from tests.distributed.support import command, needs_mpi, run

SMALL = ("--batch", "5", "--length", "32", "--hidden-size", "32", "--n-heads", "4", "--n-layers", "1")
OPTIONS = (*SMALL, "--validate-every", "2", "--engine", "reference")

pytestmark = needs_mpi


def train(ranks, *words, cwd):
    done = run(ranks, "-m", "gta_ref", "train", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_losses_are_those_of_one_process_and_a_run_continues_with_another_number(tmp_path):
    train(0, *OPTIONS, "--steps", "6", "--out", "one.safetensors", "--json", "one.json", cwd=tmp_path)
    shown = train(3, *OPTIONS, "--steps", "6", "--out", "three.safetensors", "--json", "three.json", cwd=tmp_path)
    assert shown.count("written: three.safetensors") == 1  # by one of the three
    one, three = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "three"))
    np.testing.assert_allclose(three["losses"], one["losses"], rtol=1e-5)
    assert three["losses"] != one["losses"]  # the batch was divided
    # a run that is stopped after step 4 in two processes goes on in three
    train(2, *OPTIONS, "--steps", "6", "--out", "two.safetensors", cwd=tmp_path)
    begun = training.load(tmp_path / "two.safetensors")
    stopped = tmp_path / "stopped.safetensors"
    stop_after = f"""
from gta_ref.distributed.launch import together
from gta_ref.distributed.training import data_parallel
from gta_ref.lm import text, train
from functools import partial

run = train.load("two.safetensors")
run = train.begin(run.config, run.settings, text.standard_library())
class Enough(Exception): pass
def stop(run):
    if run.state.step == 4:
        raise Enough
with together() as comm:
    try:
        train.advance(run, text.standard_library(), engine="reference", gradient=partial(data_parallel, comm), on_step=stop)
    except Enough:
        if comm.Get_rank() == 0:
            train.save({str(stopped)!r}, run)
"""
    done = run(2, "-c", stop_after, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    train(3, "--resume", str(stopped), "--engine", "reference", "--json", "again.json", cwd=tmp_path)
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["losses"][:4] == begun.losses[:4]  # the same number of processes gives the same bits
    np.testing.assert_allclose(again["losses"], one["losses"], rtol=1e-5)


def test_a_wrong_option_is_one_line(tmp_path):
    done = run(2, "-m", "gta_ref", "train", *OPTIONS, "--n-heads", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("n_heads=0 must be a whole number of at least 1") == 1


@pytest.mark.parametrize("failing", [0, 2])
def test_one_rank_that_raises_ends_all(failing, tmp_path):
    """The others wait for it in a message."""
    code = f"""
import numpy as np
from gta_ref.distributed.launch import together

with together() as comm:
    if comm.Get_rank() == {failing}:
        raise ValueError("this rank\\nhas failed")
    comm.Allreduce(np.zeros(3), np.empty(3))
"""
    start = time.monotonic()
    done = run(3, "-c", code, cwd=tmp_path)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("gta-ref")]
    assert lines == [f"gta-ref: {f'rank {failing} of 3: ' if failing else ''}this rank has failed"]
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 60


def test_a_killed_rank_ends_the_run_and_leaves_its_file(tmp_path):
    out = tmp_path / "run.safetensors"
    words = ("-m", "gta_ref", "train", *OPTIONS, "--steps", "100000", "--out", str(out))
    environment = os.environ | {"MARK": str(tmp_path)}
    with subprocess.Popen(
        command(2, *words), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as started:
        try:
            until = time.monotonic() + 120
            while not out.exists() and time.monotonic() < until:
                time.sleep(0.1)
            os.kill(ranks_of(tmp_path)[-1], signal.SIGKILL)
            assert started.wait(60) != 0
        finally:
            started.kill()
    assert training.load(out).state.step >= 2
    assert not ranks_of(tmp_path)


def ranks_of(mark):
    """The processes of a run, by a variable of their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"MARK={mark}".encode() in (process / "environ").read_bytes().split(b"\0")
            if (
                mine
                and b"gta_ref" in (process / "cmdline").read_bytes()
                and b"PMI_RANK" in (process / "environ").read_bytes()
            ):
                found.append(int(process.name))
        except OSError:
            continue
    return sorted(found)


def test_without_mpi4py_the_command_says_what_to_install(tmp_path):
    """Rank 1 of 2, as its environment says, but the package is hidden."""
    code = "import sys; sys.modules['mpi4py'] = None; from gta_ref.cli import main; sys.argv[0] = 'gta-ref'; main()"
    environment = os.environ | {"PMI_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *OPTIONS], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "install gta-ref[mpi]" in done.stderr
    assert "Traceback" not in done.stderr
