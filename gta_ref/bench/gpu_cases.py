"""The shapes that ``gta-ref bench gpu`` times, and the errors that it allows."""

from __future__ import annotations

from typing import NamedTuple

from gta_ref.ops.arrays import as_dtype

N_Q, D_K, D_V = 5, 64, 128  # GTA-1B; one key head, one latent head
LENGTHS = (1024, 2048, 4096, 8192, 16384)
DECODES = ((1, 131072), (32, 8192))
# norm of the error over norm of the result: float32 sums some thousand terms; bfloat16 rounds weights and results,
# each by up to 2⁻⁸
ALLOWED = {"float32": 1e-5, "bfloat16": 2.0**-7}


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
    def operations(self) -> int:
        """Useful operations: two per multiply–add, for causal pairs of a query and a key only.

        The forward has two products, and the backward five (S, dP, dV, dQ, dK). A product that a kernel computes twice
        is counted once.
        """
        pairs = self.length if self.kind == "decode" else self.length * (self.length + 1) // 2
        forward = 2 * self.batch * N_Q * pairs * (D_K + D_V)
        backward = 2 * self.batch * N_Q * pairs * (3 * D_K + 2 * D_V)
        return forward + backward if self.kind == "forward+backward" else forward

    @property
    def cache_bytes(self) -> int:
        """Bytes of K and C for all tokens, which a decoding step reads once."""
        return self.batch * self.length * (D_K + D_V) * as_dtype(self.dtype).itemsize


def cases(quick: bool = False) -> list[Case]:
    """The shapes to time; with `quick`, only the smallest of each kind."""
    lengths, decodes = (LENGTHS[:1], DECODES[-1:]) if quick else (LENGTHS, DECODES)
    found = [Case("forward", dtype, 1, n) for dtype in ALLOWED for n in lengths]
    found += [Case("forward+backward", "float32", 1, n) for n in lengths]
    return found + [Case("decode", dtype, batch, n) for dtype in ALLOWED for batch, n in decodes]
