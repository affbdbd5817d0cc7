"""Turn one GQA layer into a GTA layer, in closed form.

1. The heads are divided among the maps (:mod:`gta_ref.convert.grouping`): two heads that would put out nearly the same
   with one another's map share one. Heads are made contiguous by permuting them, and W_O's rows with them.
2. Queries and keys are fitted to the heads that share them (:mod:`gta_ref.convert.rotary`).
3. Values are put through latents (:mod:`gta_ref.convert.latents`), and the decoders fitted to each head's own values.
4. W_O is fitted to the layer's output.
5. The gate starts at σ(0) = 1/2 for every token, W_G = 0, and the decoders are doubled. So the layer is equal to the
   same layer without a gate, to the last bit, and the gate is where its slope is greatest.

Where nothing is shared or cut, every step leaves the layer as it was, to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gta_ref.convert import latents, rotary
from gta_ref.convert.grouping import Group, partition
from gta_ref.convert.sizes import OPEN, Sizes
from gta_ref.core import Mask
from gta_ref.core.engines import attend
from gta_ref.errors import check_shape
from gta_ref.mechanisms import gqa, gta
from gta_ref.ops import Array, linear_forward, rope_forward, rope_tables
from gta_ref.ops.arrays import Params, check_layer


class Inputs(NamedTuple):
    """What a layer of the original reads of texts of one length.

    Attributes
    ----------
    x : (B, N, H)
    weights : (B, N), optional
        ω, how much the square of an error at each token counts. Default: all 1.
    """

    x: Array
    weights: Array | None = None


class Report(NamedTuple):
    """How a layer was converted.

    Attributes
    ----------
    maps : list of tuple of int
        The original heads that share each map, in the new order.
    keys_lost, values_lost : float
        Share of the scores' mean square that the new keys lose, and of the output's mean square that the latents lose,
        by the closed forms of :mod:`gta_ref.convert.rotary` and :mod:`gta_ref.convert.latents`.
    """

    maps: list[Group]
    keys_lost: float
    values_lost: float


class _Original(NamedTuple):
    """What the original layer does on the text, and where its parts are.

    The tokens of all sequences are one axis T.
    """

    config: gqa.Config
    w_q: Array  # (H, n_h, d)
    w_k: Array  # (H, n_k, d)
    w_v: Array  # (H, n_k·d)
    w_o: Array  # (n_h, d, H)
    key_of: Array  # (n_h,)
    moments: rotary.Moments
    values: Array  # (n_h, T, d), each head's own attended values
    energy: Array  # (n_h,), the mean square of what each head puts out
    exchanged: Array  # (n_h, n_h), that of the change of the output if head i used the map of head j
    output: Array  # (T, H)


def convert_layer(
    params: Params, original: gqa.Config, sizes: Sizes, *inputs: Inputs
) -> tuple[dict[str, Array], gta.Config, Report]:
    """Convert a layer by what it does on texts.

    Parameters
    ----------
    params : dict of str to array
        The GQA layer's.
    original : gta_ref.mechanisms.gqa.Config
    sizes : Sizes
    *inputs : Inputs
        At least one. Each of them has texts of another length.

    Returns
    -------
    params : dict of str to array
        The GTA layer's, in the original's dtype.
    config : gta_ref.mechanisms.gta.Config
    report : Report

    Raises
    ------
    ValueError
        If the sizes do not fit the layer, or the layer has what GTA has not.
    """
    config = sizes.config(original)
    for x, weights in inputs:
        check_layer(params, gqa.param_shapes(original), x, original.hidden_size)
        if weights is not None:
            check_shape("weights", weights, x.shape[:2])
    omega = np.concatenate([np.ones(x.shape[:2]).ravel() if w is None else w.ravel() for x, w in inputs])
    omega = omega.astype(np.float64)
    every_x = [x for x, _ in inputs]
    found = _measure(params, original, every_x, omega)
    dtype = params["w_q"].dtype
    new: dict[str, Array] = {}

    # 1. and 2.
    maps, parts = _share(found, config)
    maps, fits = _fit_keys(found, config, maps, parts)
    new["w_q"], new["w_k"] = rotary.new_projections(
        found.w_q, found.w_k, maps, fits, parts, found.key_of, original.rope_pairing
    )

    # 3. by what the new maps see
    w_q, w_k = new["w_q"].astype(dtype), new["w_k"].astype(dtype)
    seen = np.concatenate([_attended(x, w_q, w_k, params["w_v"], original) for x in every_x], axis=1)
    new["w_c"], new["w_p"], heads, latent = _fit_values(found, config, maps, seen, omega)

    # 4. for all heads together
    order = [i for of_map in maps for i in of_map]
    new["w_o"] = latents.ridge(heads, found.output, found.w_o[order].reshape(heads.shape[1], -1), omega)

    # 5.
    if config.gate != "none":
        new["w_g"] = np.zeros(config.shapes["w_g"])
    new["w_p"] = OPEN[config.gate] * new["w_p"]
    keys_lost = sum(fit.lost for fit in fits)
    report = Report(maps, keys_lost / (keys_lost + sum(fit.kept for fit in fits)), latent)
    return {name: np.ascontiguousarray(new[name], dtype) for name in config.shapes}, config, report


def _measure(params: Params, config: gqa.Config, every_x: list[Array], omega: Array) -> _Original:
    n_h, n_k, d = config.n_heads, config.n_k, config.head_dim
    key_of = np.arange(n_h) // (n_h // n_k)
    w_o = np.asarray(params["w_o"], np.float64).reshape(n_h, d, -1)
    w_q, w_k, w_v = (params[f"w_{name}"] for name in "qkv")
    every_token = np.concatenate([x.reshape(1, -1, x.shape[2]) for x in every_x], axis=1)
    moments = rotary.moments(_heads(every_token @ w_q, d), _heads(every_token @ w_k, d), config.rope_pairing)
    seen = np.concatenate([_attended(x, w_q, w_k, w_v, config) for x in every_x], axis=1)  # (n_h, T, n_k·d)
    seen = seen.reshape(n_h, -1, n_k, d)
    values = np.stack([seen[i, :, key_of[i]] for i in range(n_h)])
    energy, exchanged = np.zeros(n_h), np.zeros((n_h, n_h))
    for i in range(n_h):
        square = w_o[i] @ w_o[i].T  # ‖v W_O‖² = v W_O W_Oᵀ vᵀ
        energy[i] = _second_moment(values[i], square, omega)
        exchanged[i] = [_second_moment(seen[j, :, key_of[i]] - values[i], square, omega) for j in range(n_h)]
    return _Original(
        config,
        params["w_q"].reshape(len(w_o[0, 0]), n_h, d),
        params["w_k"].reshape(len(w_o[0, 0]), n_k, d),
        params["w_v"],
        w_o,
        key_of,
        moments,
        values,
        energy,
        exchanged,
        _side_by_side(values) @ params["w_o"],
    )


def _share(found: _Original, config: gta.Config) -> tuple[list[Group], Array]:
    """Divide the heads among the maps, and weight them by what they put out."""

    def cost(heads: Group) -> float:  # all use the map of the one for which least is lost
        return float(found.exchanged[np.ix_(heads, heads)].sum(axis=0).min())

    maps = partition(config.n_heads, config.n_q, cost)
    weights = np.empty(config.n_heads)
    for heads in maps:
        part = found.energy[list(heads)]
        weights[list(heads)] = part / part.sum() if part.sum() > 0 else 1 / len(heads)
    return maps, weights


def _fit_keys(
    found: _Original, config: gta.Config, maps: list[Group], weights: Array
) -> tuple[list[Group], list[rotary.KeyFit]]:
    """Divide the maps among the key heads, bring those of a key head together, and fit it to them."""

    def fit(run: Group) -> rotary.KeyFit:
        return rotary.fit_key([maps[m] for m in run], weights, found.key_of, found.moments)

    runs = partition(config.n_q, config.n_k, lambda run: fit(run).lost)
    return [maps[m] for run in runs for m in run], [fit(run) for run in runs]


def _fit_values(
    found: _Original, config: gta.Config, maps: list[Group], seen: Array, omega: Array
) -> tuple[Array, Array, Array, float]:
    """Fit latents and decoders to what the new maps see of the values, (n_q, T, n_k·d).

    Returns
    -------
    w_c : (H, n_c·d_l)
    w_p : (n_q, d_l, (n_h/n_q)·d)
    heads : (T, n_h·d)
        What the heads put out with them, in the new order.
    lost : float
        Share of the output's mean square that the latents lose.
    """
    d, key_of = config.head_dim, found.key_of
    per_latent = config.n_q // config.n_c
    w_c, w_p, out, lost, kept = [], [], [], 0.0, 0.0
    for first in range(0, config.n_q, per_latent):
        those = range(first, first + per_latent)
        used = sorted({int(key_of[i]) for m in those for i in maps[m]})  # the value heads that they read
        columns = np.concatenate([np.arange(g * d, (g + 1) * d) for g in used])
        attended, importance = np.zeros((2, len(columns), len(columns)))
        for m in those:
            attended += _gram(seen[m][:, columns], omega)
            for i in maps[m]:
                place = slice(used.index(int(key_of[i])) * d, (used.index(int(key_of[i])) + 1) * d)
                importance[place, place] += found.w_o[i] @ found.w_o[i].T
        fit = latents.fit_latent(attended, importance, config.latent_dim)
        lost, kept = lost + fit.lost, kept + fit.kept
        w_c.append(np.asarray(found.w_v, np.float64)[:, columns] @ fit.a)
        for m in those:
            z = seen[m][:, columns] @ fit.a  # (T, d_l)
            decoders = fit.p.reshape(config.latent_dim, len(used), d)
            prior = np.concatenate([decoders[:, used.index(int(key_of[i]))] for i in maps[m]], axis=1)
            w_p.append(latents.ridge(z, _side_by_side(found.values[list(maps[m])]), prior, omega))
            out.append(z @ w_p[-1])
    return np.concatenate(w_c, axis=1), np.stack(w_p), np.concatenate(out, axis=1), lost / (lost + kept)


def _attended(x: Array, w_q: Array, w_k: Array, w_v: Array, config: gqa.Config) -> Array:
    """Every map of the projections on all values, for x (B, N, H): (n_q, T, n_k·d)."""
    q, k = (_heads(linear_forward(x, w)[0], config.head_dim) for w in (w_q, w_k))
    cos, sin = rope_tables(q, np.arange(q.shape[2]), config.rope_theta, config.rope_pairing)
    q, k = (rope_forward(one, cos, sin, config.rope_pairing)[0] for one in (q, k))
    z, _, _ = attend(q, k, (x @ w_v)[:, None], Mask(), config.scale, "auto", need_saved=False)
    return z.swapaxes(0, 1).reshape(z.shape[1], -1, z.shape[3])


def _heads(x: Array, d: int) -> Array:
    """(B, N, n·d) → (B, n, N, d)."""
    return x.reshape(*x.shape[:2], -1, d).swapaxes(1, 2)


def _side_by_side(values: Array) -> Array:
    """(n, T, d) → (T, n·d)."""
    return values.swapaxes(0, 1).reshape(values.shape[1], -1)


def _second_moment(x: Array, square: Array, omega: Array) -> float:
    """Weighted mean over the rows of x (T, d) of x M xᵀ, for M (d, d)."""
    return float(np.einsum("ij,ij->", _gram(x, omega), square))


def _gram(x: Array, omega: Array) -> Array:
    """Weighted mean over the rows of x (T, d) of xᵀ x, (d, d)."""
    x = x.astype(np.float64)
    gram: Array = (x.T * (omega / omega.sum())) @ x
    return gram
