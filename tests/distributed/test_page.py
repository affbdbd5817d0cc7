"""docs/distributed.md: the check of a ring attention in ten lines, on this project's ring, right and broken."""

import re
from pathlib import Path

import pytest

from tests.distributed.support import ONE_THREAD, needs_mpi, run

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8"), re.DOTALL)
(CHECK,) = [block for block in BLOCKS if "case.check(comm.Get_rank()" in block]

# what is done to the ring before the check → the first wrong array, a likely cause
BROKEN = {
    """
import numpy as np
from gta_ref.distributed import ring
def merge_into(z, lse, z_part, lse_part):
    z += z_part
    lse[...] = np.logaddexp(lse, lse_part)
ring.merge_into = merge_into
""": ("z", "results of the steps added without weights"),
    """
from gta_ref.distributed import ring
right = ring.mask_of_pieces
def mask_of_pieces(mask, batch, length, queries, keys):
    n = queries[1] - queries[0]
    return right(mask, batch, length, (0, n), (0, keys[1] - keys[0]))
ring.mask_of_pieces = mask_of_pieces
""": ("z", "positions counted from the start of each shard"),
    """
from gta_ref.distributed import messages, ring
class Dropped(messages.Passing):
    def __init__(self, comm, outgoing, incoming, tag):
        if tag == 1 and not hasattr(comm, "kept"):
            kept.append([x.copy() for x in outgoing])
        super().__init__(comm, outgoing, incoming, tag)
        self.tag, self.ranks = tag, comm.Get_size()
    def wait(self):
        found = super().wait()
        if self.tag == 1 and len(kept) == self.ranks:
            found[0][...] = kept[0][0]
            kept.clear()
        return found
kept = []
ring.Passing = Dropped
""": ("d_k", "d_k dropped on its way back"),
}


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_our_ring_passes_its_own_check(ranks):
    done = run(ranks, "-c", CHECK, cwd=ROOT, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 22 * ranks
    assert all(line.startswith("pass") for line in lines)


@needs_mpi
@pytest.mark.parametrize("fault", BROKEN, ids=[cause for _, cause in BROKEN.values()])
def test_a_broken_ring_is_found(fault):
    stage, cause = BROKEN[fault]
    done = run(3, "-c", fault + CHECK, cwd=ROOT, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    # a rank whose own z is right may receive wrong gradients from the others
    named = [line for line in failed if f"likely cause: {cause}" in line]
    assert any(f": {stage}[" in line for line in named)
