"""The command that repeats one case of a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

# option → what verify() assumes without it; a value that equals it is left out of the command
DEFAULTS: dict[str, Any] = {
    "arrays": "numpy",
    "capabilities": None,
    "without": [],
    "head_dim": None,
    "products": None,
    "repeat": None,
    "isolate": False,
    "timeout": None,
}


def command(run: Mapping[str, Any], case: str, dtype: str) -> str | None:
    """The command of a case, to be pasted into a shell.

    Parameters
    ----------
    run : mapping
        ``Report.run``.
    case, dtype : str

    Returns
    -------
    line : str or None
        None if the implementation cannot be imported by a name.
    """
    if not run.get("impl"):
        return None
    words = ["gta-ref", "verify", "--impl", run["impl"], "--case", case, "--dtype", dtype, "--seed", str(run["seed"])]
    for option, default in DEFAULTS.items():
        value = run.get(option, default)
        if value == default:
            continue
        words.append(f"--{option.replace('_', '-')}")
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, (list, tuple)) else _text(value))
    return shlex.join(words)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
