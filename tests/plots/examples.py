"""One small example of every figure function, to be drawn by the tests."""

import json
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace as Some

import numpy as np

from gta_ref.commands.bench_e2e import SHOWN
from gta_ref.core import Mask
from gta_ref.costs import hardware
from gta_ref.costs.frontier import choices
from gta_ref.costs.model import Model
from gta_ref.costs.operators import operators
from gta_ref.costs.roofline import estimate
from gta_ref.exercises import pictures
from gta_ref.maps.compare import VIEWS, measure
from gta_ref.plots import (
    backward,
    cache,
    cache_steps,
    choosing,
    convert,
    costs,
    cuda,
    distributed,
    e2e,
    latents,
    maps,
    roofline,
    sharing,
    speed,
    studies,
    tiles,
    values,
    verify,
)

DOCS = Path(__file__).parents[2] / "docs"
STUDIES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (DOCS / "studies").glob("*.json")}
H100 = hardware.get("h100")
MODELS = {name.upper(): Model.preset(name) for name in ("gta-1b", "gqa-1b")}
STRUCTURES = {name: model.structure for name, model in MODELS.items()}
FAMILY = {
    text.split()[0].upper(): Model.parse(text).structure for text in ("mha", "gqa n_k=1", "gva n_q=5")
} | STRUCTURES
WORDS = [f"token {i}" for i in range(32)]
Finding = namedtuple("Finding", "name kind ratio")


def causal(*shape):
    x = np.tril(np.random.default_rng(0).random(shape))
    return x / x.sum(axis=-1, keepdims=True)


def layers(n=30):
    return [measure(causal(2, 9, 12, 12), np.random.default_rng(0))] * n


def stages():
    return {name: (1, 2, 16, 16) for name in backward._STAGES}


def trained():
    """Two training runs without their parameters."""
    return {
        name: Some(losses=[5.0 - 0.01 * step for step in range(200)], validation={0: 5.5, 100: 4.1, 200: 3.2})
        for name in ("gqa", "gta")
    }


def answers():
    """The results of one wrong and one right version, on three arrays."""
    kinds = {"q": ("ok", 0.1), "k": ("value", 1e4), "z": ("nonfinite", np.inf)}
    wrong = [Finding(name, *one) for name, one in kinds.items()]
    right = [Finding(name, "ok", 0.2) for name in kinds]
    return {
        "first": Some(findings=wrong, stage="k", cause="a cause"),
        "second": Some(findings=right, stage="", cause=""),
    }


def checked():
    arrays = {name: np.ones(3) for name in "qkz"}
    return [(Some(expected=arrays, budgets=dict.fromkeys("qkz", 1e-3), dtype="float32"), answers()["second"])]


def passes():
    parts = [part for of in SHOWN.values() for part in of]
    times = {"predicted": dict.fromkeys(parts, 1e-3), "measured": dict.fromkeys(parts, 2e-3)}
    return [{"name": f"decode, B 16, N {i}", "models": {"gta-1b": times, "gqa-1b": times}} for i in range(4)]


def speeds():
    shares = {name: {"of_ceiling": 0.5} for name in ("numba", "torch SDPA padded", "torch folded", "torch SDPA")}
    kinds = ("forward", "forward+backward", "decode")
    return [{"kind": kind, "name": f"{kind}, B 1, N {n}", "contestants": shares} for kind in kinds for n in range(4)]


GRID = np.arange(4.0).repeat(4).reshape(4, 4) + 0.5
PLACES = np.indices((8, 8))
THREADS = np.arange(256).reshape(16, 16) % 32
LENGTHS = [2**i for i in range(7, 14)]
CLUSTERS = [[0, 1, 2], [3, 4], [5, 6], [7, 8]]


def conversions():
    """The study of conversion: 12 points, of which every second one is healed three times."""

    def judged(lost):
        return {"held_out": {kind: {"loss": whole + lost} for kind, whole in (("prose", 2.5), ("code", 1.9))}}

    points = [
        {"name": f"3 maps, n_k 1, d_l {d_l}, no gate", "maps": 270, "cache_elements": 64 + d_l, "healed": []}
        | judged(5 / d_l)
        for d_l in range(32, 416, 32)
    ]
    for point in points[::2]:
        point["healed"] = [judged(2 / (point["cache_elements"] + i)) for i in range(3)]
    sharing = {"n_q": 3, "divergence": [0.1 / (1 + i) for i in range(30)]}
    return {"model": "SmolLM2-135M-Instruct.Q4_1", "original": judged(0), "points": points, "sharing": sharing}


