"""The CUDA kernels: which memory each step of the ladder reads.

The functions accept sizes, not kernels, so they need no CUDA package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import EngFormatter

from gta_ref.plots.axes import block, map_axes, numbers
from gta_ref.plots.common import BLUE, GREEN, ORANGE, SMALLEST, WIDTH, YELLOW, box, ink, note, panels, shaded

GLOBAL, SHARED, THREAD, NOTHING = shaded(YELLOW, 0.65), shaded(BLUE, 0.75), ORANGE, "0.93"
KEPT = shaded(GREEN, 0.75)  # what stays in a thread or a warp


def first_steps() -> Figure:
    """Draw steps 1 to 3: a block of 8 threads, one per query, reads 16 keys; from step 2 on it shares 4 at a time."""
    titles = (
        "1  naive: each thread alone",
        "2  tiles: a block shares what it reads",
        "3  online softmax: one pass",
    )
    figure, axes = panels((WIDTH, 4.6), 1, 3)
    for step, (ax, title) in enumerate(zip(axes, titles, strict=True), 1):
        _plane(ax, step)
        ax.set_title(title, fontsize=10, loc="left")
    return figure


def _plane(ax: Axes, step: int, n: int = 16, first: int = 8, tile: slice = slice(4, 8), row: int = 11) -> None:
    """Draw one map under a strip of keys; the block's queries start at `first`, and the thread of `row` is orange."""
    tiled = step > 1
    for j in range(n):
        here = tiled and tile.start <= j < tile.stop
        box(ax, j, -6, 1, 1, GLOBAL, BLUE if here else "white", lw=1.6 if here else 0.6, zorder=2 if here else 1)
    ax.text(0, -6.35, "K and C in global\nmemory, one cell per key", fontsize=SMALLEST, va="bottom")
    for i in range(n):
        for j in range(i + 1):
            in_tile = tiled and tile.start <= j < tile.stop and i >= first
            colour = NOTHING
            if i == row and (in_tile or not tiled):
                colour = THREAD
            elif in_tile:
                colour = SHARED
            box(ax, j, i, 1, 1, colour)
    box(ax, 0, first, n, n - first, edge="black", lw=1.2)
    ax.text(n + 0.3, (first + n) / 2, "a block:\n8 queries,\n8 threads", fontsize=SMALLEST, va="center")
    if tiled:
        _shared_tile(ax, step, tile)
        _arrow(ax, (6, -1.9), (6, first - 0.1), BLUE)
    else:
        for j in range(row + 1):
            _arrow(ax, (j + 0.5, -5), (j + 0.5, row), THREAD, width=0.7)
    for i in range(first, n):
        box(ax, -3.2, i, 2.8, 1, THREAD if i == row else KEPT if step == 3 else GLOBAL)
    kept = "m, l, z\nin the\nthread" if step == 3 else "z in\nglobal\nmemory"
    ax.text(-0.4, first - 0.3, kept, fontsize=SMALLEST, va="bottom", ha="right")
    passes = ("max", "sum", "z") if step < 3 else ("max, sum and z together",)
    for p, name in enumerate(passes):
        y = n + 1.2 + 1.5 * p
        _arrow(ax, (0, y), (row + 1 if not tiled else n, y), BLUE if tiled else THREAD)
        ax.text(n + 0.3 if tiled else row + 1.3, y, name if step < 3 else "", fontsize=SMALLEST, va="center")
        if step == 3:
            ax.text(0, y + 0.4, name, fontsize=SMALLEST, va="top")
    ax.text(-0.4, 0, "query 0", fontsize=SMALLEST, ha="right", va="top")
    ax.set_xlim(-4, n + 5)
    ax.set_ylim(n + 5, -9)
    ax.set_aspect("equal")
    ax.axis("off")


