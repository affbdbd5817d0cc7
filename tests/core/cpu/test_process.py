"""The engine "numba" in its process: forks, imports, the cache of compiled code, memory, "auto"; and its exp2."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import gta_ref
from gta_ref import threads
from gta_ref.core import EngineError, attention_backward, attention_forward, engines
from gta_ref.core.cpu import compiling
from gta_ref.core.cpu import engine as engine
from gta_ref.core.cpu.llvm import exp2
from tests.support import random_inputs


@pytest.fixture(autouse=True)
def default_threads():
    yield
    threads.set_threads(None)


def python(code, **environment):
    """Run code in a separate process and return its stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_a_fork():
    out, _ = python(
        """
        import os, warnings
        import numpy as np
        from gta_ref import threads
        from gta_ref.core import attention_forward
        warnings.simplefilter("ignore")
        threads.set_threads(2)
        rng = np.random.default_rng(0)
        q, k, v = (rng.standard_normal((1, h, 400, d), np.float32) for h, d in ((5, 32), (1, 32), (1, 64)))
        before = attention_forward(q, k, v, engine="numba")[0]
        child = os.fork()
        if child == 0:
            same = np.array_equal(attention_forward(q, k, v, engine="numba")[0], before)
            os._exit(0 if same else 1)
        print(os.waitpid(child, 0)[1])
        """
    )
    assert out == "0"


def test_import_and_small_problems_do_without_numba():
    out, _ = python(
        """
        import sys
        import numpy as np
        import gta_ref.core
        x = np.ones((1, 1, 4, 4), np.float32)
        gta_ref.core.attention_forward(x, x, x, engine="auto")
        print([name for name in ("numba", "llvmlite", "scipy") if name in sys.modules])
        """
    )
    assert out == "[]"


