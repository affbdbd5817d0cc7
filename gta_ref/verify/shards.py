"""Cases for context parallelism: whether a ring attention is right on every rank, and if not, where it is wrong.

Every process makes the same cases from their names, without messages. It computes its own shard and checks the result:

    for case in shards.cases(ranks):
        x = case.inputs(rank)
        print(case.check(rank, my_ring(x["q"], x["k"], x["v"], x["d_z"])))

The whole sequences and what is allowed are those of :mod:`gta_ref.verify.vector`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gta_ref.core import Mask
from gta_ref.distributed.shards import LAYOUTS, Shards
from gta_ref.errors import as_int, as_size, check_choice, check_type
from gta_ref.verify import rings
from gta_ref.verify.cases import DTYPES, Case
from gta_ref.verify.cases.attention import attention
from gta_ref.verify.cases.case import WIDE
from gta_ref.verify.compare import Finding, compare
from gta_ref.verify.known import close, tolerance
from gta_ref.verify.truth import mask_of
from gta_ref.verify.vector import Vector, of_case

PART = 6  # tokens of each of the 2 R parts of a sequence
NAMES = ("z", "lse", "d_q", "d_k", "d_v")
CUT = ("q", "k", "v", "d_z", "d_lse")


class Result(NamedTuple):
    """What was found on one rank in one case; ``print`` shows it in a line.

    Attributes
    ----------
    case : str
    rank : int
    passed : bool
    stage : str or None
        The first array that is wrong.
    causes : tuple of str
        The known mistakes that give these numbers on this rank.
    text : str
    """

    case: str
    rank: int
    passed: bool
    stage: str | None
    causes: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        """The line of a report."""
        cause = f"; likely cause: {' or: '.join(self.causes)}" if self.causes else ""
        return f"{'pass' if self.passed else 'FAIL'}  {self.case}  rank {self.rank}: {self.text}{cause}"


@dataclass(frozen=True)
class ShardCase:
    """One case over several ranks.

    Attributes
    ----------
    name : str
    vector : Vector
        The whole sequences.
    shards : Shards
    """

    name: str
    vector: Vector
    shards: Shards

    @property
    def length(self) -> int:
        """Number of tokens of the whole sequences."""
        return self.shards.length

    @property
    def layout(self) -> str:
        """How the tokens are shared out, "contiguous" or "zigzag"."""
        return self.shards.layout

    @property
    def mask(self) -> Mask:
        """The mask of the whole sequences."""
        return mask_of(self.vector.settings)

    def inputs(self, rank: int) -> dict[str, np.ndarray]:
        """What a rank is given.

        Returns
        -------
        found : dict
            q, k, v, d_z and, in some cases, d_lse (B, heads, N/R, …) of the rank's tokens; tokens (N/R,), the numbers
            of these; and the bounds q_start, k_start and k_stop (B,) of the whole sequences.
        """
        rank, given = self._rank(rank), self.vector.inputs
        found = {name: self.shards.cut(x, rank, 2) if name in CUT else x.copy() for name, x in given.items()}
        return found | {"tokens": self.shards.tokens(rank)}

    def check(self, rank: int, given: Mapping[str, Any]) -> Result:
        """Compare what a rank has computed.

        Parameters
        ----------
        rank : int
        given : mapping of str to array
            z, d_q, d_k, d_v and, if there is one, lse, of the rank's tokens. Without any gradient the forward alone is
            judged.
        """
        rank = self._rank(rank)
        check_type("given", given, Mapping, "named arrays, such as {'z': z}")
        for name in given:
            check_choice("given", name, NAMES)
        given = {name: np.asarray(x) for name, x in given.items()}
        backward = any(name.startswith("d_") for name in given)
        wanted = [name for name in self.vector.required if backward or not name.startswith("d_")]
        own = self._of(rank)
        findings = compare(own, given, wanted)
        bad = next((one for one in findings if one.kind != "ok"), None)
        if bad is None:
            worst = max((one.ratio for one in findings), default=0.0)
            text = f"{worst:.2f} of its budget" + ("" if backward else "; gradients not checked")
            return Result(self.name, rank, True, None, (), text)
        causes = () if bad.kind in ("missing", "shape", "dtype") else self._causes(rank, own, given, findings)
        return Result(self.name, rank, False, bad.name, causes, bad.text + self._place(rank, bad))

    def _rank(self, rank: int) -> int:
        return as_int("rank", rank, at_least=0, at_most=self.shards.ranks - 1)

    def _of(self, rank: int) -> Vector:
        """The vector of one rank; the criteria for whole arrays do not hold for a part."""
        expected = {name: self.shards.cut(x, rank, 2) for name, x in self.vector.expected.items() if name in NAMES}
        return replace(self.vector, expected=expected, limits=replace(self.vector.limits, rms={}, slopes={}))

    def _place(self, rank: int, bad: Finding) -> str:
        if bad.index is None:
            return ""
        token = int(self.shards.tokens(rank)[bad.index[2]])
        return f"; that is token {token} of {self.length}"

    def _causes(
        self, rank: int, own: Vector, given: Mapping[str, np.ndarray], findings: list[Finding]
    ) -> tuple[str, ...]:
        """The wrong rings that agree with every array that was given, within rounding."""
        names = [one.name for one in findings if one.name in given]

        def agrees(results: Mapping[str, np.ndarray], name: str) -> bool:
            return bool(close(given[name], results[name], tolerance(name, results[name], own)).all())

        wrong = {cause: results[rank] for cause, results in self._wrong.items()}
        return tuple(cause for cause, results in wrong.items() if all(agrees(results, name) for name in names))

    @cached_property
    def _wrong(self) -> dict[str, list[dict[str, np.ndarray]]]:
        """What every wrong ring computes, on every rank."""
        return {cause: self.simulated(rings.wrong(cause)) for cause in rings.WRONG}

    def simulated(self, ring: type[rings.SimulatedRing] = rings.SimulatedRing) -> list[dict[str, np.ndarray]]:
        """What a ring of one process computes for every rank, in float64."""
        settings = self.vector.settings
        scale = settings.get("scale") or settings["sizes"]["d_k"] ** -0.5
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # a wrong ring may compute with NaN
            return ring(self.vector.inputs, self.shards, self.mask, scale).run()


def cases(ranks: int, dtype: str = "float32", layouts: tuple[str, ...] = LAYOUTS) -> list[ShardCase]:
    """The cases for a number of ranks, in both layouts.

    Parameters
    ----------
    ranks : int
        R; the sequences have 12 R tokens.
    dtype : {"float64", "float32", "bfloat16", "float16"}
    layouts : tuple of str
        Some of "contiguous" and "zigzag".
    """
    ranks = as_size("ranks", ranks)
    check_choice("dtype", dtype, DTYPES)
    for layout in layouts:
        check_choice("layouts", layout, LAYOUTS)
    vectors = [of_case(case, dtype) for case in _whole(ranks) if dtype in case.dtypes]
    length = 2 * PART * ranks
    return [
        ShardCase(f"{vector.case.name}, {layout}", vector, Shards(length, ranks, layout))
        for vector in vectors
        for layout in layouts
    ]


def _whole(ranks: int) -> list[Case]:
    """The whole sequences; each case is one in which another kind of mistake shows."""
    n = 2 * PART * ranks

    def case(name: str, heads: tuple[int, int, int], widths: tuple[int, int] = (16, 32), **settings: Any) -> Case:
        return attention(f"ring-{ranks}/{name}", (2, *heads, n, n, *widths), **settings)

    return [
        case("causal", (4, 1, 1)),
        case("heads-differ", (6, 2, 3), (8, 24)),
        case("not-causal", (4, 1, 1), mask={"causal": False}),
        # padding of more than a shard, so that no query sees the keys of rank 0 in a contiguous layout
        case("left-padded", (4, 1, 1), mask={"k_start": [0, n // ranks + 2]}, poison=True),
        case("right-padded", (4, 2, 1), (16, 16), mask={"k_stop": [n, n // 2 - 1]}, poison=True),
        case("not-causal-padded", (4, 1, 1), mask={"causal": False, "k_start": [3, 0], "k_stop": [n, n - PART - 1]}),
        # only the last part sees keys, so that in either layout all ranks but one see nothing
        case("ranks-that-see-nothing", (4, 1, 1), mask={"q_start": PART - n}),
        case("empty-sequence", (4, 1, 1), mask={"k_stop": [0, n]}),
        case("through-lse", (4, 2, 1), (16, 16), dlse=True),
        # exp(lse) is no number in float32
        case("huge-logits", (4, 1, 1), (16, 24), logits=100.0, dtypes=WIDE),
        case("the-maximum-in-the-last-shard", (4, 1, 1), growth=8.0, dtypes=WIDE),
    ]
