"""The plan of the study of conversion: which conversions are measured, and with how much text they are healed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from gta_ref.convert.heal import QUICK, Settings
from gta_ref.convert.sizes import Sizes

BUDGET = Settings(layer_steps=60, steps=40)  # about a quarter of an hour on two cores
LONG = Settings(layer_steps=100, steps=100)  # about half an hour
LONGEST = Settings(layer_steps=200, steps=200)  # an hour and a quarter
SHARED = 3  # maps of a layer whose maps are shared, for nine heads


@dataclass(frozen=True)
class Point:
    """A conversion that is to be measured.

    Parameters
    ----------
    name : str
    sizes : Sizes
        Of the layers that share maps; the others keep all maps, with the same latents.
    layers : int, optional
        How many layers share maps: those in which it costs least. Default: all.
    budgets : sequence of Settings
        One per healing; none if the point is not healed.
    """

    name: str
    sizes: Sizes
    layers: int | None = None
    budgets: Sequence[Settings] = ()


def _seeds(*seeds: int) -> tuple[Settings, ...]:
    return tuple(dataclasses.replace(BUDGET, seed=seed) for seed in seeds)


_HALF = Sizes(n_q=SHARED, n_k=1, latent_dim=128)
POINTS = (
    Point("3 maps, n_k 1, d_l 128", _HALF, budgets=(*_seeds(0), LONGEST, *_seeds(1, 2))),
    Point("3 maps in 23 layers", Sizes(n_q=SHARED), 23, _seeds(0)),
    Point("9 maps, d_l 64", Sizes(latent_dim=64), budgets=(*_seeds(0), LONG, LONGEST)),
    Point("3 maps, n_k 1, d_l 128, no gate", dataclasses.replace(_HALF, gate="none"), budgets=_seeds(0, 1, 2)),
    Point("3 maps", Sizes(n_q=SHARED)),
    Point("3 maps in 15 layers", Sizes(n_q=SHARED), 15),
    Point("1 map", Sizes(n_q=1)),
    *(Point(f"9 maps, d_l {d_l}", Sizes(latent_dim=d_l)) for d_l in (32, 96, 128)),
)


@dataclass(frozen=True)
class Plan:
    """The points, and how much text there is to them.

    Parameters
    ----------
    points : sequence of Point
    fitted, judged : (int, int)
        Windows of each kind of text, and tokens per window: for the closed form, and for judging.
    """

    points: Sequence[Point] = POINTS
    fitted: tuple[int, int] = (16, 512)
    judged: tuple[int, int] = (8, 512)


def quick() -> Plan:
    """A plan of minutes, only to see that the study runs."""
    return Plan(
        (
            Point("9 maps, d_l 64", Sizes(latent_dim=64)),
            Point("3 maps in 15 layers", Sizes(n_q=SHARED), 15, (QUICK,)),
        ),
        fitted=(1, 256),
        judged=(1, 128),
    )
