"""One latent head: what it holds, what the decoders make of it, and what one gate lets out of an output head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gta_ref.plots import player
from gta_ref.plots.axes import token_label
from gta_ref.plots.common import BLACK, ORANGE, PART_COLOURS, SMALLEST, WIDTH, panels

_POSITIONS = 21  # of the slider


def latents_and_values(
    latents: np.ndarray,
    values: np.ndarray,
    tokens: Sequence[str],
    head_dim: int,
    heads_per_map: int,
    titles: tuple[str, str] = ("cached: the latent C", "not cached: C W_P, for each head"),
) -> Figure:
    """Draw what one latent head holds for some tokens, and the values that the decoders would make of it.

    Parameters
    ----------
    latents : (N, d_l)
    values : (N, heads·d_h)
        Each head's decoded values side by side.
    tokens : sequence of str
    head_dim : int
    heads_per_map : int
        Heads that share a map; a thick line separates maps.
    titles : (str, str)
        Of the two panels.

    Returns
    -------
    Figure
    """
    size = WIDTH, 1.6 + 0.17 * len(tokens)
    ratios = latents.shape[1], values.shape[1]
    figure, (left, right) = panels(size, 1, 2, frame="box", sharey=True, width_ratios=ratios)
    names = [token_label(token) for token in tokens]
    for ax, rows, title in (
        (left, latents, titles[0]),
        (right, values, titles[1]),
    ):
        largest = float(np.abs(rows).max())
        image = ax.imshow(rows, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
        ax.set_title(title, fontsize=10, loc="left")
        ax.tick_params(length=0, labelsize=SMALLEST)
        figure.colorbar(image, ax=ax, orientation="horizontal", aspect=30, pad=0.02).ax.tick_params(labelsize=SMALLEST)
    left.set_yticks(range(len(names)), names, family="monospace", fontsize=SMALLEST)
    left.set_ylabel("token")
    left.set_xticks([])
    left.set_xlabel(f"{latents.shape[1]} features", fontsize=SMALLEST)
    n_heads = values.shape[1] // head_dim
    for head in range(1, n_heads):
        right.axvline(head * head_dim - 0.5, color=BLACK, lw=2.5 if head % heads_per_map == 0 else 0.7)
    right.set_xticks([(head + 0.5) * head_dim - 0.5 for head in range(n_heads)], [f"head {i}" for i in range(n_heads)])
    return figure


def one_gate(values: np.ndarray, gates: np.ndarray, feature: int, tokens: Sequence[str]) -> str:
    """Let a slider set one gate of a head, and draw what goes out of the head.

    Parameters
    ----------
    values : (d_h,)
        The head's decoded values for the last token.
    gates : (N, d_h)
        The head's gates, as the tokens set them.
    feature : int
        Which of the last token's gates the slider sets.
    tokens : sequence of str
        N of them.

    Returns
    -------
    html : str
        A player whose frames are the settings from 0 to 1; it begins at the one that is nearest to the token's own.
    """
    frames = []
    for setting in np.linspace(0, 1, _POSITIONS):
        out = values[feature] * setting
        text = (
            f"Gate {setting:.2f}: feature {feature} goes out of the head as {values[feature]:.2f} times {setting:.2f}, "
            f"which is {out:.2f}. The other {len(values) - 1} features do not change."
        )
        draw = partial(_draw_gate, values=values, gates=gates, feature=feature, setting=setting, tokens=tokens)
        frames.append(player.Frame(draw, text))
    start = round(float(gates[-1, feature]) * (_POSITIONS - 1))
    label = f"A slider sets one gate of a head from 0 to 1: the head's {len(values)} numbers before and after the gate"
    return player.player(frames, (WIDTH, 3.4), label=label, slider="Gate", start=start, seconds=0.25)


def _draw_gate(
    figure: Figure, *, values: np.ndarray, gates: np.ndarray, feature: int, setting: float, tokens: Sequence[str]
) -> None:
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=SMALLEST)
    _draw_settings(left, gates[:, feature], setting, tokens)
    where = np.arange(len(values))
    out = np.where(where == feature, setting, gates[-1]) * values
    right.bar(where, out, 0.7, color=[ORANGE if i == feature else PART_COLOURS["values"] for i in where])
    right.bar(where, values, 0.7, fill=False, edgecolor=BLACK, linestyle=":")
    right.axhline(0, color="0.4", lw=0.8)
    right.set_xticks(where)
    right.set_xlabel("feature of the head", fontsize=SMALLEST)
    room = 1.1 * float(np.abs(values).max())
    right.set_ylim(-room, room)
    product = f"{values[feature]:.2f} · {setting:.2f} = {out[feature]:.2f}".replace("-", "−")
    title = f"feature {feature}: {product}\ndotted: decoded; filled: goes out"
    right.set_title(title, fontsize=10, loc="left")


def _draw_settings(ax: Axes, gates: np.ndarray, setting: float, tokens: Sequence[str]) -> None:
    """Draw what each token sets the gate to, and the slider's setting in place of the last token's."""
    where = np.arange(len(gates))
    ax.vlines(where, 0, gates, color="0.75", lw=3)
    ax.plot(where, gates, "o", color=PART_COLOURS["output heads"], markersize=5)
    ax.axhline(setting, color=ORANGE, lw=1, ls="--")
    ax.plot(where[-1], setting, "o", color=ORANGE, markersize=10)
    ax.set_xticks(where, [token_label(token) for token in tokens], family="monospace", fontsize=SMALLEST)
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("token that asks", fontsize=SMALLEST)
    ax.set_title(
        f"the gate: grey, as each token sets it\norange, as the slider sets it for the last: {setting:.2f}",
        fontsize=10,
        loc="left",
    )
