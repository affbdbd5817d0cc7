"""Wrong implementations of decoding with GTA."""

from __future__ import annotations

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, wrong
from gta_ref.verify.stepwise.attention import Arrays
from gta_ref.verify.stepwise.gta import GtaSteps
from gta_ref.verify.stepwise.layer import LayerSteps

base = GtaSteps  # its steps are called as base.step(self, ...)


def _write_late(self: LayerSteps, cache: Arrays, new: Arrays, start: int) -> None:
    room = next(iter(cache.values())).shape[2] - start - 1
    base.write(self, cache, {name: x[:, :, :room] for name, x in new.items()}, start + 1)


def _write_last(self: LayerSteps, cache: Arrays, new: Arrays, start: int) -> None:
    last = next(iter(new.values())).shape[2] - 1
    base.write(self, cache, {name: x[:, :, last:] for name, x in new.items()}, start + last)


def _write_without_latent(self: LayerSteps, cache: Arrays, new: Arrays, start: int) -> None:
    base.write(self, cache, {name: x for name, x in new.items() if name != "c" or "k" not in new}, start)


def _turned_from_zero(self: GtaSteps, q: np.ndarray) -> np.ndarray:
    positions = np.arange(q.shape[2])
    return self.rotate(q, np.broadcast_to(positions[:, None] * self.frequencies(), self.angles().shape))


def _padded_keys(self: GtaSteps, cache: Arrays) -> Arrays:
    if not {"k", "c"} <= cache.keys():  # another mechanism
        return base.cached(self, cache)
    k, c = cache["k"], cache["c"]
    wider = max(1, c.shape[3] - k.shape[3])
    return base.cached(self, {**cache, "k": np.pad(k, ((0, 0), (0, 0), (0, 0), (0, wider)))})


def _turned_as_a_key(self: GtaSteps, c: np.ndarray) -> np.ndarray:
    half = c.shape[-1] // 2
    return self.rotate(c, np.repeat(self.angles(), half, axis=-1)[..., :half])


def _to_the_end(self: GtaSteps, whole: Arrays, stop: int) -> tuple[np.ndarray, np.ndarray]:
    return whole["k_start"], np.full_like(whole["k_start"], whole["positions"].shape[1])


def _no_padding(self: GtaSteps, whole: dict[str, np.ndarray], stop: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(whole["k_start"]), np.full_like(whole["k_start"], stop)


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
    # --- decoding

    wrong("decode", "cache_k", "cache written one slot late",
        write=_write_late),
    wrong("decode", "cache_k", "keys padded to the latent's width in the cache",
        cached=_padded_keys),
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
        causal=lambda self: base.causal(self) and not self.settings.get("chunks")),
    wrong("decode", "out", "slots of the cache that are not yet written are attended to",
        read=lambda self, cache, stop: cache,
        step_bounds=_to_the_end,
        causal=lambda self: base.causal(self) and not self.settings.get("chunks")),
    wrong("decode", "cache_k", "every step writes its tokens at the start of the cache",
        write=lambda self, cache, new, start: base.write(self, cache, new, 0)),
    wrong("decode", "cache_c", "keys cached, the latent not",
        write=_write_without_latent),
    wrong("decode", "cache_k", "only the last token of a chunk cached",
        write=_write_last),
    wrong("decode", "out", "queries turned as if every step started at position 0",
        rotate_q=_turned_from_zero),
]
# fmt: on
