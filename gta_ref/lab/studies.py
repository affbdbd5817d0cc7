"""The studies: the question of each, and which models are trained on which data to answer it.

Every study trains each of its models from the same seeds with the same budget: the same batches, the same number of
steps, the same schedule, and equally many parameters (gta_ref/lm/small.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gta_ref.errors import check_choice
from gta_ref.lab import measures
from gta_ref.lab.retrieval import Retrieval
from gta_ref.lm import model, small, text
from gta_ref.lm.train import Run, Settings

Measure = Callable[[Run, Any], dict[str, float]]

SOURCES: Mapping[str, Callable[[], Any]] = {"text": text.standard_library, "retrieval": Retrieval}


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    arm: str
    config: model.Config
    settings: Settings
    source: str


@dataclass(frozen=True)
class Study:
    """A question and the runs that answer it.

    Attributes
    ----------
    name, question : str
    arms : mapping of str to model.Config
    baseline : str
        The arm that the others are compared with.
    settings : Settings
        Settings of every run, except for the seed.
    source : str
        A key of SOURCES. Default "text".
    seeds : tuple of int
        Every arm is trained once from each seed. Default 0, 1, 2.
    measure : function, optional
        What is measured of a finished run besides its loss: (run, source) → name → number.
    """

    name: str
    question: str
    arms: Mapping[str, model.Config]
    baseline: str
    settings: Settings
    source: str = "text"
    seeds: tuple[int, ...] = (0, 1, 2)
    measure: Measure | None = None

    def jobs(self) -> Iterator[Job]:
        """Yield all runs, seed by seed, so that an unfinished study can already compare its arms."""
        for seed in self.seeds:
            for arm, config in self.arms.items():
                yield Job(arm, config, replace(self.settings, seed=seed), self.source)


def load(name: str) -> Study:
    """Return the study called `name`."""
    check_choice("study", name, tuple(STUDIES))
    return STUDIES[name]()


def quick(study: Study) -> Study:
    """Return the same study with hardly any training, to check that it runs."""
    settings = replace(study.settings, steps=2, batch=2, length=64, warmup=1, validate_every=1, validation_sequences=2)
    return replace(study, settings=settings, seeds=(0, 1))


def _mechanisms() -> Study:
    return Study(
        "mechanisms",
        "At matched parameters, what does a smaller cache cost in loss?",
        {name: small.config(name) for name in small.NAMES},
        "mha",
        TEXT,
    )


def _gate() -> Study:
    gates = {"without a gate": "none", "with a gate": "sigmoid"}
    names = ("gqa", "mla", "gta")
    return Study(
        "gate",
        "Does GTA's loss come from sharing maps or from the gate?",
        {f"{name} {how}": small.config(name, gate=gate) for name in names for how, gate in gates.items()},
        "gqa without a gate",
        TEXT,
    )


def _activations() -> Study:
    gates = ("sigmoid", "silu", "relu2", "none")
    return Study(
        "activations",
        "What does the gate's activation do to the loss, and to the rank of what a head outputs?",
        {f"gta {gate}": small.config("gta", gate=gate) for gate in gates},
        "gta none",
        TEXT,
        measure=measures.ranks,
    )


def _sizes() -> Study:
    # without the residual: it needs a latent width that divides the width of a map's heads, and not all of these do
    sizes = [(1, 32), (2, 32), (4, 32), (8, 32), (2, 16), (2, 64)]
    return Study(
        "sizes",
        "How many maps, and how wide a latent?",
        {
            f"n_q {n_q}, d_l {latent}": small.config("gta", n_q=n_q, latent_dim=latent, decoder_residual=False)
            for n_q, latent in sizes
        },
        "n_q 2, d_l 32",
        TEXT,
    )


def _retrieval() -> Study:
    source = Retrieval()
    sizes = {"vocab_size": source.vocab_size, "hidden_size": 64, "n_layers": 2}
    arms = {name: small.config(name, **sizes) for name in ("mha", "mqa", "gqa", "mla", "gta")}
    # the two things that GTA reduces, one at a time: more maps with the same latent, and as few maps with a value head
    # for every output head
    arms["gta, 4 maps"] = small.config("gta", n_q=4, **sizes)
    arms["gva, 2 maps"] = small.config("gva", **sizes)
    return Study(
        "retrieval",
        "Does a compressed cache still find the value after a key, near and far?",
        arms,
        "gqa",
        RECALL,
        source="retrieval",
        measure=measures.retrieval,
    )


RECALL = Settings(steps=1000, batch=32, length=128, learning_rate=6e-3, warmup=40, validate_every=200)
TEXT = Settings(steps=400, batch=16, length=256, learning_rate=6e-3, warmup=40, validate_every=100)
STUDIES: Mapping[str, Callable[[], Study]] = {
    "mechanisms": _mechanisms,
    "gate": _gate,
    "activations": _activations,
    "sizes": _sizes,
    "retrieval": _retrieval,
}
