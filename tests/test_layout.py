"""The layout's promises: which room imports which, what `import gta_ref` imports, what must not be in cuda/."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gta_ref

ROOT = Path(__file__).parents[1]

# lower rooms first; a file may import its own room and those below it (docs/design.md)
ROOMS = [
    "errors",
    "process",
    "packages",
    "threads",
    "ops",
    "files",
    "core",
    "cache",
    "mechanisms",
    "costs",
    "lm",
    "distributed",
    "weights",
    "maps",
    "convert",
    "lab",
    "verify",
    "plots",
    "exercises",
    "course",
    "tour",
    "commands",
    "cli",
]
SAME_AS = {"doctor": "tour", "bench": "tour", "__main__": "cli"}  # modules behind a command, like the tour


def room_of(module):
    part = module.split(".")[1] if "." in module else ""
    return SAME_AS.get(part, part)


def imports_of(path):
    """The modules of gta_ref that a file imports, anywhere in it, and the lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" if node.module == "gta_ref" else node.module for alias in node.names]
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == "gta_ref")


FILES = sorted((ROOT / "gta_ref").rglob("*.py"))


def test_every_room_is_known():
    rooms = {room_of(".".join(f.relative_to(ROOT).with_suffix("").parts)) for f in FILES} - {"__init__"}
    assert rooms <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name, line in imports_of(path):
        target = room_of(name)
        if target in ("", "__version__") or own == "__init__":  # the front door: test_import_is_light
            continue
        assert ROOMS.index(target) <= ROOMS.index(own), f"{path}:{line}: {own} imports {target}, which is above it"


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def file_imports():
    """The files that each file imports, anywhere in it; packages' __init__.py count as files of their own."""
    files = {module_of(path): path for path in FILES}
    found = {}
    for module, path in files.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names if alias.name in files}
            elif isinstance(node, ast.ImportFrom) and node.module in files:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found[module] |= (names & files.keys()) or {node.module}
        found[module].discard(module)
    del found["gta_ref"]  # the package itself names modules that it does not import
    return found


def test_no_two_files_import_each_other():
    """Neither directly nor through others, so the files can be read in one order, each after those that it uses."""
    waiting = file_imports()
    while ready := [module for module, imports in waiting.items() if not imports & waiting.keys()]:
        for module in ready:
            del waiting[module]
    assert not waiting, f"a circle of imports among {', '.join(sorted(waiting))}"


def test_no_test_module_is_imported():
    """What several test modules use is in a module of its own, whose name does not begin with test_."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        names = re.findall(r"\b(?:from|import) (tests\.(?:\w+\.)*test_\w+)", path.read_text(encoding="utf-8"))
        if names:
            found[path.name] = names
    assert not found


def test_import_is_light():
    code = (
        "import sys, time; t = time.perf_counter(); import gta_ref; "
        "print(time.perf_counter() - t, [m for m in ('numpy', 'numba', 'matplotlib', 'cupy', 'scipy') if m in sys.modules]); "
        "gta_ref.attention_forward, gta_ref.gta, gta_ref.KVCache, gta_ref.verify; "
        "print([m for m in ('numba', 'matplotlib', 'cupy', 'scipy') if m in sys.modules])"
    )
    lines = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    first, second = lines.splitlines()
    seconds, _, heavy = first.partition(" ")
    assert heavy == "[]"
    assert second == "[]"
    assert float(seconds) < 0.1  # it takes about a millisecond


def test_the_front_door():
    for name in gta_ref.__all__:
        assert getattr(gta_ref, name) is not None
        assert name in dir(gta_ref)
    assert gta_ref.gta is importlib.import_module("gta_ref.mechanisms.gta")
    assert callable(gta_ref.verify)  # a package, and the function of that name
    with pytest.raises(AttributeError, match="module 'gta_ref' has no attribute 'gga'"):
        gta_ref.gga  # noqa: B018


def test_nvidia_package_stays_importable():
    """A module with one of these names, or an __init__.py, would hide NVIDIA's namespace package `cuda`."""
    hidden = {"__init__", "bindings", "core", "pathfinder", "tile"}
    for folder in (ROOT / "cuda", ROOT / "tests" / "cuda"):
        found = {p.stem for p in folder.iterdir()} if folder.exists() else set()
        assert not found & hidden


def test_gta_cuda_is_installed():
    import gta_cuda

    assert ROOT / "cuda" in [Path(p).resolve() for p in gta_cuda.__path__]
