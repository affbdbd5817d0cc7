"""Mutates the project's own engines and prints how many of the mutants its tests find.

    make mutation                                                   a sample of all parts
    python -m tests.mutation.run --only gta_ref/core/mask.py --sample 0          every mutant of one file
    python -m tests.mutation.run --retry                            those that survived again, after tests were added

A mutant is the project with one operator, bound, call or barrier changed (``mutator.py``). ``parts.py`` says what is
mutated and what has to find it: the verification kit, judging by vectors that were exported before, and the tests that
`make test` runs for that file. Results are appended to a file of JSON lines at once, so a run that was stopped
continues; a mutant whose file has changed since is judged again. ``equivalent.toml`` lists, with a reason each, mutants
that compute the same, and survivors that are known. The exit status is 1 if less than `--least` of the mutants was
killed.

Why not a library: mutmut and cosmic-ray start one pytest process per mutant, which imports NumPy and Numba each time (2
to 3 seconds), write into the working tree or into one copy, know no killer but a test command, and mutate neither
instructions that are written by LLVM's builder nor calls for their effect, such as barriers. Here a mutant of NumPy
code takes about a second, and kernels are compiled without Numba's cache of another mutant.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.mutation.mutator import Mutant, mutants_of
from tests.mutation.parts import KIT, PARTS, files, left_out

ROOT = Path(__file__).parents[2]
KNOWN = Path(__file__).with_name("equivalent.toml")
COPIED = ("gta_ref", "cuda", "tests", "pyproject.toml", "Makefile")
LEAST_PER_FILE = 2  # mutants of a file that a sample has at least


def chosen(mutants: list[Mutant], seed: int, wanted: int) -> list[Mutant]:
    """A sample of a file's mutants. A larger sample contains a smaller one, and other files do not change it.

    Barriers are few and matter much: LEAST_PER_FILE of them are in the sample of each file that has them.
    """
    mixed = sorted(mutants, key=lambda m: hashlib.sha256(f"{seed}{m.key}".encode()).digest())
    barriers = [m for m in mixed if m.kind == "barrier"][:LEAST_PER_FILE]
    return mixed[:wanted] + [m for m in barriers if m not in mixed[:wanted]]


def plan(root: Path, only: list[str], sample: int, seed: int) -> tuple[list[tuple[str, Mutant]], Counter[str]]:
    """The mutants to judge, with their parts; and by part, how many are left out."""
    found: list[tuple[str, list[Mutant]]] = []
    omitted: Counter[str] = Counter()
    for part, path in files(root):
        if only and not any(path.startswith(prefix) for prefix in only):
            continue
        mutants = mutants_of((root / path).read_bytes(), path)
        used = [m for m in mutants if left_out(path, m.function) is None]
        omitted[part] += len(mutants) - len(used)
        found.append((part, used))
    total = sum(len(mutants) for _, mutants in found)
    share = sample / total if sample and total else 1
    return [
        (part, m) for part, ms in found for m in chosen(ms, seed, max(LEAST_PER_FILE, round(share * len(ms))))
    ], omitted


def results(path: Path) -> dict[str, dict[str, Any]]:
    """What was found so far: the last line of each mutant."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {line["key"]: line for line in lines}


def digest(path: Path) -> str:
    """A checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def copy_project(root: Path, folder: Path) -> None:
    """Copy what the killers need, so that neither a mutant nor an edit during the run disturbs the other."""
    folder.mkdir(parents=True)
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / name).exists():
            shutil.copy2(root / name, folder / name)
    (folder / "gta_cuda").symlink_to("cuda")


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that imports the copy in a folder."""
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def export(folder: Path) -> None:
    """Write the kit's vectors, computed by the unmutated project; the workers judge by them."""
    for dtype in KIT:
        command = [sys.executable, "-m", "gta_ref", "vectors", "export", "--suite", "core", "--dtype", dtype]
        out = str(folder.parent / "vectors" / dtype)
        subprocess.run(
            [*command, "--out", out], check=True, env=environment(folder), cwd=folder, stdout=subprocess.PIPE
        )


def work(part: str, mutants: list[Mutant], folder: Path, workers: list[Any], on_result: Any) -> None:
    """Judge the mutants of a part in one worker process, which is added to `workers`, and report each result."""
    lines = [
        json.dumps(
            {"part": part, "key": m.key, "file": m.file, "mutated": m.apply((folder / m.file).read_bytes()).decode()}
        )
        for m in mutants
    ]
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.mutation.worker", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
        env={**environment(folder), **PARTS[part].environment},
    )  # fmt: skip
    workers.append(worker)
    assert worker.stdin is not None
    assert worker.stdout is not None
    feed = threading.Thread(target=_write, args=(worker.stdin, lines), daemon=True)
    feed.start()
    try:
        for line in worker.stdout:
            on_result(json.loads(line))
        if worker.wait():
            print(f"mutation: the worker of {part!r} ended with {worker.returncode}", file=sys.stderr)
    finally:
        worker.terminate()


def _write(stream: Any, lines: list[str]) -> None:
    try:
        stream.write("".join(f"{line}\n" for line in lines))
        stream.close()
    except BrokenPipeError:  # the worker has ended, which `work` reports
        pass


def known(path: Path = KNOWN) -> list[dict[str, str]]:
    """The entries of equivalent.toml."""
    return tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", []) if path.exists() else []


