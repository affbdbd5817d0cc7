"""All cases, and the suites that select among them."""

from __future__ import annotations

from gta_ref.errors import check_choice
from gta_ref.verify.cases import attention, attention_long, layer, layer_others, lm
from gta_ref.verify.cases.case import DTYPES, LEVELS, Case

SUITES = ("core", *LEVELS, "decode", "tiles", "layouts", "large", "all")
CASES: tuple[Case, ...] = (
    *attention.CASES,
    *attention_long.CASES,
    *layer.CASES,
    *layer_others.CASES,
    *lm.CASES,
)


def suite(name: str = "core", dtype: str | None = None) -> list[Case]:
    """The cases of a suite; with `dtype`, only those made for it.

    "core" is the default; "attention", "layer" and "lm" are one level of it. "decode", "tiles" and "layouts" are all
    cases of that kind, those of "core" among them; "large" are the largest cases, and "all" is everything.
    """
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
