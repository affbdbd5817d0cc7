"""Healing: it brings a converted model nearer to the original, changes nothing else, and continues to the last bit."""

import dataclasses
import itertools

import numpy as np
import pytest

from gta_ref.convert import distil, heal, heal_files, judge, texts
from gta_ref.convert.original import Original
from gta_ref.convert.sizes import Sizes
from gta_ref.lm import model
from gta_ref.lm.train import DivergedError
from gta_ref.mechanisms import gta
from tests.convert import tiny
from tests.convert.tiny import Stop, stop_at

SETTINGS = heal.Settings(layer_steps=5, steps=4, batch=3, length=24, seed=2)


@pytest.fixture(scope="module")
def models():
    """A converted model's parameters and configuration, and the original."""
    return tiny.converted()


def begun(models, **settings):
    params, config, _ = models
    return heal.begin(params, config, dataclasses.replace(SETTINGS, **settings), tiny.corpus())


def healed(models, healing=None, **settings):
    healing = healing or begun(models, **settings)
    heal.advance(healing, models[2], tiny.corpus())
    return healing


def copied(params):
    return {name: w.copy() for name, w in params.items()}


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, w in expected.items():
        assert found[name].dtype == w.dtype
        np.testing.assert_array_equal(found[name], w, err_msg=name)


def assert_same(healing, other):
    assert healing.losses == other.losses
    assert healing.state.step == other.state.step
    assert_equal(healing.params, other.params)
    for found, expected in zip(healing.state.moments, other.state.moments, strict=True):
        assert_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("stages", [(400, 0), (0, 200), (100, 100)], ids=["layer by layer", "end to end", "both"])
def test_it_comes_nearer_to_the_original(stages, dtype):
    """On text that it has not learnt from."""
    models = tiny.converted(dtype=dtype)
    params, config, original = models
    layer_steps, steps = stages
    done = healed(models, layer_steps=layer_steps, steps=steps, batch=8, length=32, layer_rate=6e-3, rate=6e-3)
    held_out = tiny.windows(6, 64, held_out=True)
    before, after = (judge.beside(some, config, original, held_out) for some in (params, done.params))
    assert 0 < after.divergence < 0.85 * before.divergence
    if layer_steps:
        before, after = (distil.by_layers(some, config, original, held_out)[0] for some in (params, done.params))
        assert 0 < after < 0.85 * before
    assert {w.dtype for w in done.params.values()} == {np.dtype(dtype)}
    model.check_inputs(done.params, held_out, config)


def test_what_is_trained(models):
    """In the first stage the attention, in the second the gains of the norms too, and in both nothing else."""
    params, _, original = models
    before = copied(params), copied(original.params)
    healing, changed = begun(models), []

    def on_step(now):
        found = now.params
        changed.append({name for name, w in params.items() if not np.array_equal(found[name], w)})

    heal.advance(healing, original, tiny.corpus(), on_step=on_step)
    attention = {
        f"layers.{i}.attention.{name}"
        for i in (0, 1)
        for name in gta.param_shapes(tiny.CUT[0].config(tiny.CONFIG.layer(0)))
    }
    norms = {"norm", *(f"layers.{i}.norm_{n}" for i in (0, 1) for n in (1, 2))}
    assert changed == [attention] * 5 + [attention | norms] * 4
    assert {name for name in params if heal.is_trained(name)} == attention | norms
    assert all(healing.params[name] is params[name] for name in params.keys() - attention - norms)
    assert_equal(params, before[0])
    assert_equal(original.params, before[1])


def test_the_rates_of_the_stages(models):
    """The first step of AdamW moves a parameter by η g / (|g| + ε), and each stage begins with a first step.

    The warm-up of so short a stage is one step, so η is then the peak. Two numbers of a size of 1 are subtracted, so the
    change has an error of 1e-16 at most.
    """
    healing, found = begun(models, layer_rate=3e-4, rate=7e-5), {0: begun(models).params}
    heal.advance(healing, models[2], tiny.corpus(), on_step=lambda now: found.update({now.state.step: now.params}))
    for first, rate in ((0, 3e-4), (5, 7e-5)):
        moved = [np.abs(found[first + 1][name] - found[first][name]).max() for name in found[0]]
        assert max(moved) == pytest.approx(rate, rel=1e-3)
        assert max(moved) <= rate + 1e-15
    last = max(np.abs(found[9][name] - found[8][name]).max() for name in found[0])
    assert last < 3 * heal.FINAL * 7e-5  # the end of the cosine


def test_the_gradient_is_clipped(models, monkeypatch):
    """With a norm far below ε = 1e-8, the first step is at most η 1e-12 / 1e-8."""
    monkeypatch.setattr(heal, "CLIP", 1e-12)
    found = {0: begun(models).params}
    healing = begun(models, layer_rate=0.1)
    heal.advance(healing, models[2], tiny.corpus(), on_step=lambda now: found.setdefault(now.state.step, now.params))
    moved = max(np.abs(found[1][name] - w).max() for name, w in found[0].items())
    assert 1e-7 < moved <= 1.0001e-5


def test_an_exact_conversion_begins_with_no_loss():
    """To rounding; AdamW's steps then have the size of the rate even so, and what they lose is of its square."""
    models = tiny.converted(Sizes())
    for rate, bound in ((1e-4, 1e-3), (1e-6, 1e-7)):
        losses = healed(models, layer_rate=rate, rate=rate).losses
        assert abs(losses[0]) <= 1e-24
        assert max(losses) <= bound
    assert abs(healed(models, layer_steps=0).losses[0]) <= 1e-14


