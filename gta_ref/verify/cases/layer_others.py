"""The cases of the other attention layers: MHA, GQA, GVA, GHA and MLA."""

from __future__ import annotations

from gta_ref.verify.cases.case import NO_BFLOAT16, Case
from gta_ref.verify.cases.layer import layer

MHA = {"hidden_size": 48, "n_heads": 6, "head_dim": 8}
GQA = {**MHA, "n_k": 2}
GVA = {**MHA, "n_q": 3}
GHA = {"hidden_size": 48, "n_heads": 12, "head_dim": 8, "n_q": 4, "n_k": 2, "n_v": 6}
MLA = {"hidden_size": 48, "n_heads": 4, "latent_dim": 20, "nope_dim": 8, "rope_dim": 4, "value_dim": 12}
COMPRESSED = {**MLA, "query_latent_dim": 24}
STEPS = [5, 1, 3, 1, 1]
_YARN = {"rope_pairing": "interleaved", "rope_magnitude": 1.2, "score_scale": 0.5}

_HEADWISE: tuple[Case, ...] = (
    layer("mha", "mha", MHA),
    layer("gqa", "gqa", GQA),
    layer("gqa-decode", "gqa", GQA, chunks=STEPS),
    layer("gva", "gva", GVA),
    layer("gha", "gha", GHA),
    # a bias, the gate or W_O's bias forgotten: each mechanism has each of them once, in differing pairs
    layer("mha-bias", "mha", {**MHA, "bias": True, "output_bias": True}, dtypes=NO_BFLOAT16),
    layer("gqa-gate", "gqa", {**GQA, "gate": "sigmoid", "bias": True}),
    layer("gva-gate", "gva", {**GVA, "gate": "silu", "output_bias": True}, dtypes=NO_BFLOAT16),
    layer("gha-gate", "gha", {**GHA, "gate": "sigmoid", "bias": True, "output_bias": True}),
    layer("gqa-bias", "gqa", {**GQA, "bias": True, "output_bias": True}),
    layer("gva-bias", "gva", {**GVA, "bias": True}),
    # caches with as many heads as maps, with blocks of value heads, with both; keys cached before RoPE
    layer("mha-decode", "mha", MHA, chunks=STEPS),
    layer("gva-decode", "gva", GVA, chunks=STEPS),
    layer("gha-decode", "gha", {**GHA, "gate": "sigmoid"}, chunks=STEPS),
    layer("gqa-decode-padded", "gqa", {**GQA, "bias": True}, "padding", batch=3, mask={"k_start": [0, 3, 8]}, chunks=[4, *[1] * 7]),
    # padding ignored in a layer, or its positions counted
    layer("gqa-left-padded", "gqa", GQA, "padding", batch=3, mask={"k_start": [0, 3, 8]}),
    layer("gha-right-padded", "gha", GHA, "padding", batch=3, mask={"k_stop": [11, 4, 0]}),
    # the other pairing, or rotated although there is no RoPE
    layer("mha-interleaved", "mha", {**MHA, "rope_pairing": "interleaved"}),
    layer("gqa-no-rope", "gqa", {**GQA, "rope_pairing": "none"}),
    # the norm of queries and keys: forgotten, after RoPE, over all heads, or with another ε, which small x shows
    layer("gqa-norm", "gqa", {**GQA, "qk_norm": True}),
    layer("gqa-norm-small", "gqa", {**GQA, "qk_norm": True}, x_scale=1e-3),
    # RoPE's own frequencies for a part of each head, its magnitude and the factor on the scores, each ignored
    layer("mha-yarn", "mha", {**MHA, **_YARN, "rope_frequencies": [0.9, 0.2, 0.05]}, dtypes=NO_BFLOAT16),
    layer("gqa-far-positions", "gqa", {**GQA, "rope_theta": 500000.0}, first_position=5003),
)  # fmt: skip

_MLA: tuple[Case, ...] = (
    layer("mla", "mla", MLA, dtypes=NO_BFLOAT16),
    layer("mla-decode", "mla", COMPRESSED, chunks=STEPS),
    # gradients through the latent of queries and its norm
    layer("mla-compressed", "mla", COMPRESSED),
    layer("mla-bias", "mla", {**COMPRESSED, "bias": True}, dtypes=NO_BFLOAT16),
    layer("mla-gate", "mla", {**MLA, "gate": "sigmoid", "bias": True}, dtypes=NO_BFLOAT16),
    # norms that are there without being asked for
    layer("mla-no-norm", "mla", {**COMPRESSED, "latent_norm": False}, dtypes=NO_BFLOAT16),
    # the pairing of DeepSeek's own code
    layer("mla-interleaved", "mla", {**COMPRESSED, "rope_pairing": "interleaved"}),
    layer("mla-no-rope", "mla", {**MLA, "rope_pairing": "none"}),
    # the stages of the absorbed way: W_UK transposed, W_UV applied before the sum over keys
    layer("mla-absorbed", "mla", COMPRESSED, absorb=True, dtypes=NO_BFLOAT16),
    # ε of the latent's norm as in the rest of the model, 1e-5: visible where the latent is small
    layer("mla-small", "mla", {**COMPRESSED, "rope_dim": 0}, x_scale=1e-3),
    layer("mla-left-padded", "mla", MLA, "padding", batch=3, mask={"k_start": [0, 3, 8]}),
    layer("mla-yarn", "mla", {**COMPRESSED, **_YARN, "rope_frequencies": [0.9, 0.2]}, dtypes=NO_BFLOAT16),
    layer("mla-far-positions", "mla", MLA, first_position=5003),
    # the shared key cached before RoPE, or rotated again
    layer("mla-decode-padded", "mla", {**MLA, "rope_pairing": "interleaved"}, "padding", batch=3, mask={"k_start": [0, 3, 8]}, chunks=[4, *[1] * 7]),
    # the other way to decode, which decompresses what is cached
    layer("mla-decode-decompressed", "mla", {**COMPRESSED, "bias": True}, chunks=STEPS, absorb=False),
)  # fmt: skip

CASES: tuple[Case, ...] = (*_HEADWISE, *_MLA)
