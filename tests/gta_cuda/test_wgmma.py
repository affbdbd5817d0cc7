"""The forward with wgmma: its values in the simulator, and its machine code without a GPU.

`NUMBA_ENABLE_CUDASIM=1 pytest tests/gta_cuda/test_wgmma.py` runs the first part, the same without the variable the
second. ``first_run.wgmma`` repeats both on a GPU.
"""

import re
import subprocess
import sysconfig
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gta_cuda import resources
from gta_cuda.needs import no_kernels

if no_kernels() is not None:
    pytest.skip("numba-cuda is not installed: pip install --group cuda", allow_module_level=True)

from gta_cuda import forward_wgmma, launch, launch_forward
from gta_cuda.intrinsics import SIMULATED
from gta_cuda.kernels import COUNT
from gta_ref.core import Mask

in_simulator = pytest.mark.skipif(not SIMULATED, reason="needs NUMBA_ENABLE_CUDASIM=1")
compiled = pytest.mark.skipif(resources.why_not() is not None, reason=str(resources.why_not()))
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
Tile = forward_wgmma.Tile

# ---- values

# (B, n_q, n_k, n_v, N_q, N_k, d_k, d_v), mask, tile
CASES = {
    # one step, with fewer keys than a tile; the widths are not multiples of 16
    "one step": ((1, 2, 1, 1, 5, 9, 8, 24), Mask(), Tile(64, 16)),
    # 70 = 64 + 6 queries, five steps, more than there are places for tiles; n_k and n_v differ
    "several steps, heads differ": ((1, 2, 2, 1, 70, 75, 40, 64), Mask(), Tile(64, 16)),
    # two blocks of keys' columns, two of values', and two parts of them; the mask begins and ends within tiles
    "not causal, wide": ((1, 2, 1, 2, 3, 70, 72, 136), Mask(causal=False, k_start=5, k_stop=66), Tile(64, 32)),
    # rows of each half of a warp, or all rows of a sequence, see nothing; sequence 2 begins within a tile
    "masked rows": ((3, 1, 1, 1, 18, 50, 16, 8), Mask(q_start=[19, -10, -18], k_start=[0, 0, 7]), Tile(64, 16)),
    # two warpgroups in a block
    "two warpgroups": ((1, 1, 1, 1, 130, 130, 16, 64), Mask(), Tile(128, 32)),
}


@in_simulator
@pytest.mark.parametrize("case", CASES)
def test_forward(case, watch, rng):
    from tests.gta_cuda.simulated import assert_as_close, assert_rounded, exact, make

    sizes, mask, tile = CASES[case]
    inputs, mask = make((sizes, mask), BFLOAT16, rng)
    scale = 3 * inputs[0].shape[3] ** -0.5
    z, lse = launch.forward_wgmma(*inputs, mask, scale, tile)
    assert z.dtype == BFLOAT16
    assert_rounded(z, inputs, mask, scale)
    assert_as_close(lse, exact(inputs, mask, scale, np.float32)[1], exact(inputs, mask, scale)[1])


@in_simulator
@pytest.mark.parametrize("n, transposed, start", [(64, False, 48), (128, True, 1024)])
def test_one_instruction(n, transposed, start, watch, rng):
    """One product with an operand where the kernel's tiles have it."""
    from gta_cuda.arrays import pointer
    from gta_cuda.first_run.wgmma import bits, fields_of, wanted
    from gta_cuda.wgmma_probe import ELEMENTS, probe_kernel

    a, b = (rng.standard_normal(shape).astype(BFLOAT16) for shape in ((64, 16), (16, n)))
    image, d = np.full(ELEMENTS, 0xFFFF, np.uint16), np.full((64, n), np.nan, np.float32)
    image[wanted(n, transposed, start)] = bits(b)
    probe_kernel(n, transposed).launch((1, 1, 1), 0, *map(pointer, (a, image, d)), *fields_of(n, transposed, start))
    np.testing.assert_allclose(d, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-6, atol=1e-6)


