"""All cases, and the suites that select among them."""

from __future__ import annotations

from gta_ref.errors import check_choice
from gta_ref.verify.cases import attention, layer, lm
from gta_ref.verify.cases.case import DTYPES, Case

SUITES = ("core", "attention", "layer", "lm", "large", "all")
CASES: tuple[Case, ...] = (*attention.CASES, *layer.CASES, *lm.CASES)


def suite(name: str = "core", dtype: str | None = None) -> list[Case]:
    """The cases of a suite: "core", one level of it, "large", or "all"; with `dtype`, only those made for it."""
    check_choice("suite", name, SUITES)
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)
    return [
        case
        for case in CASES
        if (dtype is None or dtype in case.dtypes)
        and (name == "all" or (name in case.tags) or ("core" in case.tags and case.level == name))
    ]


def find(name: str) -> Case:
    """The case of this name."""
    for case in CASES:
        if case.name == name:
            return case
    raise ValueError(f"case={name!r} is unknown; gta-ref vectors list names them")
