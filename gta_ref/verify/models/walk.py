"""Go through a model part by part, embedding, blocks, head, and judge every stage that the candidate gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gta_ref.ops import Array
from gta_ref.verify.models import activations, causes, mistakes
from gta_ref.verify.models.activations import Given, Shape
from gta_ref.verify.models.block import EXACT, Block, Computer, Stages, Way, plain_ways, run
from gta_ref.verify.models.budget import Budget
from gta_ref.verify.models.causes import Change
from gta_ref.verify.models.pairing import in_our_order
from gta_ref.verify.models.reference import Reference
from gta_ref.verify.models.report import OFF, StageResult

States = dict[Way, Array]  # the residual stream, computed in every way
Runs = Mapping[Way, Stages]
Labels = Mapping[str, tuple[str, ...]]  # a part's own name of a stage → its names in the model


@dataclass
class Walk:
    """One comparison; :meth:`go` fills `results`, `notes` and `cause`.

    Attributes
    ----------
    reference : Reference
    ids, positions : (B, N) integers
    dtype : str
        Of the candidate.
    given : mapping of str to Given
    shapes : mapping of str to tuple of int
        Of all stages of the model.
    """

    reference: Reference
    ids: Array
    positions: Array
    dtype: str
    given: Mapping[str, Given]
    shapes: Mapping[str, Shape]
    results: list[StageResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cause: str | None = None
    since: str = "ids"  # where our own computation started: the latest block input that was given

    def go(self, on_progress: Callable[[str], None]) -> None:
        """Compare part by part."""
        computer, n = Computer(self.reference, self.ids, self.positions), self.reference.config.n_layers
        ways = [EXACT, *plain_ways(self.dtype)]
        embedding = {way: computer.embedding(way) for way in ways}
        local: States | None = embedding
        # of the run from the ids, two ways to round are enough: it is reported, but gives no verdict
        whole: States | None = {way: embedding[way] for way in dict.fromkeys((EXACT, ways[1], ways[-1]))}
        begin: tuple[str, ...] = ("embedding", "blocks.0.input")
        self._compare(
            {"embedding": begin},
            {way: {"embedding": x} for way, x in embedding.items()},
            {way: {"embedding": x} for way, x in embedding.items()},
            lambda: mistakes.embedding_changes(self.reference.params["embed"], self.ids),
            embedding[EXACT],
        )
        for i in range(n + 1):
            on_progress(f"block {i}" if i < n else "head")
            local = self._given_input(begin, local, ways)
            labels, end = self._labels(i)
            if local is None:
                self._note_skipped(labels, begin, i)
                begin = end
                continue
            begin = end
            runs = {way: run(computer.part(i, way), x, way) for way, x in local.items()}
            whole_runs: Runs | None = None
            if whole is not None:
                from_ids = self.since == "ids"
                whole_runs = runs if from_ids else {way: run(computer.part(i, way), x, way) for way, x in whole.items()}
            self._compare(labels, runs, whole_runs, lambda i=i: self._changes(computer, i), local[EXACT])  # type: ignore[misc]
            local, whole = _outputs(runs), _outputs(whole_runs)

    def _labels(self, i: int) -> tuple[Labels, tuple[str, ...]]:
        """The stages of block i, or of the head if i is the number of blocks, and the names of its output."""
        if i == self.reference.config.n_layers:
            return {"norm": ("norm",), "logits": ("logits",)}, ()
        prefix = f"blocks.{i}."
        own = [name.removeprefix(prefix) for name in self.shapes if name.startswith(prefix)]
        end = tuple(name for name in (f"{prefix}output", f"blocks.{i + 1}.input") if name in self.shapes)
        return {name: (prefix + name,) if name != "output" else end for name in own if name != "input"}, end

    def _given_input(self, begin: Sequence[str], local: States | None, ways: Sequence[Way]) -> States | None:
        """The candidate's own input of the next part in every way, if it was given; otherwise what we have."""
        for name in reversed(begin):
            if name in self.given:
                try:
                    x = activations.arranged(self.given[name], self.shapes)
                except ValueError:  # the stage itself is reported
                    continue
                if np.isfinite(x).all():
                    self.since = name
                    return dict.fromkeys(ways, x)
        return local

    def _note_skipped(self, labels: Labels, begin: Sequence[str], i: int) -> None:
        lost = [name for names in labels.values() for name in names if name in self.given]
        if lost:
            self.notes.append(
                f"Not checked: {len(lost)} stages from {lost[0]} on, because block {i - 1} has experts, which are not "
                f"computed here; give {begin[0]}"
            )

    def _changes(self, computer: Computer, i: int) -> Iterator[Change]:
        part = computer.part(i)
        if isinstance(part, Block):
            n = self.reference.config.n_layers
            whole = self.reference.is_whole(i)
            layer = self.reference.config.layer
            others = [j for j in range(n) if j != i and self.reference.is_whole(j) == whole and layer(j) == layer(i)]
            return mistakes.block_changes(part, ((j, computer.block(j)) for j in others))
        return mistakes.head_changes(part, None if self.reference.config.tied else self.reference.params["embed"])

    def _compare(
        self,
        labels: Labels,
        local: Runs,
        whole: Runs | None,
        changes: Callable[[], Iterator[Change]],
        x: Array,
    ) -> None:
        """Judge the given stages of one part; look for the cause if one of them is the first wrong one of the model."""
        got: dict[str, Array] = {}
        budgets: dict[str, Budget] = {}
        wrong: list[str] = []
        for stage, names in labels.items():
            for name in names:
                if name not in self.given or stage in wrong or stage not in local[EXACT]:
                    continue
                try:
                    value = self._arranged(name, stage, local[EXACT])
                    budget = self._budget(local, name, stage, value)
                    _check_axes(name, value, budget)
                except ValueError as error:
                    self.results.append(StageResult(name, self.given[name].name, "shape", str(error), since=self.since))
                    wrong.append(stage)
                    continue
                value = self._turned(name, stage, value, budget)
                accumulated = None if whole is None else self._budget(whole, name, stage, value).ratio(value)
                result = judged(name, self.given[name].name, value, budget, self.since, accumulated)
                self.results.append(result)
                budgets[stage], got[stage] = budget, value
                if result.kind != "ok":
                    wrong.append(stage)
        first = len(wrong) > 0 and all(r.kind == "ok" or r.stage in _all(labels) for r in self.results)
        if first and wrong[0] in got and np.isfinite(got[wrong[0]]).all():
            self.cause = causes.find(changes(), x.astype(np.float64), got, budgets, wrong)

    def _arranged(self, name: str, stage: str, exact: Stages) -> Array:
        """A given array in its stage's shape, float64; logits may be those of the last token alone."""
        given, shape = self.given[name], self.shapes[name]
        if stage == "logits" and shape[1] > 1 and given.x.size == shape[0] * shape[2]:
            return given.x.reshape(shape[0], 1, shape[2]).astype(np.float64)
        x = activations.arranged(given, self.shapes).astype(np.float64)
        if stage == "attention.scores":  # above the diagonal they may be masked already
            n = x.shape[-1]
            x = np.where(np.tri(n, dtype=bool), x, exact[stage])
        return x

    def _budget(self, runs: Runs, name: str, stage: str, value: Array) -> Budget:
        arrays = [stages[stage] for stages in runs.values()]
        if stage == "logits":
            arrays = [x[:, -value.shape[1] :] for x in arrays]
        terms = None
        if stage in (causes.SCORES, "attention.lse"):  # a score is a sum of products that may cancel
            exact = runs[EXACT]
            q, k = (np.abs(exact[f"attention.{name}"]).max(axis=-1, keepdims=True) for name in "qk")
            terms = self._attention(name).scale * q * k.max()  # (B, n_q, N, 1)
            terms = terms if stage == causes.SCORES else terms.max(axis=2)
        return Budget(arrays[0], arrays[1:], self.dtype, terms)

    def _attention(self, name: str) -> Any:
        """The attention's Config of the block that a stage such as blocks.3.attention.q belongs to."""
        return self.reference.config.layer(int(name.split(".")[1]))

    def _turned(self, name: str, stage: str, value: Array, budget: Budget) -> Array:
        """Queries and keys whose features lie in the order of the other pairing of RoPE, in our order."""
        other = in_our_order(stage, value, self._attention(name)) if stage.startswith("attention.") else None
        if other is None or budget.ratio(value) <= OFF or budget.ratio(other) > OFF:
            return value
        note = "Queries and keys have their features in the order of RoPE's other pairing, and were compared so"
        if note not in self.notes:
            self.notes.append(note)
        return other