def test_every_step_has_its_text(models):
    """Of the seed and of the step, so that no text is learnt twice, and another seed learns from other text."""
    drawn = []

    class Listens(texts.Corpus):
        def batch(self, rng, batch, length):
            drawn.append(super().batch(rng, batch, length).tobytes())
            assert (batch, length) == (3, 24)
            return super().batch(rng, batch, length)

    corpus = Listens(*tiny.corpus())
    for seed in (2, 3):
        heal.advance(begun(models, seed=seed), models[2], corpus)
    assert len(set(drawn)) == 18


@pytest.mark.parametrize("step", [2, 5, 7], ids=["layer by layer", "between the stages", "end to end"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_stopped_healing_goes_on_exactly(step, dtype, tmp_path):
    models, path = tiny.converted(dtype=dtype), tmp_path / "healing.safetensors"
    broken = begun(models)
    with pytest.raises(Stop):
        heal.advance(broken, models[2], tiny.corpus(), on_step=stop_at(step))
    assert len(broken.losses) == broken.state.step == step
    heal_files.save(path, broken)
    loaded = heal_files.load(path, begun(models))
    assert_same(loaded, broken)
    assert loaded.seconds == broken.seconds > 0
    whole = healed(models)
    for one in (broken, loaded):
        assert_same(healed(models, one), whole)
    heal_files.save(path, whole)
    assert_same(healed(models, heal_files.load(path, begun(models))), whole)  # which has no step left


def test_the_moments_begin_anew_between_the_stages(models):
    healing = begun(models)
    with pytest.raises(Stop):
        heal.advance(healing, models[2], tiny.corpus(), on_step=stop_at(5))
    for found in healing.state.moments:
        assert found.keys() == healing.state.trained.keys()
        assert not any(x.any() for x in found.values())


def test_an_interrupted_step_is_no_step(models):
    calls = itertools.count()

    class Breaks(texts.Corpus):
        def batch(self, rng, batch, length):
            if next(calls) == 6:
                raise KeyboardInterrupt
            return super().batch(rng, batch, length)

    healing = begun(models)
    with pytest.raises(KeyboardInterrupt):
        heal.advance(healing, models[2], Breaks(*tiny.corpus()))
    assert healing.state.step == len(healing.losses) == 6
    assert_same(healed(models, healing), healed(models))


def test_a_loss_without_its_step_is_forgotten(models, tmp_path):
    """As it is left by an interruption between the two."""
    healing = begun(models)
    with pytest.raises(Stop):
        heal.advance(healing, models[2], tiny.corpus(), on_step=stop_at(3))
    healing.losses.append(9.0)
    heal_files.save(tmp_path / "healing.safetensors", healing)
    for one in (healing, heal_files.load(tmp_path / "healing.safetensors", begun(models))):
        assert_same(healed(models, one), healed(models))


@pytest.mark.parametrize("stages", [{"layer_rate": 1e300}, {"layer_steps": 0, "rate": 1e300}])
def test_divergence_names_the_step_and_takes_none(models, stages):
    healing, kept = begun(models, **stages), []
    with pytest.raises(DivergedError, match=r"^step 2: the loss is (nan|inf)"):
        heal.advance(healing, models[2], tiny.corpus(), on_step=lambda now: kept.append(now.state))
    assert healing.state is kept[-1]
    assert len(healing.losses) == healing.state.step == 1
    assert np.isfinite(healing.losses).all()


def test_no_steps_change_nothing(models):
    healing = healed(models, layer_steps=0, steps=0)
    assert (healing.losses, healing.state.step, healing.settings.total) == ([], 0, 0)
    assert_equal(healing.params, models[0])


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("layer_steps", -1, "layer_steps=-1 must be a whole number of at least 0"),
        ("steps", 2.0, r"steps=2\.0 must be a whole number"),
        ("steps", 2**63, r"steps=\d+ must be a whole number of at most"),
        ("batch", 0, "batch=0 must be a whole number of at least 1"),
        ("length", True, "length=True must be a whole number"),
        ("layer_rate", 0, "layer_rate=0 must be"),
        ("rate", float("nan"), "rate=nan must be"),
        ("rate", "x", "rate='x' must be"),
        ("seed", -1, "seed=-1 must be a whole number of at least 0"),
    ],
)
def test_bad_settings(name, value, message):
    with pytest.raises(ValueError, match=message):
        heal.Settings(**{name: value})


def test_bad_beginnings(models):
    params, config, original = models
    for arguments, message in (
        ((*original, SETTINGS, tiny.corpus()), "mechanism='gqa' must be 'gta': only a converted model is healed"),
        ((original.params, config, SETTINGS, tiny.corpus()), "missing"),
        (({**params, "norm": np.zeros(3)}, config, SETTINGS, tiny.corpus()), "norm"),
        ((params, config.attention, SETTINGS, tiny.corpus()), "config is a"),
    ):
        with pytest.raises(ValueError, match=message):
            heal.begin(*arguments)


def test_another_original_or_text(models):
    params, config, original = models
    healing = begun(models)
    larger = dataclasses.replace(tiny.CONFIG, n_layers=3)
    other = texts.Corpus({"first": tiny.prose()}, tiny.ENCODE)
    for of, corpus, message in (
        (Original(params, config), tiny.corpus(), "original is of mechanism='gta'; expected 'gqa'"),
        (original._replace(config=larger), tiny.corpus(), "n_layers=2 must be 3, as in the original"),
        (original, other, r"the text is first .* characters, sha256 \w{12}; expected first .*, with which the healing"),
    ):
        with pytest.raises(ValueError, match=message):
            heal.advance(healing, of, corpus)
    assert healing.state.step == 0
