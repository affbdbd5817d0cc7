"""What an implementation can do, and what a case needs.

An implementation declares its capabilities; a case that needs more is skipped. The gradients of a case need more than
its forward, so that an implementation without a backward still has its forward checked.

There are two kinds of capabilities. Those of ``DECLARED`` count only if they are named. The levels, the dtypes, the
mechanisms and the features are four groups: if none of a group is named, all of it count as named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from gta_ref import mechanisms
from gta_ref.core import Mask
from gta_ref.errors import as_size, check_choice, shown
from gta_ref.verify.cases import DTYPES, LEVELS, Case

MECHANISMS = mechanisms.NAMES
DECLARED = {
    "backward": "gradients",
    "decode": "one query at a time, or a layer's decoding from a cache",
    "padding": "k_start or k_stop: slots of the keys that a sequence does not use",
    "lse": "lse is returned, so that it must be given and right",
    "lse-gradient": "a gradient of lse (d_lse) is accepted and enters the others",
    "deterministic": "the same bytes in each run",
}
FEATURES = {
    "blind": "rows that see no key",
    "poison": "NaN in unused slots of k and v",
    "offset": "q_start is given",
    "noncausal": "no causal mask",
    "n_v": "n_v is not n_k",
    "wide-values": "d_v is not d_k",
    "scale": "scale is not 1/sqrt(d_k)",
    "empty": "no query or no key",
    "chunk": "several queries, and more keys than queries",
    "strided": "arrays that are views of others",
}
ABILITIES = (*LEVELS, *DECLARED, *DTYPES, *MECHANISMS, *FEATURES)
_GROUPS = (LEVELS, DTYPES, MECHANISMS, tuple(FEATURES))


def abilities(capabilities: Collection[str] | None, without: Collection[str] = ()) -> frozenset[str]:
    """All abilities of an implementation.

    Parameters
    ----------
    capabilities : collection of str or None
        What it declares; a str holds names separated by commas. None means everything, but does not promise that lse
        is returned.
    without : collection of str
        What it lacks nevertheless. Without lse there is no gradient of lse either.

    Returns
    -------
    able : frozenset of str

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    able = set(ABILITIES) - {"lse"} if capabilities is None else _names("capabilities", capabilities)
    for group in _GROUPS:
        if not able & set(group):
            able |= set(group)
    lacks = _names("without", without)
    return frozenset(able - lacks - ({"lse-gradient"} if "lse" in lacks else set()))


def _names(option: str, given: Collection[str]) -> set[str]:
    if isinstance(given, str):
        given = [word.strip() for word in given.split(",")]
    if not isinstance(given, Iterable):
        raise ValueError(f"{option}={shown(given)} must be a set of names")
    for one in given:
        check_choice(option, one, ABILITIES)
    return set(given)


def lacking(needs: Collection[str], able: Collection[str] | None) -> tuple[str, ...]:
    """The needs that are not among the abilities; none if `able` is None."""
    return () if able is None else tuple(need for need in needs if need not in able)


def needs(case: Case, dtype: str) -> tuple[str, ...]:
    """Abilities that an implementation needs for the forward of a case in this dtype."""
    found = [case.level, dtype]
    if case.level != "attention":
        found.append(case.settings["mechanism"])
    return (*found, *features(case))


def gradient_needs(case: Case) -> tuple[str, ...]:
    """Further abilities that the gradients of a case need; empty if it has none."""
    if "gradient" not in case.tags:
        return ()
    return ("backward", "lse-gradient") if case.settings.get("dlse") else ("backward",)


