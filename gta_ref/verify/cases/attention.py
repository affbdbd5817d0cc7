"""The cases of the attention core in the suite "core"; each new kind of fault has the smallest case that shows it."""

from __future__ import annotations

from typing import Any

from gta_ref.verify.cases.case import DTYPES, NARROW, NO_BFLOAT16, WIDE, Case, seed_of


def attention(
    name: str, sizes: tuple[int, ...], *tags: str, core: bool = True, dtypes: tuple[str, ...] = DTYPES, **settings: Any
) -> Case:
    """A case of the attention core; `sizes` are B, n_q, n_k, n_v, N_q, N_k, d_k, d_v."""
    keys = ("B", "n_q", "n_k", "n_v", "N_q", "N_k", "d_k", "d_v")
    settings = {"sizes": dict(zip(keys, sizes, strict=True)), "mask": {}, **settings}
    first = ("core", "gradient") if core else ("gradient",)
    return Case(f"attention/{name}", "attention", (*first, *tags), seed_of(name), settings, dtypes)


def shift(q: int, k: int) -> dict[str, Any]:
    """Scores of about ±100, as real activations have them: 52 of the 64 features are q in all queries and k in all keys.

    The other features of q are multiples of 4, those of k whole numbers. Every score is thus a multiple of 1/2, which
    bfloat16 has at this size: code that keeps scores in 16 bits is not wrong here.
    """
    return {"shift": {"features": 52, "q": q, "k": k}, "whole": 4}


