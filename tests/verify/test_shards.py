"""Cases of context parallelism: right rings pass on every rank, every known wrong ring is found and named."""

import numpy as np
import pytest

from gta_ref.distributed.shards import Shards
from gta_ref.ops import as_dtype
from gta_ref.verify import rings, shards
from gta_ref.verify.rings import WRONG, SimulatedRing

RANKS = 3  # with two ranks some mistakes are the same: the last step is the only one in which keys are foreign


def checked(case, results):
    """What is found on each rank, if the results are rounded to the dtype of the case."""
    low = as_dtype(case.vector.dtype)
    kinds = {"lse": np.promote_types(low, np.float32)}
    return [
        case.check(rank, {name: x.astype(kinds.get(name, low)) for name, x in found.items()})
        for rank, found in enumerate(results)
    ]


@pytest.fixture(scope="module")
def cases():
    return shards.cases(RANKS)


@pytest.mark.parametrize(
    "ranks, dtype", [(1, "float32"), (2, "float64"), (3, "bfloat16"), (4, "float16"), (5, "float32")]
)
def test_a_right_ring_passes(ranks, dtype):
    cases = shards.cases(ranks, dtype)
    assert {case.layout for case in cases} == {"contiguous", "zigzag"}
    assert len(cases) >= 18
    wrong = [str(one) for case in cases for one in checked(case, case.simulated()) if not one.passed]
    assert not wrong


def test_the_cases_have_what_they_promise(cases):
    """In each layout: a rank whose queries see nothing, one whose keys no query sees, padding, NaN, dlse."""
    for layout in ("contiguous", "zigzag"):
        mine = [case for case in cases if case.layout == layout]
        blind = [[np.isneginf(case._of(rank).expected["lse"]).all() for rank in range(RANKS)] for case in mine]
        assert any(sum(one) == RANKS - 1 for one in blind)
        assert any("d_lse" in case.inputs(0) for case in mine)
        assert any(np.isnan(case.inputs(0)["k"]).any() for case in mine)
        assert {case.mask.causal for case in mine} == {True, False}
    given = cases[1].inputs(1)
    np.testing.assert_array_equal(given["tokens"], Shards(12 * RANKS, RANKS).tokens(1))
    np.testing.assert_array_equal(given["q"], cases[1].vector.inputs["q"][:, :, given["tokens"]])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("cause", WRONG)
def test_every_wrong_ring_is_found_and_named(cause, cases):
    found = [one for case in cases for one in checked(case, case._wrong[cause]) if not one.passed]
    named = [one for one in found if one.causes]
    assert all(cause in one.causes for one in named)
    assert any(one.causes == (cause,) for one in found)
    assert len(named) >= 0.85 * len(found)
    assert f"likely cause: {cause}" in str(next(one for one in found if one.causes == (cause,)))


class StaleBuffer(SimulatedRing):
    """Half of the values are overwritten by the next message while they are read."""

    def values(self, owner):
        x = self.of[owner]["v"].copy()
        x[:, :, ::2] = self.of[(owner + 1) % self.ranks]["v"][:, :, ::2]
        return x


class OneScaleTooMany(SimulatedRing):
    def backward(self, *arguments):
        found = super().backward(*arguments)
        return found | {"d_k": self.scale * found["d_k"]}


class KeysOfOneHead(SimulatedRing):
    """The gradient of the values comes home with its maps in another order."""

    def home(self, name, owner, parts):
        total = super().home(name, owner, parts)
        return total[:, ::-1] if name == "d_v" else total


class OneRankForgets(SimulatedRing):
    """Rank 1 does not scale its results down when a later step has larger scores."""

    def forward(self, rank):
        z, lse = super().forward(rank)
        return (1.01 * z if rank == 1 else z), lse


@pytest.mark.parametrize(
    "ring, stage, ranks",
    [(StaleBuffer, "z", {0, 1, 2}), (OneScaleTooMany, "d_k", {0, 1, 2}), (KeysOfOneHead, "d_v", {0, 1, 2}), (OneRankForgets, "z", {1})],
)  # fmt: skip
def test_an_unknown_mistake_is_located(ring, stage, ranks, cases):
    found = [one for case in cases for one in checked(case, case.simulated(ring)) if not one.passed]
    first = [one for one in found if one.stage == stage]
    assert {one.rank for one in first} == ranks
    assert not any(one.causes for one in first)
    assert all("that is token " in one.text for one in first if "NaN" not in one.text)


def test_wrong_arguments(cases):
    with pytest.raises(ValueError, match="rank=3 must be a whole number of at most 2"):
        cases[0].inputs(3)
    with pytest.raises(ValueError, match="given='dq' must be one of 'z', 'lse'"):
        cases[0].check(0, {"dq": np.zeros(3)})
    with pytest.raises(ValueError, match="given is a list"):
        cases[0].check(0, [np.zeros(3)])
    with pytest.raises(ValueError, match="ranks=0"):
        shards.cases(0)
    with pytest.raises(ValueError, match="dtype='int8' must be one of"):
        shards.cases(2, "int8")
    with pytest.raises(ValueError, match="layouts='striped' must be one of"):
        shards.cases(2, layouts=("striped",))
    assert cases[0].check(0, {"z": np.zeros((2, 4, 3, 32), np.float32)}).stage == "z"
    missing = cases[0].check(0, {"d_q": np.zeros(cases[0].inputs(0)["q"].shape, np.float32)})
    assert not missing.passed


def test_without_a_backward_the_forward_is_judged(cases):
    x = cases[0].simulated()[1]
    found = cases[0].check(1, {"z": x["z"].astype(np.float32)})
    assert found.passed
    assert "gradients not checked" in found.text


def test_inputs_are_copies(cases):
    cases[0].inputs(0)["q_start"][:] = 7
    assert not cases[0].inputs(0)["q_start"].any()
    assert rings.wrong("d_k dropped on its way back").__mro__[1] is SimulatedRing
