"""Which cases a run has: a suite, or the cases of some names or patterns."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from gta_ref.errors import check_choice, shown
from gta_ref.verify.cases import CASES, DTYPES, Case, suite

PATTERN = "*?["


def names_of(given: str | Sequence[str] | None, option: str) -> tuple[str, ...] | None:
    """One or several names: a str with commas, or a sequence of str."""
    if given is None:
        return None
    found = tuple(word.strip() for word in given.split(",")) if isinstance(given, str) else tuple(given)
    if not found or not all(isinstance(word, str) and word for word in found):
        raise ValueError(f"{option}={shown(given)} must name one or several")
    return found


def dtypes_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """The dtypes of a run, each once; raise ValueError for an unknown one."""
    found = (given,) if given is None else names_of(given, "dtype") or ()
    for one in found:
        check_choice("dtype", one, DTYPES)
    return tuple(dict.fromkeys(found))


def select(suite_name: str | None, patterns: Sequence[str] | None, dtypes: Sequence[str]) -> list[tuple[Case, str]]:
    """The cases of a run with their dtypes, in the order of the dtypes, then of the table.

    Parameters
    ----------
    suite_name : str or None
        None is "core", or, for patterns, every suite; a pattern with ``*`` matches large cases only in a suite that
        has them.
    patterns : sequence of str or None
        Names of cases, or patterns with ``*``, ``?`` and ``[…]``.

    Raises
    ------
    ValueError
        If the suite is unknown, a pattern matches no case, or no case exists in any of the dtypes.
    """
    among = suite(suite_name or ("core" if patterns is None else "all"))
    if patterns is not None:
        found = []
        for pattern in patterns:
            matching = [case for case in among if _matches(case, pattern, suite_name)]
            if not matching:
                raise ValueError(_no_match(pattern, suite_name, among))
            found += matching
        among = [case for case in among if case in found]
    pairs = [(case, dtype) for dtype in dtypes for case in among if dtype in case.dtypes]
    if not pairs:
        names = ", ".join(case.name for case in among[:3])
        raise ValueError(f"no case of {names} exists in {', '.join(dtypes)}: too few bits would detect a wrong result")
    return pairs


def count_absent(suite_name: str | None, patterns: Sequence[str] | None, dtypes: Sequence[str]) -> dict[str, int]:
    """For each dtype, the number of selected cases that do not exist in it."""
    every = {case.name for case, _ in select(suite_name, patterns, DTYPES)}
    return {
        dtype: n
        for dtype in dtypes
        if (n := sum(dtype not in case.dtypes for case in CASES if case.name in every))
    }  # fmt: skip


def _matches(case: Case, pattern: str, suite_name: str | None) -> bool:
    if not any(letter in pattern for letter in PATTERN):
        return case.name == pattern
    return fnmatchcase(case.name, pattern) and (suite_name is not None or "large" not in case.tags)


def _no_match(pattern: str, suite_name: str | None, among: Sequence[Case]) -> str:
    near = difflib.get_close_matches(pattern, [case.name for case in among], 1)
    hint = f"; did you mean {near[0]}?" if near else "; gta-ref vectors list names them"
    place = f" in the suite {suite_name}" if suite_name else ""
    return f"case={shown(pattern)} matches no case{place}{hint}"
