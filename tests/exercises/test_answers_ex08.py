"""Exercise 8: answers that a student may write, right ones in several styles and wrong ones, and what is said to each."""

import importlib.util
from typing import Any

import numpy as np
import pytest

from gta_ref.exercises import check
from tests.exercises.answers import Answers

# imported here, so that a check does not import it in every process
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
ANSWERS = Answers("ex08")


def loops(d_map, map):
    out = np.zeros_like(map)
    for row in np.ndindex(map.shape[:-1]):
        mean = 0
        for j in range(map.shape[-1]):
            mean = mean + map[row][j] * d_map[row][j]
        for j in range(map.shape[-1]):
            out[row][j] = map[row][j] * (d_map[row][j] - mean)
    return out


def rows(d_map, map):
    flat_d, flat = d_map.reshape(-1, map.shape[-1]), map.reshape(-1, map.shape[-1])
    return np.stack([a * (d - a @ d) for d, a in zip(flat_d, flat, strict=True)]).reshape(map.shape)


def einsum(d_map, map):
    return map * d_map - map * np.einsum("bmij,bmij->bmi", map, d_map)[..., None]


def matmul(d_map, map):
    return map * (d_map - (d_map[..., None, :] @ map[..., None])[..., 0])


def on_paper(d_map, map):
    product = np.multiply(map, d_map)
    return product - map * np.add.reduce(product, axis=3, keepdims=True)


def torch_formula(d_map, map):
    d, a = torch.tensor(d_map), torch.tensor(map)
    return (a * (d - (a * d).sum(-1, keepdim=True))).numpy()


def torch_backward(d_map, map):
    return (
        torch.ops.aten._softmax_backward_data(torch.tensor(d_map), torch.tensor(map), -1, torch.float64)
        .to(torch.tensor(map).dtype)
        .numpy()
        if map.dtype == np.float64
        else einsum(d_map, map)
    )


def float64_inside(d_map, map):
    return rows(d_map.astype("float64"), map.astype("float64")).astype(map.dtype)


RIGHT = [loops, rows, einsum, matmul, on_paper, torch_formula, torch_backward, float64_inside]


@pytest.mark.parametrize("answer", RIGHT, ids=lambda answer: answer.__name__)
def test_right(answer):
    if torch is None and "torch" in answer.__name__:
        pytest.skip("PyTorch is not installed")
    ANSWERS.accepted(answer)


def jacobian(d_map, map):
    full = map[..., None] * (np.eye(map.shape[-1], dtype=map.dtype) - map[..., None, :])
    return np.einsum("bmij,bmijl->bmil", d_map, full)


def jacobian_of_a_row(d_map, map):
    out = np.empty_like(map)
    for row in np.ndindex(map.shape[:-1]):
        out[row] = (np.diag(map[row]) - np.outer(map[row], map[row])) @ d_map[row]
    return out


def jacobian_in_torch(d_map, map):
    a, d = torch.from_numpy(map.copy()), torch.from_numpy(d_map.copy())
    return ((torch.diag_embed(a) - a[..., :, None] * a[..., None, :]) @ d[..., None])[..., 0].numpy()


def total(x, axis=-1):
    return x.sum(axis, keepdims=True)


def softmax(x):
    return np.exp(x) / total(np.exp(x))


WRONG = {
    "jacobian": (jacobian, ("The values are right", "Jacobian", "one number for each row")),
    "a row's jacobian": (jacobian_of_a_row, ("The values are right", "Jacobian")),
    "jacobian in torch": (jacobian_in_torch, ("The values are right", "Jacobian")),
    "diagonal": (lambda d_map, map: d_map * (map - map**2), ("only the diagonal",)),
    "no sum": (lambda d_map, map: np.einsum("bmij,bmij->bmij", map, d_map), ("row's sum is left out",)),
    "sum of dA": (lambda d_map, map: map * (d_map - total(d_map)), ("the sum is over dA alone",)),
    "mean of dA": (lambda d_map, map: map * (d_map - d_map.mean(-1)[..., None]), ("plain mean of dA",)),
    "over queries": (lambda d_map, map: map * (d_map - total(map * d_map, 2)), ("wrong axis, the queries",)),
    "over maps": (lambda d_map, map: map * (d_map - total(map * d_map, 1)), ("the sum runs over the maps",)),
    "over all": (
        lambda d_map, map: map * (d_map - np.einsum("bmij,bmij->bm", map, d_map)[..., None, None]), ("the whole map",),
    ),
    "plus": (lambda d_map, map: map * d_map + map * total(map * d_map), ("added instead of subtracted",)),
    "no A": (lambda d_map, map: d_map - total(map * d_map), ("factor A in front is left out",)),
    "sum outside": (lambda d_map, map: map * d_map - total(map * d_map), ("row's sum is outside the factor A",)),
    "log-softmax": (lambda d_map, map: d_map - map * total(d_map), ("backward of log-softmax",)),
    "A twice": (lambda d_map, map: map * map * d_map - map * total(map * d_map), ("A stands inside the bracket",)),
    "softmax again": (
        lambda d_map, map: softmax(map) * (d_map - total(softmax(map) * d_map)), ("softmax is taken of the map once more",),
    ),
    "sign": (lambda d_map, map: map * (total(map * d_map) - d_map), ("wrong sign",)),
    "dA": (lambda d_map, map: 1 * d_map, ("dA itself is returned",)),
    "twice": (lambda d_map, map: 2 * map * (d_map - total(map * d_map)), ("Every value is 2 times",)),
    "no keepdims": (lambda d_map, map: map * (d_map - (map * d_map).sum(-1)), ("ValueError", "broadcast", "line")),
    "summed": (lambda d_map, map: (map * (d_map - total(map * d_map))).sum(-1), ("has shape (2, 3, 5)",)),
    "wide": (lambda d_map, map: map * (d_map - total(map * d_map)) * np.ones(1), ("is float64 where the inputs are",)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name):
    if torch is None and "torch" in name:
        pytest.skip("PyTorch is not installed")
    ANSWERS.refused(*WRONG[name])


def test_half_a_mistake_is_not_named():
    """The diagonal alone in one map of three: no cause explains all wrong numbers."""

    def mixed(d_map, map):
        right = map * (d_map - total(map * d_map))
        right[:, 0] = (d_map * map * (1 - map))[:, 0]
        return right

    assert "equals what comes out when" not in check("ex08", mixed).hint
