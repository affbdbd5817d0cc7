"""Check gradients against finite differences: along one direction at any size, or element by element at tiny sizes.

Both checks accept a function of named arrays and a random cotangent for its result. The cotangent must not be all ones:
the gradient of the sum of a softmax is identically zero, so that a wrong backward would pass.
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
    """
    moving = set(inputs if along is None else along)
    if unknown := moving - inputs.keys():
        raise ValueError(f"along={sorted(unknown)!r} are not inputs; expected some of {', '.join(inputs)}")
    direction = {}
    for name, x in inputs.items():
        size = np.sqrt(np.mean(x * x)) if x.size else 0.0
        direction[name] = rng.standard_normal(x.shape) * (size or 1.0)

    def moved(s: float) -> float:
        return float(
            np.vdot(cotangent, function({n: x + s * direction[n] if n in moving else x for n, x in inputs.items()}))
        )

    measured = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
    terms = {name: float(np.vdot(grads[name], direction[name])) for name in inputs}
    claimed = sum(term for name, term in terms.items() if name in moving)
    size = float(np.linalg.norm(list(terms.values()))) or abs(measured) or 1.0
    return abs(claimed - measured) / size


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
