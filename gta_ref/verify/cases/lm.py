"""The cases of the language models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gta_ref.verify.cases.case import Case, seed_of
from gta_ref.verify.cases.layer import GTA


def _lm(name: str, mechanism: str, config: Mapping[str, Any], **model: Any) -> Case:
    sizes = {"vocab_size": 31, "n_layers": 2, "intermediate_size": 40, **model}
    settings = {"mechanism": mechanism, "config": dict(config), "model": sizes, "batch": 2, "length": 9}
    return Case(f"lm/{name}", "lm", ("core", "gradient"), seed_of(name), settings)


CASES: tuple[Case, ...] = (
    _lm("gta", "gta", {**GTA, "decoder_residual": True}),
    _lm("gqa-untied", "gqa", {"hidden_size": 48, "n_heads": 6, "head_dim": 8, "n_k": 2}, tied=False),
)  # fmt: skip
