"""Exercise 6: the bytes of a model's cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gta_ref.exercises.exercise import Exercise
from gta_ref.exercises.trial import Mistake, Trial
from gta_ref.mechanisms import gqa, gta

GTA_1B = {"layers": 54, "n_h": 20, "d_h": 64, "n_q": 5, "n_k": 1, "n_c": 1, "d_l": 128}
GQA_1B = {"layers": 54, "n_h": 20, "d_h": 64, "n_q": 20, "n_k": 5}
GROUPED = {"layers": 7, "n_h": 24, "d_h": 10, "n_q": 12, "n_k": 3, "n_c": 4, "d_l": 36}
GTA_160M = {"layers": 24, "n_h": 12, "d_h": 64, "n_q": 6, "n_k": 1, "n_c": 1, "d_l": 128}
GQA = {"layers": 11, "n_h": 24, "d_h": 14, "n_q": 24, "n_k": 4}
MHA = {"layers": 3, "n_h": 6, "d_h": 8, "n_q": 6, "n_k": 6}


def _bytes_truth(model: Mapping[str, int], batch: int, tokens: int, itemsize: int) -> np.ndarray:
    """Computed from the library's structures, whose sizes its tests compare with the bytes really held."""
    m, hidden = model, model["n_h"] * model["d_h"]
    if "d_l" in m:
        config: Any = gta.Config(hidden, m["n_h"], m["d_h"], m["n_q"], m["n_k"], m["n_c"], m["d_l"])
        elements = gta.structure(config).cache_elements
    else:
        elements = gqa.structure(gqa.Config(hidden, m["n_h"], m["d_h"], m["n_k"])).cache_elements
    return np.asarray(elements * m["layers"] * batch * tokens * itemsize)


def _bytes_by(elements: Any, outer: Any = lambda m, b, t, i: m["layers"] * b * t * i) -> Any:
    def answer(model: Mapping[str, int], batch: int, tokens: int, itemsize: int) -> np.ndarray:
        return np.asarray(elements(model) * outer(model, batch, tokens, itemsize))

    return answer


def _elements(m: Mapping[str, int]) -> int:
    values = m["n_c"] * m["d_l"] if "d_l" in m else m["n_k"] * m["d_h"]
    return m["n_k"] * m["d_h"] + values


EX06 = Exercise(
    name="ex06",
    function="cache_bytes",
    parameters="model, batch, tokens, itemsize",
    results={"bytes": ""},
    trials=lambda: [
        Trial("a GTA model with n_k=3, d_h=10, n_c=4, d_l=36; batch 3, 35 tokens, 2 bytes", (GROUPED, 3, 35, 2)),
        Trial("MHA with 6 heads of width 8 (no latent, 2·n_k·d_h); batch 3, 5 tokens, 4 bytes", (MHA, 3, 5, 4)),
        Trial("a GQA model with 24 heads, n_k=4, d_h=14; batch 2, 9 tokens, 1 byte", (GQA, 2, 9, 1)),
        Trial("GTA-1B, batch 1, 2048 tokens, 2 bytes", (GTA_1B, 1, 2048, 2)),
        Trial("GQA-1B, batch 1, 2048 tokens, 2 bytes", (GQA_1B, 1, 2048, 2)),
        Trial("GTA-160M, batch 32, 1,000,000 tokens, 2 bytes", (GTA_160M, 32, 1_000_000, 2)),
        Trial("an empty cache", (GTA_1B, 1, 0, 2)),
    ],
    truth=_bytes_truth,
    mistakes=(
        Mistake(
            "GTA's keys are counted twice, as in MHA's 2·n_k·d_h; GTA caches keys once, and the latent in place of "
            "values: n_k·d_h + n_c·d_l",
            _bytes_by(lambda m: 2 * m["n_k"] * m["d_h"]),
        ),
        Mistake(
            "the sum of keys and latent is doubled; the keys are n_k·d_h, and the latent n_c·d_l replaces the values",
            _bytes_by(lambda m: 2 * _elements(m) if "d_l" in m else _elements(m)),
        ),
        Mistake("the keys are counted for every output head (n_h) instead of every key head (n_k)",
                _bytes_by(lambda m: _elements(m) + (m["n_h"] - m["n_k"]) * m["d_h"])),
        Mistake("keys and values are counted for every output head (n_h): that is MHA's cache",
                _bytes_by(lambda m: 2 * m["n_h"] * m["d_h"])),
        Mistake("the keys are counted for every map (n_q) instead of every key head (n_k)",
                _bytes_by(lambda m: _elements(m) + (m["n_q"] - m["n_k"]) * m["d_h"])),
        Mistake("the latent is counted for every map (n_q) instead of every latent head (n_c)",
                _bytes_by(lambda m: m["n_k"] * m["d_h"] + m["n_q"] * m["d_l"])),
        Mistake("a latent is taken to be as wide as a head (d_h); its width is d_l",
                _bytes_by(lambda m: (m["n_k"] + m["n_c"]) * m["d_h"])),
        Mistake("only the latent is counted; the keys are cached too", _bytes_by(lambda m: m["n_c"] * m["d_l"])),
        Mistake("only the keys are counted; the latent, or the values, are cached too",
                _bytes_by(lambda m: m["n_k"] * m["d_h"])),
        Mistake(
            "keys are padded to the latent's width, n_k·d_l + n_c·d_l, as in the released code's FlashAttention path "
            "(256 elements in GTA-1B); without padding it is n_k·d_h + n_c·d_l (192)",
            _bytes_by(lambda m: (m["n_k"] + m["n_c"]) * m["d_l"]),
        ),
        Mistake("only one layer is counted; every layer has a cache",
                _bytes_by(_elements, lambda m, b, t, i: b * t * i)),
        Mistake("only one sequence is counted; each sequence of the batch has a cache",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * t * i)),
        Mistake("a number is taken to have 2 bytes, whatever itemsize says",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t * 2)),
        Mistake("a number is taken to have 4 bytes, whatever itemsize says",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t * 4)),
        Mistake("one token is counted; every token of a sequence is cached",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * i)),
        Mistake("batch and tokens are added; there are batch · tokens tokens",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * (b + t) * i)),
        Mistake("pairs of tokens are counted, tokens²; the cache grows with the tokens, the scores with their square",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t * t * i)),
        Mistake("a model without d_l is counted with its keys only; GQA and MHA cache values of the same width",
                _bytes_by(lambda m: _elements(m) if "d_l" in m else m["n_k"] * m["d_h"])),
        Mistake("the result is in KiB; it should be in bytes",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t * i / 1024)),
        Mistake("the result is in MiB; it should be in bytes",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t * i / 2**20)),
        Mistake("the result is in MB; it should be in bytes",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t * i / 1e6)),
        Mistake("the factor layers is a fixed 54, GTA-1B's; the model says how many it has",
                _bytes_by(_elements, lambda m, b, t, i: 54 * b * t * i)),
        Mistake("GTA's values are counted as well: n_k·d_h + n_c·d_l is all that it keeps",
                _bytes_by(lambda m: _elements(m) + (m["n_k"] * m["d_h"] if "d_l" in m else 0))),
        Mistake("for GQA and MHA the values are counted for every output head (n_h); they are shared like the keys",
                _bytes_by(lambda m: _elements(m) if "d_l" in m else (m["n_k"] + m["n_h"]) * m["d_h"])),
        Mistake("elements are counted instead of bytes: the factor itemsize is missing",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t)),
        Mistake("bits are counted instead of bytes: itemsize is in bytes already",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t * i * 8)),
    ),
)  # fmt: skip

EXERCISES = (EX06,)
