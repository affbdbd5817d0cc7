"""All mutants."""

from __future__ import annotations

from gta_ref.verify.mutants import attention, attention_backward, gta, gta_decode, headwise, lm, mla, tiles
from gta_ref.verify.mutants.mutant import Mutant

MUTANTS: list[Mutant] = [
    *attention.MUTANTS,
    *attention_backward.MUTANTS,
    *tiles.MUTANTS,
    *gta.MUTANTS,
    *gta_decode.MUTANTS,
    *headwise.MUTANTS,
    *mla.MUTANTS,
    *lm.MUTANTS,
]
