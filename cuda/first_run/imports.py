"""Is everything in the pack that a first run needs? ``python -m gta_cuda.first_run.imports FOLDER``.

The programs' imports are followed, those inside functions as well, through all files of the project. Every file of the
project has to be in the folder, and every other module has to belong to the standard library or to the packages that
the machine is known to have, or be carried in the folder itself.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from gta_cuda.first_run.results import record

STEP = "dry"
PROGRAMS = ("smoke", "correctness", "environment", "timing", "wgmma", "ladder", "variants", "summary", "results")
OURS = {"gta_ref", "gta_cuda", "tests"}
ON_THE_MACHINE = {"numpy", "numba", "llvmlite", "cupy", "cupyx", "torch", "cuda", "pytest"}
CARRIED = "wheels"  # the folder inside the pack with packages that the machine may lack


def main() -> None:
    """Follow the imports and record what is missing."""
    folder = Path(sys.argv[1])
    carried = {path.name.partition(".")[0] for path in (folder / CARRIED).glob("*")}
    allowed = set(sys.stdlib_module_names) | ON_THE_MACHINE | carried
    waiting = [f"gta_cuda.first_run.{name}" for name in PROGRAMS] + ["gta_cuda.engine", "gta_cuda.carried"]
    waiting += [".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.glob("tests/gta_cuda/*.py")]
    seen: set[str] = set()
    missing: list[str] = []
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = file_of(name, folder)
        if path is None:
            missing.append(f"{name} is not in the pack")
            continue
        for imported in imports_of(path, folder):
            top = imported.partition(".")[0]
            if top in OURS:
                waiting.append(imported)
            elif top not in allowed:
                missing.append(f"{name} imports {imported}, which the machine may not have")
    import gta_ref

    if not Path(gta_ref.__file__).resolve().is_relative_to(folder.resolve()):
        missing.append(f"gta_ref was imported from {gta_ref.__file__}, not from the pack")
    record(STEP, "imports", not missing, modules=len(seen), missing=sorted(set(missing)))
    sys.exit(1 if missing else 0)


def file_of(module: str, folder: Path) -> Path | None:
    """The file of a module of the project in the pack; for a folder without ``__init__.py`` the folder."""
    path = folder / Path(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py", path)
    return next((one for one in candidates if one.is_file() or (one is path and path.is_dir())), None)


def imports_of(path: Path, folder: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    if path.is_dir():
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []  # never imported when the program runs
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole.partition(".")[0] in OURS and file_of(whole, folder) is not None:
                    yield whole


if __name__ == "__main__":
    main()
