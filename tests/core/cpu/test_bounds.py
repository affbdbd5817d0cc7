"""Memory that the kernels must not touch: what lies beside the arrays and beside a worker's scratch memory.

Pages that may not be read or written lie directly after each array, or directly before it. A kernel that reads or writes
one number too many ends the process.
"""

import mmap
import os
import subprocess
import sys

import pytest

GUARDED = """
import ctypes, mmap, sys
import ml_dtypes
import numpy as np
from gta_ref import threads
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.core.cpu import engine
from tests.support import random_inputs

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
kept = []

def guarded(n, at_end):
    "n bytes that end where a page begins that must not be touched, or that begin after one."
    pages = -(-n // PAGE) + 2
    memory = mmap.mmap(-1, pages * PAGE)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, pages - 1):
        if libc.mprotect(ctypes.c_void_p(start + page * PAGE), PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    first = (pages - 1) * PAGE - n if at_end else PAGE
    return np.frombuffer(memory, np.uint8, n, first)

def moved(x, at_end):
    found = guarded(x.nbytes, at_end).view(x.dtype).reshape(x.shape)
    found[...] = x
    return found

def scratch(n):
    assert n % 64 == 0
    memory = guarded(n, at_end)
    return memory, memory.ctypes.data

engine.scratch = scratch
threads.set_threads(1)
dtype = np.dtype(ml_dtypes.bfloat16 if sys.argv[1] == "bfloat16" else sys.argv[1])
rng = np.random.default_rng(0)
for sizes, mask in (
    ((1, 5, 1, 1, 20, 37, 7, 9), None),
    ((2, 4, 2, 1, 13, 24, 24, 33), Mask(k_start=[3, 0], k_stop=[24, 21])),
    ((1, 2, 1, 2, 70, 70, 16, 32), None),
    ((1, 2, 1, 1, 70, 89, 32, 24), None),
    ((1, 3, 1, 1, 130, 131, 64, 40), Mask(causal=False)),
    ((1, 5, 1, 1, 1, 67, 64, 128), None),
    ((2, 7, 7, 1, 1, 130, 17, 35), None),
    ((1, 5, 1, 1, 1, 2050, 16, 24), None),
    ((1, 1, 1, 1, 1, 1, 1, 1), None),
):
    for at_end in (True, False):
        arrays = random_inputs(rng, sizes, dtype)
        q, k, v, dz, dlse = (moved(x, at_end) for x in arrays)
        z, lse, saved = attention_forward(q, k, v, mask=mask, engine="numba")
        found = z, lse, *attention_backward(dz, saved, dlse=dlse)
        q, k, v, dz, dlse = arrays
        z, lse, saved = attention_forward(q, k, v, mask=mask, engine="numba")
        for x, y in zip(found, (z, lse, *attention_backward(dz, saved, dlse=dlse))):
            assert x.tobytes() == y.tobytes()
print("within bounds")
"""


@pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="this system has no mprotect")
@pytest.mark.parametrize(
    "dtype, unit",
    [*((dtype, "off") for dtype in ("float32", "float64", "float16", "bfloat16")), ("bfloat16", "emulated")],
)
def test_kernels_stay_within_their_arrays(dtype, unit):
    environment = os.environ | {"GTA_REF_MATRIX_UNITS": unit}
    found = subprocess.run([sys.executable, "-c", GUARDED, dtype], env=environment, capture_output=True, text=True)
    assert found.stdout == "within bounds\n", f"exit {found.returncode}: {found.stderr}"


LENGTHS = {"32 bytes, as AVX2": "+avx,+avx2,+fma,+f16c", "16 bytes, as NEON": "+sse2,+fma,+avx,+f16c"}

SHORT = """
import numpy as np
from gta_ref.core.cpu import lanes
from tests.core.cpu.cases import CASES, assert_right
from tests.support import random_inputs

for i, (sizes, mask) in enumerate(CASES.values()):
    dtype = (np.float32, np.float64)[i % 3 == 0]
    assert_right(random_inputs(np.random.default_rng(5), sizes, dtype), mask)
print(lanes.VECTOR_BYTES)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="these are features of x86-64 CPUs")
@pytest.mark.parametrize("length", LENGTHS)
def test_other_lengths_of_vector(length):
    """The same source for shorter vectors, which this CPU has as well."""
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": LENGTHS[length]}
    found = subprocess.run([sys.executable, "-c", SHORT], env=environment, capture_output=True, text=True)
    assert found.stdout.split() == [length.split()[0]], found.stderr
