"""Peak memory of one forward, measured in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_CODE = """
import json, sys
import numpy as np
from gta_ref.bench.memory import begin, peak
from gta_ref.core import attention_forward

def call(n):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, h, n, d), np.float32) for h, d in ((5, 64), (1, 64), (1, 128)))
    z, lse, _ = attention_forward(q, k, v, engine="numba", need_saved=False)
    return q.nbytes + k.nbytes + v.nbytes, z.nbytes + lse.nbytes

call(512)  # allocates what is needed only once: compiled code, threads, their tiles
before = begin()
inputs, outputs = call(int(sys.argv[1]))
print(json.dumps({"inputs": inputs, "outputs": outputs, "growth": peak() - before}))
"""


def peak() -> int:
    """Most bytes that this process has held in memory so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage returns the parent's peak if that is higher, because fork and exec pass it on
        return next(int(line.split()[1]) * 1024 for line in status.open() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def begin() -> int:
    """Bytes that this process holds now; on Linux the most that it has held so far is forgotten."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def forward_growth(length: int) -> dict[str, Any]:
    """Measure by how many bytes a process grows while it makes the inputs and outputs of a forward of GTA-1B.

    Returns
    -------
    found : dict
        length (in tokens); inputs, outputs, growth (in bytes).

    Raises
    ------
    ValueError
        If the process fails, or if the measurement cannot be right because the growth is less than the outputs.
    """
    done = subprocess.run([sys.executable, "-c", _CODE, str(length)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"memory at N={length}: the process failed: {done.stderr.strip().splitlines()[-1:]}")
    found = {"length": length, **json.loads(done.stdout)}
    if found["growth"] < found["outputs"]:
        raise ValueError(f"memory at N={length}: a growth of {found['growth']} bytes is less than the outputs")
    return found