def _shared_tile(ax: Axes, step: int, tile: slice) -> None:
    """Draw the box of shared memory between the strip of keys and the map."""
    box(ax, 1.6, -4.1, 12.8, 2.2, "white", BLUE, ls="--", lw=1)
    for part in range(1 if step == 2 else 2):
        for j in range(tile.start, tile.stop):
            box(ax, j + (0 if step == 2 else 5.7 * part - 2), -3.6, 1, 1.2, SHARED)
    if step == 3:
        ax.text(6.5, -3, "K", fontsize=SMALLEST, va="center", ha="center")
        ax.text(12.2, -3, "C", fontsize=SMALLEST, va="center", ha="center")
    else:
        ax.text(8.3, -3, "K, then C", fontsize=SMALLEST, va="center")
    ax.text(14.7, -3, "shared\nmemory", fontsize=SMALLEST, va="center", color=ink(BLUE))
    _arrow(ax, (6, -5), (6, -4.1), BLUE)


def register_tile(
    rows: int, columns: int, groups: int, height: int, d_k: int, d_v: int, thread: tuple[int, int]
) -> Figure:
    """Draw step 4: what one thread (g, h) reads from shared memory and keeps in registers, in both products.

    Parameters
    ----------
    rows, columns, groups, height : int
        The fields of ``gta_cuda.tiles.Tile``.
    d_k, d_v : int
        Widths of a key and of a value.
    thread : (int, int)
        g, h
    """
    g, h = thread
    mine = range(h * height, (h + 1) * height)
    warp = 32 // groups * height  # rows that the threads of a warp hold
    each, chunks = columns // groups, d_v // (4 * groups)
    ratios = d_k + columns + 24, columns + d_v + 24
    figure, (left, right) = panels((WIDTH, 5), 1, 2, width_ratios=ratios)
    loads = height + each
    _product(left, ("Q", "Kᵀ", "S"), rows, d_k, columns, mine, [g + groups * j for j in range(each)], warp)
    left.set_title(f"S = Q Kᵀ: {loads} loads of 16 bytes,\n{4 * height * each} multiply–adds", fontsize=10)
    result = [4 * (g + groups * c) + i for c in range(chunks) for i in range(4)]
    loads = height + 4 * chunks
    _product(right, ("W = exp S", "C", "Z"), rows, columns, d_v, mine, result, warp)
    right.set_title(f"Z += W C: {loads} loads of 16 bytes, {16 * height * chunks} multiply–adds", fontsize=10)
    return figure


def _product(
    ax: Axes, names: Sequence[str], rows: int, inner: int, columns: int, mine: range, taken: list[int], warp: int
) -> None:
    """Draw a product (rows, inner) · (inner, columns) to scale, with the thread's parts in orange."""
    gap, at = 8, 12  # the first of the 4 inner columns of one load
    box(ax, 0, 0, inner, rows, SHARED, "none")
    box(ax, inner + gap, -inner - gap, columns, inner, SHARED, "none")
    box(ax, inner + gap, 0, columns, rows, NOTHING, "none")
    top = mine[0] // warp * warp
    box(ax, inner + gap, top, columns, warp, KEPT, "none")
    for r in mine:
        box(ax, at, r, 4, 1, THREAD)
        for c in taken:
            box(ax, inner + gap + c, r, 1, 1, THREAD, "none")
    for c in taken:
        for i in range(4):
            box(ax, inner + gap + c, -inner - gap + at + i, 1, 1, THREAD, "none")
    first, second, result = names
    ax.text(inner + gap + columns + 1, top + warp / 2, "a warp", va="center", fontsize=SMALLEST)
    ax.text(inner / 2, rows + 2, f"{first}\n{rows} × {inner}", ha="center", va="top", fontsize=SMALLEST)
    ax.text(
        inner + gap - 2, -inner / 2 - gap, f"{second}\n{inner} × {columns}", ha="right", va="center", fontsize=SMALLEST
    )
    ax.text(
        inner + gap + columns / 2, rows + 2, f"{result}\n{rows} × {columns}", ha="center", va="top", fontsize=SMALLEST
    )
    ax.set_xlim(-2, inner + gap + columns + 14)
    ax.set_ylim(rows + 20, -inner - gap - 2)
    ax.set_aspect("equal")
    ax.axis("off")


