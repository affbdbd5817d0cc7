"""Training: engines agree, a stopped run continues exactly, nothing is half done or half read."""

import dataclasses
import itertools

import numpy as np
import pytest

from gta_ref.files import read_tensors, write_tensors
from gta_ref.lm import small, text, train

CONFIG = small.config("gta", vocab_size=64, hidden_size=32, n_layers=2)
SETTINGS = train.Settings(steps=12, batch=4, length=40, warmup=3, validate_every=5, validation_sequences=6, seed=3)


def letters(n=4000, seed=0):
    """A text in which every letter depends on the one before."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([1, 2, 7], n)
    content = (np.cumsum(steps) % 64).astype(np.uint8)
    return text.Text("letters", content[: n * 9 // 10], content[n * 9 // 10 :], 64)


def trained(engine="auto", settings=SETTINGS, **callbacks):
    run = train.begin(CONFIG, settings, letters())
    train.advance(run, letters(), engine=engine, **callbacks)
    return run


def assert_same(run, other):
    assert run.losses == other.losses
    assert run.validation == other.validation
    assert run.state.step == other.state.step
    for name, p in run.state.params.items():
        np.testing.assert_array_equal(p, other.state.params[name])
        np.testing.assert_array_equal(run.state.moments.m[name], other.state.moments.m[name])
        np.testing.assert_array_equal(run.state.moments.v[name], other.state.moments.v[name])


def test_thirty_steps_on_the_fused_engine_are_those_of_the_definition():
    settings = dataclasses.replace(SETTINGS, steps=30, validate_every=30)
    fused, plain = (trained(engine, settings) for engine in ("numba", "reference"))
    assert len(fused.losses) == 30
    np.testing.assert_allclose(fused.losses, plain.losses, rtol=0, atol=1e-4)
    assert fused.losses != plain.losses  # so the engines really compute in two ways
    assert np.mean(plain.losses[-5:]) < plain.losses[0] - 0.1  # it learns


def test_a_stopped_run_goes_on_exactly(tmp_path):
    def stop(run):
        if run.state.step == 7:
            raise KeyboardInterrupt

    broken = train.begin(CONFIG, SETTINGS, letters())
    with pytest.raises(KeyboardInterrupt):
        train.advance(broken, letters(), on_step=stop)
    train.save(tmp_path / "run.safetensors", broken)
    resumed = train.load(tmp_path / "run.safetensors")
    assert (resumed.config, resumed.settings, resumed.source) == (CONFIG, SETTINGS, "letters")
    assert len(resumed.losses) == resumed.state.step == 7
    assert resumed.state.params["embed"].dtype == np.float32
    train.advance(resumed, letters())
    assert_same(resumed, trained())
    assert list(resumed.validation) == [5, 10, 12]


def test_an_interrupted_step_is_no_step():
    class Breaks(text.Text):
        def batch(self, rng, batch, length):
            if next(calls) == 4:
                raise KeyboardInterrupt
            return super().batch(rng, batch, length)

    whole = letters()
    calls = itertools.count()
    source = Breaks(whole.name, whole.train, whole.validation, 64)
    run = train.begin(CONFIG, SETTINGS, source)
    with pytest.raises(KeyboardInterrupt):
        train.advance(run, source)
    assert run.state.step == len(run.losses) == 4
    train.advance(run, source)
    assert_same(run, trained())


@pytest.mark.parametrize("step", [5, 12])
def test_an_interrupted_validation_is_made_up_for(step, tmp_path):
    """Also that of the last step, after which there is none to train."""

    class Breaks(text.Text):
        def held_out(self, batch, length, n_sequences):
            if run.state.step == step:
                raise KeyboardInterrupt
            return super().held_out(batch, length, n_sequences)

    whole = letters()
    run = train.begin(CONFIG, SETTINGS, whole)
    with pytest.raises(KeyboardInterrupt):
        train.advance(run, Breaks(whole.name, whole.train, whole.validation, 64))
    assert run.state.step == step
    assert train.is_unvalidated(run)
    train.save(tmp_path / "run.safetensors", run)
    resumed, saved = train.load(tmp_path / "run.safetensors"), []
    train.advance(resumed, whole, on_validation=lambda run: saved.append(run.state.step))
    assert_same(resumed, trained())
    assert list(resumed.validation) == [5, 10, 12]
    assert saved == [n for n in (5, 10, 12) if n >= step]


def test_seeds_differ():
    other = trained(settings=dataclasses.replace(SETTINGS, seed=4))
    assert other.losses[0] != trained().losses[0]


def test_divergence_names_the_step_and_takes_none(tmp_path):
    run = train.begin(CONFIG, dataclasses.replace(SETTINGS, learning_rate=1e9), letters())
    with pytest.raises(train.DivergedError, match=r"^step \d+: the loss is (nan|inf)"):
        train.advance(run, letters())
    assert 0 < run.state.step < 12
    assert len(run.losses) == run.state.step
    assert np.isfinite(run.losses).all()


def test_validation_is_the_mean_over_tokens_that_count():
    class Uneven(text.Text):
        def held_out(self, batch, length, n_sequences):
            for ids, targets in super().held_out(2, length, 3):  # a batch of two sequences and one of one
                targets = targets.copy()
                targets[:, : length // 2] = -100
                yield ids, targets

    whole = letters()
    source = Uneven(whole.name, whole.train, whole.validation, 64)
    run = train.begin(CONFIG, SETTINGS, source)
    from gta_ref.lm import model

    losses = []
    for ids, targets in whole.held_out(1, 40, 3):
        logits, _ = model.forward(run.state.params, ids, CONFIG, engine="reference")
        logits = logits[0].astype(np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        losses += [-log_p[i, targets[0, i]] for i in range(20, 40)]
    # float32 against float64, relative to ln 64
    assert train.validation_loss(run, source) == pytest.approx(np.mean(losses), rel=2e-6)


def test_bad_runs(tmp_path):
    run = trained()
    with pytest.raises(ValueError, match="the text is other; expected letters, with which the run began"):
        train.advance(run, dataclasses.replace(letters(), name="other"))
    with pytest.raises(ValueError, match="vocab_size=64 must be at least that of the text, 256"):
        train.begin(CONFIG, SETTINGS, dataclasses.replace(letters(), vocab_size=256))
    with pytest.raises(ValueError, match="has 400 bytes to draw from; expected more than length=400"):
        train.begin(CONFIG, dataclasses.replace(SETTINGS, length=400), letters())
    for field, value in {"steps": 0, "learning_rate": -1, "weight_decay": -0.1, "seed": -1, "clip": 0}.items():
        with pytest.raises(ValueError, match=f"{field}={value}"):
            dataclasses.replace(SETTINGS, **{field: value})


def test_bad_files(tmp_path):
    path = tmp_path / "run.safetensors"
    train.save(path, trained())
    tensors, metadata = read_tensors(path)
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        train.load(path)
    write_tensors(path, tensors, {})
    with pytest.raises(ValueError, match="not a training run"):
        train.load(path)
    write_tensors(path, {name: x for name, x in tensors.items() if name != "m.embed"}, metadata)
    with pytest.raises(ValueError, match=r"run\.safetensors: an incomplete training run \('m.embed'\)"):
        train.load(path)
    write_tensors(path, tensors | {"v.norm": np.zeros(3, np.float32)}, metadata)
    with pytest.raises(ValueError, match="norm has another shape"):
        train.load(path)
    write_tensors(path, tensors, metadata | {"run": metadata["run"].replace('"n_q": 2', '"n_q": 3')})
    with pytest.raises(ValueError, match="n_q=3 must divide"):
        train.load(path)
    with pytest.raises(FileNotFoundError):
        train.load(tmp_path / "none.safetensors")
