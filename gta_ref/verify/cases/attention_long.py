"""The cases of the attention core that are too large for the suite "core": tiles, long decoding, layouts, "large"."""

from __future__ import annotations

from gta_ref.verify.cases.attention import attention, shift
from gta_ref.verify.cases.case import NO_BFLOAT16, Case

_TILES: tuple[Case, ...] = (
    # B, n_q, n_k, n_v, N_q, N_k, d_k, d_v
    # what tells the widths of tiles from each other: a padding that ends in each, the diagonal in the first although the
    # mask is not causal, and a last tile that is not full of every width
    attention("starts-in-tiles", (5, 2, 1, 1, 8, 300, 16, 16), "tiles", "padding", core=False, mask={"q_start": [40, 60, 100, 200, 292], "k_start": [20, 40, 70, 140, 270]}),
    attention("not-causal-offsets", (2, 2, 1, 1, 8, 560, 16, 16), "tiles", core=False, mask={"causal": False, "q_start": [0, 100]}),
    attention("tail-450", (1, 2, 1, 1, 20, 450, 16, 24), "tiles", core=False),
    # windows of 256 keys; the last tile of 64 or 128 not full, full, and with one key
    *(attention(f"length-{n}", (1, 2, 1, 1, n, n, 16, 24), "tiles", core=False) for n in (255, 256, 257, 300)),
    # a stale maximum in whole sequences, with gradients of keys in every tile
    attention("growing-maximum-300", (1, 2, 1, 1, 300, 300, 16, 24), "tiles", core=False, growth=4.0, dtypes=NO_BFLOAT16),
    # the opposite: the first tile has the maximum, and a later one resets it
    attention("falling-maximum-300", (1, 2, 1, 1, 300, 300, 16, 24), "tiles", core=False, growth=0.25, dtypes=NO_BFLOAT16),
    # whole tiles of padding first and last
    attention("padded-300", (2, 2, 2, 2, 300, 300, 16, 16), "tiles", "padding", core=False, mask={"k_start": [0, 140], "k_stop": [150, 300]}, poison=True),
    # bounds inside tiles that the diagonal does not cross
    attention("offsets-300", (2, 2, 1, 1, 140, 300, 16, 16), "tiles", core=False, mask={"q_start": [20, 160]}),
    # without the causal mask: loops that end at the diagonal, or before the last tile
    attention("not-causal-300", (2, 2, 1, 1, 150, 300, 16, 16), "tiles", "padding", core=False, mask={"causal": False, "k_start": [3, 130], "k_stop": [290, 200]}),
    attention("not-causal-more-queries", (1, 2, 1, 1, 270, 140, 16, 16), "tiles", core=False, mask={"causal": False}),
    # tiles of queries that see nothing, before others that do
    attention("blind-tiles", (1, 2, 1, 1, 300, 150, 16, 16), "tiles", "edge", core=False),
    # exp(0 − lse) in the unfilled part of the third tile
    attention("low-scores-300", (1, 2, 1, 1, 40, 300, 64, 64), "tiles", core=False, **shift(4, -4)),
    # more tiles than there are stages in a pipeline, or blocks in a cluster
    attention("many-tiles", (1, 2, 1, 1, 40, 1100, 32, 32), "tiles", core=False),
    # wide heads over more than one tile: shared memory that is written too early
    *(attention(f"widths-{d_k}-{d_v}-130", (1, 2, 1, 1, 130, 130, d_k, d_v), "tiles", core=False)
      for d_k, d_v in ((128, 128), (192, 128), (64, 113))),
    attention("widths-256-256-130", (1, 2, 2, 2, 130, 130, 256, 256), "tiles", core=False),
)  # fmt: skip

_DECODE: tuple[Case, ...] = (
    # split-KV with parts that see nothing, after the end and before the start of a sequence
    attention("decode-1100", (2, 8, 2, 2, 1, 1100, 64, 64), "decode", "padding", core=False, mask={"q_start": [1099, 69], "k_stop": [1100, 70]}, poison=True),
    attention("decode-left-padded-1500", (2, 5, 1, 1, 1, 1500, 64, 128), "decode", "padding", core=False, mask={"k_start": [0, 1030]}, poison=True),
    # several new tokens across the border of two parts
    attention("decode-several-1025", (2, 4, 2, 2, 5, 1026, 32, 32), "decode", core=False, mask={"q_start": [1021, 510]}),
    # a merge of parts with very different maxima
    attention("decode-growing-2048", (1, 4, 2, 2, 1, 2048, 32, 32), "decode", core=False, growth=4.0, dtypes=NO_BFLOAT16),
    # a key more than a whole number of parts
    attention("decode-4097", (1, 5, 1, 1, 1, 4097, 64, 128), "decode", core=False),
    # the absorbed form of MLA
    attention("decode-576-512", (2, 4, 1, 1, 1, 300, 576, 512), "decode", core=False),
)  # fmt: skip

_LAYOUTS: tuple[Case, ...] = (
    # strides read from k alone although v is wider
    attention("token-major-wide-values", (2, 4, 1, 1, 21, 21, 16, 32), "layouts", core=False, layout="token-major"),
    # a cache as (B, N, heads, width)
    attention("token-major-decode", (3, 6, 3, 3, 1, 40, 16, 16), "layouts", "decode", core=False, layout="token-major"),
    attention("token-major-padded", (3, 4, 2, 1, 18, 18, 16, 16), "layouts", "padding", core=False, layout="token-major", mask={"k_start": [0, 4, 0], "k_stop": [18, 18, 6]}, poison=True),
    attention("packed-heads-each", (2, 3, 3, 3, 70, 70, 16, 16), "layouts", core=False, layout="packed"),
    # a stride of 0 in the backward, where the gradient of a head must not go to all
    attention("broadcast-values", (2, 4, 2, 4, 21, 21, 16, 16), "layouts", core=False, layout="broadcast", equal_heads=True),
)  # fmt: skip

CASES: tuple[Case, ...] = (
    *_TILES,
    *_DECODE,
    *_LAYOUTS,
    Case(
        "attention/gta-1b-1024", "attention", ("large", "gradient"), 2,
        {"sizes": {"B": 1, "n_q": 5, "n_k": 1, "n_v": 1, "N_q": 1024, "N_k": 1024, "d_k": 64, "d_v": 128}, "mask": {}},
    ),
    # a whole row of scores kept in shared memory, which ends long before 16,384 keys
    attention("decode-16384", (1, 5, 1, 1, 1, 16384, 64, 128), "large", core=False),
)  # fmt: skip
