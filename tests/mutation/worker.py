"""Runs mutants of one part in a copy of the project: one forked process for each.

    python -m tests.mutation.worker FOLDER < list of mutants      (run.py starts this)

This process has imported NumPy, Numba and pytest, but nothing of the project. For each mutant it writes the mutated
file into the copy, forks, and puts the file back. The forked process imports the project, which takes a tenth of a
second, and runs the killers in order of their cost: the verification kit on vectors that were exported before, then
pytest on the tests of the file. As the mutated file is a file, tests that start processes of their own see it, and
Numba's cache, whose names carry a checksum of the kernels' sources, never serves the code of another mutant.
"""

import contextlib
import importlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.mutation.parts import PARTS, SLOW, Part

MEMORY = 12 << 30  # bytes of address space of a mutant
WAIT = 20  # times the processor time that it may take, on a machine that does other work
# the kit, which is a plugin of pytest, was imported first
WARNINGS = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
# in the text of an error: the mutant is no program, as its kernel cannot be compiled
NO_PROGRAM = ("numba.core.errors", "nopython mode", "LLVM IR parsing error", "llvmlite")

Verdict = tuple[str, str]  # "killed", "survived" or "invalid", and by what


def import_what_is_not_mutated() -> None:
    """Import the packages that the killers need, so that no mutant has to."""
    for name in ("numpy", "scipy", "numba", "llvmlite.binding", "ml_dtypes", "safetensors", "hypothesis", "pytest"):
        importlib.import_module(name)
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        importlib.import_module("numba.cuda")
    if any(name.partition(".")[0] in ("gta_ref", "gta_cuda") for name in sys.modules):
        raise RuntimeError("the project was imported before there was a mutant")


def judge(file: str, tests: tuple[str, ...], part: Part, vectors: Path, to: Connection) -> None:
    """Run the killers of a file in this process and send the verdict."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (part.seconds, part.seconds))
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        try:
            to.send(_verdict(file, tests, part, vectors))
        except BaseException as error:  # a mutant may raise anything, SystemExit too
            to.send(("killed", f"raised {_text(error)}"))


def _verdict(file: str, tests: tuple[str, ...], part: Part, vectors: Path) -> Verdict:
    module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    try:
        importlib.import_module(f"gta_{module}" if module.startswith("cuda.") else module)
    except Exception as error:
        return "invalid", f"import: {_text(error)}"
    found = _by_kit(part, vectors) or _by_tests(tests)
    if found is None:
        return "survived", ""
    return ("invalid" if any(word in found for word in NO_PROGRAM) else "killed"), " ".join(found.split())[:300]


def _text(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _by_kit(part: Part, folder: Path) -> str | None:
    """Which case of the verification kit fails, and why; the truth is that of the exported vectors."""
    if not part.engine:
        return None
    from gta_ref.verify import vectors
    from gta_ref.verify.compare import compare
    from gta_ref.verify.selftest import by_engine

    implementation = by_engine(part.engine)
    for dtype in part.dtypes:
        for path in sorted((folder / dtype).iterdir(), key=lambda p: p.stat().st_size):
            try:
                vector = vectors.read(path)
                private = {name: x.copy() for name, x in vector.inputs.items()}
                findings = compare(vector, implementation(private, vector.settings))
            except Exception as error:
                return f"kit: {path.stem}, {dtype}: {_text(error)}"
            wrong = next((f for f in findings if f.kind != "ok"), None)
            if wrong is not None:
                return f"kit: {path.stem}, {dtype}: {wrong.text}"
    return None


class _First:
    """A plugin of pytest that keeps the first failure."""

    def __init__(self) -> None:
        self.failed: str | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = f"{report.nodeid}: {report.longreprtext[-600:]}"

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = f"{report.nodeid}: {report.longreprtext[-600:]}"


def _by_tests(tests: tuple[str, ...]) -> str | None:
    if not tests:
        return None
    import pytest

    first = _First()
    left_out = [f"--deselect={name}" for name in SLOW]
    with contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main(
            ["-x", "-q", "-p", "no:cacheprovider", "--tb=short", *WARNINGS, *left_out, *tests], [first]
        )
    if first.failed is None and status != 0:
        return f"pytest ended with {status}"
    return first.failed


def attempt(file: str, tests: tuple[str, ...], part: Part, vectors: Path) -> Verdict:
    """Judge the copy as it is now, in a forked process; one that does not end in time counts as killed."""
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=judge, args=(file, tests, part, vectors, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(WAIT * part.seconds):
            return "killed", f"did not end in {WAIT * part.seconds} s"
        verdict: Verdict = receiver.recv()
        return verdict
    except EOFError:
        process.join(10)
        return "killed", f"the process died, exit code {process.exitcode}"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()


@contextlib.contextmanager
def numba_cache(kept: Path) -> Any:
    """A private copy of the cache of the unmutated kernels, for this process and those that tests start."""
    import numba

    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        if kept.exists():
            shutil.copytree(kept, folder, dirs_exist_ok=True)
        numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = folder
        yield
        if not kept.exists():
            shutil.copytree(folder, kept)


def main(folder: str) -> None:
    """Judge the mutants of a list, one JSON line each, and print one JSON line for each."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process of the mutant is ended, too
    os.chdir(folder)
    sys.path.insert(0, folder)
    import_what_is_not_mutated()
    vectors, cache = Path(folder).parent / "vectors", Path(folder).parent / f"numba-{os.getpid()}"
    for number, line in enumerate(sys.stdin):
        one = json.loads(line)
        part, file, path = PARTS[one["part"]], one["file"], Path(one["file"])
        if number == 0:  # without a mutation, everything has to pass
            with numba_cache(cache):
                status, by = attempt(file, part.tests_of(file) or (), part, vectors)
            if status != "survived":
                raise RuntimeError(f"{file}: without a mutation, {by}")
        original, times, start = path.read_bytes(), path.stat(), time.monotonic()
        try:
            path.write_bytes(one["mutated"].encode())
            with numba_cache(cache):
                status, by = attempt(file, part.tests_of(file) or (), part, vectors)
        finally:
            path.write_bytes(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # Numba's cache looks at it
        seconds = round(time.monotonic() - start, 1)
        print(json.dumps({"key": one["key"], "status": status, "by": by, "seconds": seconds}), flush=True)
    shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
