"""The result of a verification: one line per case, a summary, an exit status, and JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from gta_ref import __version__
from gta_ref.verify.case_result import CaseResult
from gta_ref.verify.cases import DTYPES, LEVELS
from gta_ref.verify.diagnose import Blame, blame
from gta_ref.verify.repro import command

STATUSES = ("pass", "fail", "error", "missing", "skip")
SCHEMA, SCHEMA_VERSION = "gta_ref.verify.report", 1
_MOST_STAGES = 12  # names of arrays in one line


@dataclass(frozen=True)
class Report:
    """All results of a run.

    Attributes
    ----------
    results : list of CaseResult
    run : mapping
        How it was run, as plain JSON: impl, suite, cases, dtype, seed, products, arrays, capabilities, without,
        head_dim, repeat, isolate, timeout; empty for dumps.
    absent : mapping of str to int
        For each dtype, the number of cases of the suite that do not exist in it.
    """

    results: Sequence[CaseResult]
    run: Mapping[str, Any] = field(default_factory=dict)
    absent: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Number of cases for each status."""
        counted = Counter(result.status for result in self.results)
        return {status: counted[status] for status in STATUSES}

    @property
    def skipped(self) -> list[CaseResult]:
        """The results of the cases that were skipped; their texts are the reasons."""
        return [result for result in self.results if result.status == "skip"]

    @property
    def unchecked(self) -> dict[str, int]:
        """Number of gradients that were not checked in the cases that ran, for each reason."""
        counted: Counter[str] = Counter()
        for result in self.results:
            if result.why_unchecked is not None:
                counted[result.why_unchecked] += len(result.unchecked)
        return dict(counted)

    @property
    def withheld(self) -> dict[str, tuple[int, int]]:
        """For each array that was not given somewhere and did not have to be, in how many of how many cases."""
        missing, there = Counter[str](), Counter[str]()
        for result in self.results:
            missing.update(result.withheld)
            there.update({*result.withheld, *(finding.name for finding in result.findings)})
        return {name: (n, there[name]) for name, n in missing.items()}

    @property
    def not_checked(self) -> list[str]:
        """What this run has not checked, one line each."""
        # all widths of a head are one reason
        why = (re.sub(r"needs head_dim [\dx]+", "needs another head_dim", result.text) for result in self.skipped)
        skipped = Counter(why)
        lines = [f"{_cases(n)} skipped ({reason})" for reason, n in skipped.items()]
        lines += [f"{n} gradients were not checked ({why})" for why, n in self.unchecked.items()]
        withheld = self.withheld
        if "lse" in withheld:
            n, of = withheld.pop("lse")
            lines.append(f"lse was not returned in {n} of {of} cases, and so was not checked there")
        if withheld:
            names = list(withheld)
            more = f" and {len(names) - _MOST_STAGES} more" if len(names) > _MOST_STAGES else ""
            lines.append(f"inner stages were not returned everywhere: {', '.join(names[:_MOST_STAGES])}{more}")
        ran = [result for result in self.results if result.ran]
        for what, every, there in (
            ("levels", LEVELS, {result.case.partition("/")[0] for result in ran}),
            ("dtypes", DTYPES, {result.dtype for result in ran}),
        ):
            left = [name for name in every if name not in there]
            if left and ran:
                lines.append(f"{what} without any case that ran: {', '.join(left)}")
        lines += [f"{_cases(n)} of the suite not made in {dtype}" for dtype, n in self.absent.items() if n]
        return lines

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
    def blame(self) -> Blame | None:
        """The first wrong array in most of the failed cases, and the cause that explains the most of them.

        None if no case failed.
        """
        return blame(self.results)

    @property
    def summary(self) -> str:
        """One line for a badge or a README: version, suite, dtypes, counts, and the outputs that were not checked."""
        counts = self.counts
        dtypes = self.run.get("dtype") or sorted({r.dtype for r in self.results if r.dtype}, key=DTYPES.index)
        words = ["gta_ref", __version__, self.run.get("suite") or "selected cases", "+".join(dtypes)]
        words += [f"{key} {self.run[key]}" for key in ("seed", "products") if self.run.get(key)]
        parts = [f"{counts['pass']} pass", f"{counts['fail'] + counts['error']} fail"]
        parts += [f"{counts[status]} {status}" for status in ("missing", "skip") if counts[status]]
        text = f"{' '.join(words)}: {', '.join(parts)}"
        n_gradients = sum(self.unchecked.values())
        left = [f"{n_gradients} gradients"] if n_gradients else []
        if "lse" in self.withheld:
            n, of = self.withheld["lse"]
            left.append("lse" if n == of else f"lse in {n} of {of}")
        return f"{text}; {', '.join(left)} not checked" if left else text

    @property
    def worst_quality(self) -> tuple[float, str] | None:
        """The largest ratio of an error to that with float32 inside in a case that passed, and its array and case."""
        right = [r for r in self.results if r.status == "pass"]
        found = [(q, f"{name} of {r.case}") for r in right for name, q in r.quality.items() if isfinite(q)]
        return max(found, default=None)

    def repro(self, result: CaseResult) -> str | None:
        """The command that repeats this case alone; None if the implementation has no name that can be imported."""
        return command(self.run, result.case, result.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, as :data:`gta_ref.verify.report_schema.REPORT` describes it; null for infinite ratios."""
        common = self.blame
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "gta_ref": __version__,
            "run": _plain(self.run),
            "summary": self.summary,
            "counts": self.counts,
            "not_checked": self.not_checked,
            "unchecked": self.unchecked,
            "withheld": {name: {"cases": n, "of": of} for name, (n, of) in self.withheld.items()},
            "exit_status": self.exit_status,
            "blame": None if common is None else common._asdict(),
            "results": [{**_plain(asdict(result)), "repro": self._repro(result)} for result in self.results],
        }

    def _repro(self, result: CaseResult) -> str | None:
        return None if result.status in ("pass", "skip") else self.repro(result)

    def __str__(self) -> str:
        lines = [
            f"{r.status:8}{r.case} {r.dtype}: {r.text}" + (f" [{r.cause}]" if r.cause else "") for r in self.results
        ]
        return "\n".join([*lines, self.summary, *(f"not checked: {line}" for line in self.not_checked)])


def _cases(n: int) -> str:
    return f"{n} case{'' if n == 1 else 's'}"


def _plain(value: Any) -> Any:
    """The value as strict JSON has it: lists for tuples and sets, null for NaN and infinities."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(inner) for inner in value)
    if isinstance(value, float) and not isfinite(value):
        return None
    return value


__all__ = ["SCHEMA", "SCHEMA_VERSION", "STATUSES", "CaseResult", "Report"]
