"""The cases: what each one computes.

A case has a name, a seed, tags and one of three levels: "attention" is the attention core alone (q, k, v, mask →
z, lse: the part that kernel authors write), "layer" is one attention layer of any mechanism, and "lm" is a tiny
language model. A case describes in plain JSON what is to be computed; :mod:`gta_ref.verify.truth` computes it.
:mod:`gta_ref.verify.abilities` says which abilities an implementation needs for it.
"""

from __future__ import annotations

from gta_ref.verify.cases.case import DTYPE, DTYPES, LEVELS, Case, seed_of
from gta_ref.verify.cases.table import CASES, SUITES, find, suite

__all__ = ["CASES", "DTYPE", "DTYPES", "LEVELS", "SUITES", "Case", "find", "seed_of", "suite"]
