"""Studies on processes of MPI, and on processes of this machine of which one is lost."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gta_ref.lab import runner, studies
from tests.distributed.support import ONE_THREAD, needs_mpi, run


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_study_on_mpi_finds_what_it_finds_here(ranks, tmp_path):
    shown, losses = [], []
    for name, number, more in (("here", 0, ["--jobs", "1"]), ("mpi", ranks, ["--executor", "mpi"])):
        words = ["study", "gate", "--quick", *more, "--out", str(tmp_path / name)]
        done = run(number, "-m", "gta_ref", *words, "--json", str(tmp_path / f"{name}.json"), env=ONE_THREAD)
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout)
        losses.append({path.name: json.loads(path.read_text())["losses"] for path in (tmp_path / name).glob("*.json")})
        assert json.loads((tmp_path / f"{name}.json").read_text())["arms"]
    assert len(losses[0]) == len(list(studies.quick(studies.load("gate")).jobs()))
    assert losses[0].keys() == losses[1].keys()
    for name, here in losses[0].items():  # the number of threads may differ
        np.testing.assert_allclose(losses[1][name], here, rtol=1e-4)
    question = studies.load("gate").question[:40]
    assert [text.count(question) for text in shown] == [1, 1]


def test_an_unknown_executor_is_one_line(tmp_path):
    done = run(0, "-m", "gta_ref", "study", "gate", "--quick", "--executor", "slurm", "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.strip() == "gta-ref: executor='slurm' must be one of 'local', 'mpi'"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be killed by a signal")
def test_the_run_of_a_lost_process_is_done_again(tmp_path):
    study, killed = studies.quick(studies.load("gate")), []
    here = os.getpid()

    def children():
        path = Path(f"/proc/{here}/task/{here}/children")
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    before = set(children())

    def kill_one():
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            time.sleep(0.05)
            for process in set(children()) - before:
                if b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes():
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                    break

    if not Path(f"/proc/{here}/task/{here}/children").exists():
        pytest.skip("this system does not list the children of a process")
    watcher = threading.Thread(target=kill_one)
    watcher.start()
    results = runner.run(study, tmp_path, 1, lambda *what: None)
    watcher.join()
    assert killed
    assert len(results) == len(list(study.jobs()))
