"""What several test modules use: cases and random inputs of the attention core, both of its passes in one call, small
configurations, the CPU's matrix units, files that may be damaged, and Python code in a process of its own."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.core.cpu import matrix_units
from gta_ref.mechanisms import NAMES, load

# forms of the CPU's matrix unit
MATRIX_UNITS = (
    "emulated",
    pytest.param("amx", marks=pytest.mark.skipif(not matrix_units.granted(), reason="this CPU has no matrix unit")),
)

# (B, n_q, n_k, n_v, N_q, N_k, d_k, d_v), mask
CASES = {
    "causal": ((2, 4, 1, 1, 9, 9, 8, 16), Mask()),
    "one token": ((1, 2, 1, 1, 1, 1, 4, 6), Mask()),
    "63 keys": ((1, 2, 1, 1, 3, 63, 4, 6), Mask()),
    "65 queries": ((1, 1, 1, 1, 65, 65, 4, 4), Mask()),
    "n_k and n_v differ": ((2, 6, 2, 3, 5, 5, 4, 3), Mask()),
    "a head each": ((1, 3, 3, 3, 5, 5, 4, 4), Mask()),
    "d_v below d_k": ((1, 2, 1, 2, 5, 5, 12, 3), Mask()),
    "decode": ((3, 4, 1, 1, 1, 17, 8, 16), Mask()),
    "chunk": ((2, 4, 2, 1, 4, 13, 8, 8), Mask(q_start=6)),
    "not causal": ((2, 4, 1, 2, 6, 11, 8, 4), Mask(causal=False)),
    "left padding": ((3, 2, 1, 1, 8, 8, 4, 6), Mask(k_start=[0, 3, 8])),
    "ragged": ((3, 2, 1, 1, 8, 8, 4, 6), Mask(k_stop=[8, 2, 0])),
    "both ends": ((3, 2, 2, 1, 5, 9, 4, 6), Mask(causal=False, k_start=[1, 4, 6], k_stop=[9, 5, 6])),
    "starts differ": ((3, 2, 1, 2, 4, 9, 4, 6), Mask(q_start=[-2, 0, 7], k_start=[0, 1, 2])),
    "more queries than keys": ((2, 2, 1, 1, 7, 3, 4, 6), Mask()),
}


def random_inputs(rng, sizes, dtype=np.float32, stretch=1.0):
    """q, k, v, dz and dlse for (B, n_q, n_k, n_v, N_q, N_k, d_k, d_v); `stretch` multiplies q."""
    batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v = sizes
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    q, k, v, dz = (rng.standard_normal(s) for s in (*shapes, (batch, n_q, n_queries, d_v)))
    dlse = rng.standard_normal((batch, n_q, n_queries))
    wide = np.float64 if dtype == np.float64 else np.float32
    return *((x * s).astype(dtype) for x, s in ((q, stretch), (k, 1), (v, 1), (dz, 1))), dlse.astype(wide)


def unused_is_nan(k, v, mask, n_queries):
    """Fill the slots of k and v before a sequence's first key and from its end on, which nothing may read, with NaN."""
    _, k_start, k_stop = mask.resolve(len(k), n_queries, k.shape[2])
    for b in range(len(k)):
        for x in (k, v):
            x[b, :, : k_start[b]] = np.nan
            x[b, :, k_stop[b] :] = np.nan


def both_passes(arrays, mask=None, engine="numba", dtype=None, scale=None):
    """z, lse, dq, dk and dv from the arrays of `random_inputs`, cast to `dtype` first where one is given."""
    q, k, v, dz, dlse = arrays if dtype is None else (x.astype(dtype) for x in arrays)
    z, lse, saved = attention_forward(q, k, v, mask=mask, scale=scale, engine=engine)
    return z, lse, *attention_backward(dz, saved, dlse=dlse)


def small_configs(hidden_size, n_heads, head_dim):
    """A small configuration of every mechanism, so that a table of tests also has one that was added today."""
    return {
        name: load(name).Config(hidden_size=hidden_size, **load(name).small_sizes(n_heads, head_dim)) for name in NAMES
    }


def refused(read, path):
    """Read a file that may be damaged; return the line of the error, or None if the file could be read."""
    try:
        read(path)
    except ValueError as error:
        line = str(error)
        assert path.name in line, line
        assert line.isprintable(), line
        assert len(line) < 1000, line
        return line
    return None


def python(code, *arguments, timeout=300, **environment):
    """Run code in a process of its own, where warnings are not errors; return what it has printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