CASES: tuple[Case, ...] = (
    # B, n_q, n_k, n_v, N_q, N_k, d_k, d_v
    attention("plain", (2, 4, 1, 1, 33, 33, 16, 32)),
    attention("gta-1b-heads", (1, 5, 1, 1, 65, 65, 64, 128)),
    attention("gqa-heads", (1, 8, 2, 2, 40, 40, 32, 32)),
    attention("heads-differ", (2, 6, 2, 3, 17, 17, 8, 24)),
    attention("a-head-each", (1, 4, 4, 4, 20, 20, 16, 16)),
    attention("value-narrower", (1, 4, 2, 1, 20, 20, 32, 8), dtypes=NO_BFLOAT16),
    *(attention(f"length-{n}", (1, 3, 1, 1, n, n, 16, 24), "edge") for n in (1, 63, 64, 65, 127, 128, 129)),
    attention("length-2", (1, 3, 1, 1, 2, 2, 16, 24), "edge", dtypes=NO_BFLOAT16),
    attention("no-token", (1, 3, 1, 1, 0, 0, 16, 24), "edge"),
    attention("no-key", (1, 3, 1, 1, 4, 0, 16, 24), "edge"),
    *(attention(f"width-{d}", (1, 3, 1, 1, 37, 37, d, d), "edge") for d in (60, 72, 80)),
    attention("not-causal", (2, 4, 2, 1, 19, 30, 16, 16), mask={"causal": False}),
    attention("more-queries-than-keys", (1, 4, 1, 1, 30, 12, 16, 16), "edge"),
    attention("chunk", (2, 4, 1, 1, 12, 50, 16, 32), mask={"q_start": 25}),
    attention("one-query", (3, 5, 1, 1, 1, 70, 16, 32), "decode"),
    attention("left-padded", (3, 4, 1, 1, 24, 24, 16, 32), "padding", mask={"k_start": [0, 5, 17]}),
    attention("right-padded", (3, 4, 2, 1, 24, 24, 16, 32), "padding", mask={"k_stop": [24, 9, 1]}),
    attention("both-padded", (3, 4, 1, 2, 24, 24, 16, 16), "padding", mask={"k_start": [2, 0, 7], "k_stop": [20, 3, 24]}),
    attention("empty-sequence", (3, 4, 1, 1, 16, 16, 16, 32), "padding", "edge", mask={"k_stop": [16, 0, 7]}, dtypes=NO_BFLOAT16),
    attention("blind-rows", (2, 4, 1, 1, 12, 20, 16, 32), "padding", "edge", mask={"q_start": [-5, 3], "k_start": [0, 6]}),
    attention(
        "nan-in-unused-slots", (3, 4, 2, 1, 18, 18, 16, 16), "padding", "edge",
        mask={"k_start": [0, 4, 0], "k_stop": [18, 18, 6]}, poison=True,
    ),
    attention("decode-padded", (3, 4, 1, 1, 1, 40, 16, 32), "decode", "padding", mask={"k_start": [0, 11, 39]}, poison=True, dtypes=NO_BFLOAT16),
    attention("huge-logits", (1, 3, 1, 1, 24, 24, 16, 24), "edge", logits=100.0, dtypes=WIDE),
    attention("other-scale", (2, 4, 1, 1, 21, 21, 16, 32), scale=0.4),
    attention("through-lse", (2, 4, 2, 1, 21, 21, 16, 16), dlse=True),

    # --- ordinary shapes, MHA and GQA with equal widths: a kernel that runs no other shapes is tested in every respect

    # left padding ignored
    attention("mha-left-padded", (2, 3, 3, 3, 20, 20, 16, 16), "padding", mask={"k_start": [0, 7]}),
    # ragged lengths ignored
    attention("gqa-right-padded", (3, 4, 2, 2, 32, 32, 16, 16), "padding", mask={"k_stop": [32, 9, 2]}),
    # one q_start for all sequences
    attention("gqa-chunk", (2, 6, 3, 3, 10, 34, 16, 16), mask={"q_start": [11, 24]}),
    # causal mask aligned to the start or to the end
    attention("mha-chunk", (1, 3, 3, 3, 12, 40, 16, 16), mask={"q_start": 13}),
    # scale ignored
    attention("gqa-scale", (2, 6, 3, 3, 21, 21, 16, 16), scale=0.4),
    # gradient through lse left out or added twice
    attention("mha-through-lse", (2, 3, 3, 3, 21, 21, 16, 16), dlse=True),
    # softmax without its maximum
    attention("gqa-huge-logits", (1, 4, 2, 2, 24, 24, 16, 16), "edge", logits=100.0, dtypes=WIDE),
    # loop over the keys that ends at the queries' number, and k_stop or k_start ignored without the causal mask
    attention("not-causal-padded", (3, 4, 1, 1, 14, 20, 16, 32), "padding", mask={"causal": False, "k_start": [0, 4, 9], "k_stop": [20, 20, 13]}),
    # a causal bound in a loop that should have none
    attention("gqa-not-causal", (2, 4, 2, 2, 30, 19, 16, 16), mask={"causal": False}),

    # --- decoding

    # key and value heads m % n_k, or head 0 for all: right with one key head
    attention("gqa-decode", (3, 6, 3, 3, 1, 40, 16, 16), "decode"),
    attention("mha-decode", (2, 4, 4, 4, 1, 33, 16, 16), "decode"),
    # value heads chosen by the key heads' rule
    attention("heads-differ-decode", (2, 6, 3, 2, 1, 29, 16, 24), "decode"),
    # the longest sequence's length for all
    attention(
        "decode-lengths", (4, 6, 3, 3, 1, 40, 16, 16), "decode", "padding",
        mask={"q_start": [39, 12, 0, 20], "k_stop": [40, 13, 1, 21]}, poison=True,
    ),
    # the same with several new tokens: a mask aligned to the end of the memory instead of the sequence
    attention(
        "decode-several", (3, 6, 2, 2, 4, 50, 16, 16), "decode", "padding",
        mask={"q_start": [46, 13, 0], "k_stop": [50, 17, 4]}, poison=True,
    ),
    # 0/0 for an empty cache
    attention(
        "decode-empty", (3, 4, 2, 2, 1, 20, 16, 16), "decode", "padding", "edge",
        mask={"q_start": [19, -1, 4], "k_stop": [20, 0, 5]}, poison=True,
    ),
    attention("decode-no-key", (2, 4, 2, 2, 1, 0, 16, 16), "decode", "edge"),
    # split-KV: a part of the keys that sees nothing is merged as NaN or as weight 1
    attention(
        "decode-parts", (2, 4, 2, 2, 1, 520, 16, 16), "decode", "padding",
        mask={"q_start": [519, 8], "k_stop": [520, 9]}, poison=True,
    ),

    # --- scores as real activations have them

    # exp(0 − lse) of the keys that fill up the last tile; softmax without its maximum is 0/0, or has lse −inf
    attention("low-scores", (2, 4, 2, 2, 21, 37, 64, 64), "edge", **shift(4, -4)),
    # softmax without its maximum is infinite, in 16 bits as well
    attention("high-scores", (2, 4, 2, 2, 21, 37, 64, 64), "edge", **shift(4, 4)),
    # wide heads and batches with weights close to 1; a softcap that is not asked for
    attention("peaked", (2, 4, 2, 2, 33, 33, 64, 64), "edge", whole=4),
    # log₂e rounded to 1.44, which only 16 bits could hide: one key outweighs hundreds by the difference of their scores
    attention(
        "sink", (2, 4, 2, 2, 16, 300, 16, 16), "edge", dtypes=NARROW,
        shift={"features": 12, "q": 2, "k": 0}, whole=2, sink=12,
    ),

    # --- widths of real kernels, and value widths between tiles: columns that are not written or read twice

    *(attention(f"widths-{d_k}-{d_v}", (1, 2, 1, 1, 21, 21, d_k, d_v), "edge")
      for d_k, d_v in ((128, 128), (192, 128), (128, 96), (64, 88), (48, 113))),
    attention("widths-256-256", (1, 2, 2, 2, 18, 18, 256, 256), "edge"),
    attention("widths-576-512", (1, 3, 1, 1, 9, 9, 576, 512), "edge"),

    # --- tiles of 128: small enough for "core"; the suite "tiles" has more

    # partial sums not rescaled when the running maximum grows, which it does in every later tile
    attention("growing-maximum", (1, 2, 1, 1, 24, 300, 16, 24), "tiles", growth=4.0, dtypes=NO_BFLOAT16),
    # −inf − (−inf) in a first tile that is all padding
    attention("first-tile-padded", (2, 2, 1, 1, 20, 300, 16, 16), "tiles", "padding", mask={"k_start": [0, 140]}),
    # the mask applied in the diagonal tile only
    attention(
        "edges-in-tiles", (2, 2, 1, 1, 20, 300, 16, 16), "tiles", "padding",
        mask={"q_start": [250, 150], "k_start": [3, 30], "k_stop": [270, 290]}, poison=True,
    ),

    # --- other layouts in memory; what is not C-contiguous is read as if it were

    attention("token-major", (2, 4, 2, 2, 21, 21, 16, 16), "layouts", layout="token-major"),
    attention("packed", (2, 4, 2, 2, 21, 21, 16, 16), "layouts", layout="packed"),
    attention("broadcast", (2, 4, 4, 4, 21, 21, 16, 16), "layouts", layout="broadcast", equal_heads=True),
)  # fmt: skip
