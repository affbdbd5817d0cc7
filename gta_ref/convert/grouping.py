"""Divide heads into groups of one size, so that what they have to share costs least."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations

from gta_ref.errors import as_size, check_divides

Group = tuple[int, ...]


def partition(n: int, n_groups: int, cost: Callable[[Group], float]) -> list[Group]:
    """Divide 0 … n − 1 into groups of n/n_groups, by exchanging members as long as that lowers the sum of the costs.

    It begins with contiguous groups and stays there if no exchange of two members is better. The result is a local
    minimum: an exchange of three members at once is not tried.

    Parameters
    ----------
    n, n_groups : int
        n_groups divides n.
    cost : callable
        The cost of a group, given as a sorted tuple.

    Returns
    -------
    groups : list of tuple of int
        Each sorted, in the order of their first members.
    """
    n, n_groups = as_size("n", n), as_size("n_groups", n_groups)
    check_divides("n_groups", n_groups, "n", n)
    of = cache(cost)
    size = n // n_groups
    groups = [tuple(range(first, first + size)) for first in range(0, n, size)]
    while True:
        best: tuple[float, int, int, Group, Group] | None = None
        for a, b in combinations(range(n_groups), 2):
            before = of(groups[a]) + of(groups[b])
            for i in groups[a]:
                for j in groups[b]:
                    left = tuple(sorted({*groups[a], j} - {i}))
                    right = tuple(sorted({*groups[b], i} - {j}))
                    gain = before - of(left) - of(right)
                    # more than rounding, so that the search ends
                    if gain > 1e-12 * abs(before) and (best is None or gain > best[0]):
                        best = gain, a, b, left, right
        if best is None:
            return sorted(groups)
        _, a, b, groups[a], groups[b] = best