def fragments(of_c: np.ndarray, of_a: np.ndarray, thread: int) -> Figure:
    """Draw step 5, which thread of a warp holds which element: two accumulators side by side, and the next operand A.

    Parameters
    ----------
    of_c, of_a : (16, 16) integers
        The thread that holds each element.
    thread : int
        The thread whose elements are marked.
    """
    titles = (
        "C of S = Q Kᵀ: as two mma leave it (keys 0–7, 8–15)",
        "A of Z += W C: as the next mma needs it",
    )
    figure, axes = panels((WIDTH, 5.3), 1, 2, frame="none")
    for ax, held, title in zip(axes, (of_c, of_a), titles, strict=True):
        map_axes(ax, 16, 16, every=1)
        for (i, j), t in np.ndenumerate(held):
            colour = THREAD if t == thread else (SHARED if (t // 4) % 2 == 0 else NOTHING)
            block(ax, (i, j), colour=colour, edge="white")
        numbers(ax, held, "{}")
        ax.axvline(7.5, color="black", lw=1.2)
        ax.axhline(7.5, color="black", lw=1.2)
        ax.set_title(title, fontsize=SMALLEST)
    return figure


def banks(places: Mapping[str, np.ndarray], column: int) -> Figure:
    """Draw the places of 8 rows of a tile in shared memory, with the 8 groups of one column marked.

    Parameters
    ----------
    places : mapping of str to (8, 8) integers
        Layout → places; group c of row r is in the banks 4·places[r, c] … 4·places[r, c] + 3.
    column : int
        The group that one ``ldmatrix`` reads in every row.
    """
    figure, axes = panels((WIDTH, 3), 1, len(places), frame="none")
    for ax, (name, of) in zip(axes, places.items(), strict=True):
        map_axes(ax, 8, 8, ("row (key)", "banks"))
        ax.set_aspect("auto")
        for (r, c), place in np.ndenumerate(of):
            block(ax, (r, place), colour=THREAD if c == column else SHARED, edge="white")
        numbers(ax, np.argsort(of, axis=1), "{}")  # which group lies in a place
        busy = [int(n) for n in np.bincount(of[:, column], minlength=8)]
        ax.set_title(f"{name}: at most {max(busy)} of the 8 reads in the same banks", fontsize=SMALLEST)
        ax.set_xticks(range(8), [f"{4 * b}–{4 * b + 3}" for b in range(8)])
    return figure


def reads_by_step(from_global: Mapping[str, float], from_shared: Mapping[str, float], floor: float) -> Figure:
    """Draw the bytes that each step reads from global and from shared memory.

    Parameters
    ----------
    from_global : mapping of str to float
        Step → bytes that the threads request from global memory.
    from_shared : mapping of str to float
        Step → loads from shared memory per multiply–add.
    floor : float
        Bytes of the inputs if each is read once.
    """
    figure, (left, right) = panels((WIDTH, 3.2), 1, 2, width_ratios=(1.25, 1))
    in_bytes = EngFormatter("B", places=0)
    for ax, values in ((left, from_global), (right, from_shared)):
        names = list(values)
        ax.barh(names, list(values.values()), color=BLUE, height=0.6)
        ax.invert_yaxis()
        ax.set_xscale("log")
    for i, size in enumerate(from_global.values()):
        note(left, in_bytes(size), (size, i))
    left.axvline(floor, color=ORANGE, linestyle="--")
    left.text(floor, -0.75, f"Q, K and C once: {in_bytes(floor)}", color=ink(ORANGE), fontsize=SMALLEST, ha="center")
    left.set_xlim(floor / 3, 12 * max(from_global.values()))
    left.xaxis.set_major_formatter(in_bytes)
    left.set_xlabel("requested from global memory, one map")
    for i, loads in enumerate(from_shared.values()):
        note(right, f"1 load per {1 / loads:.0f}", (loads, i))
    right.set_xlim(min(from_shared.values()) / 3, 6)
    right.set_xlabel("loads from shared memory per multiply–add")
    return figure


def _arrow(ax: Axes, start: tuple[float, float], stop: tuple[float, float], colour: str, width: float = 1.5) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start, stop, arrowstyle="-|>", mutation_scale=5 + 4 * width, color=colour, linewidth=width, zorder=3
        )
    )
