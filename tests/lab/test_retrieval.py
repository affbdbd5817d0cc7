"""The retrieval task: what is asked for stands where the distance says; nothing else gives the answer away."""

import numpy as np
import pytest

from gta_ref.lab import measures
from gta_ref.lab.retrieval import Retrieval
from gta_ref.lm import small, train


def test_every_answer_stands_where_the_distance_says(rng):
    task = Retrieval(n_pairs=5, n_symbols=11, n_noise=3)
    ids, targets, distances = task.with_distances(rng, 40, 61)
    assert ids.shape == targets.shape == distances.shape == (40, 61)
    asked = targets >= 0
    assert (asked.sum(axis=1) == 5).all()
    assert (distances[~asked] == 0).all()
    for row, place in zip(*np.nonzero(asked), strict=True):
        key, back = ids[row, place], place - distances[row, place]
        assert key < 11
        assert ids[row, back] == key
        assert ids[row, back + 1] == targets[row, place]
        assert 11 <= targets[row, place] < 22
        body = ids[row, : 61 - 10]
        assert (body == key).sum() == 1  # the pair is the only place of this key
    # a row's keys are all different, and so are their order and their places from row to row
    assert all(len(set(ids[row][asked[row]])) == 5 for row in range(40))
    assert len({tuple(d) for d in distances}) == 40
    body = ids[:, :51]
    assert ((body >= 22).sum(axis=1) == 51 - 10).all()
    assert body.max() == 24


def test_pairs_stand_at_any_distance(rng):
    task = Retrieval(n_pairs=4, n_symbols=8, n_noise=2)
    _, targets, distances = task.with_distances(rng, 400, 40)
    found = distances[targets >= 0]
    assert found.min() == 2  # the last place, asked for first
    assert found.max() == 38  # the first place, asked for last
    assert found.mean() == pytest.approx(20, abs=1)


def test_held_out_is_always_the_same_and_no_batch_of_a_run():
    task = Retrieval()
    first, again = (list(task.held_out(4, 64, 10)) for _ in range(2))
    assert [len(ids) for ids, _ in first] == [4, 4, 2]
    for (ids, targets), (other_ids, other_targets) in zip(first, again, strict=True):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_array_equal(targets, other_targets)
    drawn = [task.batch(np.random.default_rng([seed, step]), 4, 64)[0] for seed in range(3) for step in range(5)]
    assert not any(np.array_equal(first[0][0], ids) for ids in drawn)


def test_too_short_for_its_pairs(rng):
    with pytest.raises(ValueError, match="length=31 must be at least 32 for 8 pairs"):
        Retrieval().batch(rng, 2, 31)
    assert Retrieval().batch(rng, 2, 32)[0].shape == (2, 32)


def test_accuracy_of_who_knows_and_of_who_guesses(monkeypatch):
    task = Retrieval(n_pairs=4, n_symbols=8, n_noise=2)
    settings = train.Settings(steps=1, batch=16, length=40)
    config = small.config("gta", vocab_size=task.vocab_size, hidden_size=32, n_layers=1)
    run = train.begin(config, settings, task)
    assert measures.accuracy(run, task) < 0.3  # untrained

    def knows(only):
        def forward(params, ids, config, *, need_saved):
            logits = np.zeros((*ids.shape, task.vocab_size), np.float32)
            for row, line in enumerate(ids):
                for place in range(32, 40, 2):
                    back = int(np.flatnonzero(line == line[place])[0])
                    if only(place - back):
                        logits[row, place, line[back + 1]] = 1
            return logits, None

        return forward

    monkeypatch.setattr(measures.model, "forward", knows(lambda distance: True))
    assert measures.accuracy(run, task) == measures.accuracy_near(run, task) == measures.accuracy_far(run, task) == 1
    monkeypatch.setattr(measures.model, "forward", knows(lambda distance: distance < 18))
    assert measures.accuracy_near(run, task) == 1
    assert measures.accuracy_far(run, task) == 0
    assert 0.3 < measures.accuracy(run, task) < 0.7


def test_effective_rank(rng):
    q, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    p, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    equal = 7.0 * q[:, :5] @ p[:5]
    assert measures.effective_rank(equal) == pytest.approx(5, rel=1e-9)
    # shares 3/4 and 1/4: exp(−¾ ln ¾ − ¼ ln ¼) = 4 / 3^¾
    two = q[:, :2] @ np.diag([3.0, 1.0]) @ p[:2]
    assert measures.effective_rank(two) == pytest.approx(4 / 3**0.75, rel=1e-9)
