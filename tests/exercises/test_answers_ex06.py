"""Exercise 6: what the check says to answers as students write them."""

import numpy as np

from tests.exercises.answers import Answers

ANSWERS = Answers("ex06")


def elements(model):
    keys = model["n_k"] * model["d_h"]
    return keys + (model["n_c"] * model["d_l"] if "d_l" in model else keys)


@ANSWERS.wrong("is not written yet")
def untouched(model, batch, tokens, itemsize): ...


@ANSWERS.wrong("2 bytes, whatever itemsize says")
def two_bytes(model, batch, tokens, itemsize):
    return elements(model) * model["layers"] * batch * tokens * 2


@ANSWERS.wrong("4 bytes, whatever itemsize says")
def four_bytes(model, batch, tokens, itemsize):
    return elements(model) * model["layers"] * batch * tokens * 4


@ANSWERS.wrong("GTA's keys are counted twice")
def as_in_gqa(model, batch, tokens, itemsize):
    return 2 * model["n_k"] * model["d_h"] * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("the sum of keys and latent is doubled")
def doubled(model, batch, tokens, itemsize):
    keys = model["n_k"] * model["d_h"]
    values = model["n_c"] * model["d_l"] if "d_l" in model else 0
    return 2 * (keys + values) * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("that is MHA's cache")
def as_in_mha(model, batch, tokens, itemsize):
    return 2 * model["n_h"] * model["d_h"] * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("the latent is counted for every map")
def latent_of_every_map(model, batch, tokens, itemsize):
    values = model["n_q"] * model["d_l"] if "d_l" in model else model["n_k"] * model["d_h"]
    return (model["n_k"] * model["d_h"] + values) * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("as wide as a head (d_h)")
def narrow_latent(model, batch, tokens, itemsize):
    heads = model["n_k"] + model.get("n_c", model["n_k"])
    return heads * model["d_h"] * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("only the latent is counted")
def only_latent(model, batch, tokens, itemsize):
    per_token = model["n_c"] * model["d_l"] if "d_l" in model else 2 * model["n_k"] * model["d_h"]
    return per_token * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("only the keys are counted")
def only_keys(model, batch, tokens, itemsize):
    return model["n_k"] * model["d_h"] * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("a model without d_l is counted with its keys only")
def no_values(model, batch, tokens, itemsize):
    per_token = model["n_k"] * model["d_h"] + model.get("n_c", 0) * model.get("d_l", 0)
    return per_token * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("FlashAttention path", "192")
def padded_keys(model, batch, tokens, itemsize):
    width = model.get("d_l", model["d_h"])
    return (model["n_k"] + model.get("n_c", model["n_k"])) * width * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("only one layer is counted")
def one_layer(model, batch, tokens, itemsize):
    return elements(model) * batch * tokens * itemsize


@ANSWERS.wrong("only one sequence is counted")
def one_sequence(model, batch, tokens, itemsize):
    return elements(model) * model["layers"] * tokens * itemsize


@ANSWERS.wrong("itemsize is missing")
def elements_only(model, batch, tokens, itemsize):
    return elements(model) * model["layers"] * batch * tokens


@ANSWERS.wrong("bits are counted")
def bits(model, batch, tokens, itemsize):
    return elements(model) * model["layers"] * batch * tokens * itemsize * 8


@ANSWERS.wrong("tokens²")
def squared(model, batch, tokens, itemsize):
    return elements(model) * model["layers"] * batch * tokens**2 * itemsize


@ANSWERS.wrong("in MiB")
def mebibytes(model, batch, tokens, itemsize):
    return elements(model) * model["layers"] * batch * tokens * itemsize / 1024**2


@ANSWERS.wrong("right values, but as float64; expected whole numbers", "int(…)")
def a_float(model, batch, tokens, itemsize):
    return elements(model) * model["layers"] * batch * tokens * (itemsize * 8 / 8)


@ANSWERS.wrong("KeyError: 'n_c'", "line", 'model["n_c"]')
def latent_always(model, batch, tokens, itemsize):
    return (model["n_k"] * model["d_h"] + model["n_c"] * model["d_l"]) * model["layers"] * batch * tokens * itemsize


@ANSWERS.wrong("cache_bytes changes its input model")
def changes_the_model(model, batch, tokens, itemsize):
    model.setdefault("d_l", model["d_h"])
    model.setdefault("n_c", model["n_k"])
    return elements(model) * model["layers"] * batch * tokens * itemsize


@ANSWERS.right
def with_if(model, batch, tokens, itemsize):
    return elements(model) * model["layers"] * batch * tokens * itemsize


@ANSWERS.right
def with_get(model, batch, tokens, itemsize):
    latent = model.get("n_c", model["n_k"]) * model.get("d_l", model["d_h"])
    return itemsize * tokens * batch * model["layers"] * (model["n_k"] * model["d_h"] + latent)


@ANSWERS.right
def with_try(model, batch, tokens, itemsize):
    keys = model["n_k"] * model["d_h"]
    try:
        values = model["n_c"] * model["d_l"]
    except KeyError:
        values = keys
    return np.int64(keys + values) * model["layers"] * batch * tokens * itemsize


@ANSWERS.right
def layer_by_layer(model, batch, tokens, itemsize):
    total = 0
    for _layer in range(model["layers"]):
        for _sequence in range(batch):
            total += elements(model) * tokens * itemsize
    return total


@ANSWERS.right
def rounded_to_an_integer(model, batch, tokens, itemsize):
    return int(1.0 * elements(model) * model["layers"] * batch * tokens * itemsize + 0.5)


@ANSWERS.right
def product_of_an_array(model, batch, tokens, itemsize):
    return np.prod([elements(model), model["layers"], batch, tokens, itemsize], dtype=np.int64)


@ANSWERS.right
def filled_in_copy(model, batch, tokens, itemsize):
    full = {"n_c": model["n_k"], "d_l": model["d_h"], **model}
    return elements(full) * full["layers"] * batch * tokens * itemsize


@ANSWERS.wrong_ones()
def test_wrong(function, words):
    ANSWERS.refused(function, words)


@ANSWERS.right_ones()
def test_right(function):
    ANSWERS.accepted(function)
