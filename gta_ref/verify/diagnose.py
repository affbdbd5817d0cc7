"""Recognise the cause of wrong numbers: find a known wrong implementation that computes the same ones.

A cause explains a case if its mutant first goes wrong in the same array as the implementation, with the same numbers,
and does not go wrong in a forward array that the implementation has right. A single case may agree by chance, above all
a small one; for a whole run a cause is named only if it explains at least half of the failing cases that it could.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gta_ref.verify.cases import find
from gta_ref.verify.compare import Finding, as_compared
from gta_ref.verify.known import Sketch, Sketches, close, key_of, run, tolerance
from gta_ref.verify.mutants.mutant import Mutant
from gta_ref.verify.mutants.table import MUTANTS
from gta_ref.verify.stepwise.dispatch import STEPS, family
from gta_ref.verify.vector import Vector

if TYPE_CHECKING:
    from gta_ref.verify.case_result import CaseResult

RECOGNISED = ("value", "nonfinite", "shape", "rms", "slope")  # the kinds of findings that a cause can explain
MOST_ELEMENTS = 3_000_000  # of all arrays of a case; with more, the mutants would take over 10 seconds or a gigabyte
# "decode" and "layer" hold the mistakes of GTA, most of which every layer can have
OWN_KINDS = {
    "attention": (),
    "gta": ("decode", "layer"),
    "mla": ("mla-decode", "mla", "decode", "layer"),
    "lm": ("lm",),
}
HEADWISE = ("headwise-decode", "headwise", "decode", "layer")

_sketches = Sketches()


@dataclass(frozen=True)
class Explanation:
    """What is known about the wrong numbers of one case.

    Attributes
    ----------
    cause : str or None
        The cause that explains the most of the wrong arrays.
    tried : dict of str to bool
        For each cause that could run in the case and changes an array that was given: whether it explains the wrong
        arrays, and no other cause explains more of them.
    why_not : str or None
        The reason why no cause was looked for.
    """

    cause: str | None = None
    tried: dict[str, bool] = field(default_factory=dict)
    why_not: str | None = None


class Blame(NamedTuple):
    """What a whole run has in common.

    Attributes
    ----------
    stage : str
        The first wrong array, in most of the failing cases.
    cause : str or None
    explains : int
        The number of failing cases that the cause explains.
    of : int
        The number of failing cases in which it could run.
    """

    stage: str
    cause: str | None
    explains: int
    of: int


def kinds(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of mutants that can run a case, the most specific first.

    Those of a layer can also run a language model that has such layers, and those of the attention core every case.
    """
    own = OWN_KINDS.get(family(settings), HEADWISE)
    if family(settings) == "lm":
        own = (*own, *OWN_KINDS.get(settings["mechanism"], HEADWISE))
    return (*(kind for kind in own if settings.get("chunks") or not kind.endswith("decode")), "attention")


def applicable(settings: Mapping[str, Any]) -> list[Mutant]:
    """The mutants that can run a case, the most specific first: those of its kinds that replace one of its steps."""
    return [
        mutant for kind in kinds(settings) for mutant in MUTANTS if mutant.kind == kind and can_run(mutant, settings)
    ]


def can_run(mutant: Mutant, settings: Mapping[str, Any]) -> bool:
    """Whether a mutant is of a kind that a case has, and replaces one of its steps."""
    classes = [STEPS[family(settings)]]
    if family(settings) == "lm":
        classes.append(STEPS[settings["mechanism"]])
    return mutant.kind in kinds(settings) and any(hasattr(one, step) for one in classes for step in mutant.steps)


def explanations(vector: Vector, given: Mapping[str, np.ndarray], findings: Sequence[Finding]) -> Explanation:
    """Find the known causes that explain the wrong arrays in `given`.

    Parameters
    ----------
    vector : Vector
    given : mapping of str to array
    findings : list of Finding
        What :func:`gta_ref.verify.compare.compare` has found about them, in the order of computation.
    """
    wrong = [f.name for f in findings if f.kind in RECOGNISED]
    first = next((f for f in findings if f.kind not in ("ok", "missing")), None)
    if first is None or not wrong or first.name != wrong[0]:
        return Explanation()
    elements = sum(x.size for x in vector.expected.values())
    if elements > MOST_ELEMENTS:
        return Explanation(why_not=f"no cause looked for: {elements:,} numbers are too many")
    names = [f.name for f in findings if f.kind in ("ok", *RECOGNISED)]
    right = {f.name for f in findings if f.kind == "ok" and f.name not in vector.gradients}
    shown = {name: as_compared(vector, name, np.asarray(given[name], np.float64)) for name in wrong}
    key = key_of(vector)
    explained: dict[str, int] = {}  # the number of wrong arrays, for each cause that was tried
    for mutant in applicable(vector.settings):
        sketches = _sketches.of(mutant, vector, key)
        changed = [name for name in names if name in sketches and sketches[name].changed]
        if changed:
            fits = changed[0] == wrong[0] and not right & set(changed)
            fits = fits and _may_fit(mutant, sketches, vector, shown, wrong[0])
            explained[mutant.cause] = _explained(mutant, vector, shown, wrong) if fits else 0
    most = max(explained.values(), default=0)
    tried = {cause: n == most > 0 for cause, n in explained.items()}
    return Explanation(next((cause for cause, best in tried.items() if best), None), tried)


