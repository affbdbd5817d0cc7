"""The result of a verification: one line per case, a summary, an exit status, and JSON."""

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
        One line of text about the result.
    stage : str or None
        The first wrong array in the order of computation.
    kind : str or None
        What is wrong with it: "shape", "dtype", "nonfinite", "value" or "missing".
    index : tuple of int or None
        Index of its worst element.
    ratio : float
        Its error over its budget; for a case that passed, the largest such ratio.
    cause : str or None
        The cause of the error, if it was recognised.
    findings : list of Finding
    unchecked : tuple of str
        Required gradients that were not checked.
    why_unchecked : str or None
        The reason for that.
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
        """Number of cases for each status."""
        counted = Counter(result.status for result in self.results)
        return {status: counted[status] for status in STATUSES}

    @property
    def unchecked(self) -> dict[str, int]:
        """Number of gradients that were not checked in the cases that ran, for each reason."""
        counted: Counter[str] = Counter()
        for result in self.results:
            if result.why_unchecked is not None:
                counted[result.why_unchecked] += len(result.unchecked)
        return dict(counted)

    @property
    def exit_status(self) -> int:
        """The exit status of the command.

        It is 1 if a case failed or raised an error, 3 if nothing is wrong but an array was not given, 2 if no case
        ran, and else 0.
        """
        counts = self.counts
        if counts["fail"] or counts["error"]:
            return 1
        if counts["missing"]:
            return 3
        return 0 if counts["pass"] else 2

    @property
    def passed(self) -> bool:
        """Whether at least one case ran and nothing is wrong or missing."""
        return self.exit_status == 0

    @property
    def blame(self) -> tuple[str, str | None] | None:
        """The most frequent cause among the failed cases and the first wrong array; None if no case failed."""
        failed = [r for r in self.results if r.status == "fail" and r.stage is not None]
        if not failed:
            return None
        causes = Counter(r.cause for r in failed if r.cause is not None)
        cause = causes.most_common(1)[0][0] if causes else None
        stages = Counter(r.stage for r in failed if cause is None or r.cause == cause)
        return str(stages.most_common(1)[0][0]), cause

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain data for JSON, with None for infinite ratios."""

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
