"""Seven puzzles: small kernels with a gap, checked in Numba's simulator in seconds, without a GPU.

    export NUMBA_ENABLE_CUDASIM=1
    python -m gta_cuda.puzzles                    the list
    python -m gta_cuda.puzzles starter p1 > p1.py the kernel with a gap; its docstring says what it has to do
    python -m gta_cuda.puzzles check p1 p1.py     the first thing that is wrong
    python -m gta_cuda.puzzles hint p1            the first hint; "hint p1 2" is the second
    python -m gta_cuda.puzzles solution p1

A check ends with status 1 if something is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gta_cuda.needs import missing

if __name__ == "__main__" and (reason := missing("numba_cuda")) is not None:
    print(reason, file=sys.stderr)  # one line, instead of the traceback of the imports below
    sys.exit(2)

from gta_cuda.intrinsics import SIMULATED
from gta_cuda.puzzles import shared, softmax, tiles
from gta_cuda.puzzles.puzzle import Puzzle

PUZZLES: dict[str, Puzzle] = {
    puzzle.name: puzzle
    for puzzle in sorted((*tiles.PUZZLES, *shared.PUZZLES, *softmax.PUZZLES), key=lambda puzzle: puzzle.name)
}


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status: 1 if a check fails, 2 if the command cannot be run."""
    try:
        return _main(arguments)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


def _main(arguments: list[str]) -> int:
    if not arguments:
        for puzzle in PUZZLES.values():
            print(f"{puzzle.name}  {puzzle.title}")
        return 0
    action, name, *more = [*arguments, ""]
    if action not in ("starter", "check", "hint", "solution"):
        raise ValueError(f"{action!r} must be one of starter, check, hint, solution")
    if name not in PUZZLES:
        raise ValueError(f"puzzle {name!r} must be one of {', '.join(PUZZLES)}")
    puzzle = PUZZLES[name]
    if action == "starter":
        print(puzzle.starter_text, end="")
    elif action == "solution":
        print(puzzle.solution_text, end="")
    elif action == "hint":
        number = more[0] or "1"
        if not number.isdecimal() or not 1 <= int(number) <= len(puzzle.hints):
            raise ValueError(f"hint {number!r} of {name} must be from 1 to {len(puzzle.hints)}")
        print(puzzle.hints[int(number) - 1])
    else:
        return _check(puzzle, more[0])
    return 0


def _check(puzzle: Puzzle, file: str) -> int:
    if not file:
        raise ValueError(f"check {puzzle.name} needs a file: python -m gta_cuda.puzzles check {puzzle.name} FILE")
    if not SIMULATED:
        raise ValueError("puzzles run in Numba's simulator: set NUMBA_ENABLE_CUDASIM=1")
    sys.setswitchinterval(2e-4)  # the simulator's threads wait for each other, by default 5 ms at a time
    problem = puzzle.check(Path(file).read_text(encoding="utf-8"), file)
    print(f"{puzzle.name}: passed" if problem is None else f"{puzzle.name}: not yet. {problem}")
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
