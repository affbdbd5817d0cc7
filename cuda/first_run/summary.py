"""The summary of a first run, at most 60 lines: ``python -m gta_cuda.first_run.summary results.jsonl``."""

from __future__ import annotations

import sys
from typing import Any

from gta_cuda.first_run.results import read

MOST_LINES = 60
STEPS = {
    "0": "environment",
    "1": "each kernel, carried machine code",
    "2": "each kernel, Numba's own path",
    "3": "correctness",
    "4": "speed",
    "5": "variants",
    "6": "compute-sanitizer",
    "7": "profile",
    "8": "pytest",
}


def lines(results: list[dict[str, Any]]) -> list[str]:
    """The summary: a line per step, then what failed, then the speeds."""
    found = []
    for step, title in STEPS.items():
        own = [one for one in results if one["step"] == step]
        good, bad = (sum(one.get("ok") is value for one in own) for value in (True, False))
        status = "not run" if not own else "FAILED" if bad else "ok" if good else "recorded"
        found.append(f"{step} {title:36} {status:8} {good} right, {bad} wrong, {len(own)} results")
    failed = _failures([one for one in results if one.get("ok") is False])
    speeds = [line for one in results if one["step"] == "4" for line in _speeds(one)]
    room = MOST_LINES - len(found) - 2
    share = min(len(failed), max(room // 2, room - len(speeds)))
    if failed:
        found.append("failed:")
        found += failed[:share]
        if share < len(failed):
            found[-1] = f"  ... {len(failed) - share + 1} more in the file"
    if speeds:
        found.append("speed:")
        found += speeds[: MOST_LINES - len(found)]
    return found[:MOST_LINES]


def _failures(failed: list[dict[str, Any]]) -> list[str]:
    """A line per failure; those of a step that fail for one reason are counted in one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in failed:
        why = next((str(one[key]) for key in ("error", "why_not", "errors", "status") if one.get(key)), "")
        groups.setdefault((one["step"], why), []).append(one["name"])
    found = []
    for (step, why), names in groups.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        found.append(f"  step {step}, {names[0]}{more}: {why}"[:160])
    return found


def _speeds(one: dict[str, Any]) -> list[str]:
    """The line for one contestant of a case of the benchmark, or none."""
    seconds, rate, share = (one.get(key) for key in ("seconds", "rate", "of_ceiling"))
    if one.get("what") not in ("host", "kernel") or seconds is None or rate is None:
        return []
    unit = "TB/s" if one.get("kind") == "decode" else "TFLOP/s"
    of = "" if share is None else f", {share:.0%} of the ceiling"
    stage = "kernel alone" if one["what"] == "kernel" else "with the host"
    name = f"{one.get('case')}, {one.get('contestant')}"
    return [f"  {name:56} {stage:13} {seconds * 1e3:9.4f} ms {rate / 1e12:8.3f} {unit}{of}"]


def main() -> None:
    """Print the summary of the file that the command names."""
    for line in lines(read(sys.argv[1])):
        print(line)


if __name__ == "__main__":
    main()
