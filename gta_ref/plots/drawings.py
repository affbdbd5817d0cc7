"""The drawings of README.md and docs/, of formulas and stored measurements: ``python -m gta_ref.plots`` makes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from gta_ref.cache import KVCache
from gta_ref.costs import hardware
from gta_ref.costs.frontier import choices, speed_ups
from gta_ref.costs.memory import cache_bytes
from gta_ref.costs.model import Model
from gta_ref.distributed.costs import LINKS, ring_seconds
from gta_ref.files import atomic_path
from gta_ref.mechanisms import mha, mla
from gta_ref.plots import convert
from gta_ref.plots.cache import cache_growth
from gta_ref.plots.common import save
from gta_ref.plots.costs import design_space, speed_up_frontier
from gta_ref.plots.distributed import layouts, ring_steps, scaling
from gta_ref.plots.sharing import who_reads_what
from gta_ref.plots.studies import study

DOCS = Path(__file__).parents[2] / "docs"
STUDIES = DOCS / "studies"
CONTEXT = 2048  # tokens with which the 1B models were trained
_STEP = 256  # tokens from one point of the cache's figure to the next

# A drawing without a background is shown on white or on a dark page. The text has the opposite colour around it, so
# that it can be read even if the viewer takes the page for the other kind.
_STYLE = """
  <style type="text/css">
   text {fill: #1f2328; stroke: #ffffff; stroke-width: 1.5px; stroke-linejoin: round; paint-order: stroke}
   @media (prefers-color-scheme: dark) {text {fill: #e6edf3; stroke: #0d1117}}
  </style>"""


def heads() -> Figure:
    """Draw which head reads what, in MHA, GQA, MLA and GTA with 20 output heads."""
    gqa_1b, gta_1b = (Model.preset(name).structure for name in ("gqa-1b", "gta-1b"))
    width, n, n_k = gta_1b.hidden_size, gta_1b.n_heads, gqa_1b.n_k
    # a latent of 256, as in docs/costs.md; no MLA of this size is published
    latent = mla.structure(mla.Config(width, n, 256, 64, 32, 64), absorb=True)
    layers = {
        "MHA": (mha.structure(mha.Config(width, n, width // n)), range(n)),
        "GQA-1B": (gqa_1b, [head // (n // n_k) for head in range(n)]),
        "MLA, absorbed": (latent, [0] * n),
        "GTA-1B": (gta_1b, [0] * n),
    }
    figure = who_reads_what(layers, width=600)
    figure.set_facecolor("none")  # so that it suits a light and a dark page; see `adapt`
    return figure


def cache() -> Figure:
    """Draw the caches of the 1B models, by formula and as held by real caches that are filled with zeros."""
    models = [Model.preset(name) for name in ("gta-1b", "gqa-1b")]
    held = {model.name: _filled(model) for model in models}
    title = f"KV cache, {models[0].n_layers} layers, bfloat16"
    return cache_growth({model.name: cache_bytes(model, 1, 1) for model in models}, held, title)


def _filled(model: Model) -> list[tuple[int, int]]:
    """Fill the caches of all layers; (tokens, bytes held) after each step."""
    cached = model.structure.cached
    caches = [KVCache(cached, 1, CONTEXT, "bfloat16") for _ in range(model.n_layers)]
    new = {name: np.zeros((1, n, _STEP, width), caches[0].dtype) for name, (n, width) in cached.items()}
    points = []
    while caches[0].length < CONTEXT:
        for one in caches:
            one.append(**new)
        points.append((caches[0].length, sum(one.used_nbytes for one in caches)))
    return points


def frontier() -> Figure:
    """Draw from which batch and length on GTA-1B is 1, 1.5, 2 and 3 times as fast as GQA-1B on an H100."""
    machine = hardware.get("h100")
    found = speed_ups(Model.preset("gta-1b"), Model.preset("gqa-1b"), machine)
    title = f"GQA-1B's time over GTA-1B's, {machine.name}"
    return speed_up_frontier(found["batches"], found["lengths"], found["ratio"], title)


def design() -> Figure:
    """Draw the cache and the operations of every choice of sizes that GTA-1B's width and heads allow."""
    marked = {name.upper(): Model.preset(name).structure for name in ("gta-1b", "gqa-1b")}
    layer, parameters = marked["GTA-1B"], marked["GQA-1B"].parameters
    n = layer.n_heads
    return design_space(choices(layer.hidden_size, n, layer.hidden_size // n, parameters), parameters, marked)


def of_ring() -> Figure:
    """Draw the predicted time of a ring on up to 1,024 GPUs, and what the page's benchmark measured."""
    machine, tokens, ranks = hardware.get("h100"), 2**20, [2**n for n in range(3, 11)]
    predicted: dict[str, dict[str, list[float]]] = {}
    for name in ("gta-1b", "gqa-1b"):
        model = Model.preset(name)
        found = {
            link: [ring_seconds(model.structure, tokens, n, machine, LINKS[link])["total"] for n in ranks]
            for link in ("nvlink", "infiniband", "ethernet")
        }
        predicted[name.upper()] = {LINKS[link].name: seconds for link, seconds in found.items()}
    return scaling(ranks, predicted, _measured("distributed")["cases"])


def _measured(name: str) -> Any:
    return json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))


def of_study(name: str) -> Figure:
    """Draw a study again from its summary in docs/studies; nothing is trained."""
    return study(_measured(f"studies/{name}"))


def of_conversion() -> Figure:
    """Draw the study of conversion again from docs/convert.json; nothing is converted."""
    return convert.study(_measured("convert"))


DRAWINGS: Mapping[str, Callable[[], Figure]] = {
    "who-reads-what": heads,
    "cache": cache,
    "frontier": frontier,
    "design": design,
    "ring": ring_steps,
    "ring-layouts": layouts,
    "ring-scaling": of_ring,
    "study-convert": of_conversion,
    **{f"study-{path.stem}": partial(of_study, path.stem) for path in sorted(STUDIES.glob("*.json"))},
}


def write(folder: Path) -> list[Path]:
    """Make every drawing and write it into `folder` as an SVG.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Path
        The files. They are the same to the byte every time.
    """
    paths = []
    for name, make in DRAWINGS.items():
        figure, path = make(), folder / f"{name}.svg"
        save(figure, path)
        if to_rgba(figure.get_facecolor())[3] == 0:
            adapt(path)
        paths.append(path)
    return paths


def adapt(path: Path) -> None:
    """Make the text of an SVG without a background readable on light and on dark pages."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    with atomic_path(path) as temporary:
        temporary.write_text(text.replace("<defs>", f"<defs>{_STYLE}", 1), encoding="utf-8")
