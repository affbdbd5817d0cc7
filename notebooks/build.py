"""Make the notebooks (.ipynb) from their text sources (.py, jupytext's percent format), and run them.

python notebooks/build.py                  write an .ipynb without outputs next to every source
python notebooks/build.py --check          fail if an .ipynb differs from its source
python notebooks/build.py --run FOLDER     run the notebooks of the course, write them with outputs to FOLDER, and print
                                           how long each took
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import jupytext
import nbformat

HERE = Path(__file__).parent
COURSE = sorted(HERE.glob("[0-9][0-9]*_*.py"))
EXERCISES = sorted((HERE / "exercises").rglob("*.py"))
LIMIT = 300  # most seconds that one cell may take
NOTICE = "gta_ref: compiling the CPU kernels"


def notebook(source: Path) -> nbformat.NotebookNode:
    """The notebook that a source describes, without outputs; cell ids are numbers, so that it is always the same."""
    made = jupytext.read(source)
    made.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for i, cell in enumerate(made.cells):
        cell["id"] = f"cell-{i}"
    return made


def text(made: nbformat.NotebookNode) -> str:
    """The notebook as the text of its file."""
    return nbformat.writes(made, version=4) + "\n"


def check() -> list[Path]:
    """Sources whose .ipynb is missing or differs from the source."""
    return [
        source
        for source in COURSE + EXERCISES
        if not (target := source.with_suffix(".ipynb")).is_file()
        or target.read_text(encoding="utf-8") != text(notebook(source))
    ]


def run(source: Path, folder: Path) -> float:
    """Run a notebook in the folder of its source, write it with outputs to `folder`, and return the seconds it took."""
    from nbclient import NotebookClient

    made = notebook(source)
    start = time.perf_counter()
    NotebookClient(made, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
    taken = time.perf_counter() - start
    for cell in made.cells:
        if "outputs" in cell:  # remove the notice that appears only if the kernels have to be compiled
            cell.outputs = [x for x in cell.outputs if not (x.get("name") == "stderr" and NOTICE in x.text)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / source.with_suffix(".ipynb").name).write_text(text(made), encoding="utf-8")
    return taken


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--run", type=Path, metavar="FOLDER")
    parser.add_argument(
        "names", nargs="*", help="notebooks to run, by the beginnings of their names, such as 03; default all"
    )
    arguments = parser.parse_args()
    if arguments.check:
        stale = check()
        for source in stale:
            print(f"{source.with_suffix('.ipynb')} differs from {source.name}; run: python notebooks/build.py")
        return bool(stale)
    if arguments.run is None:
        for source in COURSE + EXERCISES:
            source.with_suffix(".ipynb").write_text(text(notebook(source)), encoding="utf-8")
        return 0
    for source in COURSE:
        if not arguments.names or source.name.startswith(tuple(arguments.names)):
            print(f"{source.stem} ...", end=" ", flush=True)
            taken = run(source, arguments.run)
            size = (arguments.run / source.with_suffix(".ipynb").name).stat().st_size
            print(f"{taken:.0f} s, {size / 1e6:.1f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
