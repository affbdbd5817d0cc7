"""Measure all implementations of docs/examples/adapters and write results.json, from which the page is made.

``make conformance`` runs this in an environment of its own. Each implementation is measured in a process that is ended
after its time; what is finished lies in build/conformance, so that a run that was stopped goes on where it was. An
implementation is measured again if its adapter, its entry, the measuring or a version has changed.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from docs.conformance.table import ADAPTERS, Implementation, findings, implementations
from gta_ref import __version__
from gta_ref.files import atomic_path

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
WORK = HERE.parents[1] / "build" / "conformance"
MEASURING = ("measure.py", "probes.py", "raw.py")
SECONDS = 180.0  # that a script of findings/ may take
# one thread for each process, and results of JAX's compiler kept from run to run
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(WORK / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}  # fmt: skip


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each package; "none" where there is none."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def mark(*parts: object) -> str:
    """A short text that changes with any of the parts, and with any file that measures."""
    texts = [repr(part) for part in parts] + [(HERE / name).read_text(encoding="utf-8") for name in MEASURING]
    return hashlib.sha256("\0".join([__version__, *texts]).encode()).hexdigest()[:16]


def measured(one: Implementation, progress: Progress) -> dict[str, Any]:
    """The results of an implementation: those of an earlier run if nothing has changed, or new ones."""
    file = ADAPTERS / f"{one.object.partition(':')[0]}.py"
    key = mark(one, file.read_text(encoding="utf-8"), versions(one.packages))
    out = WORK / f"{hashlib.sha256(one.name.encode()).hexdigest()[:12]}.json"
    kept = _kept(out, key)
    if kept is not None:
        return kept
    row = progress.add_task(one.name, total=None)
    part = out.with_suffix(".part")
    part.unlink(missing_ok=True)
    problem = _run(one, part, lambda done, total: progress.update(row, completed=done, total=total))
    progress.remove_task(row)
    if problem is not None:
        return {**one.shown(), "packages": versions(one.packages), "problem": problem}  # tried again in the next run
    found = {"mark": key, **json.loads(part.read_text(encoding="utf-8"))}
    _write(out, found)
    part.unlink()
    return found


def _run(one: Implementation, out: Path, tell: Any) -> str | None:
    """Run the measuring process; return what went wrong, if anything."""
    command = [sys.executable, "-m", "docs.conformance.measure", one.name, str(out)]
    log = out.with_suffix(".log")
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=HERE.parents[1], start_new_session=True,
            env={**os.environ, **ENVIRONMENT, **one.environment},
        )  # fmt: skip
        end = time.monotonic() + 60 * one.minutes
        with ThreadPoolExecutor(1) as watch:
            late = watch.submit(_end_in_time, process, end)
            assert process.stdout is not None
            for line in process.stdout:
                words = line.split()
                if len(words) == 4 and words[1] == "of":
                    tell(int(words[0]), int(words[2]))
            status = process.wait()
            if late.result():
                return f"took longer than {one.minutes:g} minutes"
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    return None if status == 0 else f"ended with {status}: {last[0][:200] if last else ''}"


def _end_in_time(process: subprocess.Popen[str], end: float) -> bool:
    """End the process and those that it has started at that time; whether that was necessary."""
    try:
        process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        return True
    return False


def shown(entry: dict[str, Any]) -> dict[str, Any]:
    """Run a script of findings/: its code, what it prints, and whether it still shows what it is there for."""
    file = ADAPTERS / "findings" / f"{entry['name']}.py"
    code = file.read_text(encoding="utf-8")
    found = versions(tuple(entry["packages"]))
    out = WORK / f"finding-{entry['name']}.json"
    key = mark(entry, code, found)
    kept = _kept(out, key)
    if kept is not None:
        return kept
    try:
        done = subprocess.run(
            [sys.executable, str(file)], capture_output=True, text=True, timeout=SECONDS,
            env={**os.environ, **ENVIRONMENT, **entry.get("environment", {})},
        )  # fmt: skip
        printed = done.stdout.strip()
        if done.returncode < 0:
            printed = f"{printed}\n{signal.Signals(-done.returncode).name}".strip()
        elif done.returncode:
            printed = f"{printed}\n{done.stderr.strip().splitlines()[-1]}".strip()
    except subprocess.TimeoutExpired:
        printed = f"took longer than {SECONDS:g} s"
    result = {**entry, "mark": key, "code": code, "packages": found, "output": printed[:2000]}
    result["there"] = entry["shows"] in result["output"]
    _write(out, result)
    return result


def _kept(file: Path, key: str) -> dict[str, Any] | None:
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if found.get("mark") == key else None


def _write(file: Path, found: dict[str, Any]) -> None:
    with atomic_path(file) as path:
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Measure, and write results.json if all were asked for; the exit status is 1 if one could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--only", default="", help="measure those whose name contains this, and leave results.json alone"
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many processes at once (default 2)")
    options = parser.parse_args(argv)
    WORK.mkdir(parents=True, exist_ok=True)
    wanted = [one for one in implementations() if options.only.lower() in one.name.lower()]
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*bar, console=console) as progress, ThreadPoolExecutor(options.jobs) as pool:
        whole = progress.add_task("all", total=len(wanted))

        def work(one: Implementation) -> dict[str, Any]:
            found = measured(one, progress)
            said = found.get("problem") or "; ".join(f"{n} {status}" for status, n in found["counts"].items() if n)
            progress.console.print(f"{one.name}: {said}", markup=False, highlight=False)
            progress.advance(whole)
            return found

        rows = list(pool.map(work, wanted))
    bad = [row for row in rows if "problem" in row]
    if not options.only:
        found = {
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "gta_ref": __version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "implementations": [{key: x for key, x in row.items() if key != "mark"} for row in rows],
            "findings": [{key: x for key, x in shown(one).items() if key != "mark"} for one in findings()],
        }
        _write(RESULTS, found)
        console.print(
            f"written: {RESULTS.relative_to(Path.cwd())}" if RESULTS.is_relative_to(Path.cwd()) else str(RESULTS)
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
