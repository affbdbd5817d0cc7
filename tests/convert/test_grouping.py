"""Heads divided into groups: exchanges lower the cost, and contiguous groups stay if nothing is better."""

from itertools import combinations

import numpy as np
import pytest

from gta_ref.convert.grouping import partition


def test_contiguous_groups_stay_where_nothing_is_better():
    assert partition(6, 2, lambda group: 1.0) == [(0, 1, 2), (3, 4, 5)]
    assert partition(4, 4, lambda group: 0.0) == [(0,), (1,), (2,), (3,)]


def test_members_that_belong_together_are_found():
    label = np.array([0, 1, 2, 0, 1, 2, 2, 0, 1])

    def cost(group):
        return sum(label[i] != label[j] for i, j in combinations(group, 2))

    assert partition(9, 3, cost) == [(0, 3, 7), (1, 4, 8), (2, 5, 6)]


def test_no_exchange_of_two_members_is_better():
    distance = np.random.default_rng(0).random((8, 8))

    def cost(group):
        return float(distance[np.ix_(group, group)].sum())

    found = partition(8, 2, cost)
    total = sum(map(cost, found))
    contiguous = cost((0, 1, 2, 3)) + cost((4, 5, 6, 7))
    assert total < contiguous
    for i in found[0]:
        for j in found[1]:
            a, b = ({*found[0], j} - {i}), ({*found[1], i} - {j})
            assert cost(tuple(sorted(a))) + cost(tuple(sorted(b))) >= total - 1e-9


def test_groups_of_unequal_sizes_are_refused():
    with pytest.raises(ValueError, match="n_groups=2 must divide n=9"):
        partition(9, 2, len)
