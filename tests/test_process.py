"""The settings of the command's process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from gta_ref import process
if {keep}:
    process.keep_memory()
import numpy as np
def work():
    x = np.ones(2**21, np.float32)  # 8 MiB, 2,048 pages
    return x + x
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep):
    found = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True)
    assert found.stdout, found.stderr
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_taken_again():
    assert page_faults(keep=True) < 100
    assert page_faults(keep=False) > 1000  # otherwise the setting is no longer needed
