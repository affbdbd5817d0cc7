"""What ``gta-ref bench gpu`` times: the shapes, and how large an error is allowed."""

from __future__ import annotations

from typing import NamedTuple

from gta_ref.ops.arrays import as_dtype

N_Q, D_K, D_V = 5, 64, 128  # GTA-1B; one key head, one latent head
LENGTHS = (1024, 2048, 4096, 8192, 16384)
DECODES = ((1, 131072), (32, 8192))
# relative error of a result's norm: float32 sums some thousand terms; bfloat16 rounds weights and results by 2⁻⁸ each
ALLOWED = {"float32": 1e-5, "bfloat16": 2.0**-7}


class Case(NamedTuple):
    """What is timed: kind is forward, forward+backward or decode."""

    kind: str
    dtype: str
    batch: int
    length: int

    @property
    def name(self) -> str:
        """As the table shows it."""
        return f"{self.kind}, {self.dtype}, B {self.batch}, N {self.length}"

    @property
    def queries(self) -> int:
        """N_q."""
        return 1 if self.kind == "decode" else self.length

    @property
    def operations(self) -> int:
        """Useful operations, two to a multiply–add: causal pairs of a query and a key.

        The backward has five products (S, dP, dV, dQ, dK) for the forward's two; what a kernel computes twice is
        not counted twice.
        """
        pairs = self.length if self.kind == "decode" else self.length * (self.length + 1) // 2
        forward = 2 * self.batch * N_Q * pairs * (D_K + D_V)
        backward = 2 * self.batch * N_Q * pairs * (3 * D_K + 2 * D_V)
        return forward + backward if self.kind == "forward+backward" else forward

    @property
    def cache_bytes(self) -> int:
        """K and C of all tokens, read once."""
        return self.batch * self.length * (D_K + D_V) * as_dtype(self.dtype).itemsize


def cases(quick: bool = False) -> list[Case]:
    """The shapes of the issue; the smallest of each kind with `quick`."""
    lengths, decodes = (LENGTHS[:1], DECODES[-1:]) if quick else (LENGTHS, DECODES)
    found = [Case("forward", dtype, 1, n) for dtype in ALLOWED for n in lengths]
    found += [Case("forward+backward", "float32", 1, n) for n in lengths]
    return found + [Case("decode", dtype, batch, n) for dtype in ALLOWED for batch, n in decodes]
