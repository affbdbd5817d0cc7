"""Check gradients against finite differences: along random directions at any size, or element by element at tiny sizes.

All checks accept a function of named arrays and a random cotangent for its result. The cotangent must not be all ones:
the gradient of the sum of a softmax is identically zero, so that a wrong backward would pass.

What a check cannot see is its resolution. Let n elements move at once, let g be the root mean square of their gradients
(each multiplied by how far its element moves), and let a check pass if its error is at most b. Then one wrong element
passes if its error is less than about b √n g: in GTA-1B's layer, with n = 6 million and b = 10⁻⁷, less than 2·10⁻⁴ g.
Elements whose gradients are so much smaller than the others' are thus not checked at all. :func:`subset_error` has a
resolution that is better by the square root of the number of subsets, and :func:`elementwise_error` sees everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from gta_ref.ops import Array

Function = Callable[[Mapping[str, Array]], Array]


def directional_error(
    function: Function,
    inputs: Mapping[str, Array],
    cotangent: Array,
    grads: Mapping[str, Array],
    rng: np.random.Generator,
    step: float = 1e-3,
    along: Collection[str] | None = None,
) -> float:
    """Relative error of the gradient along one random direction, through all inputs at once or some of them.

    Compares Σ grad ⊙ u with the derivative of f(s) = Σ cotangent ⊙ function(inputs + s·u) at s = 0. The derivative is
    measured by central differences with steps h and 2h, combined so that their error of order h² cancels:

        (8 (f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h

    Parameters
    ----------
    function : callable
        From a mapping of named arrays to one array.
    inputs : dict of str to float64 array
    cotangent : float64 array
        Random, with the shape of the function's result.
    grads : dict of str to array
        The gradients that the backward has computed, under the names of the inputs.
    rng : numpy.random.Generator
    step : float
        h, relative to the root mean square of each input.
    along : names, optional
        The inputs that are moved; default: all. The others keep their values, but their terms count in the size to
        which the error is relative: rounding in f is relative to f, and the gradient of one input may be 0.

    Returns
    -------
    error : float
        |claimed − measured| / √(Σ_names (Σ grad ⊙ u)²), where the numerator is a sum over the moved inputs and the
        denominator over all inputs. The error is thus relative to the typical size of the terms, so that a right
        gradient does not look wrong if its terms happen to cancel. If the claimed gradient of every input is 0, the
        error is relative to the measured derivative.

    Raises
    ------
    ValueError
        If a name in `along` is not that of an input.

    Notes
    -----
    One wrong element may also be missed by chance, because the direction is normal: with probability 0.8 t if it would
    be seen at t times its typical distance. :func:`subset_error` has no such chance.
    """
    moving = set(inputs if along is None else along)
    if unknown := moving - inputs.keys():
        raise ValueError(f"along={sorted(unknown)!r} are not inputs; expected some of {', '.join(inputs)}")
    direction = {name: rng.standard_normal(x.shape) * _size(x) for name, x in inputs.items()}

    def moved(s: float) -> float:
        return float(
            np.vdot(cotangent, function({n: x + s * direction[n] if n in moving else x for n, x in inputs.items()}))
        )

    measured = _derivative(moved, step)
    terms = {name: float(np.vdot(grads[name], direction[name])) for name in inputs}
    claimed = sum(term for name, term in terms.items() if name in moving)
    size = float(np.linalg.norm(list(terms.values()))) or abs(measured) or 1.0
    return abs(claimed - measured) / size


def subset_error(
    function: Function,
    inputs: Mapping[str, Array],
    cotangent: Array,
    grads: Mapping[str, Array],
    rng: np.random.Generator,
    subsets: int,
    step: float = 1e-3,
) -> float:
    """Largest error of the gradient along random directions through random subsets, which together hold every element.

    Each element of every input is in exactly one of the subsets. It is moved by its input's root mean square times a
    random number whose size is between 0.5 and 1.5, so that no element hardly moves by chance.

    Parameters
    ----------
    function, inputs, cotangent, grads, rng, step
        As for :func:`directional_error`.
    subsets : int
        Number of subsets, S. Each takes four runs of the function.

    Returns
    -------
    error : float
        The largest of |claimed − measured| / √(Σ (grad · u)²), where u is the direction of a subset and the sum is over
        its elements; relative to the measured derivative if all claims of a subset are 0.

    Notes
    -----
    Let one of n elements be wrong by δ, and let g be the root mean square of all gradients, each multiplied by its
    input's root mean square, as δ is. Then the error is at least about 0.48 δ / (√(n/S) g), whatever the directions
    are: a check with the bound b finds every single wrong element with δ > 2.1 b √(n/S) g. Several wrong elements of
    one subset are missed only if their errors happen to cancel.
    """
    names = list(inputs)
    group = {name: rng.integers(0, subsets, inputs[name].shape) for name in names}
    direction = {}
    for name, x in inputs.items():
        distance = rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1.0, 1.0], x.shape)
        direction[name] = distance * _size(x)
    worst = 0.0
    for subset in range(subsets):
        u = {name: np.where(group[name] == subset, direction[name], 0.0) for name in names}

        def moved(s: float, u: dict[str, Array] = u) -> float:
            return float(np.vdot(cotangent, function({name: x + s * u[name] for name, x in inputs.items()})))

        measured = _derivative(moved, step)
        terms = [grads[name] * u[name] for name in names]
        claimed = sum(float(term.sum()) for term in terms)
        size = float(np.linalg.norm([np.linalg.norm(term) for term in terms])) or abs(measured) or 1.0
        worst = max(worst, abs(claimed - measured) / size)
    return worst


def elementwise_error(
    function: Function,
    inputs: Mapping[str, Array],
    cotangent: Array,
    grads: Mapping[str, Array],
    step: float = 1e-3,
) -> dict[str, float]:
    """Largest error of each gradient, relative to the largest element of that gradient.

    Every element of every input is moved by ±h and ±2h. That takes four runs per element, so inputs must be tiny.

    Parameters
    ----------
    function, inputs, cotangent, grads, step
        As for :func:`directional_error`, except that step is absolute.

    Returns
    -------
    errors : dict of str to float
    """
    errors = {}
    for name, x in inputs.items():
        measured = np.zeros_like(x)
        for index in np.ndindex(x.shape):
            value = {}
            for multiple in (-2, -1, 1, 2):
                moved = x.copy()
                moved[index] += multiple * step
                value[multiple] = float(np.vdot(cotangent, function({**inputs, name: moved})))
            measured[index] = (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * step)
        largest = np.abs(measured).max(initial=0.0)
        errors[name] = float(np.abs(grads[name] - measured).max(initial=0.0) / (largest or 1.0))
    return errors


def _size(x: Array) -> float:
    """The root mean square of an input, by which its elements are moved; 1 for zeros."""
    return float(np.sqrt(np.mean(x * x))) or 1.0 if x.size else 1.0


def _derivative(moved: Callable[[float], float], step: float) -> float:
    """The derivative at 0 by central differences with steps h and 2h, whose errors of order h² cancel."""
    return (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