def features(case: Case) -> tuple[str, ...]:
    """What is special about a case: decode and padding, then those of FEATURES, as its settings have them."""
    settings, mask = case.settings, case.settings.get("mask", {})
    sizes = settings.get("sizes", {})
    chunks = settings.get("chunks", ())
    batch = sizes.get("B", settings.get("batch", 1))
    n_queries = sizes.get("N_q", settings.get("length", 1))
    n_keys = sizes.get("N_k", settings.get("length", 1))
    scale = settings.get("scale")
    has = {
        "decode": bool(chunks) or n_queries == 1 != n_keys,
        "padding": _unused(mask, batch, n_queries, n_keys),
        "blind": _blind(mask, batch, n_queries, n_keys),
        "poison": bool(settings.get("poison")),
        "offset": mask.get("q_start") is not None,
        "noncausal": not mask.get("causal", True),
        "n_v": sizes.get("n_v") != sizes.get("n_k"),
        "wide-values": sizes.get("d_v") != sizes.get("d_k"),
        "scale": scale is not None and scale != sizes.get("d_k", 1) ** -0.5,
        "empty": not (n_queries and n_keys and batch),
        "chunk": 1 < n_queries < n_keys or any(n > 1 for n in chunks[1:]),
        "strided": settings.get("layout", "contiguous") != "contiguous",
    }
    return tuple(name for name, there in has.items() if there)


def _unused(mask: Mapping[str, Any], batch: int, n_queries: int, n_keys: int) -> bool:
    _, k_start, k_stop = Mask(**mask).resolve(batch, n_queries, n_keys)
    return bool((k_start > 0).any() or (k_stop < n_keys).any())


def _blind(mask: Mapping[str, Any], batch: int, n_queries: int, n_keys: int) -> bool:
    q_start, k_start, k_stop = Mask(**mask).resolve(batch, n_queries, n_keys)
    stop = k_stop[:, None]
    if mask.get("causal", True):
        stop = np.minimum(stop, q_start[:, None] + np.arange(n_queries) + 1)  # (B, N_q)
    return bool(n_queries and (stop <= k_start[:, None]).any())


def head_dims(given: Any) -> frozenset[tuple[int, int]] | None:
    """The pairs (d_k, d_v) that an implementation supports.

    Parameters
    ----------
    given : int, str, pair or collection of these, or None
        Widths D, of which d_k and d_v may each be any, and pairs: ``"192x128"`` or ``(192, 128)`` within a list. A str
        separates them by commas.

    Returns
    -------
    pairs : frozenset of (int, int) or None
        None if every width is supported.
    """
    if given is None:
        return None
    listed = given.split(",") if isinstance(given, str) else given if isinstance(given, Iterable) else [given]
    single: list[int] = []
    pairs = set()
    one: Any
    for one in listed:
        if isinstance(one, str):
            found = re.fullmatch(r"\s*(\d+)\s*(?:x\s*(\d+)\s*)?", one)
            if found is None:
                raise ValueError(f"head_dim={shown(one)} must be a width such as 64, or 192x128 for keys and values")
            one = [int(number) for number in found.groups() if number is not None]
            one = one[0] if len(one) == 1 else one
        if isinstance(one, Iterable):
            both = [as_size("head_dim", width) for width in one]
            if len(both) != 2:
                raise ValueError(f"head_dim={shown(one)} must be a width, or a pair of d_k and d_v")
            pairs.add((both[0], both[1]))
        else:
            single.append(as_size("head_dim", one))
    return frozenset(pairs | {(d_k, d_v) for d_k in single for d_v in single})


def widths(case: Case) -> tuple[int, int]:
    """The widths (d_k, d_v) of a head in a case; of a layer, as its config gives them."""
    sizes, config = case.settings.get("sizes"), case.settings.get("config", {})
    if sizes is not None:
        return sizes["d_k"], sizes["d_v"]
    if "nope_dim" in config:
        return config["nope_dim"] + config["rope_dim"], config["value_dim"]
    return config["head_dim"], config["head_dim"]


def why_skip(
    case: Case, dtype: str, able: Collection[str], pairs: Collection[tuple[int, int]] | None = None
) -> str | None:
    """The reason why an implementation with these abilities and widths skips a case; None if it runs it."""
    missing = lacking(needs(case, dtype), able)
    if missing:
        return not_declared(missing)
    if pairs is not None and widths(case) not in pairs:
        d_k, d_v = widths(case)
        return not_declared([f"head_dim {d_k}" if d_k == d_v else f"head_dim {d_k}x{d_v}"])
    return None


def not_declared(needs: Collection[str]) -> str:
    """The reason why something was not checked, as the report states it."""
    return f"needs {', '.join(needs)}, not declared"