def test_what_is_refused():
    q, k, v = (np.zeros((1, 1, 3, width), BFLOAT16) for width in (136, 136, 64))
    with pytest.raises(ValueError, match=r"d_k=136, rows that are at multiples of 16 bytes; .* takes d_k up to 128"):
        launch.forward_wgmma(q, k, v, Mask(), 1.0)
    q, k, v = (np.zeros((1, 1, 3, width), BFLOAT16) for width in (60, 60, 64))
    with pytest.raises(ValueError, match=r"d_k=60, rows that are not at multiples of 16 bytes"):
        launch.forward_wgmma(q, k, v, Mask(), 1.0)


def test_who_takes_it(monkeypatch):
    q = np.zeros((1, 5, 9, 64), BFLOAT16)
    assert not launch_forward.takes_wgmma(q, True)  # the simulator's GPU has no wgmma unless a test says so
    monkeypatch.setattr(launch_forward, "has_wgmma", lambda like: True)
    for use in (False, True):
        monkeypatch.setattr(launch_forward, "USE_WGMMA", use)
        assert launch_forward.takes_wgmma(q, True) == use
        assert not launch_forward.takes_wgmma(q, False)
        assert not launch_forward.takes_wgmma(np.zeros((1, 5, 9, 136), BFLOAT16), True)


# ---- machine code

WIDTHS = [(64, 128), (64, 64), (128, 128)]  # those of one group of the products' shapes each


