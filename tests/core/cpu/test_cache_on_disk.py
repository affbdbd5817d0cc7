"""Compiled kernels on disk: damaged files do no harm, and a kernel from the cache gives the bits of a compiled one."""

import os
import pickle
import subprocess
import sys
import textwrap

import pytest

TOY = """
from gta_ref.core.cpu import compiling
from numba import types

compiling.NOTICE_AFTER = 1e6  # the notice has its own test

def triple(x):
    return 3 * x

def load(kind=types.int64):
    return compiling.compiled(triple, kind(kind), strict=True)
"""


@pytest.fixture
def toy(tmp_path):
    """A folder with a module whose function is compiled by the project's means, and run(code), a process there."""
    (tmp_path / "toy.py").write_text(TOY)

    def run(code="k = toy.load(); print(k(14), *k.stats.cache_hits.values())", folder="cache", start=None, **more):
        command = [sys.executable, "-c", f"{start or ''}\nimport toy\n{code}"]
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / folder), "PYTHONPATH": os.pathsep.join(sys.path)}
        environment |= more
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), done.stderr.splitlines()

    return run


def files(tmp_path, ending):
    return list((tmp_path / "cache").rglob(f"*.{ending}"))


def said(lines):
    assert len(lines) == 1, lines
    return lines[0].startswith("gta_ref: the cache of compiled kernels cannot be used (")


def test_a_kernel_is_read_from_the_cache(toy):
    assert toy() == (["42"], [])
    assert toy() == (["42", "1"], [])


DAMAGE = {
    "empty": lambda whole: b"",
    "cut off": lambda whole: whole[: len(whole) // 2],
    "its first byte": lambda whole: whole[:1],
    "zeros": lambda whole: bytes(len(whole)),
    "no pickle": lambda whole: b"\xff" * 100,
    "another pickle": lambda whole: pickle.dumps(["not", "a", "kernel"]),
    "a pickle that raises": lambda whole: b"cno_such_module\nname\n.",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_damaged_files(toy, tmp_path, ending, damage):
    toy()
    (path,) = files(tmp_path, ending)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    out, lines = toy()
    assert out[0] == "42"
    assert not lines or said(lines)
    assert toy() == (["42", "1"], [])  # the next process finds whole files again


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_folder_in_place_of_a_file(toy, tmp_path, ending):
    toy()
    (path,) = files(tmp_path, ending)
    path.unlink()
    path.mkdir()
    (path / "full").touch()
    for _ in range(2):
        out, lines = toy()
        assert out[0] == "42"
        assert said(lines)


def test_a_data_file_is_missing(toy, tmp_path):
    toy()
    (path,) = files(tmp_path, "nbc")
    path.unlink()
    assert toy()[0] == ["42"]
    assert toy() == (["42", "1"], [])


def test_the_index_is_newer_than_the_data(toy, tmp_path):
    """Another process may have written the code for other arguments under the name that the index has."""
    toy()
    (data,) = files(tmp_path, "nbc")
    toy("toy.load(toy.types.float64)", folder="other")
    (foreign,) = (tmp_path / "other").rglob("*.nbc")
    data.write_bytes(foreign.read_bytes())
    out, lines = toy()
    assert out[0] == "42"
    assert said(lines)


def test_no_folder_can_be_made(toy, tmp_path):
    # a folder with the path of a file, or below a file, cannot be made by any user, not even by root
    (tmp_path / "__pycache__").write_text("a file")
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), str(tmp_path / "__pycache__" / "cache"))
    code = "for kind in (toy.types.int64, toy.types.float64): print(toy.load(kind)(14))"
    out, lines = toy(code, folder="__pycache__", PYTHONDONTWRITEBYTECODE="1", **nowhere)
    assert out == ["42", "42.0"]
    assert said(lines)  # once


def test_the_disk_is_full(toy):
    full = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    )
    out, lines = toy(start=full)
    assert out == ["42"]
    assert said(lines)
    assert toy()[0][0] == "42"


def test_several_processes_at_once(toy, tmp_path):
    code = "import toy; k = toy.load(); print(k(14))"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    several = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(6)
    ]
    for process in several:
        out, error = process.communicate()
        assert (process.returncode, out) == (0, b"42\n"), error
    assert toy()[0][0] == "42"  # which of the files were written last is a matter of chance, and they may not fit
    assert toy() == (["42", "1"], [])


RESULTS = textwrap.dedent(
    """
    import hashlib, sys
    import ml_dtypes
    import numpy as np
    from gta_ref.core import Mask
    from tests.support import both_passes, random_inputs

    for name in sys.argv[1:]:
        dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
        found = hashlib.sha256()
        for sizes in ((2, 4, 2, 1, 70, 140, 24, 33), (1, 5, 1, 1, 200, 200, 64, 128), (2, 5, 1, 1, 1, 2100, 64, 128)):
            arrays = random_inputs(np.random.default_rng(0), sizes, dtype)
            for x in both_passes(arrays, Mask(k_start=[3] * sizes[0])):
                found.update(x.tobytes())
        print(name, found.hexdigest())
    """
)


def test_bits_do_not_depend_on_the_cache(tmp_path):
    """Some processes compile a kernel, others read it, and some read float32's and compile the other dtypes'."""
    names = ["float32", "float16", "bfloat16", "float64"]

    def run(cache, *names):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / cache)}
        done = subprocess.run([sys.executable, "-c", RESULTS, *names], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return dict(line.split() for line in done.stdout.splitlines())

    compiled = run("one", *names)
    assert run("one", *names) == compiled
    assert run("two", "float32") == {"float32": compiled["float32"]}
    assert run("two", *reversed(names)) == compiled
    assert run("two", *names) == compiled
