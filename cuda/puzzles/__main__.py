"""Seven puzzles: small kernels with a gap, checked in Numba's simulator in seconds, without a GPU.

    python -m gta_cuda.puzzles                    the list
    python -m gta_cuda.puzzles starter p1 p1.py   write the kernel with a gap; its docstring says what it has to do
    python -m gta_cuda.puzzles check p1 p1.py     the first thing that is wrong
    python -m gta_cuda.puzzles hint p1            the first hint; "hint p1 2" is the second
    python -m gta_cuda.puzzles solution p1

Without a file, the starter is printed. A check ends with status 1 if something is wrong.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # has to be set before anything imports Numba

    from gta_cuda.needs import no_kernels

    if (reason := no_kernels()) is not None:
        print(reason, file=sys.stderr)  # one line, instead of the traceback of the imports below
        sys.exit(2)

from gta_cuda.puzzles import shared, softmax, tiles
from gta_cuda.puzzles.puzzle import Puzzle
from gta_ref.files import atomic_path

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
        _starter(puzzle, more[0])
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


def _starter(puzzle: Puzzle, file: str) -> None:
    if not file:
        print(puzzle.starter_text, end="")
        return
    if Path(file).exists():  # it may be an answer
        raise FileExistsError(f"{file} exists already")
    with atomic_path(file) as path:
        path.write_text(puzzle.starter_text, encoding="utf-8")


def _check(puzzle: Puzzle, file: str) -> int:
    if not file:
        raise ValueError(f"check {puzzle.name} needs a file: python -m gta_cuda.puzzles check {puzzle.name} FILE")
    sys.setswitchinterval(2e-4)  # the simulator's threads wait for each other, by default 5 ms at a time
    problem = puzzle.check(Path(file).read_text(encoding="utf-8"), file)
    print(f"{puzzle.name}: passed" if problem is None else f"{puzzle.name}: not yet. {problem}")
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
