"""All mutants."""

from __future__ import annotations

from gta_ref.verify.mutants import attention, gta, gta_decode
from gta_ref.verify.mutants.mutant import Mutant

MUTANTS: list[Mutant] = [*attention.MUTANTS, *gta.MUTANTS, *gta_decode.MUTANTS]
