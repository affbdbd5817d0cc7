"""Files of converted models: what was written is read, and damage is one line that names the file."""

import json

import numpy as np
import pytest

from gta_ref.files import read_tensors, write_tensors
from gta_ref.lm import model, model_files
from gta_ref.mechanisms import gta


def content():
    layers = (gta.Config(16, 4, 4, 2, 1, 1, 6, bias=False), gta.Config(16, 4, 4, 4, 2, 1, 8, bias=False))
    config = model.Config(20, 2, 8, layers)
    return model_files.Content(config, model.init(config, np.random.default_rng(0)), "smollm2", 99)


def test_what_is_written_is_read(tmp_path):
    path, wanted = tmp_path / "m.safetensors", content()
    model_files.save(path, wanted)
    found = model_files.parse(path, *read_tensors(path))
    assert found._replace(params=None) == wanted._replace(params=None)
    assert found.config.layer(1).n_k == 2
    for name, w in wanted.params.items():
        np.testing.assert_array_equal(found.params[name], w)


def changed(about, **fields):
    return {"model": json.dumps({**about, **fields})}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda about: {}, "an incomplete language model"),
        (lambda about: {"model": "{"}, "Expecting"),
        (lambda about: changed(about, context_length=0), "context_length=0"),
        (lambda about: changed(about, more=1), "more"),
        (lambda about: changed(about, config={**about["config"], "n_layers": 3}), "attention has 2 Configs"),
        (lambda about: changed(about, config={**about["config"], "vocab_size": 21}), "embed"),
    ],
)
def test_damage_is_one_line(tmp_path, change, message):
    path = tmp_path / "m.safetensors"
    model_files.save(path, content())
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, {"format": model_files.FORMAT, **change(json.loads(metadata["model"]))})
    with pytest.raises(ValueError, match=message) as caught:
        model_files.parse(path, *read_tensors(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
