"""gta-ref bench distributed, with few rounds of a short sequence."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

MPIEXEC = Path(sys.executable).with_name("mpiexec")


@pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or not MPIEXEC.exists(), reason="mpi4py or mpiexec is not installed"
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_it_runs_and_the_result_is_that_of_one_process(ranks, tmp_path):
    path = tmp_path / "found.json"
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "gta_ref", "bench", "distributed", "--quick"]
    done = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("with one thread each") == 1
    found = json.loads(path.read_text())
    assert found["ranks"] == ranks
    assert found["link"]["bandwidth"] > 0
    for case in found["cases"]:
        assert case["error"] < 1e-4
        assert case["sent"] == case["formula"]
        assert (case["sent"] == 0) == (ranks == 1)
        assert min(case[name] for name in ("ring", "alone", "threaded", "efficiency")) > 0