def judged(
    name: str, given_as: str, x: Array, budget: Budget, since: str = "ids", accumulated: float | None = None
) -> StageResult:
    """The result for one stage whose array has the right shape."""
    odd = ~np.isfinite(x)
    if odd.any():
        index = _index(odd)
        text = (
            f"{name}{list(index)} is {x[index]:g}; expected {budget.exact[index]:g} "
            f"({int(odd.sum())} of {x.size} elements are not finite)"
        )
        return StageResult(name, given_as, "nonfinite", text, float("inf"), since, accumulated, index)
    ratio, ratios = budget.ratio(x), budget.ratios(x)
    if ratio <= OFF:
        return StageResult(name, given_as, "ok", f"{name} agrees", ratio, since, accumulated)
    index = _index(ratios == ratios.max())
    text = (
        f"{name}{list(index)} is {x[index]:.7g}; expected {budget.exact[index]:.7g}, computed from {since}: "
        f"{ratio:.3g} times its budget ({int((ratios > OFF).sum())} of {x.size} elements are off)"
    )
    return StageResult(name, given_as, "value", text, ratio, since, accumulated, index)


def _check_axes(name: str, value: Array, budget: Budget) -> None:
    """Raise ValueError if an array with as many heads as tokens is right with these axes exchanged."""
    if value.ndim != 4 or value.shape[1] != value.shape[2] or budget.ratio(value) <= OFF:
        return
    if budget.ratio(value.swapaxes(1, 2)) <= OFF:
        raise ValueError(
            f"{name} has as many heads as tokens, {value.shape[1]}, and agrees with these axes exchanged; expected "
            f"(B, heads, N, width), or another number of tokens"
        )


def _outputs(runs: Runs | None) -> States | None:
    """The output of a block in every way; None if it is not computed here."""
    if runs is None or not all("output" in stages for stages in runs.values()):
        return None
    return {way: stages["output"] for way, stages in runs.items()}


def _all(labels: Labels) -> set[str]:
    return {name for names in labels.values() for name in names}


def _index(where: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(where.argmax()), where.shape))
