"""Exercise 9: answers that a student may write, right ones in several styles and wrong ones, and what is said to each."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import scipy.special

from gta_ref.exercises import check
from tests.exercises.answers import Answers

# imported here, so that a check does not import it in every process
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
ANSWERS = Answers("ex09")


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def backward(
    d_heads, z, w_p, a, copies, *, d_values=lambda d, g, a: d * g, slope=lambda g, a: g * (1 - g), share="sum",
    tile=np.tile, u_copies=True, split=lambda x, s: x.reshape(s[0], s[2], s[1], -1).swapaxes(1, 2),
    join=lambda u: u.swapaxes(1, 2), d_w=lambda x: x.sum(0), from_dO=False, u_in_a=lambda u, g: u,
):  # fmt: skip
    """The gradients, with a wrong step where a test names one."""
    (batch, n_q, length, d_l), width = z.shape, w_p.shape[2]
    g, e = sigmoid(a), width // d_l
    u = z @ w_p
    if copies and u_copies:
        u = u + (tile(z, e) if tile is np.tile else tile(z, e, -1))
    u = join(u).reshape(a.shape)
    d_u = split(d_values(d_heads, g, a), z.shape)
    d_z = d_u @ w_p.swapaxes(1, 2)
    parts = (split(d_heads, z.shape) if from_dO else d_u).reshape(batch, n_q, length, -1, d_l) if copies else None
    if copies and share == "sum":
        d_z = d_z + parts.sum(3)
    elif copies and share == "first":
        d_z = d_z + parts[..., 0, :]
    elif copies and share == "mean":
        d_z = d_z + parts.mean(3)
    elif copies and share == "runs":
        d_z = d_z + parts.reshape(batch, n_q, length, d_l, -1).sum(4)
    return d_z, d_w(z.swapaxes(-1, -2) @ d_u), d_heads * u_in_a(u, g) * slope(g, a)


def by(**step):
    return lambda d_heads, z, w_p, a, copies: backward(d_heads, z, w_p, a, copies, **step)


def einsum(d_heads, z, w_p, a, copies):
    (batch, n_q, length, d_l), width = z.shape, w_p.shape[2]
    gate = scipy.special.expit(a).reshape(batch, length, n_q, width)
    d_o = d_heads.reshape(gate.shape)
    if copies:  # the copies are one matrix more: e identities side by side
        w_p = w_p + np.tile(np.eye(d_l, dtype=w_p.dtype), width // d_l)
    u = np.einsum("bmnl,mlw->bnmw", z, w_p)
    d_u = d_o * gate
    d_a = (d_o * u * gate * (1 - gate)).reshape(a.shape)
    return np.einsum("bnmw,mlw->bmnl", d_u, w_p), np.einsum("bmnl,bnmw->mlw", z, d_u), d_a


def loops(d_heads, z, w_p, a, copies):
    (batch, n_q, length, d_l), width = z.shape, w_p.shape[2]
    d_z, d_w, d_a = np.zeros_like(z), np.zeros_like(w_p), np.zeros_like(a)
    for b in range(batch):
        for m in range(n_q):
            columns = slice(m * width, (m + 1) * width)
            for n in range(length):
                u = z[b, m, n] @ w_p[m]
                if copies:
                    u = u + np.concatenate([z[b, m, n]] * (width // d_l))
                g, d = sigmoid(a[b, n, columns]), d_heads[b, n, columns]
                d_a[b, n, columns] = d * u * (g - g * g)
                d_w[m] += np.outer(z[b, m, n], d * g)
                d_z[b, m, n] = w_p[m] @ (d * g)
                for copy in range(width // d_l if copies else 0):
                    d_z[b, m, n] += (d * g)[copy * d_l : (copy + 1) * d_l]
    return d_z, d_w, d_a


def autograd(d_heads, z, w_p, a, copies):
    z, w_p, a = (torch.tensor(x, requires_grad=True) for x in (z, w_p, a))
    u = z @ w_p
    if copies:
        u = u + z.repeat(1, 1, 1, w_p.shape[2] // z.shape[3])
    heads = u.transpose(1, 2).reshape(a.shape) * torch.sigmoid(a)
    heads.backward(torch.tensor(d_heads))
    return z.grad.numpy(), w_p.grad.numpy(), a.grad.numpy()


def a_list(d_heads, z, w_p, a, copies):
    return list(einsum(d_heads, z, w_p, a, copies))


def by_tanh(d_heads, z, w_p, a, copies):
    return backward(d_heads, z, w_p, a, copies, slope=lambda g, a: (1 - np.tanh(a / 2) ** 2) / 4)


def one_product(d_heads, z, w_p, a, copies):
    """All tokens of a map in one matrix product."""
    (batch, n_q, length, d_l), width = z.shape, w_p.shape[2]
    d_u = (d_heads * sigmoid(a)).reshape(-1, n_q, width).swapaxes(0, 1)
    rows = z.transpose(1, 0, 2, 3).reshape(n_q, -1, d_l)
    d_w = rows.swapaxes(1, 2) @ d_u
    u, d_z = rows @ w_p, d_u @ w_p.swapaxes(1, 2)
    if copies:
        u = u + np.concatenate([rows] * (width // d_l), 2)
        d_z = d_z + sum(np.split(d_u, width // d_l, 2))
    d_z = d_z.reshape(n_q, batch, length, d_l).swapaxes(0, 1)
    return d_z, d_w, d_heads * u.swapaxes(0, 1).reshape(a.shape) * sigmoid(a) * sigmoid(-a)


@pytest.mark.parametrize("answer", [by(), einsum, loops, autograd, a_list, by_tanh, one_product])
def test_right(answer):
    if torch is None and answer is autograd:
        pytest.skip("PyTorch is not installed")
    ANSWERS.accepted(answer)


WRONG = {
    "no gate": (by(d_values=lambda d, g, a: d), ("the gate is left out of the backward",)),
    "a for the gate": (by(d_values=lambda d, g, a: d * a), ("a itself is used in place of the gate",)),
    "no residual": (by(share="none"), ("the copies of Z pass no gradient", "with e=2 copies")),
    "first copy": (by(share="first"), ("only the first copy",)),
    "mean of the copies": (by(share="mean"), ("slices of dU are averaged",)),
    "interleaved slices": (by(share="runs"), ("slices of dU are interleaved",)),
    "np.repeat": (by(tile=np.repeat), ("copies in U are laid out as np.repeat does",)),
    "np.repeat throughout": (by(tile=np.repeat, share="runs"), ("the copies of Z are laid out as np.repeat does",)),
    "copies from dO": (by(from_dO=True), ("copies' gradient lacks the gate",)),
    "no copies in U": (by(u_copies=False), ("da is computed from Z W_P alone",)),
    "mixed": (by(split=lambda x, s: x.reshape(s[0], s[1], s[2], -1)), ("dO (B, N, n_q·width) is reshaped directly",)),
    "mixed both": (
        by(split=lambda x, s: x.reshape(s[0], s[1], s[2], -1), join=lambda u: u), ("dO and U are reshaped directly",),
    ),
    "mixed U": (by(join=lambda u: u), ("U (B, n_q, N, width) is reshaped directly",)),
    "no batch sum": (by(d_w=lambda x: x), ("dW_P is not summed over the batch",)),
    "batch mean": (by(d_w=lambda x: x.mean(0)), ("dW_P is averaged over the batch",)),
    "first sequence": (by(d_w=lambda x: x[0]), ("the first sequence alone",)),
    "no slope": (by(slope=lambda g, a: 1), ("σ′ is left out of da",)),
    "σ for σ′": (by(slope=lambda g, a: g), ("da contains σ(a) where",)),
    "a(1 − a)": (by(slope=lambda g, a: a * (1 - a)), ("da contains a(1 − a)",)),
    "tanh′": (by(slope=lambda g, a: 1 - g * g), ("tanh′",)),
    "gated values": (by(u_in_a=lambda u, g: u * g), ("da contains the gated values",)),
    "no values": (by(u_in_a=lambda u, g: 1), ("the values are left out of da",)),
    "another order": (
        lambda d_heads, z, w_p, a, copies: backward(d_heads, z, w_p, a, copies)[::-1], ("d_z has shape",),
    ),
    "two results": (
        lambda d_heads, z, w_p, a, copies: backward(d_heads, z, w_p, a, copies)[:2], ("returns 2 values; expected 3",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name):
    ANSWERS.refused(*WRONG[name])


def test_two_mistakes_are_not_one():
    """Each of two mistakes explains one of the two wrong results, so neither is named for both."""
    hint = check("ex09", by(slope=lambda g, a: g, d_w=lambda x: x.mean(0))).hint
    assert "equals what comes out when" not in hint
