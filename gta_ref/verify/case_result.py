"""The result of one case of a verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gta_ref.verify.compare import Finding


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
        What is wrong with it: "shape", "dtype", "nonfinite", "value", "rms", "slope" or "missing".
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
    withheld : tuple of str
        Arrays that need not be given and were not, so that they were not checked: lse and inner stages.
    tried : mapping of str to bool
        Every known cause that could run in this case and changes an array that was given: whether it explains the
        wrong numbers.
    quality : mapping of str to float
        The error of an array over that of a computation with float32 inside.
    seconds : float
        Time that the implementation took, all runs together.
    where, traceback : str or None
        Of an exception or a crash: ``file:line``, and the whole traceback.
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
    withheld: tuple[str, ...] = ()
    tried: Mapping[str, bool] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    where: str | None = None
    traceback: str | None = None

    @property
    def ran(self) -> bool:
        """Whether the arrays of this case were compared."""
        return self.status in ("pass", "fail", "missing")
