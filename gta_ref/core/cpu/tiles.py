"""What the forward and the backward share: the items of a call, a tile's rows, and its keys and values.

Row r of a query tile is the row of map r % maps at the tile's position r // maps. All addresses and steps are in bytes.
"""

# Numba infers the types of these functions when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import njit

from gta_ref.core.cpu.lanes import ROWS
from gta_ref.core.cpu.memory import get, put, reader, round_up
from gta_ref.core.cpu.turning import copy, fill


class Item(NamedTuple):
    """A query tile and the keys that it may see, as a row of the plan's table."""

    batch: int
    map: int
    q_first: int
    q_stop: int
    k_first: int
    k_stop: int
    slot: int


class Rows(NamedTuple):
    """A 4-dimensional array: its address and the bytes from one sequence, head, position and number to the next."""

    at: int
    batch: int
    head: int
    position: int
    number: int


ITEM_BYTES = 8 * len(Item._fields)
read_item = reader(Item)
read_rows = reader(Rows)


def inlined(function: Any) -> Any:
    """Decorate a helper that Numba copies into the kernels that call it; it is never compiled on its own."""
    return njit(inline="always")(function)


@inlined
def load_keys(at, x, width, d, direct, tile, line, size, stored, one):
    """Make `width` rows of k or v from the address `at` on readable in whole groups of ROWS; `x` are its Rows.

    Returns
    -------
    at, step : int
        Address of the first row and bytes from one to the next.
    whole : int
        Number of rows there. The others are in `tile`, `line` bytes apart, and rows of 0 follow them to a whole group.
        If the rows cannot be read in place (`direct` is 0), all of them are in `tile`.
    """
    whole = width // ROWS * ROWS if direct != 0 else 0
    if whole < width:
        rest = width - whole
        copy(at + whole * x.position, 0, x.position, x.number, rest, 1, d, tile, line, one, stored, one)
        fill(tile + rest * line, (round_up(rest, ROWS) - rest) * line // size, one - one, one)
    return (at, x.position, whole) if direct != 0 else (tile, line, round_up(width, ROWS))


@inlined
def write_row(c, batch, head, i, m, total, one):
    """Write lse, m and 1/l of the row of a map at position i of a sequence, and return 1/l; `c` is a forward's Call."""
    zero = one - one
    place = (batch * c.n_q + head) * c.by_row + i * c.size
    seen = total != zero  # NaN is not 0, so it reaches the results
    inverse = one / total if seen else zero
    put(c.lse + place, m * get(c.numbers + 3 * c.size, one) + math.log(total) if seen else -one / zero)
    put(c.m + place, m)
    put(c.inverse + place, inverse)
    return inverse
