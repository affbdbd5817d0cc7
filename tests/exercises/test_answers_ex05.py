"""Exercise 5: what the check says to answers as students write them."""

import numpy as np

from tests.exercises.answers import Answers, softmax

ANSWERS = Answers("ex05")


def of_maps(c, a):
    return np.repeat(c, a.shape[1] // c.shape[1], axis=1)


def side_by_side(u):
    """(B, n_q, N, width) to (B, N, n_q·width)."""
    return u.swapaxes(1, 2).reshape(u.shape[0], u.shape[2], -1)


@ANSWERS.wrong("is not written yet")
def untouched(a, c, w_p, gate): ...


@ANSWERS.wrong("The values are right", "MiB", "past values are decoded, as in Eq. 7")
def decoded_first(a, c, w_p, gate):
    return side_by_side(a @ (of_maps(c, a) @ w_p)) * gate


@ANSWERS.wrong("Past values are decoded, as in Eq. 7, if only one at a time", "decode Z (Eq. 8)")
def decoded_one_by_one(a, c, w_p, gate):
    u = np.zeros((*a.shape[:3], w_p.shape[2]), c.dtype)
    c = of_maps(c, a)
    for s in range(c.shape[2]):
        u += a[..., s, None] * (c[:, :, s, None] @ w_p)
    return side_by_side(u) * gate


@ANSWERS.wrong("latent heads are interleaved")
def latents_tiled(a, c, w_p, gate):
    return side_by_side(a @ np.tile(c, (1, a.shape[1] // c.shape[1], 1, 1)) @ w_p) * gate


@ANSWERS.wrong("every map reads latent head 0")
def first_latent(a, c, w_p, gate):
    return side_by_side(a @ c[:, :1] @ w_p) * gate


@ANSWERS.wrong("decoded with the matrix of map 0")
def first_matrix(a, c, w_p, gate):
    return side_by_side(a @ of_maps(c, a) @ w_p[0]) * gate


@ANSWERS.wrong("matrices are in the reverse order")
def reversed_matrices(a, c, w_p, gate):
    return side_by_side(a @ of_maps(c, a) @ w_p[::-1]) * gate


@ANSWERS.wrong("all matrices are averaged")
def averaged_matrices(a, c, w_p, gate):
    return side_by_side(a @ of_maps(c, a) @ w_p.mean(axis=0)) * gate


@ANSWERS.wrong("the gate is left out")
def no_gate(a, c, w_p, gate):
    return side_by_side(a @ of_maps(c, a) @ w_p)


@ANSWERS.wrong("σ is applied to the gate again")
def gated_twice(a, c, w_p, gate):
    return side_by_side(a @ of_maps(c, a) @ w_p) / (1 + np.exp(-gate))


@ANSWERS.wrong("the gate is added")
def gate_added(a, c, w_p, gate):
    return side_by_side(a @ of_maps(c, a) @ w_p) + gate


@ANSWERS.wrong("swap the axes of maps and tokens first")
def not_swapped(a, c, w_p, gate):
    return (a @ of_maps(c, a) @ w_p).reshape(gate.shape) * gate


@ANSWERS.wrong("columns are interleaved")
def columns_interleaved(a, c, w_p, gate):
    u = a @ of_maps(c, a) @ w_p
    return np.moveaxis(u, 1, -1).reshape(gate.shape) * gate


@ANSWERS.wrong("the copies of Z are added")
def with_copies(a, c, w_p, gate):
    z = a @ of_maps(c, a)
    return side_by_side(z @ w_p + np.concatenate([z, z], axis=-1)[..., : w_p.shape[2]]) * gate


@ANSWERS.wrong("the weights of the map are not used")
def mean_of_latents(a, c, w_p, gate):
    z = np.broadcast_to(of_maps(c, a).mean(axis=2, keepdims=True), (*a.shape[:3], c.shape[3]))
    return side_by_side(z @ w_p) * gate


@ANSWERS.wrong("a softmax is applied to the maps")
def softmax_again(a, c, w_p, gate):
    return side_by_side(softmax(a) @ of_maps(c, a) @ w_p) * gate


@ANSWERS.wrong("heads has shape (2, 6, 5, 6)", "an axis too many")
def not_joined(a, c, w_p, gate):
    return a @ of_maps(c, a) @ w_p


@ANSWERS.wrong("ValueError", "line", "a @ c @ w_p")
def not_repeated(a, c, w_p, gate):
    return side_by_side(a @ c @ w_p) * gate


@ANSWERS.right
def with_numpy(a, c, w_p, gate):
    return side_by_side(a @ of_maps(c, a) @ w_p) * gate


@ANSWERS.right
def two_einsums(a, c, w_p, gate):
    z = np.einsum("bmts,bmsl->bmtl", a, of_maps(c, a))
    return np.einsum("bmtl,mlw->btmw", z, w_p).reshape(gate.shape) * gate


@ANSWERS.right
def optimised_einsum(a, c, w_p, gate):
    u = np.einsum("bmts,bmsl,mlw->btmw", a, of_maps(c, a), w_p, optimize=True)
    return u.reshape(gate.shape) * gate


@ANSWERS.right
def map_by_map(a, c, w_p, gate):
    width = w_p.shape[2]
    heads = np.zeros_like(gate)
    for m in range(a.shape[1]):
        z = a[:, m] @ c[:, m * c.shape[1] // a.shape[1]]
        heads[..., m * width : (m + 1) * width] = z @ w_p[m]
    heads *= gate
    return heads


@ANSWERS.right
def sum_over_the_keys(a, c, w_p, gate):
    z = np.zeros((*a.shape[:3], c.shape[3]), c.dtype)
    latents = of_maps(c, a)
    for s in range(a.shape[3]):
        z += a[..., s : s + 1] * latents[:, :, s : s + 1]
    return np.concatenate([z[:, m] @ w_p[m] for m in range(a.shape[1])], axis=-1) * gate


@ANSWERS.right
def gate_in_the_matrix(a, c, w_p, gate):
    z = a @ of_maps(c, a)
    g = gate.reshape(*gate.shape[:2], a.shape[1], 1, -1).swapaxes(1, 2)  # (B, n_q, N, 1, width)
    return side_by_side((z[..., None, :] @ (w_p[None, :, None] * g))[..., 0, :])


@ANSWERS.right
def float64_inside(a, c, w_p, gate):
    z = a.astype(float) @ of_maps(c.astype(float), a)
    return (side_by_side(z @ w_p) * gate).astype(c.dtype)


@ANSWERS.wrong_with("torch", "The values are right", "MiB", "past values are decoded, as in Eq. 7")
def decoded_first_in_torch(a, c, w_p, gate):
    import torch

    a, c, w_p, gate = (torch.tensor(x) for x in (a, c, w_p, gate))
    values = c.repeat_interleave(a.shape[1] // c.shape[1], 1) @ w_p
    return ((a @ values).transpose(1, 2).reshape(gate.shape) * gate).numpy()


@ANSWERS.right_with("torch")
def in_torch(a, c, w_p, gate):
    import torch

    a, c, w_p, gate = (torch.tensor(x) for x in (a, c, w_p, gate))
    z = a @ c.repeat_interleave(a.shape[1] // c.shape[1], 1)
    return ((z @ w_p).transpose(1, 2).flatten(2) * gate).numpy()


@ANSWERS.wrong_ones()
def test_wrong(function, words):
    ANSWERS.refused(function, words)


@ANSWERS.right_ones()
def test_right(function):
    ANSWERS.accepted(function)
