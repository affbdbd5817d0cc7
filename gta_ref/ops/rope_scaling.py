"""RoPE's frequencies in models for long contexts: three ways to make the plain ones smaller.

The plain frequency of pair t in d features is f_t = θ_base^(−2t/d), its wavelength 2π/f_t positions. L is the context
length of the original training and s the factor by which the context grew:

- linear (position interpolation): f_t / s;
- llama3 (Llama 3.1): f_t for wavelengths below L/high, f_t / s above L/low, a mixture of both between;
- yarn (Peng et al., arXiv 2309.00071): f_t for the pairs that turn at least `beta_fast` times within L, f_t / s for
  those that turn at most `beta_slow` times, and between them a mixture that is linear in t. YaRN also multiplies the
  scores, by the square of :func:`yarn_magnitude`: either as a factor on cos and sin, or, in DeepSeek's models, on
  1/√d.

All functions return (d/2,) float64.
"""

from __future__ import annotations

import math

import numpy as np


def plain_frequencies(d: int, theta: float) -> np.ndarray:
    """θ_base^(−2t/d) for t = 0 … d/2 − 1."""
    frequencies: np.ndarray = theta ** (-np.arange(0, d, 2, dtype=np.float64) / d)
    return frequencies


def linear_frequencies(d: int, theta: float, factor: float) -> np.ndarray:
    """Every frequency divided by `factor`, s, as if all positions were that much closer."""
    return plain_frequencies(d, theta) / factor


def llama3_frequencies(d: int, theta: float, factor: float, low: float, high: float, original: int) -> np.ndarray:
    """Llama 3.1's frequencies.

    Parameters
    ----------
    d : int
    theta : float
    factor : float
        s.
    low, high : float
        low_freq_factor and high_freq_factor of the configuration: a pair keeps its frequency if it turns more than
        `high` times within the original context, and gets all of the factor if it turns less than `low` times.
    original : int
        L, tokens.
    """
    frequencies = plain_frequencies(d, theta)
    turns = original * frequencies / (2 * math.pi)  # within the original context
    kept = np.clip((turns - low) / (high - low), 0, 1)
    mixed: np.ndarray = kept * frequencies + (1 - kept) * frequencies / factor
    return mixed


def yarn_frequencies(
    d: int,
    theta: float,
    factor: float,
    original: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> np.ndarray:
    """YaRN's frequencies.

    Parameters
    ----------
    d : int
    theta : float
    factor : float
        s.
    original : int
        L, tokens.
    beta_fast, beta_slow : float
        Turns within the original context from which on a pair keeps its frequency, and up to which it gets all of the
        factor. Defaults 32 and 1.
    truncate : bool
        Whether the two pairs where the mixture begins and ends are rounded, away from each other. Default True.
    """

    def pair(turns: float) -> float:
        """The pair t, in general a fraction, that turns this many times: L f_t = 2π turns."""
        return d * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))

    first, last = pair(beta_fast), pair(beta_slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, d - 1)
    frequencies = plain_frequencies(d, theta)
    # the published code has this 0.001 where the mixture would have no width
    divided = np.clip((np.arange(d // 2) - first) / (last - first or 0.001), 0, 1)
    mixed: np.ndarray = (1 - divided) * frequencies + divided * frequencies / factor
    return mixed


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """1 + 0.1 · weight · ln s, and 1 for s ≤ 1; "mscale" in DeepSeek's code, where `weight` has the same name."""
    return 1.0 if factor <= 1 else 1.0 + 0.1 * weight * math.log(factor)
