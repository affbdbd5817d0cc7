"""The attention core without AVX-512, in a process of its own, as on a CPU that has only AVX2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

FEATURES = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2"

_CODE = """
import json, sys
from gta_ref.bench import contestants, core
from gta_ref.bench.peak import Ceilings
quick = sys.argv[1] == "quick"
cases = [case for case in core.cases(quick) if case.kind != "decode" and case.length in (1024, 2048)]
cases = [case for case in cases if case.dtype == "float32"]
ceilings = Ceilings(core.seconds)
core.of = lambda case, against_torch: {"numba": contestants.engine("numba")}
print(json.dumps([core.measure(case, ceilings, False, quick) for case in cases]))
"""


def avx2(quick: bool) -> list[dict[str, Any]]:
    """Measure the engine "numba" with vectors of 32 bytes; the cases as of core.measure, empty without AVX-512.

    Raises
    ------
    ValueError
        If the process fails.
    """
    from gta_ref.core.cpu.lanes import VECTOR_BYTES

    if VECTOR_BYTES != 64:
        return []
    environment = os.environ | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": FEATURES}
    command = [sys.executable, "-c", _CODE, "quick" if quick else "whole"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"without AVX-512: the process failed: {done.stderr.strip().splitlines()[-1:]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
