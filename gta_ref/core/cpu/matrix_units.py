"""Matrix units of the CPU (Intel AMX): products of tiles of bfloat16 numbers, added up in float32.

A matrix unit has eight registers of 16 rows of up to 64 bytes, called tiles. One instruction, tdpbf16ps, computes

    C[m, n] += Σ_k A[m, 2k] · B[k, 2n] + A[m, 2k + 1] · B[k, 2n + 1]

for A of 16 rows of 32 bfloat16 numbers, B of 16 rows of pairs and C of 16 rows of float32 numbers. A pair is two
numbers of the dimension that is summed, side by side in 32 bits. It is the CPU's form of the tensor cores' mma.

Linux gives the registers to a process that asks for them. Where there are none, the same kernels can be compiled with
the instruction written out in ordinary ones, which is how they are tested: GTA_REF_MATRIX_UNITS=emulated.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from gta_ref.core.cpu.lanes import I8, I32, I64, VECTOR_BYTES, VOID, Lanes, has_feature

VARIABLE = "GTA_REF_MATRIX_UNITS"  # "auto" (the default), "off" or "emulated"
TILE_ROWS = 16
TILE_BYTES = 64  # per row of A: 32 numbers
PAIRS = TILE_BYTES // 4  # pairs per row of A, and rows of B
TILES = 8
# forms of the unit, and the types by which kernels and micro-kernels are told them
FORMS = {"amx": types.int16, "emulated": types.int8}
A, B = 6, 7  # tiles of the operands; those before them hold sums

_ARCH_REQ_XCOMP_PERM, _XTILEDATA = 0x1023, 18


@cache
def form() -> str | None:
    """How products of tiles are computed: "amx", "emulated", or None if float32 arithmetic is used instead."""
    chosen = os.environ.get(VARIABLE, "auto")
    if chosen not in ("auto", "off", "emulated"):
        raise ValueError(f"{VARIABLE}={chosen!r} must be auto, off or emulated")
    if chosen == "emulated":
        return "emulated"
    return "amx" if chosen == "auto" and granted() else None


@cache
def granted() -> bool:
    """Whether the CPU has the unit and the system lets this process use it."""
    if not (sys.platform == "linux" and platform.machine() == "x86_64" and VECTOR_BYTES == 64):
        return False
    if not (has_feature("amx-tile") and has_feature("amx-bf16")):
        return False
    arch_prctl = 158  # the number of the system call
    return bool(ctypes.CDLL(None).syscall(arch_prctl, _ARCH_REQ_XCOMP_PERM, _XTILEDATA) == 0)


def configuration() -> np.ndarray:
    """The 64 bytes that say how many rows, and bytes per row, each tile has."""
    found = np.zeros(64, np.uint8)
    found[0] = 1  # the only palette with tiles
    bytes_per_row = [TILE_BYTES if tile == A else VECTOR_BYTES for tile in range(TILES)]
    found[16 : 16 + 2 * TILES] = np.array(bytes_per_row, np.uint16).view(np.uint8)
    found[48 : 48 + TILES] = TILE_ROWS
    return found


class Unit:
    """Writes the instructions of a matrix unit. Tiles are numbered; addresses and steps are in bytes."""

    def __init__(self, x: Lanes) -> None:
        self.x = x

    def _call(self, name: str, *args: Any) -> None:
        self.x.call(f"llvm.x86.{name}", VOID, *args)

    def begin(self, configuration: Any) -> None:
        """Set the sizes of the tiles."""
        self._call("ldtilecfg", configuration)

    def end(self) -> None:
        """Give the registers back, so that the system need not save them."""
        self._call("tilerelease")

    def zero(self, tile: int) -> None:
        """Set a tile to 0."""
        self._call("tilezero", I8(tile))

    def load(self, tile: int, address: Any, step: Any) -> None:
        """Load the rows of a tile, `step` bytes apart."""
        self._call("tileloadd64", I8(tile), address, step)

    def store(self, tile: int, address: Any, step: Any) -> None:
        """Store the rows of a tile."""
        self._call("tilestored64", I8(tile), address, step)

    def dot(self, c: int) -> None:
        """C += A · B."""
        self._call("tdpbf16ps", I8(c), I8(A), I8(B))


class EmulatedUnit(Unit):
    """The same in ordinary instructions, with tiles in memory."""

    def __init__(self, x: Lanes) -> None:
        super().__init__(x)
        with x.b.goto_entry_block():
            held = x.b.alloca(I8, TILES * TILE_ROWS * TILE_BYTES)
        held.align = 64
        self._tiles = [x.at(held, tile * TILE_ROWS * TILE_BYTES) for tile in range(TILES)]

    def begin(self, configuration: Any) -> None:
        """Nothing: the sizes are those of :func:`configuration`."""

    def end(self) -> None:
        """Nothing."""

    def _copy(self, tile: int, to: Any, to_step: Any, at: Any, step: Any) -> None:
        x = self.x
        kind = ir.VectorType(I8, TILE_BYTES if tile == A else VECTOR_BYTES)

        def row(i: Any) -> None:
            x.store(x.load(x.at(at, x.times(i, step)), 0, kind, 1), x.at(to, x.times(i, to_step)), align=1)

        x.for_(I64(TILE_ROWS), row)

    def zero(self, tile: int) -> None:
        """Set a tile to 0."""
        x = self.x
        x.for_(I64(TILE_ROWS), lambda i: x.store(x.constant(0.0), x.at(self._tiles[tile], x.times(i, TILE_BYTES))))

    def load(self, tile: int, address: Any, step: Any) -> None:
        """Load the rows of a tile."""
        self._copy(tile, self._tiles[tile], TILE_BYTES, address, step)

    def store(self, tile: int, address: Any, step: Any) -> None:
        """Store the rows of a tile."""
        self._copy(tile, address, step, self._tiles[tile], TILE_BYTES)

    def dot(self, c: int) -> None:
        """C += A · B."""
        x, lanes = self.x, self.x.real.lanes

        def halves(pair: Any, kind: Any) -> list[Any]:
            """The two numbers of pairs, widened: a bfloat16 number is the upper half of a float32 number."""
            b, vector = x.b, isinstance(pair.type, ir.VectorType)
            sixteen, upper = (ir.Constant(pair.type, [n] * lanes if vector else n) for n in (16, 0xFFFF0000))
            return [b.bitcast(b.shl(pair, sixteen), kind), b.bitcast(b.and_(pair, upper), kind)]

        def row(i: Any) -> None:
            place = x.at(self._tiles[c], x.times(i, TILE_BYTES))

            def pair(k: Any, sums: list[Any]) -> list[Any]:
                at = x.at(self._tiles[A], x.b.add(x.times(i, TILE_BYTES), x.times(k, 4)))
                number = halves(x.load(at, 0, I32, 4), x.real.scalar)
                numbers = halves(
                    x.load(self._tiles[B], x.times(k, TILE_BYTES), ir.VectorType(I32, lanes)), x.real.vector
                )
                for one, other in zip(number, numbers, strict=True):
                    sums = [x.fma(x.splat(one), other, sums[0])]
                return sums

            x.store(x.loop(I64(PAIRS), [x.load(place)], pair)[0], place)

        x.for_(I64(TILE_ROWS), row)


def unit(x: Lanes, storage: Any) -> Unit:
    """The unit of the form that the type `storage` stands for; see FORMS."""
    return Unit(x) if storage == FORMS["amx"] else EmulatedUnit(x)
