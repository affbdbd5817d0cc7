"""Exercise 1: what the check says to answers as students write them."""

import numpy as np

from tests.exercises.answers import Answers

ANSWERS = Answers("ex01")


@ANSWERS.wrong("is not written yet", "`...`")
def untouched(maps, values):
    """Every head's values."""


@ANSWERS.wrong("returns None", "Is `return` missing?")
def no_return(maps, values):
    heads = np.repeat(maps, values.shape[1] // maps.shape[1], 1) @ values  # noqa: F841


@ANSWERS.wrong("interleaved over the maps", "np.repeat")
def tiled(maps, values):
    return np.tile(maps, (1, values.shape[1] // maps.shape[1], 1, 1)) @ values


@ANSWERS.wrong("interleaved over the maps")
def modulo(maps, values):
    return np.stack([maps[:, i % maps.shape[1]] @ values[:, i] for i in range(values.shape[1])], axis=1)


@ANSWERS.wrong("every head reads map 0")
def first_map(maps, values):
    return maps[:, 0:1] @ values


@ANSWERS.wrong("every head reads the last map")
def last_map(maps, values):
    for m in range(maps.shape[1]):
        heads = maps[:, m : m + 1] @ values
    return heads


@ANSWERS.wrong("the map is transposed")
def transposed(maps, values):
    return np.repeat(maps, values.shape[1] // maps.shape[1], 1).transpose(0, 1, 3, 2) @ values


@ANSWERS.wrong("reverse order")
def reversed_maps(maps, values):
    return np.repeat(maps[:, ::-1], values.shape[1] // maps.shape[1], axis=1) @ values


@ANSWERS.wrong("the mean of all maps")
def averaged(maps, values):
    return maps.mean(axis=1, keepdims=True) @ values


@ANSWERS.wrong("the sum of all maps")
def added(maps, values):
    return np.einsum("bmqk,bhkd->bhqd", maps, values)


@ANSWERS.wrong("a softmax is applied to the maps")
def softmax_again(maps, values):
    w = np.exp(np.repeat(maps, values.shape[1] // maps.shape[1], 1))
    return w / w.sum(-1, keepdims=True) @ values


@ANSWERS.wrong("normalised again", "sees nothing")
def normalised_again(maps, values):
    weights = maps / maps.sum(axis=-1, keepdims=True)
    return np.repeat(weights, values.shape[1] // maps.shape[1], axis=1) @ values


@ANSWERS.wrong("heads has shape (2, 2, 5, 3)", "expected (2, 6, 5, 3)")
def a_head_for_each_map(maps, values):
    return maps @ values[:, : maps.shape[1]]


@ANSWERS.wrong("ValueError", "line", "return maps @ values", "Called with maps (2, 2, 5, 5)")
def not_repeated(maps, values):
    return maps @ values


@ANSWERS.wrong("heads is float64 where the inputs are float32", "np.zeros without dtype")
def widened(maps, values):
    heads = np.zeros((*values.shape[:2], *maps.shape[2:3], values.shape[3]))
    run = values.shape[1] // maps.shape[1]
    for i in range(values.shape[1]):
        heads[:, i] = maps[:, i // run] @ values[:, i]
    return heads


@ANSWERS.wrong("writes into one of its inputs", "values[:, i] =")
def in_place(maps, values):
    for i in range(values.shape[1]):
        values[:, i] = maps[:, i // (values.shape[1] // maps.shape[1])] @ values[:, i]
    return values


@ANSWERS.wrong("returns 2 values; expected one, heads")
def maps_too(maps, values):
    per_head = np.repeat(maps, values.shape[1] // maps.shape[1], axis=1)
    return per_head @ values, per_head


@ANSWERS.right
def repeated(maps, values):
    return np.repeat(maps, values.shape[1] // maps.shape[1], axis=1) @ values


@ANSWERS.right
def five_loops(maps, values):
    batch, n_h, keys, d_h = values.shape
    heads = np.zeros((batch, n_h, maps.shape[2], d_h), values.dtype)
    for b in range(batch):
        for i in range(n_h):
            for t in range(maps.shape[2]):
                for s in range(keys):
                    heads[b, i, t] += maps[b, i * maps.shape[1] // n_h, t, s] * values[b, i, s]
    return heads


@ANSWERS.right
def grouped_einsum(maps, values):
    batch, n_h, keys, d_h = values.shape
    grouped = values.reshape(batch, maps.shape[1], -1, keys, d_h)
    return np.einsum("bmqk,bmrkd->bmrqd", maps, grouped).reshape(batch, n_h, -1, d_h)


@ANSWERS.right
def index_of_the_map(maps, values):
    return np.matmul(maps[:, np.arange(values.shape[1]) // (values.shape[1] // maps.shape[1])], values)


@ANSWERS.right
def float64_inside(maps, values):
    per_head = np.kron(maps.astype(np.float64), np.ones((1, values.shape[1] // maps.shape[1], 1, 1)))
    return (per_head @ values.astype(np.float64)).astype(values.dtype)


@ANSWERS.right
def in_place_on_a_copy(maps, values):
    heads = np.empty((*values.shape[:2], maps.shape[2], values.shape[3]), values.dtype)
    values = values.copy()
    for i, out in enumerate(np.moveaxis(heads, 1, 0)):
        np.matmul(maps[:, i // (values.shape[1] // maps.shape[1])], values[:, i], out=out)
    return heads


@ANSWERS.right_with("torch")
def in_torch(maps, values):
    import torch

    maps, values = torch.tensor(maps), torch.tensor(values)
    return (maps.repeat_interleave(values.shape[1] // maps.shape[1], dim=1) @ values).numpy()


@ANSWERS.wrong_ones()
def test_wrong(function, words):
    ANSWERS.refused(function, words)


@ANSWERS.right_ones()
def test_right(function):
    ANSWERS.accepted(function)