def changes(mutant: Mutant, vector: Vector) -> bool:
    """Whether a mutant computes wrong numbers in a case."""
    return any(sketch.changed for sketch in _sketches.of(mutant, vector, key_of(vector)).values())


def _may_fit(
    mutant: Mutant, sketches: Mapping[str, Sketch], vector: Vector, shown: Mapping[str, np.ndarray], name: str
) -> bool:
    """Whether an array agrees with a mutant's in the places of its sketch."""
    got, known = shown[name], sketches[name]
    if got.shape != known.shape or not known.places.size:
        return got.shape == known.shape
    there = got.reshape(-1)[known.places]
    if mutant.noise:
        return alike(there, known.values, vector.expected[name].reshape(-1)[known.places])
    return bool(close(there, known.values, known.tolerance).all())


def _explained(mutant: Mutant, vector: Vector, shown: Mapping[str, np.ndarray], wrong: Sequence[str]) -> int:
    """The number of wrong arrays that a mutant computes in the same way, 0 if the first is not among them."""
    numbers = run(mutant, vector)
    agree = [name for name in wrong if name in numbers and _agrees(mutant, name, shown[name], numbers[name], vector)]
    if mutant.noise and agree != list(wrong):  # less precise, but not everywhere
        return 0
    return len(agree) if agree[:1] == [wrong[0]] else 0


def _agrees(mutant: Mutant, name: str, got: np.ndarray, numbers: np.ndarray, vector: Vector) -> bool:
    truth = vector.expected[name]
    if got.shape != numbers.shape:
        return False
    if mutant.noise:
        return got.shape == truth.shape and alike(got, numbers, truth)
    allowed = tolerance(name, numbers, vector)
    differs = numbers.shape != truth.shape or not close(numbers, truth, allowed).all()
    return bool(differs and close(got, numbers, allowed).all())


def alike(got: np.ndarray, numbers: np.ndarray, truth: np.ndarray) -> bool:
    """Whether two arrays are off from the truth in a similar way, as if both were rounded alike in most elements.

    Their errors must be correlated more than by chance, and neither may be more than six times the other: the rounding
    of the inputs is the same, but each adds its own.
    """
    a, b = (np.where(np.isfinite(truth), x, 0.0) - np.where(np.isfinite(truth), truth, 0.0) for x in (got, numbers))
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        return False
    aa, bb, ab = float((a * a).sum()), float((b * b).sum()), float((a * b).sum())
    by_chance = max(0.15, 5 / max(a.size, 1) ** 0.5)
    return bb > 0 and bb / 36 <= aa <= 36 * bb and ab >= by_chance * (aa * bb) ** 0.5


@cache
def could_run(cause: str, case: str) -> bool:
    """Whether the mutant of a cause can run the case of this name; True for a case that exists only in a file."""
    try:
        found = find(case)
    except ValueError:
        return True
    return any(
        mutant.cause == cause and can_run(mutant, {"level": found.level, **found.settings}) for mutant in MUTANTS
    )


def blame(results: Iterable[CaseResult]) -> Blame | None:
    """What most failing cases have in common; None if no case failed.

    A cause is named only if it explains at least half of the failing cases in which it could run.
    """
    failed = [r for r in results if r.status == "fail" and r.stage is not None]
    if not failed:
        return None
    best = causes(failed)
    explained = [r for r in failed if best and r.tried.get(best[0])]
    stage, _ = Counter(str(r.stage) for r in explained or failed).most_common(1)[0]
    of = sum(could_run(best[0], r.case) for r in failed) if best else len(failed)
    return Blame(stage, either(best) or None, len(explained), of)


def causes(failed: Sequence[CaseResult]) -> list[str]:
    """The cause that explains the most of the failing cases, if it explains half of those in which it could run.

    Of several that explain the same cases, the first of the table is taken, which is the simplest, together with those
    that differ from it in a number alone, such as the width of a tile.
    """
    enough = _accepted(failed)
    most = max(enough.values(), key=len, default=[])
    best = [cause for cause, which in enough.items() if which == most]
    return [cause for cause in best if _numbers_left_out(cause) == _numbers_left_out(best[0])]


def settled(results: Sequence[CaseResult]) -> list[CaseResult]:
    """The results of a run, in which no cause is left that the run as a whole does not bear out."""
    enough = _accepted([r for r in results if r.status == "fail"])

    def settle(result: CaseResult) -> CaseResult:
        fitting = [cause for cause, fits in result.tried.items() if fits and cause in enough]
        cause = max(fitting, key=lambda cause: len(enough[cause]), default=None)
        return result if cause == result.cause else replace(result, cause=cause)

    return [settle(result) for result in results]


def _accepted(failed: Sequence[CaseResult]) -> dict[str, list[int]]:
    """The causes that explain at least half of the failing cases in which they could run: which cases each explains."""
    explains: dict[str, list[int]] = {}
    for i, result in enumerate(failed):
        for cause, fits in result.tried.items():
            if fits:
                explains.setdefault(cause, []).append(i)
    return {
        cause: which
        for cause, which in explains.items()
        if 2 * len(which) >= sum(r.kind in RECOGNISED and could_run(cause, r.case) for r in failed)
    }


def _numbers_left_out(cause: str) -> str:
    return re.sub(r"\d+", "…", cause)


def either(causes: Sequence[str]) -> str:
    """Causes that differ in a number alone as one text: "tiles of 64 or 128 keys"."""
    columns = zip(*(cause.split() for cause in causes), strict=True)
    return " ".join(" or ".join(dict.fromkeys(words)) for words in columns)
