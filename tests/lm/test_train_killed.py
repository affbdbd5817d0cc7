"""A training run that is killed again and again at random moments, each time in another process, and one that is not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gta_ref.lm import text as texts
from gta_ref.lm import train

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("GTA_REF_KILLS", "12"))
SIZES = ["--batch", "2", "--length", "32", "--hidden-size", "32", "--n-layers", "1"]
# the schedule of 10^6 steps, of which the test sees the first hundreds: none of its processes comes to an end by itself
SETTINGS = ["--steps", "1000000", "--validate-every", "3"]


def train_until_killed(out, text, rng):
    """Train in a process of its own until it has saved the run once, and for a random time more."""
    before = out.stat().st_mtime_ns if out.exists() else 0
    begin = (
        ["--engine", "numba", "--resume", str(out)]
        if out.exists()
        else ["--engine", "numba", "--out", str(out), *SETTINGS, *SIZES]
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "gta_ref", "train", "--text", str(text), *begin],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        while (out.stat().st_mtime_ns if out.exists() else 0) == before:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))  # some validations and writes of the file
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="a process that is killed elsewhere keeps its files open for a while")
def test_killed_at_random_moments(tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "runs" / "run.safetensors"
    text.write_bytes(np.random.default_rng(1).choice(list(b"etaoin shrdlu"), 6000).astype(np.uint8).tobytes())
    out.parent.mkdir()
    rng, steps = np.random.default_rng(), []
    for _ in range(ROUNDS):
        train_until_killed(out, text, rng)
        steps.append(train.load(out).state.step)
    assert steps == sorted(set(steps)), steps
    assert len(list(out.parent.iterdir())) <= 2  # the run, and what the last process was writing

    killed, source = train.load(out), texts.from_file(text)
    whole = train.begin(killed.config, killed.settings, source)

    class Reached(Exception):  # noqa: N818
        pass

    def stop(run):
        if run.state.step == killed.state.step:
            raise Reached

    with pytest.raises(Reached):
        train.advance(whole, source, engine="numba", on_validation=stop)
    assert np.array(whole.losses).tobytes() == np.array(killed.losses).tobytes()
    assert whole.validation == killed.validation
    for kind, found, expected in (
        ("params", killed.state.params, whole.state.params),
        ("m", killed.state.moments.m, whole.state.moments.m),
        ("v", killed.state.moments.v, whole.state.moments.v),
    ):
        assert found.keys() == expected.keys()
        for name, x in found.items():
            assert (x.dtype, x.tobytes()) == (expected[name].dtype, expected[name].tobytes()), (kind, name, steps)
