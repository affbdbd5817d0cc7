"""The result of comparing a model: a line per stage that was given, the first wrong one, its cause, what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from gta_ref.errors import listed

OFF = 1.0  # error over budget from which on a stage is wrong


@dataclass(frozen=True)
class StageResult:
    """The result for one stage.

    Attributes
    ----------
    stage : str
        Our name.
    given_as : str
        The name in the dump.
    kind : {"ok", "shape", "nonfinite", "value"}
    text : str
        One line.
    ratio : float
        Local error over its budget: against our computation from the nearest given input, `since`.
    since : str
        The stage, or "ids", from which our own computation started.
    accumulated : float or None
        Error over budget against our computation from the ids; None if that cannot be computed (experts).
    index : tuple of int or None
        The worst element.
    """

    stage: str
    given_as: str
    kind: str
    text: str
    ratio: float = 0.0
    since: str = "ids"
    accumulated: float | None = None
    index: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ModelReport:
    """What a comparison has found.

    Attributes
    ----------
    model, dtype : str
    n_tokens : int
    stages : sequence of StageResult
        In the order of computation.
    cause : str or None
        Of the first wrong stage, if it was recognised.
    unchecked : tuple of str
        Stages of the model that the dump does not hold, those of all blocks together.
    ignored : mapping of str to str or None
        Names in the dump that are no stages, and the names that they may have been meant to be.
    notes : tuple of str
    complete : bool
        Whether the logits were given.
    """

    model: str
    dtype: str
    n_tokens: int
    stages: Sequence[StageResult]
    cause: str | None = None
    unchecked: tuple[str, ...] = ()
    ignored: Mapping[str, str | None] | None = None
    notes: tuple[str, ...] = ()
    complete: bool = True

    @property
    def wrong(self) -> StageResult | None:
        """The first stage that is wrong, judged by its local error."""
        return next((stage for stage in self.stages if stage.kind != "ok"), None)

    @property
    def exit_status(self) -> int:
        """0: all right. 1: a stage is wrong. 3: nothing is wrong, but the logits were not given."""
        if self.wrong is not None:
            return 1
        return 0 if self.complete else 3

    @property
    def passed(self) -> bool:
        """Whether everything up to the logits is right."""
        return self.exit_status == 0

    def summary(self) -> list[str]:
        """The verdict and what belongs to it, line by line."""
        n_wrong = sum(stage.kind != "ok" for stage in self.stages)
        lines = [f"{len(self.stages)} stages compared in {self.dtype}, {self.n_tokens} tokens: {n_wrong} wrong"]
        if self.wrong is not None:
            lines.append(f"First wrong stage: {self.wrong.stage}")
            lines.append(f"  {self.wrong.text}")
            if self.cause is not None:
                lines.append(f"  likely cause: {self.cause}")
        elif not self.complete:
            lines.append("Nothing is wrong, but the logits were not given")
        lines += self.notes
        if self.unchecked:
            lines.append(f"Not checked, because not given or not computed here: {', '.join(self.unchecked)}")
        ignored = self.ignored or {}
        lines += [f"Unknown: {name}; is it {meant}?" for name, meant in ignored.items() if meant is not None]
        others = [name for name, meant in ignored.items() if meant is None]
        if others:
            lines.append(f"Ignored, because they are no stages: {listed(grouped(others))}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain data for JSON, with None for infinite ratios."""

        def plain(stage: StageResult) -> dict[str, Any]:
            found = asdict(stage)
            for key in ("ratio", "accumulated"):
                found[key] = found[key] if found[key] is not None and isfinite(found[key]) else None
            return found

        return {
            "model": self.model,
            "dtype": self.dtype,
            "n_tokens": self.n_tokens,
            "exit_status": self.exit_status,
            "wrong": None if self.wrong is None else self.wrong.stage,
            "cause": self.cause,
            "complete": self.complete,
            "notes": list(self.notes),
            "unchecked": list(self.unchecked),
            "ignored": dict(self.ignored or {}),
            "stages": [plain(stage) for stage in self.stages],
        }

    def __str__(self) -> str:
        rows = [
            f"{'ok' if s.kind == 'ok' else s.kind.upper():10}{s.stage:32}{s.ratio:9.3g}"
            + ("" if s.accumulated is None else f"{s.accumulated:9.3g}")
            for s in self.stages
        ]
        return "\n".join([f"{'':10}{'stage':32}{'local':>9}{'accum.':>9}   (error ÷ budget)", *rows, *self.summary()])


def grouped(names: Sequence[str]) -> tuple[str, ...]:
    """Names with those of all blocks in one entry: ``blocks.0…2.norm_1``."""
    blocks: dict[tuple[str, str], list[int]] = {}
    for name in names:
        found = re.fullmatch(r"(.*?s[.])(\d+)(.*)", name)  # blocks.0.…, model.layers.0.…, hidden_states.0
        key = (name, "") if found is None else (found[1], found[3])
        blocks.setdefault(key, []).extend([] if found is None else [int(found[2])])
    return tuple(before + _ranges(sorted(numbers)) + after for (before, after), numbers in blocks.items())


def _ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for i in numbers:
        if parts and i == parts[-1][1] + 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    return ",".join(str(a) if a == b else f"{a}…{b}" for a, b in parts)
