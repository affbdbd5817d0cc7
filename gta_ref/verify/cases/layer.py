"""The cases of the attention layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gta_ref.verify.cases.case import DTYPES, NO_BFLOAT16, Case, seed_of

GTA = {"hidden_size": 48, "n_heads": 8, "head_dim": 8, "n_q": 4, "n_k": 1, "n_c": 1, "latent_dim": 16}
GROUPED = {**GTA, "n_k": 2, "n_c": 4, "latent_dim": 8}


def _layer(
    name: str,
    mechanism: str,
    config: Mapping[str, Any],
    *tags: str,
    batch: int = 2,
    length: int = 11,
    dtypes: tuple[str, ...] = DTYPES,
    **settings: Any,
) -> Case:
    decode = "chunks" in settings
    kind = ("core", "decode") if decode else ("core", "gradient")
    settings = {
        "mechanism": mechanism,
        "config": dict(config),
        "batch": batch,
        "length": length,
        "mask": {},
        **settings,
    }
    return Case(f"layer/{name}", "layer", (*kind, *tags), seed_of(name), settings, dtypes)


CASES: tuple[Case, ...] = (
    _layer("gta-paper", "gta", GTA, dtypes=NO_BFLOAT16),
    _layer("gta-released", "gta", {**GTA, "decoder_residual": True, "latent_dim": 8}),
    _layer("gta-grouped", "gta", GROUPED),
    *(_layer(f"gta-gate-{gate}", "gta", {**GTA, "gate": gate}) for gate in ("silu", "none")),
    _layer("gta-gate-relu2", "gta", {**GTA, "gate": "relu2"}, dtypes=NO_BFLOAT16),
    _layer("gta-no-bias", "gta", {**GTA, "bias": False}),
    _layer("gta-interleaved", "gta", {**GTA, "rope_pairing": "interleaved"}),
    _layer("gta-one-token", "gta", GTA, "edge", length=1),
    _layer("gta-left-padded", "gta", GTA, "padding", batch=3, mask={"k_start": [0, 3, 8]}, dtypes=NO_BFLOAT16),
    _layer("gta-right-padded", "gta", GROUPED, "padding", batch=3, mask={"k_stop": [11, 4, 0]}),
    _layer("gta-decode", "gta", GTA, chunks=[1] * 11),
    _layer("gta-decode-released", "gta", {**GROUPED, "decoder_residual": True}, chunks=[5, 1, 3, 1, 1]),
    _layer("gta-decode-padded", "gta", GTA, "padding", batch=3, mask={"k_start": [0, 3, 8]}, chunks=[4, *[1] * 7]),
    _layer("mha", "mha", {"hidden_size": 48, "n_heads": 6, "head_dim": 8}),
    _layer("gqa", "gqa", {"hidden_size": 48, "n_heads": 6, "head_dim": 8, "n_k": 2}),
    _layer("gqa-decode", "gqa", {"hidden_size": 48, "n_heads": 6, "head_dim": 8, "n_k": 2}, chunks=[5, 1, 3, 1, 1]),
    _layer("gva", "gva", {"hidden_size": 48, "n_heads": 6, "head_dim": 8, "n_q": 3}),
    _layer("gha", "gha", {"hidden_size": 48, "n_heads": 12, "head_dim": 8, "n_q": 4, "n_k": 2, "n_v": 6}),
    _layer(
        "mla", "mla",
        {"hidden_size": 48, "n_heads": 4, "latent_dim": 20, "nope_dim": 8, "rope_dim": 4, "value_dim": 12},
        dtypes=NO_BFLOAT16,
    ),
    _layer(
        "mla-decode", "mla",
        {"hidden_size": 48, "n_heads": 4, "latent_dim": 20, "nope_dim": 8, "rope_dim": 4, "value_dim": 12,
         "query_latent_dim": 24},
        chunks=[5, 1, 3, 1, 1],
    ),
    Case(
        "layer/gta-1b", "layer", ("large", "gradient"), 1,
        {"mechanism": "gta", "batch": 1, "length": 256, "mask": {},
         "config": {"hidden_size": 1280, "n_heads": 20, "head_dim": 64, "n_q": 5, "n_k": 1, "n_c": 1,
                    "latent_dim": 128, "decoder_residual": True}},
    ),
)  # fmt: skip
