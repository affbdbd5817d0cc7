"""gta-ref bench distributed, with few rounds of a short sequence."""

import json

import pytest

from tests.distributed.support import needs_mpi, run


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_it_runs_and_the_result_is_that_of_one_process(ranks, tmp_path):
    path = tmp_path / "found.json"
    done = run(ranks, "-m", "gta_ref", "bench", "distributed", "--quick", "--json", str(path))
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
