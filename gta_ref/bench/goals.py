"""What the fused engine is meant to reach, and whether a run of the benchmark reached it."""

from __future__ import annotations

from typing import Any

from gta_ref.bench.core import DECODES, LENGTHS

PYTORCH = "torch"


def judge(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare figures with the goals; a goal that was not measured is left out.

    Returns
    -------
    goals : list of dict
        what, wanted, got (as shown), reached.
    """
    by_name = {case["name"]: case for case in found["cases"]}
    goals: list[dict[str, Any]] = []

    def add(what: str, least: float, got: float | None, unit: str) -> None:
        if got is not None:
            show = f"{got:.0%}" if unit == "%" else f"{got:.2f} ×"
            wanted = f"≥ {least:.0%}" if unit == "%" else f"≥ {least:g} ×"
            goals.append({"what": what, "wanted": wanted, "got": show, "reached": got >= least})

    for kind, least in (("forward", 0.75), ("forward+backward", 0.70)):
        for n in LENGTHS:
            if case := by_name.get(f"{kind}, N {n}"):
                wanted = 0.65 if kind == "forward" and n == 1024 else least
                add(f"{case['name']}, of sgemm", wanted, _numba(case, "of_ceiling"), "%")
                add(f"{case['name']}, × PyTorch's best", 1.4, best(case, PYTORCH), "×")
    for b, n in DECODES:
        if case := by_name.get(f"decode, B {b}, N {n}"):
            add(f"{case['name']}, of reading", 0.85, _numba(case, "of_ceiling"), "%")
            add(f"{case['name']}, × PyTorch's best", 2.0, best(case, PYTORCH), "×")
    for case in found["cases"]:
        if case["name"].startswith("GQA"):
            add(f"{case['name']}, × PyTorch's best", 1.0, best(case, PYTORCH), "×")
        if case["name"].startswith("training"):
            add(f"{case['name']}, × reference", 1.0, best(case, "reference"), "×")
    threads = found["threads"]
    add("gain by threads, of sgemm's own", 0.95, threads["forward"] / threads["gemm"], "%")
    if memory := found["memory"]:
        limit = 2 * memory["inputs"] + memory["outputs"]
        goals.append(
            {
                "what": f"forward, N {memory['length']}, growth with inputs",
                "wanted": f"≤ {limit / 1e6:.0f} MB",
                "got": f"{memory['growth'] / 1e6:.0f} MB",
                "reached": memory["growth"] <= limit,
            }
        )
    return goals


def best(case: dict[str, Any], prefix: str) -> float | None:
    """How many times as long as "numba" the fastest contestant took whose name begins so; None without one."""
    found = [c["times_numba"] for name, c in case["contestants"].items() if name.startswith(prefix) and not c["wrong"]]
    return min(found, default=None)


def _numba(case: dict[str, Any], key: str) -> float | None:
    return case["contestants"]["numba"].get(key)