def entry_of(mutant: Mutant, entries: Iterable[dict[str, str]]) -> dict[str, str] | None:
    """The entry that names this mutant: its file, its function, and the mutated line (or the line before)."""
    for entry in entries:
        if all(getattr(mutant, name) == entry[name] for name in entry if name not in ("why", "verdict")):
            return entry
    return None


def table(
    planned: list[tuple[str, Mutant]], omitted: Counter[str], found: dict[str, dict[str, Any]]
) -> tuple[str, float, int]:
    """The report in Markdown, the share of mutants that was killed, and how many were not judged."""
    entries, counts, survivors = known(), Counter[tuple[str, str]](), []
    by: Counter[str] = Counter()
    missing = 0
    for part, mutant in planned:
        result, entry = found.get(mutant.key), entry_of(mutant, entries)
        if entry is not None and entry.get("verdict") == "equivalent":
            counts[part, "equivalent"] += 1
            continue
        if result is None:
            missing += 1
            continue
        status = result["status"]
        if status == "survived":
            survivors.append((mutant, entry["why"] if entry else "no reason yet"))
        elif status == "killed":
            by["kit" if result["by"].startswith("kit") else "tests"] += 1
        counts[part, status] += 1
    names = ("killed", "survived", "equivalent", "invalid")
    head = "| part | mutants | killed | survived | equivalent | no program | rate | left out |"
    lines = [head, "|" + " --- |" * 8]
    rows = [*PARTS, "all"]
    rate = 1.0
    for part in rows:
        n = [sum(k for (p, s), k in counts.items() if s == status and part in (p, "all")) for status in names]
        if not sum(n):
            continue
        judged = n[0] + n[1]
        rate = n[0] / judged if judged else 1.0
        omits = sum(k for p, k in omitted.items() if part in (p, "all"))
        lines.append(f"| {part} | {sum(n)} | {n[0]} | {n[1]} | {n[2]} | {n[3]} | {100 * rate:.1f} % | {omits} |")
    lines.append(f"\nKilled by the verification kit: {by['kit']}; by tests: {by['tests']}.")
    if missing:
        lines.append(f"Not judged, because the run was stopped: {missing}.")
    if survivors:
        lines.append("\nSurvivors:\n")
        for m, why in survivors:
            lines.append(f"- `{m.file}`, `{m.function}`, line {m.line}: `{m.before}` became `{m.after}`: {why}")
    return "\n".join(lines), rate, missing


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sample", type=int, default=400, help="mutants to judge; 0: all of them (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="which sample")
    parser.add_argument("--only", action="append", default=[], metavar="PATH", help="files whose path begins with PATH")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are judged at once")
    parser.add_argument(
        "--least", type=float, default=0.95, help="share to be killed for exit status 0 (default: 0.95)"
    )
    parser.add_argument("--retry", action="store_true", help="judge again those that survived")
    parser.add_argument("--show", action="store_true", help="print the report of what was judged, and judge nothing")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the project to mutate (default: this one)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutation", help="folder for copies and results")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    planned, omitted = plan(options.tree, options.only, options.sample, options.seed)
    kept = options.out / "results.jsonl"
    done, sources = results(kept), {m.file: digest(options.tree / m.file) for _, m in planned}
    done = {key: one for key, one in done.items() if sources.get(one["file"]) == one["source"]}
    redo = {key for key, one in done.items() if options.retry and one["status"] == "survived"}
    same = [entry for entry in known() if entry.get("verdict") == "equivalent"]
    todo = [(p, m) for p, m in planned if (m.key not in done or m.key in redo) and not entry_of(m, same)]
    todo.sort(key=lambda one: one[1].key)  # so that a run that is stopped has judged a fair part of every file
    if todo and not options.show:
        judge_all(todo, options.tree, options.out, options.jobs, kept, sources, done)
    text, rate, missing = table(planned, omitted, done)
    print(text)
    return 0 if rate >= options.least and not missing else 1


def judge_all(
    todo: list[tuple[str, Mutant]],
    tree: Path,
    out: Path,
    jobs: int,
    kept: Path,
    sources: dict[str, str],
    done: dict[str, Any],
) -> None:
    """Judge mutants with `jobs` workers at once; each has a copy of the project."""
    lock, workers = threading.Lock(), list[Any]()
    by_key, seen = {m.key: m for _, m in todo}, set[str]()

    def on_result(result: dict[str, Any]) -> None:
        mutant = by_key[result["key"]]
        line = {
            **result,
            "file": mutant.file,
            "source": sources[mutant.file],
            "before": mutant.before,
            "after": mutant.after,
        }
        with lock, kept.open("a", encoding="utf-8") as file:
            done[mutant.key] = line
            file.write(json.dumps(line) + "\n")
            seen.add(mutant.key)
            print(f"{len(seen)}/{len(by_key)} {result['status']} in {result['seconds']} s: {mutant.file}:{mutant.line} "
                  f"{mutant.after} | {result['by'][:120]}", file=sys.stderr, flush=True)  # fmt: skip

    def job(number: int) -> None:
        folder = out / f"job{number}-{os.getpid()}" / "project"
        try:
            copy_project(tree, folder)
            if any(PARTS[part].engine for part, _ in todo):
                export(folder)
            for part in PARTS:
                mine = [m for p, m in todo[number::jobs] if p == part]
                if mine:
                    work(part, mine, folder, workers, on_result)
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)

    kept.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(job, i) for i in range(jobs)]
        try:
            for one in running:
                one.result()
        except BaseException:  # Ctrl-C, the signal to end, or an error: the jobs end when their workers do
            for worker in workers:
                worker.terminate()
            raise


if __name__ == "__main__":
    sys.exit(main())
