"""The retrieval task: the record in question is where the distance says; nothing else gives the answer away."""

import numpy as np
import pytest

from gta_ref.lab import measures
from gta_ref.lab.retrieval import Retrieval
from gta_ref.lm import small, train


def test_every_answer_stands_where_the_distance_says(rng):
    task = Retrieval(n_records=7, n_asked=5, n_keys=11, n_values=3, n_noise=2)
    ids, targets, distances = task.with_distances(rng, 40, 61)
    assert ids.shape == targets.shape == distances.shape == (40, 61)
    assert task.vocab_size == 33 + 11 + 3 + 2
    assert (targets[:, :56] == -100).all()
    assert (distances[:, :56] == 0).all()
    for row in range(40):
        records = {ids[row, at] // 3: at for at in range(56) if ids[row, at] < 33}
        assert len(records) == 7  # each key once
        assert sum(ids[row, at] < 33 for at in range(61)) == 7
        assert len(set(ids[row, 56:])) == 5
        for at in range(56, 61):
            place = records[ids[row, at] - 33]
            assert distances[row, at] == at - place
            assert targets[row, at] == 44 + ids[row, place] % 3
        noise = [t for t in ids[row, :56] if t >= 33]
        assert set(noise) <= {47, 48}
    assert len({tuple(d) for d in distances}) == 40


def test_records_stand_at_any_distance(rng):
    task = Retrieval(n_records=4, n_asked=4, n_keys=8)
    _, targets, distances = task.with_distances(rng, 800, 40)
    found = distances[targets >= 0]
    assert found.min() == 1  # the last position before the questions, asked for first
    assert found.max() == 39
    # the mean of 3200 distances with standard deviation 10.5: three standard errors
    assert found.mean() == pytest.approx(20, abs=0.6)


def test_held_out_is_always_the_same_and_no_batch_of_a_run():
    task = Retrieval()
    first, again = (list(task.held_out(4, 64, 10)) for _ in range(2))
    assert [len(ids) for ids, _ in first] == [4, 4, 2]
    for (ids, targets), (other_ids, other_targets) in zip(first, again, strict=True):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_array_equal(targets, other_targets)
    drawn = [task.batch(np.random.default_rng([seed, step]), 4, 64)[0] for seed in range(3) for step in range(5)]
    assert not any(np.array_equal(first[0][0], ids) for ids in drawn)


def test_accuracy_of_who_knows_and_of_who_guesses(monkeypatch):
    task = Retrieval(n_records=4, n_asked=4, n_keys=8, n_values=4)
    settings = train.Settings(steps=1, batch=16, length=40)
    config = small.config("gta", vocab_size=task.vocab_size, hidden_size=32, n_layers=1)
    run = train.begin(config, settings, task)
    assert measures.retrieval(run, task)["found"] < 0.4  # untrained; chance is 1/4

    def knows(only):
        def forward(params, ids, config, *, need_saved):
            logits = np.zeros((*ids.shape, task.vocab_size), np.float32)
            for row, line in enumerate(ids):
                for place in range(36, 40):
                    at = int(np.flatnonzero(line[:36] // 4 == line[place] - task.first_question)[0])
                    if only(place - at):
                        logits[row, place, task.first_answer + line[at] % 4] = 1
            return logits, None

        return forward

    monkeypatch.setattr(measures.model, "forward", knows(lambda distance: True))
    assert measures.retrieval(run, task) == {"found": 1, "near": 1, "far": 1}
    monkeypatch.setattr(measures.model, "forward", knows(lambda distance: distance < 20))
    found = measures.retrieval(run, task)
    assert (found["near"], found["far"]) == (1, 0)
    assert 0.3 < found["found"] < 0.7


def test_too_short_for_its_records(rng):
    with pytest.raises(ValueError, match="length=31 must be at least 32 for all records and questions"):
        Retrieval(n_records=16, n_asked=16).batch(rng, 2, 31)
    assert Retrieval(n_records=16, n_asked=16).batch(rng, 2, 32)[0].shape == (2, 32)


def test_effective_rank(rng):
    q, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    p, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    equal = 7.0 * q[:, :5] @ p[:5]
    assert measures.effective_rank(equal) == pytest.approx(5, rel=1e-9)
    # shares 3/4 and 1/4: exp(−¾ ln ¾ − ¼ ln ¼) = 4 / 3^¾
    two = q[:, :2] @ np.diag([3.0, 1.0]) @ p[:2]
    assert measures.effective_rank(two) == pytest.approx(4 / 3**0.75, rel=1e-9)
