"""Step 4: speeds, the kernel alone and with the host, beside PyTorch's and the limits of the GPU.

    python -m gta_cuda.first_run.timing --seconds 140

The benchmark is that of ``gta-ref bench gpu``; each of its results becomes a line.
"""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

from gta_cuda.first_run.results import attempt, record

STEP = "4"


def main() -> None:
    """Run the benchmark and record what it finds as it comes."""
    parser = argparse.ArgumentParser(description="Time the engine and PyTorch.")
    parser.add_argument("--seconds", type=float, default=140.0, help="no new case starts after this; default 140")
    parser.add_argument("--quick", action="store_true", help="few cases and rounds")
    arguments = parser.parse_args()
    from gta_ref.bench import gpu

    def note(found: dict[str, Any]) -> None:
        facts = {key: value for key, value in found.items() if key != "name"}
        ours = found.get("contestant") == gpu.ENGINE
        # what a peer cannot do is no fault of the engine
        failed = ours and (found.get("wrong") or "why_not" in found)
        right = ours and found["what"] == "check" and not failed
        label = ", ".join(str(found[key]) for key in ("what", "name", "contestant") if key in found)
        record(STEP, label, False if failed else True if right else None, case=found.get("name"), **facts)

    torch = importlib.util.find_spec("torch") is not None
    with attempt(STEP, "benchmark", against_torch=torch):
        gpu.run(against_torch=torch, quick=arguments.quick, record=note, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
