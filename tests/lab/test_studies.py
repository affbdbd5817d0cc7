"""Studies: equal budgets, runs that are found again, and a verdict that follows from the figures."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gta_ref.lab import measures, runner, studies, summary
from gta_ref.lm import small, text, train


@pytest.mark.parametrize("name", studies.STUDIES)
def test_budgets_are_equal(name):
    study = studies.load(name)
    jobs = list(study.jobs())
    assert len(jobs) == len(study.arms) * len(study.seeds)
    assert study.baseline in study.arms
    assert {replace(job.settings, seed=0) for job in jobs} == {replace(study.settings, seed=0)}
    parameters = np.array([small.n_parameters(config) for config in study.arms.values()])
    assert np.abs(parameters / np.median(parameters) - 1).max() < 0.002
    assert len({runner.digest(job) for job in jobs}) == len(jobs)


def test_studies_share_runs():
    found = {name: {runner.digest(job) for job in studies.load(name).jobs()} for name in studies.STUDIES}
    assert len(found["mechanisms"] & found["gate"]) == 9  # gqa and mla as they are, gta with its gate
    assert len(found["gate"] & found["activations"]) == 6


def test_unknown_study():
    with pytest.raises(ValueError, match="study='x' must be one of 'mechanisms'"):
        studies.load("x")


def test_a_study_runs_and_finds_its_runs_again(tmp_path):
    study = studies.quick(studies.load("activations"))
    study = replace(study, arms={name: study.arms[name] for name in ("gta sigmoid", "gta none")})
    told = []
    results = runner.run(study, tmp_path / "runs", 2, lambda *what: told.append(what))
    assert [(r["arm"], r["seed"]) for r in results] == [
        ("gta sigmoid", 0),
        ("gta none", 0),
        ("gta sigmoid", 1),
        ("gta none", 1),
    ]
    assert {label for label, _, _ in told} == {f"{r['arm']}, seed {r['seed']}" for r in results}
    assert all(r["loss"] == r["validation"]["2"] and len(r["losses"]) == 2 for r in results)
    assert len({r["loss"] for r in results}) == 4
    # without a gate the heads are the decoded values; with one their rank is larger
    for r in results:
        decoded, gated = r["measured"]["rank, decoded"], r["measured"]["rank, gated"]
        assert gated > 1.2 * decoded if r["arm"] == "gta sigmoid" else gated == decoded
    told.clear()
    assert runner.run(study, tmp_path / "runs", 2, lambda *what: told.append(what)) == results
    assert told == []
    # a run whose result is missing continues from its file, and ends as it did before
    job = list(study.jobs())[1]
    path = tmp_path / "runs" / f"{runner.digest(job)}.json"
    before = json.loads(path.read_text())
    path.unlink()
    assert runner.run(study, tmp_path / "runs", 1, lambda *what: None)[1]["loss"] == before["loss"]

    found = summary.summarise(study, results)
    sigmoid, none = found["arms"]["gta sigmoid"], found["arms"]["gta none"]
    assert sigmoid["loss"] == [results[0]["loss"], results[2]["loss"]]
    assert none["mean"] == pytest.approx(np.mean([results[1]["loss"], results[3]["loss"]]))
    assert sigmoid["difference"] == pytest.approx(sigmoid["mean"] - none["mean"])
    assert "verdict" not in none
    assert found["tokens"] == 2 * 2 * 64
    rows = [" ".join(row) for table in (summary.loss_rows(found), summary.measured_rows(found)) for row in table]
    assert len(rows) == 6
    assert rows[1].startswith("gta sigmoid 48 ")
    assert rows[2].endswith("baseline")


def test_the_sizes_of_layers_that_differ_are_means_over_the_layers(tmp_path):
    whole, narrow = (small.config("gta", latent_dim=latent, decoder_residual=False) for latent in (32, 16))
    layers = (whole.attention, *[narrow.attention] * (whole.n_layers - 1))
    study = studies.quick(studies.load("mechanisms"))
    study = replace(
        study, arms={"whole": whole, "mixed": replace(whole, attention=layers)}, baseline="whole", seeds=(0,)
    )
    results = runner.run(study, tmp_path, 1, lambda *what: None)
    assert results[0]["cache_elements"] == whole.cache_elements == 48
    assert results[1]["cache_elements"] == 48 - 16 * (whole.n_layers - 1) / whole.n_layers
    assert results[1]["attention_macs"] < results[0]["attention_macs"]
    table = summary.loss_rows(summary.summarise(study, results))
    assert [row[1] for row in table] == ["cache", "48", f"{results[1]['cache_elements']:g}"]


def test_verdicts_by_hand():
    # differences 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1; Student's quantile for 2 degrees of freedom: 4.302653
    found = summary.compare([1.1, 2.2, 3.3], [1.0, 2.0, 3.0])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found["difference"] == pytest.approx(0.2)
    assert found["interval"] == pytest.approx([0.2 - half, 0.2 + half], rel=1e-6)
    assert found["verdict"] == "not distinguishable"  # the interval contains 0
    assert summary.compare([1.19, 2.2, 3.21], [1.0, 2.0, 3.0])["verdict"] == "higher"
    assert summary.compare([0.81, 1.8, 2.79], [1.0, 2.0, 3.0])["verdict"] == "lower"
    one = summary.compare([1.0], [2.0])
    assert one == {"difference": -1.0, "interval": None, "verdict": "not distinguishable"}


KILLED = """
import multiprocessing, sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from gta_ref.lab import runner, studies

told = set()

def tell(label, step, loss):
    told.add(label)
    if len(told) == 2 and label == "long, seed 0":  # one process trains, and one waits
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    study = studies.load("retrieval")
    short = replace(study.settings, batch=1, length=32, steps=10, validate_every=10, validation_sequences=1)
    jobs = [
        studies.Job(name, study.arms["gta"], replace(short, steps=steps, validate_every=steps), "retrieval")
        for name, steps in (("long", 100_000), ("short", 10))
    ]
    runner.run(SimpleNamespace(jobs=lambda: iter(jobs), measure=None), Path(sys.argv[1]), 2, tell)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process runs is read from /proc")
def test_the_runs_of_a_killed_study_end_and_keep_what_they_have(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    with subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True) as study:
        processes = [Path("/proc", pid, "stat") for pid in study.stdout.readline().split()]
        study.kill()
    assert len(processes) == 2

    def over(stat):
        # Z is a zombie: it has ended, but its parent has not read its status
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    deadline = time.monotonic() + 60
    while not all(map(over, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [over(stat) for stat in processes] == [True, True]
    steps = [train.load(saved).state.step for saved in tmp_path.glob("*.safetensors")]
    assert min(steps) == 10 < max(steps)


def test_ranks_are_of_decoded_values():
    source = text.standard_library()
    run = train.begin(small.config("gqa", n_layers=1), train.Settings(length=16), source)
    with pytest.raises(ValueError, match="'gqa'; expected 'gta'"):
        measures.ranks(run, source)


def test_a_diverging_run_stops_the_study(tmp_path):
    study = studies.quick(studies.load("gate"))
    settings = replace(study.settings, learning_rate=1e12, steps=5)
    study = replace(study, settings=settings, seeds=(0,), arms={"gta with a gate": study.arms["gta with a gate"]})
    study = replace(study, baseline="gta with a gate")
    with pytest.raises(ValueError, match=r"step \d: the loss is"):
        runner.run(study, tmp_path, 1, lambda *what: None)
