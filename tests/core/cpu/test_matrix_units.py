"""bfloat16 on a matrix unit, and, as most machines lack one, the same kernels with its instructions written out.

The truth is the definition in float64. The sums are float32, so a score has the error of one; a weight is rounded to
bfloat16, so z may be off by 2^-8 of the sum of its terms' sizes, and is rounded itself.
"""

import os
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from numba import types

from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.core.cpu import engine, matrix_units
from gta_ref.core.cpu.compiling import compiled
from gta_ref.core.cpu.lanes import LINE, VECTOR_BYTES
from gta_ref.core.cpu.memory import address
from gta_ref.core.cpu.pairs import multiply
from gta_ref.threads import get_threads, set_threads
from tests.core.cpu.cases import CASES
from tests.support import MATRIX_UNITS, random_inputs

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALF_ULP = 2.0**-8  # of a bfloat16 number, as a part of it, at most


@pytest.fixture(params=MATRIX_UNITS)
def unit(request, monkeypatch):
    monkeypatch.setattr(matrix_units, "form", lambda: request.param)


def forward(arrays, mask=None, scale=None, engine="numba"):
    z, lse, _ = attention_forward(*arrays[:3], mask=mask, scale=scale, engine=engine)
    return z, lse


def in_float32(arrays, monkeypatch, mask=None, scale=None):
    """The results without the unit."""
    with monkeypatch.context() as patch:
        patch.setattr(matrix_units, "form", lambda: None)
        return forward(arrays, mask, scale)


def assert_right(arrays, mask=None, scale=None):
    z, lse = forward(arrays, mask, scale)
    wide = [x.astype(np.float64) for x in arrays[:3]]
    z_exact, lse_exact = forward(wide, mask, scale, "reference")
    sizes, _ = forward([*wide[:2], np.abs(wide[2])], mask, scale, "reference")  # Σ P |V|
    assert z.dtype == BFLOAT16
    finite = np.isfinite(lse_exact)
    np.testing.assert_array_equal(lse[~finite], lse_exact[~finite])
    d_k = arrays[0].shape[3]
    q, k = (np.abs(x).max(initial=0) for x in wide[:2])
    largest = q * k * d_k * (scale or d_k**-0.5)
    of_score = 8 * np.finfo(np.float32).eps * max(1.0, largest)
    assert np.abs(lse[finite] - lse_exact[finite]).max(initial=0) <= of_score
    allowed = HALF_ULP * (np.abs(z_exact) + sizes) * (1 + 2**-6) + 2 * of_score * sizes
    assert (np.abs(z.astype(np.float64) - z_exact) <= allowed).all()


@pytest.mark.parametrize("case", CASES)
def test_equals_the_definition(case, unit):
    sizes, mask = CASES[case]
    assert_right(random_inputs(np.random.default_rng(1), sizes, BFLOAT16), mask)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 31, 32, 33, 64, 96, 130])
def test_widths(width, unit):
    other = 161 - width
    assert_right(random_inputs(np.random.default_rng(width), (1, 2, 1, 1, 20, 45, width, other), BFLOAT16))


@pytest.mark.parametrize("keys", [1, 15, 16, 17, 31, 32, 33, 127, 128, 129, 160, 300])
def test_lengths(keys, unit):
    rng = np.random.default_rng(keys)
    for queries, mask in ((20, None), (20, Mask(causal=False)), (keys, None)):
        assert_right(random_inputs(rng, (1, 4, 2, 2, queries, keys, 32, 24), BFLOAT16), mask)


def test_the_last_row_of_full_panels_sees_one_key_more_than_a_tile_holds(unit):
    assert_right(random_inputs(np.random.default_rng(9), (1, 2, 2, 2, 48, 65, 32, 24), BFLOAT16))


