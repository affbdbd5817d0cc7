"""What an implementation can do, and what a case needs.

An implementation declares its capabilities; a case that needs more is skipped. The gradients of a case need more than
its forward, so that an implementation without a backward still has its forward checked.
"""

from __future__ import annotations

from collections.abc import Collection

from gta_ref import mechanisms
from gta_ref.errors import check_choice
from gta_ref.verify.cases import DTYPES, LEVELS, Case

MECHANISMS = mechanisms.NAMES
ABILITIES = (*LEVELS, "backward", "decode", "padding", "lse", *DTYPES, *MECHANISMS)
OF_A_RUN = ("deterministic",)  # abilities that the run as a whole needs, but no single case


def abilities(capabilities: Collection[str] | None) -> frozenset[str] | None:
    """Check the declared capabilities of an implementation.

    If no level, no dtype or no mechanism is declared, all levels, dtypes or mechanisms count as declared.

    Returns
    -------
    able : frozenset of str or None
        None if nothing was declared, which means every ability.
    """
    if capabilities is None:
        return None
    declared = set(capabilities)
    for one in declared:
        check_choice("capabilities", one, (*ABILITIES, *OF_A_RUN))
    for kind in (LEVELS, DTYPES, MECHANISMS):
        if not declared & set(kind):
            declared |= set(kind)
    return frozenset(declared)


def lacking(needs: Collection[str], able: Collection[str] | None) -> tuple[str, ...]:
    """The needs that are not among the declared abilities."""
    return () if able is None else tuple(need for need in needs if need not in able)


def needs(case: Case, dtype: str) -> tuple[str, ...]:
    """Abilities that an implementation needs for the forward of a case in this dtype."""
    found = [case.level, dtype]
    if case.level != "attention":
        found.append(case.settings["mechanism"])
    found += [tag for tag in ("decode", "padding") if tag in case.tags]
    return tuple(found)


def gradient_needs(case: Case) -> tuple[str, ...]:
    """Further abilities that the gradients of a case need; empty if it has none."""
    if "gradient" not in case.tags:
        return ()
    return ("backward", "lse") if case.settings.get("dlse") else ("backward",)
