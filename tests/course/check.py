"""Try the course as a student gets it: from a wheel, in an environment of its own, in a folder outside the clone.

    python tests/course/check.py

Every notebook has to run, every solution to pass, and every starter to fail with its hint. It needs a network.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
UV = str(Path(sys.executable).parent / "uv")
BIN = "Scripts" if os.name == "nt" else "bin"
SECONDS = "600"  # for one cell


def run(*command: object, cwd: Path) -> bool:
    """Run a command without the clone in its environment; show its output if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        print(done.stdout[-4000:])
    return done.returncode == 0


def step(what: str, right: bool, failed: list[str], since: float) -> None:
    """Print how a step went and note it if it failed."""
    print(f"{what}: {'ok' if right else 'FAILED'}, {time.monotonic() - since:.0f} s", flush=True)
    if not right:
        failed.append(what)


def wrong_grades(path: Path) -> list[str]:
    """The exercises whose solution does not pass, or whose starter passes or has no hint that it is a starter."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = []
    for row in rows:
        right = row["passed"] == "True" if row["student"] == "solutions" else "not written yet" in row["hint"]
        if not right:
            wrong.append(f"{row['student']} {row['exercise']}: {row['hint']}")
    return wrong if len(rows) == 26 else [*wrong, f"{len(rows)} grades; expected 26"]


def main() -> int:
    """Run all steps and return the exit status."""
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.monotonic()
        # the wheel is built from the source distribution
        built = run(UV, "build", "--quiet", "--out-dir", folder / "dist", ROOT, cwd=folder)
        step("build", built, failed, start)
        python = folder / "venv" / BIN / "python"
        start = time.monotonic()
        installed = (
            built
            and run(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
            and run(
                UV, "pip", "install", "--quiet", "--python", python, f"{next((folder / 'dist').glob('*.whl'))}[notebooks]",
                "--constraint", ROOT / "notebooks" / "constraints.txt", cwd=folder,
            )
        )  # fmt: skip
        step("install", installed, failed, start)
        if not installed:
            return 1
        gta_ref = folder / "venv" / BIN / "gta-ref"
        start = time.monotonic()
        step("gta-ref course", run(gta_ref, "course", "course", "--solutions", cwd=folder), failed, start)
        start = time.monotonic()
        step("gta-ref doctor --course", run(gta_ref, "doctor", "--course", cwd=folder), failed, start)
        for notebook in sorted((folder / "course" / "notebooks").glob("*.ipynb")):
            start = time.monotonic()
            execute = (python, "-m", "jupyter", "execute", f"--timeout={SECONDS}", notebook.name)
            step(notebook.stem, run(*execute, cwd=notebook.parent), failed, start)
        exercises = folder / "course" / "notebooks" / "exercises"
        (folder / "class").mkdir()
        (exercises / "solutions").rename(folder / "class" / "solutions")
        exercises.rename(folder / "class" / "starters")
        start = time.monotonic()
        graded = run(gta_ref, "grade", "class", "--csv", "grades.csv", cwd=folder)
        wrong = wrong_grades(folder / "grades.csv") if graded else []
        print("\n".join(wrong))
        step("exercises", graded and not wrong, failed, start)
    print(f"failed: {', '.join(failed)}" if failed else "The course runs from the wheel.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
