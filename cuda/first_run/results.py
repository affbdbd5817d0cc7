"""Results of the first run: one JSON line per result, written to a file as soon as it is known.

A line has ``step`` (a number as text), ``name``, ``ok`` (True, False, or None for a result that cannot be wrong) and
the facts of that step. A run that is cut off therefore keeps everything that it found until then.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

VARIABLE = "FIRST_RUN_RESULTS"  # the environment variable with the path of the file


def record(step: str, name: str, ok: bool | None = None, **facts: Any) -> None:
    """Append a result to the file, and print it."""
    line = json.dumps(_plain({"step": step, "name": name, "ok": ok, **facts}), ensure_ascii=False)
    print(line, flush=True)
    path = os.environ.get(VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def attempt(step: str, name: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """Run a block and record its result; an exception is recorded and does not go further.

    The block adds facts to the dict that it receives, ``ok`` among them; without one, a block that ends is all right.
    """
    found: dict[str, Any] = dict(facts)
    start = time.perf_counter()
    try:
        yield found
    except Exception as error:  # whatever it is, the next result is wanted
        found |= {"ok": False, "error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    ok = found.pop("ok", True)
    record(step, name, ok, **found, took=round(time.perf_counter() - start, 3))


def read(path: str) -> list[dict[str, Any]]:
    """All results of a file; a line that was cut off in the middle is left out."""
    found = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return [one for one in found if isinstance(one, dict) and "step" in one]


def _plain(x: Any) -> Any:
    """Numbers and names that JSON has; NaN and infinity as text."""
    if isinstance(x, dict):
        return {str(key): _plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    if hasattr(x, "item") and not isinstance(x, str):
        x = x.item()
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)
    return x if isinstance(x, str | int | float | bool) or x is None else str(x)
