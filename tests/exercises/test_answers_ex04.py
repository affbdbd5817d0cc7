"""Exercise 4: what the check says to answers as students write them."""

import numpy as np
import scipy.special

from tests.exercises.answers import Answers, softmax

ANSWERS = Answers("ex04")


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def of_heads(g, v):
    """(B, N, n_h·d_h) to (B, n_h, N, d_h)."""
    return g.reshape(g.shape[0], g.shape[1], v.shape[1], v.shape[3]).swapaxes(1, 2)


@ANSWERS.wrong("is not written yet")
def untouched(a, v, x, w_g, b_g): ...


@ANSWERS.wrong("the gate's token is the key's")
def gated_before(a, v, x, w_g, b_g):
    return a @ (v * of_heads(sigmoid(x @ w_g + b_g), v))


@ANSWERS.wrong("the gate is left out")
def no_gate(a, v, x, w_g, b_g):
    return a @ v


@ANSWERS.wrong("σ is left out")
def no_sigmoid(a, v, x, w_g, b_g):
    return a @ v * of_heads(x @ w_g + b_g, v)


@ANSWERS.wrong("the bias b_G is left out")
def no_bias(a, v, x, w_g, b_g):
    return a @ v * of_heads(sigmoid(x @ w_g), v)


@ANSWERS.wrong("the bias b_G is subtracted")
def bias_subtracted(a, v, x, w_g, b_g):
    return a @ v * of_heads(sigmoid(x @ w_g - b_g), v)


@ANSWERS.wrong("the bias b_G is added after σ")
def bias_outside(a, v, x, w_g, b_g):
    return a @ v * of_heads(sigmoid(x @ w_g) + b_g, v)


@ANSWERS.wrong("σ(−a)")
def sign_lost(a, v, x, w_g, b_g):
    return a @ v * of_heads(1 / (1 + np.exp(x @ w_g + b_g)), v)


@ANSWERS.wrong("SiLU")
def silu(a, v, x, w_g, b_g):
    g = x @ w_g + b_g
    return a @ v * of_heads(g * sigmoid(g), v)


@ANSWERS.wrong("a tanh instead of σ")
def tanh(a, v, x, w_g, b_g):
    return a @ v * of_heads(np.tanh(x @ w_g + b_g), v)


@ANSWERS.wrong("softmax over its features")
def softmax_gate(a, v, x, w_g, b_g):
    return a @ v * of_heads(softmax(x @ w_g + b_g), v)


@ANSWERS.wrong("added to the heads instead of multiplied")
def gate_added(a, v, x, w_g, b_g):
    return a @ v + of_heads(sigmoid(x @ w_g + b_g), v)


@ANSWERS.wrong("mixes tokens and heads")
def reshaped_at_once(a, v, x, w_g, b_g):
    return a @ v * sigmoid(x @ w_g + b_g).reshape(v.shape)


@ANSWERS.wrong("interleaved over the heads")
def columns_interleaved(a, v, x, w_g, b_g):
    g = sigmoid(x @ w_g + b_g).reshape(*x.shape[:2], v.shape[3], v.shape[1])
    return a @ v * g.transpose(0, 3, 1, 2)


@ANSWERS.wrong("σ overflows", "thousands")
def overflowing(a, v, x, w_g, b_g):
    e = np.exp(x @ w_g + b_g)
    return a @ v * of_heads(e / (1 + e), v)


@ANSWERS.wrong("the map is transposed")
def map_transposed(a, v, x, w_g, b_g):
    return np.einsum("bhst,bhsd->bhtd", a, v) * of_heads(sigmoid(x @ w_g + b_g), v)


@ANSWERS.wrong("A is left out")
def no_map(a, v, x, w_g, b_g):
    return v * of_heads(sigmoid(x @ w_g + b_g), v)


@ANSWERS.wrong("that of the first token")
def first_token(a, v, x, w_g, b_g):
    return a @ v * of_heads(sigmoid(x[:, :1] @ w_g + b_g), v)


@ANSWERS.wrong("σ is applied to the gated heads")
def sigmoid_last(a, v, x, w_g, b_g):
    return sigmoid(a @ v * of_heads(x @ w_g + b_g, v))


@ANSWERS.wrong("heads is float64 where the inputs are float32")
def widened(a, v, x, w_g, b_g):
    gate = np.zeros(v.shape)
    gate[:] = of_heads(sigmoid(x @ w_g + b_g), v)
    return a @ v * gate


@ANSWERS.wrong("gated_heads changes its input v", "belongs to the caller")
def forced_in_place(a, v, x, w_g, b_g):
    v.setflags(write=True)
    np.matmul(a, v.copy(), out=v)
    v *= of_heads(sigmoid(x @ w_g + b_g), v)
    return v


@ANSWERS.right
def with_numpy(a, v, x, w_g, b_g):
    return a @ v * of_heads(sigmoid(x @ w_g + b_g), v)


@ANSWERS.right
def with_expit(a, v, x, w_g, b_g):
    return a @ v * of_heads(scipy.special.expit(x @ w_g + b_g), v)


@ANSWERS.right
def with_tanh(a, v, x, w_g, b_g):
    gate = 0.5 + 0.5 * np.tanh((x @ w_g + b_g) / 2)
    return np.einsum("bhts,bhsd,bthd->bhtd", a, v, gate.reshape(*x.shape[:2], v.shape[1], v.shape[3]))


@ANSWERS.right
def head_by_head(a, v, x, w_g, b_g):
    d_h = v.shape[3]
    heads = np.empty_like(v)
    for i in range(v.shape[1]):
        columns = slice(i * d_h, (i + 1) * d_h)
        heads[:, i] = a[:, i] @ v[:, i] * sigmoid(x @ w_g[:, columns] + b_g[columns])
    return heads


@ANSWERS.right
def all_in_loops(a, v, x, w_g, b_g):
    batch, n_h, length, d_h = v.shape
    heads = np.zeros(v.shape, v.dtype)
    for b in range(batch):
        for t in range(length):
            linear = np.array([sum(x[b, t] * w_g[:, j]) + b_g[j] for j in range(n_h * d_h)])
            gate = np.where(linear > 0, 1 / (1 + np.exp(-abs(linear))), 1 - 1 / (1 + np.exp(-abs(linear))))
            for i in range(n_h):
                for s in range(length):
                    heads[b, i, t] += a[b, i, t, s] * v[b, i, s]
                heads[b, i, t] *= gate[i * d_h : (i + 1) * d_h]
    return heads


@ANSWERS.right
def float64_inside(a, v, x, w_g, b_g):
    a, v64, x, w_g, b_g = (y.astype(np.float64) for y in (a, v, x, w_g, b_g))
    heads = a @ v64
    heads *= of_heads(sigmoid(x @ w_g + b_g), v)
    return heads.astype(v.dtype)


@ANSWERS.right_with("torch")
def in_torch(a, v, x, w_g, b_g):
    import torch

    a, v, x, w_g, b_g = (torch.from_numpy(y.copy()) for y in (a, v, x, w_g, b_g))
    gate = torch.sigmoid(torch.nn.functional.linear(x, w_g.T, b_g))
    return (a @ v * gate.unflatten(-1, (v.shape[1], v.shape[3])).transpose(1, 2)).numpy()


@ANSWERS.wrong_ones()
def test_wrong(function, words):
    ANSWERS.refused(function, words)


@ANSWERS.right_ones()
def test_right(function):
    ANSWERS.accepted(function)
