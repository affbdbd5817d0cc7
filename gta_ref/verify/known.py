"""What the known wrong implementations compute in a case, kept in little memory.

A mutant's arrays are computed once for a case and then reduced to a sketch: whether each array differs from the truth,
and its numbers in a few places. A sketch refutes nearly every cause that is not the right one; what it does not refute
is computed again and compared in full.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gta_ref.verify.compare import as_compared
from gta_ref.verify.mutants.mutant import Mutant
from gta_ref.verify.stepwise.dispatch import Stepwise
from gta_ref.verify.terms import largest
from gta_ref.verify.truth import wide
from gta_ref.verify.vector import Vector

SLACK = 4.0  # allowed difference in budgets, because a wrong implementation rounds in its own way
PLACES = 24  # numbers of a sketch where the mutant's array differs from the truth
NOISE_PLACES = 1000  # the same where the difference is only one of rounding
MOST_BYTES = 200 * 2**20  # of all sketches
# Replaced steps that leave out the backward. A mistake of the forward is recognised or refuted by forward arrays alone.
NO_BACKWARD: dict[str, Callable[..., Any]] = dict.fromkeys(
    ("attend_backward", "layer_backward", "model_backward"), lambda self, *arrays: {}
)


@dataclass(frozen=True)
class Sketch:
    """What remains of one array of a mutant.

    Attributes
    ----------
    shape : tuple of int
    changed : bool
        Whether it differs from the truth.
    places : int32 array
        Flat indices of some elements that differ.
    values : float64 array
        The mutant's numbers there.
    tolerance : float
        How far another implementation with the same mistake may be off.
    """

    shape: tuple[int, ...]
    changed: bool
    places: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    tolerance: float = 0.0


UNCHANGED = Sketch((), False)


class Sketches:
    """The sketches of all mutants and cases, of which the oldest are forgotten when they take too much memory."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes, self.nbytes = most_bytes, 0
        self._right: tuple[bytes, Mapping[str, np.ndarray]] = (b"", {})  # the arrays of the last case
        self._held: OrderedDict[tuple[str, bytes], Mapping[str, Sketch]] = OrderedDict()

    def __len__(self) -> int:
        """Number of mutants and cases whose sketches are held."""
        return len(self._held)

    def of(self, mutant: Mutant, vector: Vector, key: bytes) -> Mapping[str, Sketch]:
        """The sketch of every array; empty if the mutant cannot run the case. `key` is that of the vector."""
        held = self._held.get((mutant.name, key))
        if held is None:
            if self._right[0] != key:
                self._right = (key, run(None, vector))
            right = self._right[1]
            forward_only = not any(stage.startswith("d_") for stage in mutant.stage)
            numbers = run(mutant, vector, forward_only)
            held = {name: sketch(name, x, vector, right.get(name), mutant.noise) for name, x in numbers.items()}
            self._held[mutant.name, key] = held
            self.nbytes += _size(held)
            while self.nbytes > self.most_bytes and len(self._held) > 1:
                self.nbytes -= _size(self._held.popitem(last=False)[1])
        return held


def _size(sketches: Mapping[str, Sketch]) -> int:
    """Bytes of the sketches of one mutant and case, roughly."""
    return 400 + sum(100 + (400 + one.places.nbytes + one.values.nbytes) * one.changed for one in sketches.values())


def key_of(vector: Vector) -> bytes:
    """A digest of all that a mutant's numbers depend on."""
    found = hashlib.blake2b(repr((vector.case.name, vector.dtype, vector.settings)).encode(), digest_size=16)
    for name, x in vector.inputs.items():
        found.update(f"{name} {x.dtype} {x.shape}".encode())
        found.update(np.ascontiguousarray(x).tobytes())
    return found.digest()


def run(mutant: Mutant | None, vector: Vector, forward_only: bool = False) -> dict[str, np.ndarray]:
    """A mutant's arrays for the inputs of a vector, or the right ones; none if it cannot run the case."""
    steps = {**(mutant.steps if mutant is not None else {}), **(NO_BACKWARD if forward_only else {})}
    try:
        found = Stepwise(steps)(wide(vector.inputs), vector.settings)
    except (ValueError, KeyError, IndexError, NotImplementedError):
        return {}
    return {name: as_compared(vector, name, x) for name, x in found.items() if name in vector.expected}


def sketch(name: str, x: np.ndarray, vector: Vector, right: np.ndarray | None, noise: bool = False) -> Sketch:
    """Reduce an array of a mutant to its sketch; `right` is the same array without its mistake."""
    truth = vector.expected[name]
    if right is not None and np.array_equal(x, right):  # most arrays of most mutants
        return UNCHANGED
    if x.shape != truth.shape:
        return Sketch(x.shape, True)
    allowed = tolerance(name, x, vector)
    differs = np.flatnonzero(~close(x, truth, allowed))
    if not differs.size:
        return UNCHANGED
    count = NOISE_PLACES if noise else PLACES
    places = differs if differs.size <= count else differs[np.linspace(0, differs.size - 1, count).astype(int)]
    return Sketch(x.shape, True, places.astype(np.int32), x.reshape(-1)[places], allowed)


def tolerance(name: str, x: np.ndarray, vector: Vector) -> float:
    """How far another program may be off from a mutant's array; more if its numbers are larger than the truth."""
    size, right = largest(x), largest(vector.expected[name])
    return SLACK * vector.budgets[name] * (max(1.0, size / right) if right else 1.0)


def close(a: np.ndarray, b: np.ndarray, allowed: float) -> np.ndarray:
    """Where two arrays agree: both NaN, both the same infinity, or not further apart than is allowed."""
    with np.errstate(invalid="ignore"):
        agrees: np.ndarray = (np.abs(a - b) <= allowed) | (a == b) | (np.isnan(a) & np.isnan(b))
    return agrees
