"""How far a reader has to go: the files of the project that one call runs in."""

import sys
from pathlib import Path

import numpy as np
import pytest

import gta_ref
from gta_ref.cache import KVCache
from gta_ref.mechanisms import gta

ROOT = Path(gta_ref.__file__).parent
CONFIG = gta.Config(8, n_heads=4, head_dim=2, n_q=2, n_k=1, n_c=1, latent_dim=4)


def files_of(work):
    """The project's files in which `work` runs Python code, relative to gta_ref/."""
    found = set()

    def watch(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            found.add(path.relative_to(ROOT).as_posix())

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


@pytest.fixture
def layer(rng):
    return gta.init(CONFIG, rng), rng.standard_normal((1, 3, 8), dtype=np.float32)


def test_a_forward_is_read_in_eight_files(layer):
    params, x = layer
    files = files_of(lambda: gta.forward(params, x, CONFIG, engine="reference"))
    assert files == {
        "mechanisms/gta.py",
        "core/engines.py",
        "core/mask.py",
        "core/reference.py",
        "ops/arrays.py",
        "ops/gate.py",
        "ops/linear.py",
        "ops/rope.py",
    }


def test_a_decoding_step_needs_the_cache_as_well(layer):
    params, x = layer
    cache = KVCache(gta.structure(CONFIG).cached, batch=1, capacity=3)
    files = files_of(lambda: gta.decode(params, x, cache, CONFIG, engine="reference"))
    assert files - files_of(lambda: gta.forward(params, x, CONFIG, engine="reference")) <= {"cache.py", "errors.py"}


def test_the_definition_shares_nothing_with_the_layer(layer):
    params, x = layer
    files = files_of(lambda: gta.forward_unabsorbed(params, x, CONFIG))
    assert files == {"mechanisms/gta_definition.py", "core/mask.py", "ops/arrays.py"}