def product(a, pairs, one):
    """C = A · B in the emulated unit, for A (16, 32) and 16 lines of pairs, as uint16 (16, 2, lanes)."""
    lanes = pairs.shape[2]
    b = np.zeros((16, LINE // 4, 2), np.uint16)
    b[:, :lanes] = pairs.swapaxes(1, 2)
    c = np.zeros((16, LINE // 4), np.float32)
    signature = types.void(types.intp, types.intp, types.intp, matrix_units.FORMS["emulated"], types.float32)

    def one_tile(a, b, c, stored, one):
        multiply(a, 64, b, 1, c, 1, 1, 1, stored, one)

    compiled(one_tile, signature, strict=True)(address(a), address(b), address(c), np.int8(0), one)
    return c[:, :lanes]


def test_products_of_tiles_are_exact(rng):
    """Each row of A and each column of B has few numbers, so that no bit of a product is lost in the sum."""
    lanes = VECTOR_BYTES // 4
    a, b = (rng.integers(-255, 256, shape).astype(BFLOAT16) for shape in ((16, 32), (32, lanes)))
    a[rng.random(a.shape) < 0.8] = 0
    b[rng.random(b.shape) < 0.5] = 0
    a[0, :2], b[:2, 0] = (129, 129), (0, 255)
    a[0, 2:] = 0
    got = product(a.view(np.uint16), b.view(np.uint16).reshape(16, 2, lanes), np.float32(1))
    np.testing.assert_array_equal(got, a.astype(np.float64) @ b.astype(np.float64))


def test_is_what_runs(unit, monkeypatch):
    """Weights are rounded, so that the results differ from those of float32 arithmetic."""
    arrays = random_inputs(np.random.default_rng(2), (1, 5, 1, 1, 100, 100, 64, 128), BFLOAT16)
    z, lse = forward(arrays)
    z_float32, lse_float32 = in_float32(arrays, monkeypatch)
    assert (z != z_float32).mean() > 0.05
    assert np.abs(lse - lse_float32).max() < 1e-5


def test_error_is_little_more_than_that_of_storing_the_result(unit):
    arrays = random_inputs(np.random.default_rng(3), (1, 5, 1, 1, 400, 400, 64, 128), BFLOAT16)
    exact, _ = forward([x.astype(np.float64) for x in arrays[:3]], engine="reference")
    got, stored = (
        np.sqrt(np.mean((x.astype(np.float64) - exact) ** 2)) for x in (forward(arrays)[0], exact.astype(BFLOAT16))
    )
    assert stored < got < 1.4 * stored


def test_any_strides_and_threads_give_the_same_bits(unit):
    arrays = random_inputs(np.random.default_rng(4), (2, 6, 2, 2, 150, 150, 33, 40), BFLOAT16)[:3]
    mask, threads = Mask(k_start=[0, 70], k_stop=[150, 131]), get_threads()
    want = [x.tobytes() for x in forward(arrays, mask)]
    views = {
        "token-major": [np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in arrays],
        "numbers apart": [np.repeat(x, 2, axis=3)[..., ::2] for x in arrays],
        "backwards": [np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1] for x in arrays],
    }
    try:
        for number in (1, 2, 3):
            set_threads(number)
            for name, given in views.items():
                assert [x.tobytes() for x in forward(given, mask)] == want, (number, name)
    finally:
        set_threads(threads)


def test_decoding_reads_no_cache_to_choose(unit, monkeypatch):
    """A call with few rows has no unit, so nothing has to be known about its numbers."""
    monkeypatch.setattr(engine, "_largest_code", lambda x: pytest.fail("an array was read"))
    assert_right(random_inputs(np.random.default_rng(8), (1, 5, 1, 1, 1, 300, 64, 128), BFLOAT16))


@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_left_to_float32(name, value, unit, monkeypatch):
    arrays = list(random_inputs(np.random.default_rng(5), (1, 2, 1, 1, 40, 40, 32, 32), BFLOAT16)[:3])
    arrays["qkv".index(name)][0, 0, 20, 3] = value
    for x, y in zip(forward(arrays), in_float32(arrays, monkeypatch), strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("stretch, scale", [(1e3, None), (1e30, None), (1.0, 1e30), (1.0, 1e-30)])
def test_very_large_scores_and_odd_scales_are_left_to_float32(stretch, scale, unit, monkeypatch):
    arrays = random_inputs(np.random.default_rng(6), (1, 2, 1, 1, 40, 40, 32, 32), BFLOAT16, stretch)
    if stretch == 1e3:
        arrays = (arrays[0], (arrays[1] * 100).astype(BFLOAT16), *arrays[2:])
    for x, y in zip(forward(arrays, scale=scale), in_float32(arrays, monkeypatch, scale=scale), strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("stretch", [1.0, 30.0])
def test_the_backward_uses_what_the_unit_has_saved(stretch, unit):
    """It is computed in float32, from the unit's z, m and 1/l: as near to float64 as bfloat16 results can be."""
    arrays = random_inputs(np.random.default_rng(7), (2, 4, 2, 1, 60, 60, 32, 48), BFLOAT16, stretch)
    mask = Mask(k_start=[0, 17])

    def gradients(arrays, engine):
        q, k, v, dz, dlse = arrays
        _, _, saved = attention_forward(q, k, v, mask=mask, engine=engine)
        return [x.astype(np.float64) for x in attention_backward(dz, saved, dlse=dlse)]

    exact = gradients([x.astype(np.float64) for x in arrays], "reference")
    for got, want in zip(gradients(arrays, "numba"), exact, strict=True):
        error, stored = np.sqrt(np.mean((got - want) ** 2)), np.sqrt(np.mean((want.astype(BFLOAT16) - want) ** 2))
        assert error <= 2 * stored


SAPPHIRE_RAPIDS = """
import re
import ml_dtypes, numpy as np
from gta_ref.core.cpu import prepared

kernel = prepared.kernel("forward_bf16_amx", np.dtype(ml_dtypes.bfloat16))
print("\\n".join(kernel.inspect_asm().values()))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="AMX is a feature of x86-64 CPUs")
def test_the_instructions_of_a_cpu_that_has_the_unit(tmp_path):
    """Blocks of 1 or 2 groups × 1 to 3 vectors: as many sums as tiles, and B loaded once per product."""
    environment = os.environ | {
        "NUMBA_CPU_NAME": "sapphirerapids",
        "NUMBA_CPU_FEATURES": "+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx2,+fma,+bmi2,+amx-tile,+amx-bf16",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    found = subprocess.run([sys.executable, "-c", SAPPHIRE_RAPIDS], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    names = re.findall(r"^\s+(tdpbf16ps|tilestored|tilezero|tileloadd|ldtilecfg|tilerelease)\s", found.stdout, re.M)
    sums = (1 + 2) * (1 + 2 + 3)
    assert [names.count(name) for name in ("tdpbf16ps", "tilestored", "tilezero")] == [sums] * 3
    assert names.count("tileloadd") == 2 * sums + (1 + 2) * 3
    assert names.count("ldtilecfg") == names.count("tilerelease") == 1


def test_the_sizes_of_the_tiles():
    """Byte 0 is the palette; from byte 16 on, bytes per row as uint16; from byte 48 on, the rows."""
    made = matrix_units.configuration()
    assert made.shape == (64,)
    assert made[0] == 1
    lanes = matrix_units.VECTOR_BYTES
    assert made[16:32].view(np.uint16).tolist() == [lanes] * 6 + [64, lanes]
    assert made[48:56].tolist() == [16] * 8
    assert not made[1:16].any()
    assert not made[32:48].any()


@pytest.mark.parametrize("value, form", [("off", "None"), ("emulated", "emulated"), ("yes", "")])
def test_the_environment_variable(value, form):
    code = "from gta_ref.core.cpu import matrix_units; print(matrix_units.form())"
    environment = os.environ | {matrix_units.VARIABLE: value}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == form
    assert form or "GTA_REF_MATRIX_UNITS='yes' must be auto, off or emulated" in found.stderr