def test_no_folder_to_cache_in(tmp_path):
    # a folder with the path of a file, or below a file, cannot be made by any user, not even by root
    package = shutil.copytree(
        Path(gta_ref.__file__).parent, tmp_path / "gta_ref", ignore=shutil.ignore_patterns("__py*")
    )
    (package / "core" / "__pycache__").write_text("")
    nowhere = str(package / "core" / "__pycache__" / "cache")
    out, _ = python(
        """
        import numpy as np
        import gta_ref
        from gta_ref.core import attention_forward
        x = np.ones((1, 1, 20, 4), np.float32)
        print(gta_ref.__file__, attention_forward(x, x, x, engine="numba")[0].sum())
        """,
        NUMBA_CACHE_DIR=nowhere,
        XDG_CACHE_HOME=nowhere,
        HOME=nowhere,
        PYTHONPATH=str(tmp_path),
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert out == f"{package / '__init__.py'} 80.0"


def test_a_change_of_source_is_noticed(tmp_path):
    """With the same stamp, the compiled code is found in the cache; with another stamp, it is compiled again."""
    code = """
        from gta_ref.core.cpu import compiling
        compiling.STAMP = {stamp}
        import numpy as np
        from gta_ref.core import attention_forward
        x = np.ones((1, 1, 4, 4), np.float32)
        attention_forward(x, x, x, engine="numba")
        from gta_ref.core.cpu import prepared
        kernel = prepared.kernel("decode" if x.shape[2] <= 12 else "forward", x.dtype)
        print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
        """
    cache = str(tmp_path / "cache")
    found = [python(code.format(stamp=stamp), NUMBA_CACHE_DIR=cache)[0] for stamp in (7, 7, 8)]
    assert found == ["0 1", "1 0", "0 1"]


def test_every_source_of_a_kernel_is_in_the_stamp():
    folder = Path(compiling.__file__).parent
    compiled = {
        path.stem
        for path in folder.glob("*.py")
        if any(
            word in path.read_text(encoding="utf-8")
            for word in ("inlined", "intrinsic", "micro_kernel", "no-untyped-def", "x: Lanes")
        )
    }
    assert compiled == set(compiling.SOURCES)
    assert compiling.stamped(test_every_source_of_a_kernel_is_in_the_stamp).__qualname__.endswith(
        f"{compiling.STAMP:08x}"
    )


def test_compiling_for_long_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(compiling, "NOTICE_AFTER", 0.02)
    monkeypatch.setattr(compiling, "_told", set())
    with compiling._Notice() as notice:
        notice.start()
    with compiling._Notice():  # nothing has to be compiled: the kernel is loaded, which may be slow as well
        time.sleep(0.05)
    time.sleep(0.05)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        with compiling._Notice() as notice:
            notice.start()
            time.sleep(0.1)
    err = capsys.readouterr().err
    assert err.startswith("gta_ref: compiling")
    assert err.count("\n") == 1


def test_a_signal_handler_that_interrupts_a_build_gets_one_error():
    """It would wait for the code that it has interrupted; afterwards the build goes on."""
    errors = []

    @compiling.once
    def build(name):
        if name == "outer":  # what a signal handler does in the middle of a build
            with pytest.raises(EngineError, match="by the code that this call has interrupted") as error:
                build("inner")
            errors.append(error)
        return name

    assert build("outer") == "outer"
    assert len(errors) == 1
    assert build("inner") == "inner"


@pytest.mark.parametrize(
    ("sizes", "with_backward", "alone"),
    [
        ((1, 5, 1, 1, 2048, 2048, 64, 128), "numba", "numba"),
        ((32, 4, 1, 1, 128, 128, 32, 64), "numba", "numba"),
        ((8, 5, 1, 1, 1, 4096, 64, 128), "numba", "numba"),
        ((1, 5, 1, 1, 1, 2048, 64, 128), "reference", "numba"),
        ((1, 4, 1, 1, 32, 32, 32, 64), "reference", "numba"),
        ((64, 8, 8, 8, 16, 16, 16, 16), "reference", "numba"),
        ((1, 2, 1, 1, 256, 256, 2, 2), "reference", "numba"),
        ((512, 4, 4, 4, 4, 4, 8, 8), "reference", "reference"),
        ((1, 4, 1, 1, 8, 8, 32, 64), "reference", "reference"),
        ((2, 4, 1, 1, 0, 256, 32, 64), "reference", "reference"),
    ],
)
def test_auto_takes_the_faster_engine(sizes, with_backward, alone):
    batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v = sizes
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    q, k, v = (np.broadcast_to(np.float32(0), shape) for shape in shapes)
    assert engines.choose(q, k, v, need_saved=True, trace=None) == with_backward
    assert engines.choose(q, k, v, need_saved=False, trace=None) == alone
    assert engines.choose(q, k, v, need_saved=True, trace={}) == "reference"


def test_auto_stays_with_reference_where_numba_cannot_run(rng, monkeypatch):
    q, k, v, *_ = random_inputs(rng, (1, 5, 1, 1, 400, 400, 32, 64))
    assert attention_forward(q, k, v, engine="auto")[2].engine == "numba"
    monkeypatch.setattr(engine, "why_not", lambda: "no BLAS")
    assert attention_forward(q, k, v, engine="auto")[2].engine == "reference"


def test_memory_is_linear(rng):
    length = 4000
    q, k, v, dz, _ = random_inputs(rng, (1, 5, 1, 1, length, length, 8, 8))
    threads.set_threads(2)
    attention_backward(dz, attention_forward(q, k, v, engine="numba")[2])  # compiled code and tiles
    arrays = q.nbytes + k.nbytes + v.nbytes + dz.nbytes
    tracemalloc.start()
    _, _, saved = attention_forward(q, k, v, engine="numba")
    forward = tracemalloc.get_traced_memory()[1]
    attention_backward(dz, saved)
    backward = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(forward, backward) < 4 * arrays < length**2  # one map is 5 · 4 · length² bytes
    held = [x for x in saved.state if isinstance(x, np.ndarray)]
    assert sum(x.nbytes for x in held) < 4 * arrays


def test_exp2():
    from numba import njit

    @njit
    def values(x, c, m, out):
        for i in range(len(x)):
            out[i] = exp2(x[i], c, m)

    for dtype, lowest in ((np.float32, -126), (np.float64, -1022)):
        x = np.linspace(lowest, 8, 200_001).astype(dtype)
        out = np.empty_like(x)
        values(x, dtype(1), dtype(0), out)
        exact = np.exp2(x.astype(np.longdouble))
        assert np.abs(out / exact - 1).max() < 1.5 * np.finfo(dtype).eps
        x = np.array([0, -np.inf, np.nan, lowest - 1, -1e30, 3], dtype)
        out = np.empty_like(x)
        values(x, dtype(1), dtype(0), out)
        np.testing.assert_array_equal(out, np.array([1, 0, np.nan, 0, 0, 8], dtype))
