"""The cases of the language models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gta_ref.verify.cases.case import Case, seed_of
from gta_ref.verify.cases.layer import GTA
from gta_ref.verify.cases.layer_others import GQA, MHA, MLA


def _lm(
    name: str,
    mechanism: str,
    config: Mapping[str, Any],
    *tags: str,
    batch: int = 2,
    model: Mapping[str, Any],
    **more: Any,
) -> Case:
    kind = "decode" if "chunks" in more else "gradient"
    settings = {
        "mechanism": mechanism,
        "config": dict(config),
        "model": {"vocab_size": 31, "n_layers": 2, "intermediate_size": 40, **model},
        "batch": batch,
        "length": 9,
        **more,
    }
    return Case(f"lm/{name}", "lm", ("core", kind, *tags), seed_of(name), settings)


CASES: tuple[Case, ...] = (
    _lm("gta", "gta", {**GTA, "decoder_residual": True}, model={}),
    _lm("gqa-untied", "gqa", GQA, model={"tied": False}),
    # targets that do not count: a mean over all tokens, or a target shifted once more
    _lm("mha-targets", "mha", MHA, model={"n_layers": 1}, targets=True),
    # left padding ignored in a model
    _lm("gqa-padded", "gqa", GQA, "padding", batch=3, model={"tied": False}, mask={"k_start": [0, 3, 6]}, targets=True),
    # ε outside the root or 1e-6: visible where the residual stream is small
    _lm("gta-small", "gta", GTA, model={"tied": False, "n_layers": 1}, x_scale=2e-3),
    _lm("mla", "mla", MLA, model={"n_layers": 1}),
    # one cache for all layers; positions that restart
    _lm("gta-decode", "gta", {**GTA, "decoder_residual": True}, model={}, chunks=[4, 1, 3, 1]),
    _lm("gqa-decode-padded", "gqa", GQA, "padding", batch=3, model={"tied": False}, mask={"k_start": [0, 2, 5]}, chunks=[4, *[1] * 5]),
)  # fmt: skip
