"""Attention, layers, training and decoding over 1 to 4 ranks, which are more than this machine may have cores."""

import json
from pathlib import Path

import pytest

from tests.distributed.support import ONE_THREAD, needs_mpi, run

ROOT = Path(__file__).parents[2]

pytestmark = needs_mpi


def found_by(ranks, name):
    done = run(ranks, "-m", "tests.distributed.ranks", name, cwd=ROOT, env=ONE_THREAD)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout)


RANKS = pytest.mark.parametrize("ranks", [1, 2, 3, 4])


@RANKS
def test_attention_equals_one_process(ranks):
    """In float64 to rounding, for every mask, both engines and layouts; bit-equal for ring, gather and another run."""
    found = found_by(ranks, "attention")
    assert len(found) == 4 * 8 * 2 * 2
    wrong = {name: one for name, one in found.items() if not (one[0] < 1e-13 and one[1])}
    assert not wrong


def test_storage_types():
    """With 16 bits, parts are merged in float32 and rounded once: errors are those of one process."""
    for name, ((*ours, dtypes), (*plain, plain_dtypes)) in found_by(2, "storage").items():
        assert dtypes == plain_dtypes, name
        assert all(a <= 2 * b + 1e-7 for a, b in zip(ours, plain, strict=True)), (name, ours, plain)


@RANKS
def test_layers_of_every_mechanism(ranks):
    found = found_by(ranks, "layers")
    assert {"gta", "gqa", "mha", "mla"} <= found.keys()
    assert max(found.values()) < 1e-13


@RANKS
def test_losses_and_gradients(ranks):
    """The error against one process; the same bits in another run; and the same bits in all ranks."""
    for name, (error, again, same) in found_by(ranks, "losses").items():
        assert error < 1e-13, name
        assert again, name
        assert same, name


@RANKS
def test_decoding_with_a_cache_in_several_ranks(ranks):
    for name, (error, cache, sent, held) in found_by(ranks, "decoding").items():
        assert error < 1e-13, name
        assert cache < 1e-14, name
        share = -(-24 // ranks)
        assert held == [min(max(24 - rank * share, 0), share) for rank in range(ranks)]
        # z (d_l = 12) and lse of 2 maps, 24 tokens, 2 sequences and 2 layers, to every other rank
        assert sent == 8 * (12 + 1) * 2 * 24 * 2 * 2 * (ranks - 1)


@RANKS
def test_the_bytes_that_are_sent_are_those_of_the_formula(ranks):
    """Gathering exchanges the gradients once and not in every step, so it sends R − 1 parts where the ring sends R."""
    for name, ((forward, backward), (forward_formula, backward_formula)) in found_by(ranks, "sent").items():
        assert forward == forward_formula, name
        if name.endswith("ring"):
            assert backward == backward_formula, name
        elif ranks > 1:
            gradients = backward_formula - forward_formula
            assert backward == forward_formula + gradients * (ranks - 1) // ranks, name
