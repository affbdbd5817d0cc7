"""The cases of the attention core."""

from __future__ import annotations

from typing import Any

from gta_ref.verify.cases.case import DTYPES, NO_BFLOAT16, WIDE, Case, seed_of


def _attention(
    name: str, sizes: tuple[int, ...], *tags: str, dtypes: tuple[str, ...] = DTYPES, **settings: Any
) -> Case:
    keys = ("B", "n_q", "n_k", "n_v", "N_q", "N_k", "d_k", "d_v")
    settings = {"sizes": dict(zip(keys, sizes, strict=True)), "mask": {}, **settings}
    return Case(f"attention/{name}", "attention", ("core", "gradient", *tags), seed_of(name), settings, dtypes)


CASES: tuple[Case, ...] = (
    # B, n_q, n_k, n_v, N_q, N_k, d_k, d_v
    _attention("plain", (2, 4, 1, 1, 33, 33, 16, 32)),
    _attention("gta-1b-heads", (1, 5, 1, 1, 65, 65, 64, 128)),
    _attention("gqa-heads", (1, 8, 2, 2, 40, 40, 32, 32)),
    _attention("heads-differ", (2, 6, 2, 3, 17, 17, 8, 24)),
    _attention("a-head-each", (1, 4, 4, 4, 20, 20, 16, 16)),
    _attention("value-narrower", (1, 4, 2, 1, 20, 20, 32, 8), dtypes=NO_BFLOAT16),
    *(_attention(f"length-{n}", (1, 3, 1, 1, n, n, 16, 24), "edge") for n in (1, 63, 64, 65, 127, 128, 129)),
    _attention("length-2", (1, 3, 1, 1, 2, 2, 16, 24), "edge", dtypes=NO_BFLOAT16),
    _attention("no-token", (1, 3, 1, 1, 0, 0, 16, 24), "edge"),
    _attention("no-key", (1, 3, 1, 1, 4, 0, 16, 24), "edge"),
    *(_attention(f"width-{d}", (1, 3, 1, 1, 37, 37, d, d), "edge") for d in (60, 72, 80)),
    _attention("not-causal", (2, 4, 2, 1, 19, 30, 16, 16), mask={"causal": False}),
    _attention("more-queries-than-keys", (1, 4, 1, 1, 30, 12, 16, 16), "edge"),
    _attention("chunk", (2, 4, 1, 1, 12, 50, 16, 32), mask={"q_start": 25}),
    _attention("one-query", (3, 5, 1, 1, 1, 70, 16, 32), "decode"),
    _attention("left-padded", (3, 4, 1, 1, 24, 24, 16, 32), "padding", mask={"k_start": [0, 5, 17]}),
    _attention("right-padded", (3, 4, 2, 1, 24, 24, 16, 32), "padding", mask={"k_stop": [24, 9, 1]}),
    _attention("both-padded", (3, 4, 1, 2, 24, 24, 16, 16), "padding", mask={"k_start": [2, 0, 7], "k_stop": [20, 3, 24]}),
    _attention("empty-sequence", (3, 4, 1, 1, 16, 16, 16, 32), "padding", "edge", mask={"k_stop": [16, 0, 7]}, dtypes=NO_BFLOAT16),
    _attention("blind-rows", (2, 4, 1, 1, 12, 20, 16, 32), "padding", "edge", mask={"q_start": [-5, 3], "k_start": [0, 6]}),
    _attention(
        "nan-in-unused-slots", (3, 4, 2, 1, 18, 18, 16, 16), "padding", "edge",
        mask={"k_start": [0, 4, 0], "k_stop": [18, 18, 6]}, poison=True,
    ),
    _attention("decode-padded", (3, 4, 1, 1, 1, 40, 16, 32), "decode", "padding", mask={"k_start": [0, 11, 39]}, poison=True, dtypes=NO_BFLOAT16),
    _attention("huge-logits", (1, 3, 1, 1, 24, 24, 16, 24), "edge", logits=100.0, dtypes=WIDE),
    _attention("other-scale", (2, 4, 1, 1, 21, 21, 16, 32), scale=0.4),
    _attention("through-lse", (2, 4, 2, 1, 21, 21, 16, 16), dlse=True),
    Case(
        "attention/gta-1b-1024", "attention", ("large", "gradient"), 2,
        {"sizes": {"B": 1, "n_q": 5, "n_k": 1, "n_v": 1, "N_q": 1024, "N_k": 1024, "d_k": 64, "d_v": 128}, "mask": {}},
    ),
)  # fmt: skip
