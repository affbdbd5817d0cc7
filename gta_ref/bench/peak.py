"""The ceilings of the attention core, measured by loops of the project's own: multiply–adds, and reading memory.

Where the CPU has a matrix unit, its multiply–adds of bfloat16 numbers are a third one. All use all threads of the
engine "numba", so a share of them is comparable at any number of threads. They are measured between the contestants, so
that all have the same conditions.

A ceiling that is too low makes every share too high. The loop of multiply–adds therefore runs so long that the start of
the threads does not count, and several times: after a pause, a core needs a millisecond or two to reach its clock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from gta_ref.core.cpu import matrix_units
from gta_ref.core.cpu.compiling import compiled
from gta_ref.core.cpu.dots import prefetch
from gta_ref.core.cpu.lanes import I64, MANY_REGISTERS, REALS, VECTOR_BYTES, Lanes, micro_kernel
from gta_ref.core.cpu.matrix_units import FORMS, PAIRS, TILE_BYTES, TILE_ROWS, A, B
from gta_ref.core.cpu.memory import address
from gta_ref.core.cpu.pairs import begin, end
from gta_ref.core.cpu.turning import sum_lanes
from gta_ref.threads import get_threads, run

# A multiply–add takes 4 cycles or so, and a CPU starts one or two per cycle: more sums than that wait for one another.
SUMS = 24 if MANY_REGISTERS else 12
MULTIPLIED = 2**25  # multiply–adds of vectors per thread: 5 to 10 ms
REPEATS = 4  # the fastest counts
READ_BYTES = 2**29
LINES = 8  # vectors per step of the read
PRODUCTS = 2**21  # products of tiles per thread: about 10 ms


@micro_kernel("turns out*")
def multiply_adds(x: Lanes, turns: Any, out: Any) -> None:
    """`turns` times SUMS multiply–adds of vectors, all in registers; their sum goes to out[0], to be used."""
    factor, term = x.splat(x.load(out, 0, x.real.scalar)), x.constant(1e-4)
    sums = [x.splat(x.real.scalar(float(i))) for i in range(SUMS)]
    sums = x.loop(turns, sums, lambda i, values: [x.fma(value, factor, term) for value in values])
    total = sums[0]
    for value in sums[1:]:
        total = x.b.fadd(total, value)
    x.store(sum_lanes(x, total), out)


@micro_kernel("at* steps out*")
def read(x: Lanes, at: Any, steps: Any, out: Any) -> None:
    """Read `steps` times LINES vectors; their sum goes to out[0]."""

    def step(i: Any, sums: list[Any]) -> list[Any]:
        place = x.at(at, x.times(i, LINES * VECTOR_BYTES))
        for line in range(0, LINES * VECTOR_BYTES, 64):
            prefetch(x, x.at(place, line))
        return [x.b.fadd(value, x.load(place, n * VECTOR_BYTES)) for n, value in enumerate(sums)]

    total = x.loop(steps, [x.constant(0.0)] * LINES, step)
    for value in total[1:]:
        total[0] = x.b.fadd(total[0], value)
    x.store(sum_lanes(x, total[0]), out)


@micro_kernel("turns at*", stored=True)
def tile_products(x: Lanes, turns: Any, at: Any, storage: Any) -> None:
    """`turns` times a product of the tile at `at` with itself for each tile of sums; the last of these goes to `at`."""
    m, step = matrix_units.unit(x, storage), I64(TILE_BYTES)
    for tile in range(A):  # the tiles before A hold sums
        m.zero(tile)
    m.load(A, at, step)
    m.load(B, at, step)

    def turn(_: Any) -> None:
        for tile in range(A):
            m.dot(tile)

    x.for_(turns, turn)
    m.store(A - 1, at, step)


def _multiply_adds(turns, out, one):  # type: ignore[no-untyped-def]
    multiply_adds(turns, out, one)


def _read(at, steps, out, one):  # type: ignore[no-untyped-def]
    read(at, steps, out, one)


def _tile_products(configuration, turns, at, stored, one):  # type: ignore[no-untyped-def]
    begin(configuration, stored, one)
    tile_products(turns, at, stored, one)
    end(configuration, stored, one)


@cache
def products_kernel(form: str) -> Callable[..., None]:
    """Compile the loop of products for a form of the matrix unit."""
    i = types.int64
    kernel: Callable[..., None] = compiled(_tile_products, types.void(i, i, i, FORMS[form], types.float32), strict=True)
    return kernel


class Ceilings:
    """Measures the ceilings: for float32, and of the matrix unit.

    Parameters
    ----------
    seconds : callable
        Runs a function and returns the seconds that it took.
    """

    def __init__(self, seconds: Callable[[Callable[[], Any]], float]) -> None:
        i, real = types.int64, types.float32
        self._seconds = seconds
        self._multiply = compiled(_multiply_adds, types.void(i, i, real), strict=True)
        self._read = compiled(_read, types.void(i, i, i, real), strict=True)
        self._memory = np.ones(READ_BYTES // 4, np.float32)
        self._one = np.float32(1)
        self.multiply()
        self.read()

    def multiply(self) -> float:
        """Operations per second, two per multiply–add."""
        threads, turns = get_threads(), MULTIPLIED // SUMS
        out = np.full((threads, 16), 0.999, np.float32)

        def work(i: int) -> None:
            self._multiply(turns, address(out[i]), self._one)

        operations = 2 * threads * turns * SUMS * REALS[types.float32].lanes
        return operations / min(self._seconds(lambda: run(threads, work)) for _ in range(REPEATS))

    def products(self) -> float:
        """Operations per second of the matrix unit, two per multiply–add; only where there is one."""
        kernel, threads, turns = products_kernel("amx"), get_threads(), PRODUCTS // A
        sizes, tiles = matrix_units.configuration(), np.zeros((threads, TILE_ROWS, TILE_BYTES), np.uint8)

        def work(i: int) -> None:
            kernel(address(sizes), turns, address(tiles[i]), np.int16(0), self._one)

        operations = threads * turns * A * 2 * TILE_ROWS * 2 * PAIRS * VECTOR_BYTES // 4
        return operations / min(self._seconds(lambda: run(threads, work)) for _ in range(REPEATS))

    def read(self) -> float:
        """Bytes per second of an array that is larger than any cache."""
        threads = get_threads()
        step = LINES * VECTOR_BYTES
        steps, out = READ_BYTES // threads // step, np.empty((threads, 16), np.float32)

        def work(i: int) -> None:
            self._read(address(self._memory) + i * steps * step, steps, address(out[i]), self._one)

        return threads * steps * step / self._seconds(lambda: run(threads, work))
