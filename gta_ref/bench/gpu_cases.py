"""The shapes that ``gta-ref bench gpu`` times, most informative first, and the errors that it allows."""

from __future__ import annotations

from typing import NamedTuple

from gta_ref.ops.arrays import as_dtype

N_Q, D_K, D_V = 5, 64, 128  # GTA-1B; one key head, one latent head
# most informative first, because a run may end early: neither the launch nor the clock decides at these lengths
LENGTHS = (4096, 16384, 1024, 8192, 2048)
DECODES = ((32, 8192), (1, 131072))
# norm of the error over norm of the result: float32 sums some thousand terms; bfloat16 rounds weights and results,
# each by up to 2⁻⁸
ALLOWED = {"float32": 1e-5, "bfloat16": 2.0**-7}
ALLOWED_LSE = 1e-5  # lse is computed and returned in float32, from inputs of any dtype


class Case(NamedTuple):
    """One case: `kind` is forward, forward+backward or decode."""

    kind: str
    dtype: str
    batch: int
    length: int

    @property
    def name(self) -> str:
        """The name of the case in the table."""
        return f"{self.kind}, {self.dtype}, B {self.batch}, N {self.length}"

    @property
    def queries(self) -> int:
        """Number of queries per sequence, N_q."""
        return 1 if self.kind == "decode" else self.length

    @property
    def backward(self) -> bool:
        """Whether gradients are computed, too."""
        return self.kind == "forward+backward"

    @property
    def operations(self) -> int:
        """Useful operations: two per multiply–add, for causal pairs of a query and a key only.

        The forward has two products, and the backward five (S, dP, dV, dQ, dK). A product that a kernel computes twice
        is counted once.
        """
        pairs = self.length if self.kind == "decode" else self.length * (self.length + 1) // 2
        forward = 2 * self.batch * N_Q * pairs * (D_K + D_V)
        backward = 2 * self.batch * N_Q * pairs * (3 * D_K + 2 * D_V)
        return forward + backward if self.backward else forward

    @property
    def cache_bytes(self) -> int:
        """Bytes of K and C for all tokens, which a decoding step reads once."""
        return self.batch * self.length * (D_K + D_V) * as_dtype(self.dtype).itemsize


def cases(quick: bool = False) -> list[Case]:
    """The shapes to time, most informative first; with `quick`, only the smallest of each kind.

    The first length or batch of every kind and dtype comes before the second of any.
    """
    lengths, decodes = ((min(LENGTHS),), DECODES[:1]) if quick else (LENGTHS, DECODES)
    found = []
    for turn, length in enumerate(lengths):
        decode = decodes[turn : turn + 1]
        found.append(Case("forward", "bfloat16", 1, length))
        found += [Case("decode", "bfloat16", *sizes) for sizes in decode]
        found.append(Case("forward+backward", "bfloat16", 1, length))
        found.append(Case("forward+backward", "float32", 1, length))
        found.append(Case("forward", "float32", 1, length))
        found += [Case("decode", "float32", *sizes) for sizes in decode]
    return found


def allowed(case: Case, name: str) -> float:
    """The largest relative error of the result `name` that rounding explains."""
    if name == "lse":
        return ALLOWED_LSE
    # in 16 bits, a gradient is computed from z, which has been rounded already
    return (2 if name in ("dq", "dk", "dv") and case.dtype == "bfloat16" else 1) * ALLOWED[case.dtype]
