"""Gradients against finite differences: along one direction at any size, element by element at tiny ones.

Both take a function of named arrays and a random cotangent for its result, never ones: softmax's gradient of
a plain sum is identically zero, and a wrong backward would pass.
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

    Compares Σ grad ⊙ u with the derivative of f(s) = Σ cotangent ⊙ function(inputs + s·u) at s = 0, from
    central differences of steps h and 2h with their h² error removed: (8 (f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h.

    Parameters
    ----------
    function : of named arrays, returns one array
    inputs : dict of str to float64 array
    cotangent : as the function's result; random
    grads : dict of str to array
        What the backward claims, under the inputs' names.
    rng : numpy.random.Generator
    step : float
        h, relative to each input's root mean square.
    along : names, optional
        The inputs that are moved; default: all. The others stay where they are, but their terms count in the size
        that the error is relative to: what rounding does to f is relative to f, and a gradient by one input may be 0.

    Returns
    -------
    error : float
        |claimed − measured| / √(Σ_names (Σ grad ⊙ u)²), over the moved names above and all names below: relative
        to the typical size of the terms, so that terms that happen to cancel do not make a right gradient look
        wrong. Where the gradient by everything is claimed to be 0, relative to what was measured.

    Raises
    ------
    ValueError
        Where a name of `along` is no input's.
    """
    moving = set(inputs if along is None else along)
    if unknown := moving - inputs.keys():
        raise ValueError(f"along={sorted(unknown)!r} are no inputs; expected some of {', '.join(inputs)}")
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
    """Largest error of each gradient, relative to that gradient's largest element.

    Every element of every input is moved by ±h and ±2h: four runs an element, so tiny inputs only.

    Parameters
    ----------
    function, inputs, cotangent, grads, step : as in :func:`directional_error`; step is absolute here

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
