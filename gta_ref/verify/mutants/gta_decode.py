"""Wrong implementations of decoding with GTA."""

from __future__ import annotations

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, wrong
from gta_ref.verify.stepwise.gta import GtaSteps

base = GtaSteps  # its steps are called as base.step(self, ...)


def _write_late(self: GtaSteps, ck: np.ndarray, cc: np.ndarray, k: np.ndarray, c: np.ndarray, start: int) -> None:
    room = min(k.shape[2], ck.shape[2] - start - 1)
    base.write(self, ck, cc, k[:, :, :room], c[:, :, :room], start + 1)


def _padded_keys(self: GtaSteps, ck: np.ndarray, cc: np.ndarray) -> dict[str, np.ndarray]:
    wider = max(1, cc.shape[3] - ck.shape[3])
    return {"cache_k": np.pad(ck, ((0, 0), (0, 0), (0, 0), (0, wider))), "cache_c": cc}


def _turned_as_a_key(self: GtaSteps, c: np.ndarray) -> np.ndarray:
    half = c.shape[-1] // 2
    return self.rotate(c, np.repeat(self.angles(), half, axis=-1)[..., :half])


def _no_padding(self: GtaSteps, whole: dict[str, np.ndarray], stop: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(whole["k_start"]), np.full_like(whole["k_start"], stop)


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
    # --- decoding

    wrong("decode", "cache_k", "cache written one slot late",
        write=_write_late),
    wrong("decode", "cache_k", "keys padded to the latent's width in the cache",
        held=_padded_keys),
    wrong("decode", "cache_k", "keys cached before RoPE",
        cached_key=lambda self, k: k),
    wrong("decode", "cache_k", "positions start at 0 in every step",
        step_positions=lambda self, whole, start, stop: whole["positions"][:, : stop - start]),
    wrong("decode", "cache_k", "RoPE applied twice to cached keys",
        cached_key=lambda self, k: self.rotate_k(self.rotate_k(k))),
    wrong("decode", "cache_c", "RoPE applied to the cached latent",
        latent=_turned_as_a_key),
    wrong("decode", "out", "left padding ignored in decoding",
        step_bounds=_no_padding),
    wrong("decode", "out", "a new token does not see itself",
        step_bounds=lambda self, whole, stop: (whole["k_start"], np.full_like(whole["k_start"], max(stop - 1, 0)))),
    wrong("decode", "out", "queries of a chunk see the whole chunk",
        causal=lambda self: not self.settings.get("chunks")),
]
# fmt: on