@compiled
@pytest.mark.parametrize("d_k, d_v", WIDTHS, ids=str)
def test_machine_code(d_k, d_v):
    tile = Tile()
    kernel = launch.forward_wgmma_kernel(d_k, d_v, tile)
    binary, log = resources.compile_kernel(kernel, (9, 0, "a"))
    needs = resources.read_log(log, (9, 0, "a"))
    assert (needs["spills"], needs["stack"], needs["shared"]) == (0, 0, 0)
    blocks = tile.blocks(d_k)
    assert needs["registers"] <= kernel.most_registers == {3: 168, 2: 255}[blocks]
    assert blocks * (kernel.shared + resources.SYSTEM_SHARED[9, 0]) <= 228 * 1024
    assert "serialized" not in log
    code = disassembled(binary)
    if code is None:
        pytest.skip("nvdisasm is not installed")
    assert not any(text.startswith(("LDL", "STL")) for text, _ in code)
    # the first scores, the loop, the last weights
    products = [text for text, _ in code if text.startswith("HGMMA")]
    assert len(products) == 2 * (d_k // 16 + tile.keys // 16)
    assert len([text for text in products if f"64x{min(d_v, 128)}x16" in text and "tnspB" in text]) == tile.keys // 8
    assert not overwritten(code)
    assert exponentials_before_the_wait(code) >= tile.keys // 2


@compiled
def test_only_sm_90a(monkeypatch):
    from gta_cuda import pack

    monkeypatch.setattr(launch_forward, "USE_WGMMA", True)
    kernels = pack.wgmma_kernels()
    assert {key.rpartition("-")[0] for key in kernels} == {f"forward_wgmma-64-{n}-wide" for n in (64, 128, 256)}
    for kernel in kernels.values():
        allowed = [c for c in resources.SYSTEM_SHARED if resources.compiles_for(kernel, c)]
        assert allowed == [(9, 0, "a")]
        assert resources.compiles_for(launch.forward_bf16_kernel(64, 128, True, _tile_bf16()), (8, 0))
    monkeypatch.setattr(launch_forward, "USE_WGMMA", False)
    assert not pack.wgmma_kernels()


def _tile_bf16():
    from gta_cuda.forward_bf16 import Tile

    return Tile.of(64)


def test_an_operand_that_is_overwritten_is_seen():
    """The check below finds a write to an operand, a write to the results, and none where there is a wait."""
    product = "HGMMA.64x64x16.F32.BF16 R24, R88, gdesc[UR4], R24, gsb0"
    for text, faulty in (("FADD R89, R1, R2", True), ("FMUL R55, R55, R1", True), ("FADD R92, R1, R2", False)):
        assert bool(overwritten([(product, None), (text, None), ("EXIT", None)])) == faulty
        waited = [(product, None), ("WARPGROUP.DEPBAR.LE gsb0, 0x0", None), (text, None), ("EXIT", None)]
        assert not overwritten(waited)
    # the wait for all groups but one does not end the last of two; a loop leads back to the write
    other = "HGMMA.64x64x16.F32.BF16 R124, R8, gdesc[UR4], RZ, !UPT, gsb0"
    one = "WARPGROUP.DEPBAR.LE gsb0, 0x1"
    for order, faulty in (([other, product], True), ([product, other], False)):
        assert bool(overwritten([*((x, None) for x in order), (one, None), ("MOV R88, R1", None)])) == faulty
    loop = [("MOV R88, R1", "L"), (product, None), ("@P0 BRA `(L)", None), ("EXIT", None)]
    assert overwritten(loop)


def disassembled(binary, folder="nvidia/cu13/bin/nvdisasm"):
    """Machine code as a list of (instruction, label in front of it or None); None if nvdisasm is not installed."""
    import tempfile

    tool = Path(sysconfig.get_paths()["purelib"]) / folder
    if not tool.exists():
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([str(tool), "-c", file.name], capture_output=True, text=True, check=True).stdout
    found, label = [], None
    for line in text.splitlines():
        if match := re.match(r"^(\.L_\w+):", line):
            label = match[1]
        elif match := re.match(r"^\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            found.append((match[1], label))
            label = None
    return found


def overwritten(code):
    """Instructions that write a register of a product under way: (product, instruction).

    An operand or a result may be written when the warpgroup has waited for the product's group.
    """
    labels = {label: i for i, (_, label) in enumerate(code) if label}
    faults = []
    for i, (text, _) in enumerate(code):
        product = re.match(r"HGMMA\.64x(\d+)x16\S* R(\d+), R(\d+), gdesc", text)
        if product is None:
            continue
        n, d, a = map(int, product.groups())
        busy = {*range(a, a + 4), *range(d, d + n // 2)}
        ways, seen = [(i, -1)], set()  # where to go on; how many groups were closed after the product's own
        while ways:
            at, later = ways.pop()
            while at < len(code) and (at, later) not in seen:
                seen.add((at, later))
                here = code[at][0]
                if here.startswith("HGMMA"):
                    later += here.endswith("gsb0")
                elif wait := re.match(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d+)", here):
                    if int(wait[1]) <= later:
                        break
                elif busy & written(here):
                    faults.append((text, here))
                    break
                if branch := re.search(r"\bBRA\b.*`\((\.?\w+)\)", here):
                    ways.append((labels[branch[1]], later))
                    if here.startswith("BRA `"):
                        break
                if re.match(r"EXIT|RET", here):
                    break
                at += 1
    return faults


# instructions without a register that they write
SILENT = re.compile(
    r"ST|RED|BAR|BRA|BS|BMOV|LDGSTS|LDGDEPBAR|DEPBAR|WARP|SYNCS|EXIT|RET|NOP|MEMBAR|FENCE|ERRBAR|CCTL|U|R2U"
)


def written(text):
    """The registers that an instruction writes."""
    name, _, rest = re.sub(r"^@!?U?P\d+\s+", "", text).partition(" ")
    if SILENT.match(name):
        return set()
    operands = [x.strip() for x in rest.split(",")]
    while operands and re.match(r"!?U?P(T|\d+)$", operands[0]):  # predicates come first
        operands.pop(0)
    first = re.match(r"R(\d+)", operands[0]) if operands else None
    if first is None or re.match(r"[IFDUP]*SETP|PLOP3|R2P", name):
        return set()
    size = 4 if ".128" in name else 2 if re.search(r"\.(64|WIDE)\b", name) or name == "CS2R" else 1
    return set(range(int(first[1]), int(first[1]) + size))


def exponentials_before_the_wait(code):
    """How many exponentials stand between the loop's wait for the scores and the next wait for the results."""
    texts = [text for text, _ in code]
    start = texts.index("WARPGROUP.DEPBAR.LE gsb0, 0x1")
    stop = texts.index("WARPGROUP.DEPBAR.LE gsb0, 0x0", start)
    return sum("MUFU.EX2" in text for text in texts[start:stop])


def test_the_arguments_are_those_of_the_other_forward():
    kernel = launch.forward_wgmma_kernel(64, 128, Tile())
    assert kernel.arguments == launch.forward_bf16_kernel(64, 128, True, _tile_bf16()).arguments
    assert kernel.arguments.count(COUNT) == 5
    assert kernel.key == "forward_wgmma-64-128-wide-64x64"
    assert kernel.shared == 3 * 64 * (64 + 128) * 2
