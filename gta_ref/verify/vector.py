"""A case with its inputs, the true results and what is allowed, as one object."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.errors import as_size
from gta_ref.verify.cases import Case, find
from gta_ref.verify.tolerance import DullCaseError, Limits, check_sharp, limits
from gta_ref.verify.truth import draw, wide

ATTEMPTS = 8  # inputs that are tried for one seed
KEPT = 2**28  # bytes of vectors that are kept for the next call
_kept: OrderedDict[tuple[str, str, int, str | None], Vector] = OrderedDict()


@dataclass(frozen=True)
class Vector:
    """A case in one dtype, with all its numbers.

    Attributes
    ----------
    case : Case
    dtype : str
    inputs : dict of str to array
    expected : dict of str to float64 array
        The true results, in the order of computation.
    limits : Limits
        The largest allowed error of each array, and the other criteria.
    required : tuple of str
        Names of the arrays that an implementation must return.
    seed : int
        0 for the standard inputs.
    products : {"tf32"} or None
        How precise the products of an implementation may be; None is the precision of the dtype.
    """

    case: Case
    dtype: str
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    limits: Limits
    required: tuple[str, ...]
    seed: int = 0
    products: str | None = None

    @property
    def budgets(self) -> dict[str, float]:
        """The largest allowed error of each array."""
        return self.limits.budgets

    @property
    def settings(self) -> dict[str, Any]:
        """What an implementation is told about the case: its settings, level and dtype, never its name. A new copy."""
        return {"level": self.case.level, "dtype": self.dtype, **deepcopy(dict(self.case.settings))}

    @property
    def gradients(self) -> tuple[str, ...]:
        """Names of the arrays that the backward computes, including its inner stages."""
        return tuple(name for name in self.expected if name.startswith("d_"))

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs and results."""
        return sum(x.nbytes for x in (*self.inputs.values(), *self.expected.values()))


def make(name: str, dtype: str, seed: int = 0, products: str | None = None) -> Vector:
    """Compute the numbers of a case.

    Parameters
    ----------
    name, dtype : str
    seed : int
        0, the default, stands for the standard inputs. Every other seed draws fresh inputs of the same kind; if they
        are not fit to detect a wrong result, others are drawn, up to 8 times.
    products : {"tf32"}, optional
        See :func:`gta_ref.verify.tolerance.limits`.

    Returns
    -------
    vector : Vector
        Its arrays cannot be written to. Small vectors are kept, so that a second call returns the same object.

    Raises
    ------
    DullCaseError
        If a senseless result would nearly pass.
    ValueError
        If the case is unknown, or an argument is none of those above.
    """
    key = (name, dtype, as_size("seed", seed, at_least=0), products)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    vector = of_case(find(name), *key[1:])
    if vector.nbytes <= KEPT // 2:
        _kept[key] = vector
        while sum(one.nbytes for one in _kept.values()) > KEPT:
            _kept.popitem(last=False)
    return vector


def of_case(case: Case, dtype: str, seed: int = 0, products: str | None = None) -> Vector:
    """Compute the numbers of a case that need not be in a suite; see :func:`make`."""
    for attempt in range(ATTEMPTS if seed else 1):
        problem = draw(case, dtype, seed, attempt)
        expected = {key: np.asarray(x, np.float64) for key, x in problem.compute(wide(problem.inputs)).items()}
        allowed = limits(problem, expected, products)
        try:
            check_sharp(problem.required, expected, allowed.budgets)
            break
        except DullCaseError as error:
            reason = error
    else:
        with_seed = f" with seed={seed}" if seed else ""
        raise DullCaseError(f"case {case.name} in {products or dtype}{with_seed}: {reason}")
    for x in (*problem.inputs.values(), *expected.values()):
        x.flags.writeable = False
    return Vector(problem.case, dtype, problem.inputs, expected, allowed, problem.required, seed, products)
