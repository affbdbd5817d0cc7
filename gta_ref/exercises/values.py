"""Exercises 4 and 5: the gate, and the decoder after the sum (Eq. 7 = Eq. 8)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.exercises.exercise import Exercise
from gta_ref.exercises.roundings import FEW, largest, product
from gta_ref.exercises.trial import Memory, Mistake, Trial, normal, random_maps
from gta_ref.ops import decoder_forward, gate_forward, linear_forward
from gta_ref.ops.heads import repeat_heads, split_heads


def _sigmoid(a: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * a))


def _soft(a: np.ndarray) -> np.ndarray:
    w = np.exp(a - a.max(-1, keepdims=True))
    return w / w.sum(-1, keepdims=True)


# --- ex04: O = (A V) ⊙ σ(x_t W_G + b_G) ---------------------------------------------------------------------


_OVERFLOW = "σ overflows: eᵃ/(1 + eᵃ) is ∞/∞ = NaN for large a; 1/(1 + e⁻ᵃ) stays finite"


def _gate_trials() -> list[Trial]:
    rng = np.random.default_rng(104)

    def trial(
        what: str, n_h: int, length: int, *, hidden: int = 6, dtype: str = "float64", factor: float = 1.0
    ) -> Trial:
        nan = f"Perhaps {_OVERFLOW}." if factor > 1 else ""
        d_h = 3
        return Trial(
            what,
            (
                random_maps(rng, 2, n_h, length, length, dtype=dtype),
                normal(rng, 2, n_h, length, d_h, dtype=dtype),
                normal(rng, 2, length, hidden, dtype=dtype),
                normal(rng, hidden, n_h * d_h, dtype=dtype, factor=factor),
                normal(rng, n_h * d_h, dtype=dtype),
            ),
            nan,
        )

    blind = trial("a query that sees nothing: its row of the map is 0", 2, 5)
    blind.arguments[0][1, :, 0] = 0.0
    return [
        trial("4 heads, 5 tokens", 4, 5),
        trial("one head", 1, 7, hidden=9),
        trial("one token", 4, 1),
        trial("65 tokens", 2, 65),
        blind,
        trial("gates fully shut and fully open: x W_G in the thousands", 3, 5, factor=3000.0),
        trial("float32", 4, 7, dtype="float32"),
        trial("float32, x W_G in the thousands", 2, 5, dtype="float32", factor=3000.0),
    ]


def _gate_truth(a: np.ndarray, v: np.ndarray, x: np.ndarray, w_g: np.ndarray, b_g: np.ndarray) -> np.ndarray:
    g, _ = gate_forward(linear_forward(x, w_g, b_g)[0])  # (B, N, n_h·d_h)
    return a @ v * split_heads(g, v.shape[1])


def _gate_roundings(a: np.ndarray, v: np.ndarray, x: np.ndarray, w_g: np.ndarray, b_g: np.ndarray) -> float:
    """The sum over the keys, times a gate of at most 1; and that sum times the gate's error, a quarter of x W_G's."""
    linear = product(x, w_g) + np.abs(b_g)  # (B, N, n_h·d_h)
    return largest(product(a, v) + np.abs(a @ v) * (_heads_of(linear, v.shape[1]) / 4 + FEW))


def _heads_of(g: np.ndarray, n_h: int) -> np.ndarray:
    return g.reshape(*g.shape[:2], n_h, -1).transpose(0, 2, 1, 3)


def _gate_by(*, linear: Any = None, activation: Any = _sigmoid, split: Any = _heads_of, combine: Any = None) -> Any:
    """The gated heads with one of the steps replaced."""

    def answer(a: np.ndarray, v: np.ndarray, x: np.ndarray, w_g: np.ndarray, b_g: np.ndarray) -> np.ndarray:
        g = split(activation(x @ w_g + b_g if linear is None else linear(x, w_g, b_g)), v.shape[1])
        return a @ v * g if combine is None else combine(a, v, g)

    return answer


def _bias_after(a: np.ndarray, v: np.ndarray, x: np.ndarray, w_g: np.ndarray, b_g: np.ndarray) -> np.ndarray:
    return a @ v * _heads_of(_sigmoid(x @ w_g) + b_g, v.shape[1])


EX04 = Exercise(
    name="ex04",
    function="gated_heads",
    parameters="a, v, x, w_g, b_g",
    results={"heads": "B, n_h, N, d_h"},
    trials=_gate_trials,
    truth=_gate_truth,
    roundings=_gate_roundings,
    mistakes=(
        Mistake(
            "the gate's token is the key's: v is gated before the sum. Gate with the query's own token, after the sum",
            _gate_by(combine=lambda a, v, g: a @ (v * g)),
        ),
        Mistake("the gate is left out", _gate_by(combine=lambda a, v, g: a @ v)),
        Mistake("σ is left out: the heads are multiplied by x W_G + b_G itself", _gate_by(activation=lambda a: a)),
        Mistake("the bias b_G is left out", _gate_by(linear=lambda x, w, b: x @ w)),
        Mistake("the gate is a SiLU, a σ(a), instead of σ(a)", _gate_by(activation=lambda a: a * _sigmoid(a))),
        Mistake("the gate is a tanh instead of σ", _gate_by(activation=np.tanh)),
        Mistake("the gate is a softmax over its features instead of σ of each one", _gate_by(activation=_soft)),
        Mistake("the gate is σ(−a): open where it should be shut", _gate_by(activation=lambda a: _sigmoid(-a))),
        Mistake("the gate is added to the heads instead of multiplied", _gate_by(combine=lambda a, v, g: a @ v + g)),
        Mistake("the gate alone is returned; it has to be multiplied by the heads, A V",
                _gate_by(combine=lambda a, v, g: g)),
        Mistake("v is multiplied by the gate, but not summed with the map's weights: A is left out",
                _gate_by(combine=lambda a, v, g: v * g)),
        Mistake("the gate is applied twice, before the sum and after it",
                _gate_by(combine=lambda a, v, g: a @ (v * g) * g)),
        Mistake("σ is applied to the gated heads; it belongs around x W_G + b_G alone",
                _gate_by(activation=lambda a: a, combine=lambda a, v, g: _sigmoid(a @ v * g))),
        Mistake("the bias b_G is added after σ; it belongs inside, σ(x W_G + b_G)", _bias_after),
        Mistake("the bias b_G is subtracted", _gate_by(linear=lambda x, w, b: x @ w - b)),
        Mistake("the map is transposed: the sum goes over the queries", _gate_by(
            combine=lambda a, v, g: a.swapaxes(-1, -2) @ v * g)),
        Mistake("the columns of W_G are interleaved over the heads; head i has the columns i·d_h … (i+1)·d_h − 1",
                _gate_by(split=lambda g, n_h: g.reshape(*g.shape[:2], -1, n_h).transpose(0, 3, 1, 2))),
        Mistake("the gate is that of the first token for all tokens",
                _gate_by(combine=lambda a, v, g: a @ v * g[:, :, :1])),
        Mistake("the gate is that of head 0 for all heads", _gate_by(combine=lambda a, v, g: a @ v * g[:, :1])),
        Mistake(
            "the gate (B, N, n_h·d_h) is reshaped directly to (B, n_h, N, d_h), which mixes tokens and heads: reshape "
            "to (B, N, n_h, d_h) first, then swap the axes of tokens and heads",
            _gate_by(split=lambda g, n_h: g.reshape(g.shape[0], n_h, g.shape[1], -1)),
        ),
        Mistake(
            _OVERFLOW,
            _gate_by(activation=lambda a: np.exp(a) / (1 + np.exp(a))),
        ),
    ),
)  # fmt: skip


# --- ex05: O = ((A C) W_P) ⊙ gate ---------------------------------------------------------------------------


def _absorb_arguments(
    rng: np.random.Generator, n_q: int, n_c: int, n_queries: int, n_keys: int, dtype: str = "float64", width: int = 6
) -> tuple[np.ndarray, ...]:
    d_l = 4
    return (
        random_maps(rng, 2, n_q, n_queries, n_keys, dtype=dtype),
        normal(rng, 2, n_c, n_keys, d_l, dtype=dtype),
        normal(rng, n_q, d_l, width, dtype=dtype),
        _sigmoid(normal(rng, 2, n_queries, n_q * width)).astype(dtype),
    )


def _absorb_trials() -> list[Trial]:
    rng = np.random.default_rng(105)
    blind = Trial("a query that sees nothing: its row of the map is 0", _absorb_arguments(rng, 2, 1, 5, 5))
    blind.arguments[0][1, :, 0] = 0.0
    return [
        Trial("6 maps on 2 latent heads, 5 queries, 7 keys", _absorb_arguments(rng, 6, 2, 5, 7)),
        Trial("one latent head for all maps", _absorb_arguments(rng, 3, 1, 7, 7)),
        Trial("a latent head for every map", _absorb_arguments(rng, 3, 3, 5, 5)),
        Trial("one map, one token", _absorb_arguments(rng, 1, 1, 1, 1)),
        Trial("one query on 65 keys", _absorb_arguments(rng, 4, 2, 1, 65)),
        blind,
        Trial("float32", _absorb_arguments(rng, 6, 2, 5, 7, "float32")),
    ]


def _absorb_truth(a: np.ndarray, c: np.ndarray, w_p: np.ndarray, gate: np.ndarray) -> np.ndarray:
    values, _ = decoder_forward(a @ repeat_heads(c, a.shape[1]), w_p)  # (B, N_q, n_q·width)
    return values * gate


def _absorb_roundings(a: np.ndarray, c: np.ndarray, w_p: np.ndarray, gate: np.ndarray) -> float:
    """The sums over the keys and over the latent's features, in either order, and the gate."""
    steps = a.shape[-1] + w_p.shape[1] + FEW
    values = np.abs(a) @ np.abs(repeat_heads(c, a.shape[1])) @ np.abs(w_p)  # (B, n_q, N_q, width)
    return largest(steps * values.swapaxes(1, 2).reshape(gate.shape) * np.abs(gate))