# the pictures of wrong answers
ANSWERS = {
    "exercises.difference": lambda: pictures.difference("z", "N, d_l", GRID, GRID[::-1], (0, 3)),
    "exercises.readers": lambda: pictures.readers(np.arange(20) // 3, np.arange(20) // 4),
}
EXAMPLES = {
    "backward.data_flow": lambda: backward.data_flow(stages()),
    "backward.softmax_jacobian": lambda: backward.softmax_jacobian(np.array([0.1, 0.2, 0.7])),
    "backward.step_sizes": lambda: backward.step_sizes(LENGTHS, {name: LENGTHS for name in ("gate", "linear", "q")}),
    "backward.kept_for_backward": lambda: backward.kept_for_backward(
        LENGTHS, {"map kept": LENGTHS, "fused": LENGTHS}, {"fused": {128: 128}}
    ),
    "cache.cache_growth": lambda: cache.cache_growth(
        {"GTA-1B": 3, "GQA-1B": 10}, {"GTA-1B": [(1, 3)], "GQA-1B": [(1, 10)]}
    ),
    "cache.family": lambda: cache.family(FAMILY),
    "cache.what_fits": lambda: cache.what_fits(
        LENGTHS, {"H100": {"GTA-1B": LENGTHS, "GQA-1B": LENGTHS, "MHA": LENGTHS}}, trained=2048
    ),
    "cache_steps.cache_steps": lambda: cache_steps.cache_steps(STRUCTURES),
    "choosing.intervals": lambda: choosing.intervals(STUDIES["mechanisms"]),
    "choosing.learning_curves": lambda: choosing.learning_curves(trained(), {"all bytes equally likely": 5.5}),
    "choosing.cost_maps": lambda: choosing.cost_maps(
        {name: GRID for name in ("cache", "attention", "speed (×)", "prefill (×)")},
        [1, 2, 5, 10],
        [32, 64, 128, 256],
        (5, 128),
    ),
    "convert.study": lambda: convert.study(conversions()),
    "costs.time_parts": lambda: costs.time_parts(
        {
            f"{stage} 32 × 4096": {name: estimate(m, stage, 32, 4096, H100) for name, m in MODELS.items()}
            for stage in ("prefill", "decode")
        }
    ),
    "costs.speed_up_frontier": lambda: costs.speed_up_frontier(
        [1, 2, 4, 8], [256, 512, 1024, 2048], dict.fromkeys("abcd", GRID)
    ),
    "costs.design_space": lambda: costs.design_space(choices(1280, 20, 64, 4_096_000), 4_096_000, STRUCTURES),
    "cuda.first_steps": cuda.first_steps,
    "cuda.register_tile": lambda: cuda.register_tile(32, 32, 16, 4, d_k=64, d_v=128, thread=(5, 6)),
    "cuda.fragments": lambda: cuda.fragments(THREADS, THREADS, thread=13),
    "cuda.banks": lambda: cuda.banks({"row by row": PLACES[1], "swizzled": PLACES[1] ^ PLACES[0]}, column=2),
    "cuda.reads_by_step": lambda: cuda.reads_by_step({"1 naive": 1e9, "2 tiles": 1e8}, {"2 tiles": 1.0}, floor=1e7),
    "distributed.ring_steps": distributed.ring_steps,
    "distributed.layouts": distributed.layouts,
    "distributed.scaling": lambda: distributed.scaling(
        [8, 16, 32],
        {name: {link: [3.0, 2.0, 1.0] for link in ("NVLink", "InfiniBand", "Ethernet")} for name in MODELS},
        [{"name": "forward, N 1024", "ring": 0.05, "predicted": 0.03}],
    ),
    "e2e.pass_times": lambda: e2e.pass_times(passes(), SHOWN, "a machine, " * 12),
    "latents.latents_and_values": lambda: latents.latents_and_values(
        GRID - 2, GRID.repeat(4, axis=1) - 2, list("abcd"), 4, 2
    ),
    "maps.attention_maps": lambda: maps.attention_maps(causal(9, 32, 32), WORDS, clusters=CLUSTERS, title="a model"),
    "maps.head_similarity": lambda: maps.head_similarity(layers(), [3] * 30),
    "maps.similarity_by_layer": lambda: maps.similarity_by_layer(layers()),
    "maps.maps_needed": lambda: maps.maps_needed(
        dict.fromkeys(VIEWS, np.full((30, 5), 9)), (0.5, 0.7, 0.8, 0.9, 0.95), [9] * 30
    ),
    "roofline.roofline": lambda: roofline.roofline(
        {"prefill": {name: operators(m, 1, 4096, 0, fused=True) for name, m in MODELS.items()}}, H100
    ),
    "sharing.who_reads_what": lambda: sharing.who_reads_what(
        {name: (s, [0] * 20) for name, s in STRUCTURES.items()}, "heads"
    ),
    "sharing.core_operations": lambda: sharing.core_operations(FAMILY),
    "speed.core_speed": lambda: speed.core_speed(speeds(), "a machine, " * 12),
    "studies.study": lambda: studies.study(STUDIES["mechanisms"]),
    "tiles.one_row": lambda: tiles.one_row(np.arange(16.0), 4),
    "tiles.tile_grid": lambda: tiles.tile_grid(
        {"a whole text": Mask().to_dense(64, 64), "its last 24 tokens": Mask().to_dense(24, 64)}, tile=8
    ),
    "tiles.memory_and_time": lambda: tiles.memory_and_time(
        LENGTHS, {"definition": LENGTHS[:4], "fused": LENGTHS}, {"definition": LENGTHS[:4], "fused": LENGTHS}
    ),
    "values.two_orders": lambda: values.two_orders(2048, 128, 256),
    "values.spectra_and_strength": lambda: values.spectra_and_strength(
        {name: np.arange(9.0, 0, -1) for name in ("none", "sigmoid", "silu", "relu2")},
        LENGTHS,
        {name: LENGTHS for name in ("sigmoid", "silu", "relu2", "none")},
        5,
    ),
    "values.decoder_weights": lambda: values.decoder_weights({"with copies": GRID - 2, "folded": 2 - GRID}, head_dim=2),
    "verify.repairs": lambda: verify.repairs(answers(), "a case"),
    "verify.errors_and_budgets": lambda: verify.errors_and_budgets(checked()),
}
