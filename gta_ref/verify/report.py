"""What a verification found: a line a case, a summary, an exit status, JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gta_ref.verify.compare import Finding

STATUSES = ("pass", "fail", "error", "missing", "skip")


@dataclass(frozen=True)
class CaseResult:
    """The result of one case.

    Attributes
    ----------
    case, dtype : str
    status : {"pass", "fail", "error", "missing", "skip"}
    text : str
        One line.
    stage : str or None
        The first array, in the order of computation, that is wrong.
    kind : str or None
        "shape", "dtype", "nonfinite", "value" or "missing".
    index : tuple of int or None
        Of the worst element.
    ratio : float
        Error over budget.
    cause : str or None
        What is wrong, where it was recognised.
    findings : list of Finding
    unchecked : tuple of str
        Gradients that would have to be there and were not looked at.
    why_unchecked : str or None
    """

    case: str
    dtype: str
    status: str
    text: str
    stage: str | None = None
    kind: str | None = None
    index: tuple[int, ...] | None = None
    ratio: float = 0.0
    cause: str | None = None
    findings: Sequence[Finding] = field(default_factory=list)
    unchecked: tuple[str, ...] = ()
    why_unchecked: str | None = None


@dataclass(frozen=True)
class Report:
    """All results of a run.

    Attributes
    ----------
    results : list of CaseResult
    """

    results: Sequence[CaseResult]

    @property
    def counts(self) -> dict[str, int]:
        """Number of cases by status."""
        counted = Counter(result.status for result in self.results)
        return {status: counted[status] for status in STATUSES}

    @property
    def unchecked(self) -> dict[str, int]:
        """Number of gradients that were not checked in the cases that ran, by the reason."""
        counted: Counter[str] = Counter()
        for result in self.results:
            if result.why_unchecked is not None:
                counted[result.why_unchecked] += len(result.unchecked)
        return dict(counted)

    @property
    def exit_status(self) -> int:
        """1 where a case failed or raised, 3 where only an array was not given, else 0; 2 where nothing ran."""
        counts = self.counts
        if counts["fail"] or counts["error"]:
            return 1
        if counts["missing"]:
            return 3
        return 0 if counts["pass"] else 2

    @property
    def passed(self) -> bool:
        """Whether something ran and nothing is wrong."""
        return self.exit_status == 0

    @property
    def blame(self) -> tuple[str, str | None] | None:
        """The stage and the cause that most failing cases name; None where nothing failed."""
        failed = [r for r in self.results if r.status == "fail" and r.stage is not None]
        if not failed:
            return None
        causes = Counter(r.cause for r in failed if r.cause is not None)
        cause = causes.most_common(1)[0][0] if causes else None
        stages = Counter(r.stage for r in failed if cause is None or r.cause == cause)
        return str(stages.most_common(1)[0][0]), cause

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON; infinite ratios as None."""

        def plain(result: CaseResult) -> dict[str, Any]:
            found = asdict(result)
            for one in (found, *found["findings"]):
                one["ratio"] = one["ratio"] if one["ratio"] < float("inf") else None
            return found

        blame = self.blame
        return {
            "counts": self.counts,
            "unchecked": self.unchecked,
            "exit_status": self.exit_status,
            "blame": None if blame is None else {"stage": blame[0], "cause": blame[1]},
            "results": [plain(result) for result in self.results],
        }

    def __str__(self) -> str:
        lines = [
            f"{r.status:8}{r.case} {r.dtype}: {r.text}" + (f" [{r.cause}]" if r.cause else "") for r in self.results
        ]
        lines += [f"{n} gradients were not checked ({why})" for why, n in self.unchecked.items()]
        return "\n".join(lines)