def _absorb_by(
    *,
    maps: Any = lambda a: a,
    spread: Any = lambda c, n: np.repeat(c, n, 1),
    decode: Any = lambda z, w: z @ w,
    lay: Any = lambda u: u.transpose(0, 2, 1, 3),
    gate: Any = lambda g: g,
    join: Any = lambda u, g: u * g,
) -> Any:
    """The heads with one of the steps replaced."""

    def answer(a: np.ndarray, c: np.ndarray, w_p: np.ndarray, g: np.ndarray) -> np.ndarray:
        z = maps(a) @ spread(c, a.shape[1] // c.shape[1])  # (B, n_q, N_q, d_l)
        u = lay(decode(z, w_p)).reshape(*g.shape)  # (B, n_q, N_q, width) before
        return np.asarray(join(u, gate(g)))

    return answer


def _copies(z: np.ndarray, width: int) -> np.ndarray:
    """The latent's features, repeated until they fill the width."""
    return np.tile(z, -(-width // z.shape[-1]))[..., :width]


def _absorb_memory() -> Memory:
    rng, n_keys, width = np.random.default_rng(205), 8192, 256
    trial = Trial(f"one query on {n_keys:,} keys", _absorb_arguments(rng, 2, 1, 1, n_keys, width=width))
    # all decoded values are B·N_k·n_q·width numbers, 64 MiB; one copy of c per map is 1/64 of that
    limit = 2 * n_keys * 2 * width * 8 // 4
    hint = (
        "past values are decoded, as in Eq. 7. Compute Z = A C first, one latent for each query and map, and decode "
        "that (Eq. 8): then the number of decoded values does not grow with the number of keys."
    )
    return Memory(trial, limit, hint)


def _absorb_probes() -> list[Trial]:
    """Latents so large that a decoded one overflows; Z itself is 0, exactly and in any order of the sum."""
    a, c, w_p, gate = _absorb_arguments(np.random.default_rng(305), 2, 1, 1, 9)
    small, large = 2.0**-20, 2.0**990  # small · large · w_p is finite
    a[:], c[:] = small, 0.0
    a[..., -1] = 1 - 8 * small
    c[:, :, :8] = np.array([1, -1, 2, -2, 3, -1, -1, -1]).reshape(8, 1) * large
    w_p[:] = np.where(w_p > 0, 2.0**40, -(2.0**40))
    reason = (
        "Past values are decoded, as in Eq. 7, if only one at a time: C_s W_P is infinite here, while Z = A C is 0. "
        "Sum the latents first, and decode Z (Eq. 8)."
    )
    return [Trial("latents so large that a decoded one overflows, though their sum is 0", (a, c, w_p, gate), reason)]


EX05 = Exercise(
    name="ex05",
    function="attend_then_decode",
    parameters="a, c, w_p, gate",
    results={"heads": "B, N_q, n_h·d_h"},
    trials=_absorb_trials,
    truth=_absorb_truth,
    roundings=_absorb_roundings,
    memory=_absorb_memory,
    probes=_absorb_probes,
    mistakes=(
        Mistake(
            "the latent heads are interleaved over the maps (m % n_c); map m reads latent head m // (n_q/n_c)",
            _absorb_by(spread=lambda c, n: np.tile(c, (1, n, 1, 1))),
        ),
        Mistake("every map is decoded with the matrix of map 0", _absorb_by(decode=lambda z, w: z @ w[:1])),
        Mistake("the gate is left out", _absorb_by(join=lambda u, g: u)),
        Mistake(
            "every map reads latent head 0", _absorb_by(spread=lambda c, n: np.repeat(c[:, :1], c.shape[1] * n, 1))
        ),
        Mistake(
            "the maps' matrices are in the reverse order: map m is decoded with w_p[m]",
            _absorb_by(decode=lambda z, w: z @ w[::-1]),
        ),
        Mistake(
            "all matrices are averaged: map m is decoded with w_p[m] alone",
            _absorb_by(decode=lambda z, w: z @ w.mean(0)),
        ),
        Mistake(
            "the latents are decoded without W_P, as copies of Z",
            _absorb_by(decode=lambda z, w: _copies(z, w.shape[2])),
        ),
        Mistake(
            "the copies of Z are added, as in the released code; Eq. 8 has W_P alone",
            _absorb_by(decode=lambda z, w: z @ w + _copies(z, w.shape[2])),
        ),
        Mistake("σ is applied to the gate again; it is the gate after its σ", _absorb_by(gate=_sigmoid)),
        Mistake("the gate is added instead of multiplied", _absorb_by(join=lambda u, g: u + g)),
        Mistake(
            "the maps are averaged before the sum; each has its own Z",
            _absorb_by(maps=lambda a: a.mean(1, keepdims=True) + 0 * a),
        ),
        Mistake(
            "the latents are averaged: the weights of the map are not used",
            _absorb_by(maps=lambda a: np.full_like(a, 1 / a.shape[-1])),
        ),
        Mistake("a softmax is applied to the maps, which are weights already", _absorb_by(maps=_soft)),
        Mistake(
            "the decoded values (B, n_q, N, width) are reshaped directly to (B, N, n_q·width), which mixes tokens and "
            "maps: swap the axes of maps and tokens first",
            _absorb_by(lay=lambda u: u),
        ),
        Mistake(
            "the maps' columns are interleaved; map m fills the columns m·width … (m+1)·width − 1",
            _absorb_by(lay=lambda u: u.transpose(0, 2, 3, 1)),
        ),
    ),
)

EXERCISES = (EX04, EX05)
