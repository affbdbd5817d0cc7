"""The study of conversion: what smaller caches and fewer maps cost SmolLM2, before and after healing.

Every point of its plan (:mod:`gta_ref.convert.plan`) is a conversion, judged on held-out text. What a point has found
is kept in a file of its own, so that a study that was stopped continues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gta_ref.convert import heal, heal_files, judge, sharing, texts, whole
from gta_ref.convert.heal import Settings
from gta_ref.convert.original import Original
from gta_ref.convert.plan import SHARED, Plan, Point
from gta_ref.convert.sizes import Sizes
from gta_ref.errors import check_names, check_type
from gta_ref.files import read_json, write_json
from gta_ref.lm import generate, model
from gta_ref.lm.language_model import LanguageModel
from gta_ref.ops import Array

_JUDGED = ("held_out", "samples")
_KEYS = {  # of a result of each kind
    "study": ("model", "text", "fitted", "judged"),
    "sharing": ("n_q", "divergence"),
    "original": ("maps", "cache_elements", *_JUDGED),
    "point": ("maps", "cache_elements", "gate", "shared_layers", "keys_lost", "values_lost", *_JUDGED),
    "healing": ("settings", "seconds", "losses", *_JUDGED),
}
PROMPTS = ("The attention mechanism", "def fibonacci(n):")
SAVE_EVERY = 20  # steps
_SAMPLE = 40  # tokens


class Told(NamedTuple):
    """Progress: what is being done, and how much of it is done."""

    what: str
    done: int
    of: int


@dataclass
class Study:
    """A study under way.

    Parameters
    ----------
    teacher : LanguageModel
        The original.
    plan : Plan
    corpus : gta_ref.convert.texts.Corpus
        What is learnt from in healing.
    folder : Path
        For the files of the points.
    tell : callable, optional
        Called with a :class:`Told`.
    """

    teacher: LanguageModel
    plan: Plan
    corpus: texts.Corpus
    folder: Path
    tell: Callable[[Told], Any] = lambda told: None
    held_out: dict[str, Array] = field(init=False)
    fitted: Array = field(init=False)

    def __post_init__(self) -> None:
        encode, plan = self.teacher.tokenizer.encode, self.plan
        self.held_out = {kind: texts.windows(encode, kind, *plan.judged, held_out=True) for kind in texts.KINDS}
        self.fitted = np.concatenate(
            [texts.windows(encode, kind, *plan.fitted, held_out=False) for kind in texts.KINDS]
        )

    @property
    def original(self) -> Original:
        """The original, as healing takes it."""
        return Original(self.teacher.params, self.teacher.config)

    def run(self) -> dict[str, Any]:
        """Carry out what is left, and return all that was found.

        Raises
        ------
        ValueError
            If a file in the folder is damaged, or the folder is that of another study.
        OSError
            If the folder cannot be made or written to.
        gta_ref.lm.train.DivergedError
            If a healing diverges; what was found before is kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_folder()
        alone = self._kept("sharing", "sharing", self._sharing)
        original = self._kept("original", "original", self._of_original)
        # first every conversion, then one healing of each point, then the next: an early result for all points
        for n in range(1 + max(len(point.budgets) for point in self.plan.points)):
            points = [self._point(point, alone["divergence"], n) for point in self.plan.points]
        return {
            "model": self.teacher.name,
            "text": self.corpus.name,
            "fitted_tokens": self.fitted.size,
            "judged_tokens": {kind: ids.size for kind, ids in self.held_out.items()},
            "sharing": alone,
            "original": original,
            "points": points,
        }

    def _check_folder(self) -> None:
        """Raise ValueError if results in the folder were found with another model or other text."""
        ours = {
            "model": self.teacher.name,
            "text": self.corpus.name,
            "fitted": list(self.plan.fitted),
            "judged": list(self.plan.judged),
        }
        found = self._kept("study", "study", lambda: ours)
        for name, expected in ours.items():
            if found[name] != expected:
                raise ValueError(
                    f"{self.folder}: the results there have {name}={found[name]!r}; expected {expected!r}; choose "
                    "another folder"
                )
        for point in self.plan.points:
            for budget in point.budgets:
                label, ours = _label(point, budget), dataclasses.asdict(budget)
                healed = self._read("healing", label)
                if healed is not None and healed["settings"] != ours:
                    raise ValueError(
                        f"{self.folder}: {label}, was healed there with {healed['settings']}; expected {ours}; choose "
                        "another folder"
                    )

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace(', ', '-').replace(' ', '_')}.json"

    def _read(self, kind: str, name: str) -> dict[str, Any] | None:
        """What is in the file of this name; None if there is no such file."""
        path = self._path(name)
        if not path.exists():
            return None
        kept: dict[str, Any] = read_json(path)
        check_type(f"{path}: the result", kept, dict, "a dict")
        check_names(str(path), kept, _KEYS[kind])
        return kept

    def _kept(self, kind: str, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is in the file of this name, or else the result of `work`, written to it."""
        kept = self._read(kind, name)
        if kept is None:
            kept = work()
            write_json(self._path(name), kept)
        return kept

    def _sharing(self) -> dict[str, Any]:
        n = self.original.config.n_layers
        # Chosen by text that is learnt from, since what is held out only judges; by one half of it, to which the layers
        # are not fitted.
        fitted, other = self.fitted[::2], self.fitted[1::2]
        chosen_by = other[:: max(1, len(other) // 4)]
        divergence = []
        for one in sharing.costs(self.original, Sizes(n_q=SHARED), fitted, chosen_by):
            divergence.append(one)
            self.tell(Told("sharing maps in one layer alone", len(divergence), n))
        return {"n_q": SHARED, "divergence": divergence}

    def _of_original(self) -> dict[str, Any]:
        return {
            "maps": sum(one.n_heads for one in self.original.config.layers),
            "cache_elements": self.original.config.cache_elements,
            **self._judged(self.original.params, self.original.config),
        }

    def _judged(self, params: Any, config: model.Config) -> dict[str, Any]:
        found = {
            kind: judge.beside(params, config, self.original, ids)._asdict() for kind, ids in self.held_out.items()
        }
        tokenizer = self.teacher.tokenizer
        samples = {}
        for prompt in PROMPTS:
            ids = np.array([tokenizer.encode(prompt)])
            samples[prompt] = tokenizer.decode(generate.greedy(params, ids, config, _SAMPLE)[0, ids.size :].tolist())
        return {"held_out": found, "samples": samples}

    def _point(self, point: Point, alone: Sequence[float], n_healed: int) -> dict[str, Any]:
        """What a point has found, with its first `n_healed` healings."""
        n = self.original.config.n_layers
        order = np.argsort(alone, kind="stable")[: point.layers]
        kept = dataclasses.replace(point.sizes, n_q=None, n_k=None)
        sizes = [point.sizes if i in order else kept for i in range(n)]

        def tell(i: int, _: Any) -> None:
            self.tell(Told(f"{point.name}: converting", i + 1, n))

        @cache  # computed once, and only if some file of the point is missing
        def converted() -> Any:
            return whole.convert(*self.original, sizes, self.fitted, on_layer=tell)

        def closed_form() -> dict[str, Any]:
            params, config, reports = converted()
            return {
                "maps": sum(one.n_q for one in config.layers),
                "cache_elements": config.cache_elements,
                "gate": point.sizes.gate,
                "shared_layers": sorted(order.tolist()) if point.sizes.n_q is not None else [],
                "keys_lost": [report.keys_lost for report in reports],
                "values_lost": [report.values_lost for report in reports],
                **self._judged(params, config),
            }

        found = self._kept("point", point.name, closed_form)
        healed = [
            self._kept("healing", _label(point, budget), partial(self._healed, point, budget, converted))
            for budget in point.budgets[:n_healed]
        ]
        return {"name": point.name, **found, "healed": healed}

    def _healed(self, point: Point, budget: Settings, converted: Callable[[], Any]) -> dict[str, Any]:
        params, config, _ = converted()
        begun = heal.begin(params, config, budget, self.corpus)
        saved = self.folder / "healing.safetensors"  # of the one point that is being healed
        label = _label(point, budget)
        mark = saved.with_suffix(".json")
        if saved.exists() and mark.exists() and read_json(mark) == label:
            begun = heal_files.load(saved, begun)

        def on_step(now: heal.Healing) -> None:
            self.tell(Told(f"{label}: healing, loss {now.losses[-1]:.3f}", now.state.step, budget.total))
            if now.state.step % SAVE_EVERY == 0:
                mark.unlink(missing_ok=True)
                heal_files.save(saved, now)
                write_json(mark, label)

        heal.advance(begun, self.original, self.corpus, on_step=on_step)
        judged = self._judged(begun.params, config)
        for path in (mark, saved):
            path.unlink(missing_ok=True)
        return {
            "settings": dataclasses.asdict(budget),
            "seconds": begun.seconds,
            "losses": begun.losses,
            **judged,
        }


def _label(point: Point, budget: Settings) -> str:
    return f"{point.name}, {budget.layer_steps}+{budget.steps} steps, seed {budget.seed}"
