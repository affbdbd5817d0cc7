"""Exercises 8 and 9: the backward of the softmax and of the gated decoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.exercises.exercise import Exercise
from gta_ref.exercises.roundings import FEW, largest, product
from gta_ref.exercises.trial import Memory, Mistake, Trial, normal, random_maps
from gta_ref.ops import decoder_backward, decoder_forward, gate_backward, gate_forward, softmax_backward

# --- ex08: dS = A ⊙ (dA − rowsum(A ⊙ dA)) -------------------------------------------------------------------


def _softmax_trials() -> list[Trial]:
    rng = np.random.default_rng(108)

    def trial(what: str, n: int, n_queries: int, n_keys: int, dtype: str = "float64", factor: float = 1.0) -> Trial:
        d_map = normal(rng, 2, n, n_queries, n_keys, dtype=dtype, factor=factor)
        return Trial(what, (d_map, random_maps(rng, 2, n, n_queries, n_keys, dtype=dtype)))

    causal = trial("a causal map: 0 above the diagonal", 3, 7, 7)
    causal.arguments[1][:] *= np.tri(7)
    causal.arguments[1][:] /= causal.arguments[1].sum(-1, keepdims=True)
    blind = trial("a query that sees nothing: its row of the map is 0, and so is its gradient", 2, 5, 5)
    blind.arguments[1][1, :, 0] = 0.0
    return [
        trial("5 queries, 5 keys", 3, 5, 5),
        trial("7 queries, 65 keys", 2, 7, 65),
        trial("one token: the map is 1 whatever the score, so the gradient is 0", 2, 1, 1),
        causal,
        blind,
        trial("a large gradient", 2, 5, 7, factor=1e6),
        trial("float32", 3, 7, 9, "float32"),
    ]


def _softmax_roundings(d_map: np.ndarray, a: np.ndarray) -> float:
    """Every term A_l A_j dA_j gathers a few roundings, and the sum of a row as many as it has terms."""
    total = (np.abs(d_map) * a).sum(-1, keepdims=True)
    return largest(2 * (a.shape[-1] + FEW) * a * (np.abs(d_map) + total))


def _softmax_memory() -> Memory:
    """One row, whose Jacobian is by far the largest array, whether or not it is formed for all rows at once."""
    rng, n_keys = np.random.default_rng(208), 4096
    hint = (
        "the Jacobian of a row has N_k × N_k elements, and the limit is far below that. Put it into the sum over j and "
        "simplify on paper first: what is left needs one number for each row."
    )
    arguments = normal(rng, 1, 1, 1, n_keys), random_maps(rng, 1, 1, 1, n_keys)
    return Memory(Trial(f"one query on {n_keys:,} keys", arguments), 24 * 2**20, hint)


def _soft(x: np.ndarray) -> np.ndarray:
    w = np.exp(x)
    return w / w.sum(-1, keepdims=True)


EX08 = Exercise(
    name="ex08",
    function="map_backward",
    parameters="d_map, map",
    results={"d_scores": "B, n_q, N_q, N_k"},
    trials=_softmax_trials,
    truth=softmax_backward,
    roundings=_softmax_roundings,
    memory=_softmax_memory,
    mistakes=(
        Mistake(
            "only the diagonal of the Jacobian is used, A (1 − A), as for σ: but a score changes every weight of its "
            "row, since they sum to 1",
            lambda d, a: d * a * (1 - a),
        ),
        Mistake("the row's sum is left out: the weights of a row sum to 1, so they cannot all grow",
                lambda d, a: d * a),
        Mistake("the sum is over dA alone; it should be rowsum(A ⊙ dA)",
                lambda d, a: a * (d - d.sum(-1, keepdims=True))),
        Mistake("the plain mean of dA is subtracted; it should be the mean weighted by the map, rowsum(A ⊙ dA)",
                lambda d, a: a * (d - d.mean(-1, keepdims=True))),
        Mistake("the sum runs over the wrong axis, the queries; each query's row of keys is a softmax of its own",
                lambda d, a: a * (d - (a * d).sum(-2, keepdims=True))),
        Mistake("the sum runs over the whole map; each query's row of keys is a softmax of its own",
                lambda d, a: a * (d - (a * d).sum((-2, -1), keepdims=True))),
        Mistake("rowsum(A ⊙ dA) is added instead of subtracted",
                lambda d, a: a * (d + (a * d).sum(-1, keepdims=True))),
        Mistake("the factor A in front is left out", lambda d, a: d - (a * d).sum(-1, keepdims=True)),
        Mistake("the row's sum is outside the factor A: it should be A ⊙ (dA − sum), not A ⊙ dA − sum",
                lambda d, a: a * d - (a * d).sum(-1, keepdims=True)),
        Mistake("this is the backward of log-softmax, dA − A rowsum(dA); the map is the softmax itself",
                lambda d, a: d - a * d.sum(-1, keepdims=True)),
        Mistake("A stands inside the bracket as well: it should be A ⊙ (dA − sum), not A ⊙ (A ⊙ dA − sum)",
                lambda d, a: a * (a * d - (a * d).sum(-1, keepdims=True))),
        Mistake("the mean of A ⊙ dA is subtracted; it should be A times the row's sum of A ⊙ dA",
                lambda d, a: a * d - (a * d).mean(-1, keepdims=True)),
        Mistake("the mean of A ⊙ dA is used in place of its sum over the row",
                lambda d, a: a * (d - (a * d).mean(-1, keepdims=True))),
        Mistake("the sum runs over the maps (axis 1); each query's row of keys is a softmax of its own",
                lambda d, a: a * (d - (a * d).sum(1, keepdims=True))),
        Mistake("the softmax is taken of the map once more; the map already is its result",
                lambda d, a: _soft(a) * (d - (_soft(a) * d).sum(-1, keepdims=True))),
        Mistake("dA itself is returned, as if the scores were the map", lambda d, a: d),
        Mistake("dA is left out: this is the derivative of each weight by its own score", lambda d, a: a * (1 - a)),
    ),
)  # fmt: skip


# --- ex09: O = (Z W_P + copies of Z) ⊙ σ(a) -----------------------------------------------------------------


def _decoder_trials() -> list[Trial]:
    rng = np.random.default_rng(109)

    def trial(
        what: str, n_q: int, length: int, d_l: int, width: int, copies: bool, *, dtype: str = "float64",
        factor: float = 1.0,
    ) -> Trial:  # fmt: skip
        return Trial(
            what,
            (
                normal(rng, 2, length, n_q * width, dtype=dtype),
                normal(rng, 2, n_q, length, d_l, dtype=dtype),
                normal(rng, n_q, d_l, width, dtype=dtype),
                normal(rng, 2, length, n_q * width, dtype=dtype, factor=factor),
                copies,
            ),
        )

    return [
        trial("2 maps, d_l=3, 6 columns per map, no copies", 2, 5, 3, 6, False),
        trial("2 maps, d_l=3, 6 columns per map, with e=2 copies of Z", 2, 5, 3, 6, True),
        trial("as many columns as the latent is wide, with e=1 copy", 3, 7, 4, 4, True),
        trial("a column count that d_l does not divide, no copies", 2, 7, 4, 6, False),
        trial("one map, one token, with e=3 copies", 1, 1, 2, 6, True),
        trial("65 tokens, with e=4 copies", 2, 65, 2, 8, True),
        trial("gates fully closed and fully open", 2, 5, 3, 6, True, factor=3000.0),
        trial("float32, with e=2 copies", 2, 7, 3, 6, True, dtype="float32"),
    ]


def _decoder_truth(
    d_heads: np.ndarray, z: np.ndarray, w_p: np.ndarray, a: np.ndarray, copies: bool
) -> tuple[np.ndarray, ...]:
    values, decoder = decoder_forward(z, w_p, copies)
    gate, activation = gate_forward(a)
    d_z, d_w_p = decoder_backward(d_heads * gate, decoder)
    return d_z, d_w_p, gate_backward(d_heads * values, activation)


def _decoder_roundings(
    d_heads: np.ndarray, z: np.ndarray, w_p: np.ndarray, a: np.ndarray, copies: bool
) -> tuple[float, float, float]:
    """Three matrix products, of which that with Z is multiplied by dO and σ′ ≤ 1/4 afterwards."""
    batch, n_q, length, d_l = z.shape
    width = w_p.shape[2]
    e = width // d_l if copies else 0

    def lay(x: np.ndarray) -> np.ndarray:
        return x.reshape(batch, length, n_q, width).swapaxes(1, 2)

    d_u = np.abs(lay(d_heads * 0.5 * (1 + np.tanh(0.5 * a))))
    u = product(z, w_p) + (FEW * np.tile(np.abs(z), e) if copies else 0)  # in roundings
    d_z = product(d_u, w_p.swapaxes(-1, -2))
    if copies:
        d_z = d_z + (e + FEW) * d_u.reshape(batch, n_q, length, e, d_l).sum(3)
    d_w = (batch * length + FEW) * (np.abs(z).swapaxes(-1, -2) @ d_u).sum(0)
    return largest(d_z), largest(d_w), largest(np.abs(lay(d_heads)) * u)


def _decoder_by(
    *,
    d_values: Any = lambda d, g, a: d * g,
    residual: Any = lambda parts: parts.sum(3),
    d_w: Any = lambda per_token: per_token.sum(0),
    values: Any = lambda u, z, e: u + np.tile(z, e),
    d_a: Any = lambda d, u, g, a: d * u * g * (1 - g),
    split: Any = lambda x, batch, length, n_q, width: x.reshape(batch, length, n_q, width).transpose(0, 2, 1, 3),
    join: Any = lambda u: u.transpose(0, 2, 1, 3),
    source: Any = lambda d_u, d: d_u,
    always: bool = False,
) -> Any:
    """The decoder's backward with one of its steps replaced."""

    def answer(
        d_heads: np.ndarray, z: np.ndarray, w_p: np.ndarray, a: np.ndarray, copies: bool
    ) -> tuple[np.ndarray, ...]:
        batch, n_q, length, d_l = z.shape
        width = w_p.shape[2]
        copies = copies or (always and width % d_l == 0)
        g = 0.5 * (1 + np.tanh(0.5 * a))
        u = z @ w_p  # (B, n_q, N, width)
        if copies:
            u = values(u, z, width // d_l)
        flat = join(u).reshape(a.shape)
        d_u = split(d_values(d_heads, g, a), batch, length, n_q, width)
        d_z = d_u @ w_p.swapaxes(-1, -2)
        if copies:
            copied = source(d_u, split(d_heads, batch, length, n_q, width))
            d_z = d_z + residual(copied.reshape(batch, n_q, length, width // d_l, d_l))
        return d_z, d_w(z.swapaxes(-1, -2) @ d_u), d_a(d_heads, flat, g, a)

    return answer


def _interleaved(parts: np.ndarray) -> np.ndarray:
    """Sum over e of columns that lie as np.repeat lays them: (B, n_q, N, d_l)."""
    *rows, e, d_l = parts.shape
    return parts.reshape(*rows, d_l, e).sum(-1)


def _mixed(x: np.ndarray, batch: int, length: int, n_q: int, width: int) -> np.ndarray:
    return x.reshape(batch, n_q, length, width)


def _with_mean(gradients: tuple[np.ndarray, ...], z: np.ndarray) -> tuple[np.ndarray, ...]:
    d_z, d_w_p, d_a = gradients
    return d_z, d_w_p / (z.shape[0] * z.shape[2]), d_a


EX09 = Exercise(
    name="ex09",
    function="decoder_backward",
    parameters="d_heads, z, w_p, a, copies",
    results={"d_z": "B, n_q, N, d_l", "d_w_p": "n_q, d_l, width", "d_a": "B, N, n_q·width"},
    trials=_decoder_trials,
    truth=_decoder_truth,
    roundings=_decoder_roundings,
    mistakes=(
        Mistake("the gate is left out of the backward: dU = dO ⊙ σ(a)", _decoder_by(d_values=lambda d, g, a: d)),
        Mistake("a itself is used in place of the gate: dU = dO ⊙ σ(a), not dO ⊙ a",
                _decoder_by(d_values=lambda d, g, a: d * a)),
        Mistake("the copies of Z pass no gradient: with copies, the e slices of dU are added to dZ",
                _decoder_by(residual=lambda parts: 0.0)),
        Mistake("only the first copy of Z passes a gradient: all e slices of dU have to be added",
                _decoder_by(residual=lambda parts: parts[:, :, :, 0])),
        Mistake("the slices of dU are averaged; each copy of Z passes its own gradient, so they have to be added",
                _decoder_by(residual=lambda parts: parts.mean(3))),
        Mistake("dW_P is not summed over the batch: all tokens of all sequences use one W_P",
                _decoder_by(d_w=lambda per_token: per_token)),
        Mistake("dW_P is averaged over the batch; it should be the sum", _decoder_by(d_w=lambda x: x.mean(0))),
        Mistake("dW_P is that of the first sequence alone; it should be the sum over all",
                _decoder_by(d_w=lambda x: x[0])),
        Mistake("σ′ is left out of da: dσ/da = σ(a)(1 − σ(a))", _decoder_by(d_a=lambda d, u, g, a: d * u)),
        Mistake("da contains σ(a) where it should contain σ′(a) = σ(a)(1 − σ(a))",
                _decoder_by(d_a=lambda d, u, g, a: d * u * g)),
        Mistake("da contains a(1 − a) where it should contain σ(a)(1 − σ(a))",
                _decoder_by(d_a=lambda d, u, g, a: d * u * a * (1 - a))),
        Mistake("the values are left out of da: O = U ⊙ σ(a), so da contains U",
                _decoder_by(d_a=lambda d, u, g, a: d * g * (1 - g))),
        Mistake("da contains the gated values O; it should contain U, the values before the gate",
                _decoder_by(d_a=lambda d, u, g, a: d * u * g * g * (1 - g))),
        Mistake("dO (B, N, n_q·width) is reshaped directly to (B, n_q, N, width), which mixes tokens and maps: reshape "
                "to (B, N, n_q, width) first, then swap the axes of tokens and maps", _decoder_by(split=_mixed)),
        Mistake("dO and U are reshaped directly between (B, n_q, N, width) and (B, N, n_q·width), which mixes tokens "
                "and maps: swap the axes of tokens and maps as well", _decoder_by(split=_mixed, join=lambda u: u)),
        Mistake("U (B, n_q, N, width) is reshaped directly to (B, N, n_q·width), which mixes tokens and maps: swap the "
                "axes of tokens and maps first", _decoder_by(join=lambda u: u)),
        Mistake("the columns of dO are interleaved over the maps; map m has the columns m·width to (m+1)·width − 1",
                _decoder_by(split=lambda x, batch, length, n_q, width: (
                    x.reshape(batch, length, width, n_q).transpose(0, 3, 1, 2)))),
        Mistake("the copies' gradient lacks the gate: it is the sum of the slices of dU = dO ⊙ σ(a), not of dO",
                _decoder_by(source=lambda d_u, d: d)),
        Mistake("the copies of Z are laid out as np.repeat does, each feature e times; they stand side by side, as "
                "np.tile lays them",
                _decoder_by(residual=_interleaved, values=lambda u, z, e: u + np.repeat(z, e, -1))),
        Mistake("the slices of dU are interleaved (column i belongs to feature i // e); a copy is a run of d_l "
                "columns, so column i belongs to feature i % d_l", _decoder_by(residual=_interleaved)),
        Mistake("the copies in U are laid out as np.repeat does, each feature e times; they stand side by side, as "
                "np.tile lays them", _decoder_by(values=lambda u, z, e: u + np.repeat(z, e, -1))),
        Mistake("the copies of Z are added although copies is False", _decoder_by(always=True)),
        Mistake("dW_P is averaged over all tokens; it should be the sum over the tokens of all sequences",
                lambda d, z, w, a, copies: _with_mean(_decoder_by()(d, z, w, a, copies), z)),
        Mistake("da contains tanh′, 1 − σ(a)², where it should contain σ(a)(1 − σ(a))",
                _decoder_by(d_a=lambda d, u, g, a: d * u * (1 - g * g))),
        Mistake("da is computed from Z W_P alone; with copies, U = Z W_P + [Z … Z]",
                _decoder_by(values=lambda u, z, e: u)),
    ),
)  # fmt: skip

EXERCISES = (EX08, EX09)
