"""A tiny GQA model whose tokens are bytes, converted with shared maps and cut latents, and text for it to learn from."""

import functools

import numpy as np

from gta_ref.convert import texts
from gta_ref.convert.original import Original
from gta_ref.convert.sizes import Sizes
from gta_ref.convert.whole import convert
from gta_ref.lm import model
from gta_ref.lm.language_model import Bytes, LanguageModel
from gta_ref.mechanisms import gqa

ENCODE = Bytes().encode
CUT = (Sizes(n_q=2, n_k=1, latent_dim=5), Sizes(n_q=3, n_k=1, latent_dim=6))
CONFIG = model.Config(256, 2, 32, gqa.Config(24, 6, 4, 2, rope_theta=500.0), "gqa")


def original(dtype="float64", seed=0):
    return Original(model.init(CONFIG, np.random.default_rng(seed), dtype), CONFIG)


def language_model():
    return LanguageModel("tiny", CONFIG, original("float32").params, Bytes(), 512)


@functools.cache
def prose(held_out=False):
    return texts.pieces("prose", held_out=held_out)


@functools.cache
def corpus():
    """Two texts: the first half of the prose to learn from, and the second."""
    half = len(prose()) // 2
    return texts.Corpus({"first": prose()[:half], "second": prose()[half:]}, ENCODE)


def windows(n, length, *, held_out):
    """n windows of prose, (n, length)."""
    return texts.windows(ENCODE, "prose", n, length, held_out=held_out)


def converted(sizes=CUT, dtype="float64", **of_original):
    """The converted model's parameters and configuration, and the original."""
    before = original(dtype, **of_original)
    params, config, _ = convert(*before, sizes, windows(3, 40, held_out=False))
    return params, config, before


class Stop(Exception):  # noqa: N818
    pass


def stop_at(step):
    """A callback that interrupts a healing after a step."""

    def stop(healing):
        if healing.state.step == step:
            raise Stop

    return stop
