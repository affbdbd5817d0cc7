"""The cases of the GTA layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gta_ref.verify.cases.case import DTYPES, NO_BFLOAT16, Case, seed_of

GTA = {"hidden_size": 48, "n_heads": 8, "head_dim": 8, "n_q": 4, "n_k": 1, "n_c": 1, "latent_dim": 16}
GROUPED = {**GTA, "n_k": 2, "n_c": 4, "latent_dim": 8}
# two or three maps for each latent head, and another number for each key head
LATENTS = {**GTA, "n_c": 2}
SIX_MAPS = {**GTA, "n_heads": 12, "n_q": 6, "n_k": 3, "n_c": 2}


def layer(
    name: str,
    mechanism: str,
    config: Mapping[str, Any],
    *tags: str,
    batch: int = 2,
    length: int = 11,
    core: bool = True,
    dtypes: tuple[str, ...] = DTYPES,
    **settings: Any,
) -> Case:
    """A case of one attention layer."""
    decode = "chunks" in settings
    kind = (*(("core",) if core else ()), "decode" if decode else "gradient")
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
    layer("gta-paper", "gta", GTA, dtypes=NO_BFLOAT16),
    layer("gta-released", "gta", {**GTA, "decoder_residual": True, "latent_dim": 8}),
    layer("gta-grouped", "gta", GROUPED),
    *(layer(f"gta-gate-{gate}", "gta", {**GTA, "gate": gate}) for gate in ("silu", "none")),
    layer("gta-gate-relu2", "gta", {**GTA, "gate": "relu2"}, dtypes=NO_BFLOAT16),
    layer("gta-no-bias", "gta", {**GTA, "bias": False}),
    layer("gta-interleaved", "gta", {**GTA, "rope_pairing": "interleaved"}),
    layer("gta-one-token", "gta", GTA, "edge", length=1),
    layer("gta-left-padded", "gta", GTA, "padding", batch=3, mask={"k_start": [0, 3, 8]}, dtypes=NO_BFLOAT16),
    layer("gta-right-padded", "gta", GROUPED, "padding", batch=3, mask={"k_stop": [11, 4, 0]}),
    layer("gta-decode", "gta", GTA, chunks=[1] * 11),
    layer("gta-decode-released", "gta", {**GROUPED, "decoder_residual": True}, chunks=[5, 1, 3, 1, 1]),
    layer("gta-decode-padded", "gta", GTA, "padding", batch=3, mask={"k_start": [0, 3, 8]}, chunks=[4, *[1] * 7]),
    # latent heads tiled (m % n_c) instead of repeated: the same if n_c is 1 or n_q
    layer("gta-two-latents", "gta", LATENTS),
    # key heads chosen by the latent heads' rule, or the reverse
    layer("gta-six-maps", "gta", SIX_MAPS, dtypes=NO_BFLOAT16),
    layer("gta-decode-six-maps", "gta", SIX_MAPS, chunks=[5, 1, 3, 1, 1]),
    # the base of RoPE fixed at 10000
    layer("gta-theta", "gta", {**GTA, "rope_theta": 300.0}),
    # angles, positions or RoPE tables in 16 bits; tables with 2048 rows
    layer("gta-far-positions", "gta", {**GTA, "n_k": 2}, first_position=5003),
    layer("gta-far-positions-padded", "gta", GTA, "padding", batch=3, first_position=70001, mask={"k_start": [0, 3, 8]}),
    # rotated although there is no RoPE
    layer("gta-no-rope", "gta", {**GTA, "rope_pairing": "none", "bias": False}),
    # positions that count chunks or restart in each; several tiles of cached latents
    layer("gta-decode-long", "gta", {**SIX_MAPS, "decoder_residual": True}, length=300, batch=1, chunks=[290, 1, 8, 1], core=False),
    # the same with padding of more than a tile, where the first tokens of a sequence come after most of the cache
    layer("gta-decode-long-padded", "gta", GTA, "padding", length=300, batch=2, mask={"k_start": [0, 270]}, chunks=[280, 1, 18, 1], core=False),
    Case(
        "layer/gta-1b", "layer", ("large", "gradient"), 1,
        {"mechanism": "gta", "batch": 1, "length": 256, "mask": {},
         "config": {"hidden_size": 1280, "n_heads": 20, "head_dim": 64, "n_q": 5, "n_k": 1, "n_c": 1,
                    "latent_dim": 128, "decoder_residual": True}},
    ),
)  # fmt: skip
