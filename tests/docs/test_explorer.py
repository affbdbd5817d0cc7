"""The explorer: its script counts what gta_ref.costs counts, to every digit, and the page is played in a browser."""

import json
import random
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from gta_ref.costs import hardware, llm_viewer
from gta_ref.costs.flops import forward_macs, pairs
from gta_ref.costs.frontier import BATCHES, LENGTHS, speed_ups
from gta_ref.costs.memory import cache_bytes, weight_bytes
from gta_ref.costs.model import Model
from gta_ref.costs.operators import operators
from gta_ref.costs.roofline import CONVENTIONS, STAGES, estimate, time
from gta_ref.mechanisms import gta
from gta_ref.ops.arrays import as_dtype

SCRIPTS = Path(__file__).parent / "explorer"
EXPLORER = Path(__file__).parents[2] / "docs" / "explorer"
NODE = shutil.which("node")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed, which runs the explorer's script")

needs_browser = pytest.mark.skipif(
    NODE is None or CHROMIUM is None, reason="node or chromium is not installed, which play the explorer"
)

# the explorer's names of the sizes, as State.PRESETS has them
PRESETS = {
    "mha": ("gqa", 20, 64, 20, 20, 20, 64),
    "gqa-1b": ("gqa", 20, 64, 20, 5, 5, 64),
    "gta-1b": ("gta", 20, 64, 5, 1, 1, 128),
    "gta1": ("gta", 12, 64, 3, 1, 1, 128),
    "gta2": ("gta", 12, 64, 6, 1, 1, 128),
    "gta3": ("gta", 20, 64, 5, 1, 1, 128),
    "gta4": ("gta", 20, 64, 10, 1, 1, 256),
    "mla": ("mla", 20, 64, 20, 1, 1, 256),
}
DTYPES = ("bfloat16", "float16", "float32")


def sizes(kind, n_h, d_h, n_q, n_k, n_c, d_l, layers=54):
    names = ("kind", "n_h", "d_h", "n_q", "n_k", "n_c", "d_l", "layers")
    return dict(zip(names, (kind, n_h, d_h, n_q, n_k, n_c, d_l, layers), strict=True))


def as_model(s):
    """The Model of gta_ref with these sizes."""
    h = s["n_h"] * s["d_h"]
    around = {"name": "x", "hidden_size": h, "n_heads": s["n_h"], "n_layers": s["layers"]}
    if s["kind"] == "gta":
        own = {"n_q": s["n_q"], "n_k": s["n_k"], "n_c": s["n_c"], "latent_dim": s["d_l"]}
        whole = (s["n_h"] // s["n_q"] * s["d_h"]) % s["d_l"] == 0
        return Model.from_dict({"mechanism": "gta", "head_dim": s["d_h"], "decoder_residual": whole, **own, **around})
    if s["kind"] == "gqa":
        return Model.from_dict({"mechanism": "gqa", "head_dim": s["d_h"], "n_k": s["n_k"], **around})
    of_head = {"nope_dim": s["d_h"], "value_dim": s["d_h"], "rope_dim": s["d_h"] // 2}
    return Model.from_dict({"mechanism": "mla", "latent_dim": s["d_l"], **of_head, **around})


def cases():
    """Every preset in every convention, stage and kind of attention, then models and settings drawn by chance."""
    rng = random.Random(20250617)
    found = []

    def add(model, **given):
        setting = {
            "batch": rng.choice(BATCHES),
            "length": rng.choice(LENGTHS),
            "dtype": rng.choice(DTYPES),
            "hardware": rng.choice(sorted(hardware.PRESETS)),
            "stage": rng.choice(STAGES),
            "fused": rng.random() < 0.5,
            "convention": rng.choice(CONVENTIONS),
        }
        found.append({"model": model, "setting": setting | given})

    for preset, convention, stage, fused in product(PRESETS, CONVENTIONS, STAGES, (False, True)):
        add(sizes(*PRESETS[preset]), convention=convention, stage=stage, fused=fused)
    for dtype, machine, convention in product(DTYPES, sorted(hardware.PRESETS), CONVENTIONS):
        add(sizes(*PRESETS["gta-1b"]), dtype=dtype, hardware=machine, convention=convention)
    while len(found) < 200:
        n_h, d_h = rng.choice((4, 6, 12, 20, 24, 64)), rng.choice((16, 32, 48, 64, 80, 128))
        n_q = rng.choice([d for d in range(1, n_h + 1) if n_h % d == 0])
        n_k, n_c = (rng.choice([d for d in range(1, n_q + 1) if n_q % d == 0]) for _ in range(2))
        add(
            sizes(
                rng.choice(("gta", "gqa", "mla")),
                n_h,
                d_h,
                n_q,
                n_k,
                n_c,
                rng.choice((16, 80, 128, 512)),
                rng.choice((1, 28, 96)),
            )
        )
    return found


def figures(case):
    """What gta_ref.costs says, in the form of the script's answer: whole numbers as text."""
    model, setting = as_model(case["model"]), case["setting"]
    batch, length, fused = setting["batch"], setting["length"], setting["fused"]
    machine, prefill = hardware.PRESETS[setting["hardware"]], setting["stage"] == "prefill"
    if setting["convention"] == "llm-viewer":
        found = llm_viewer.operators(model, batch, length, prefill=prefill, fused=fused)
        machine = llm_viewer.H100 if machine.name == "h100" else machine
        seen = length * length if prefill else length
        attention = model.n_layers * batch * model.structure.attention_macs * seen
    else:
        new, held = (length, 0) if prefill else (1, length)
        itemsize = as_dtype(setting["dtype"]).itemsize
        found = operators(model, batch, new, held, fused=fused, itemsize=itemsize)
        attention = forward_macs(model, batch, new, held, causal_saving=fused)["attention"]
        assert attention == model.n_layers * batch * (
            model.structure if prefill else model.decode_structure
        ).attention_macs * pairs(new, held, causal_saving=fused)
    total = time(found, machine)
    if setting["convention"] == "llm-viewer" or as_dtype(setting["dtype"]).itemsize == 2:
        assert total == estimate(
            model,
            setting["stage"],
            batch,
            length,
            hardware.PRESETS[setting["hardware"]],
            fused=fused,
            convention=setting["convention"],
        )
    seconds = 0.0
    for part in total.parts.values():  # from Python 3.12 on, sum() keeps what its additions round off
        seconds += part
    assert total.seconds == pytest.approx(seconds, rel=1e-15)
    return {
        "parameters": str(model.parameters),
        "cache": str(cache_bytes(model, batch, length, setting["dtype"])),
        "weights": str(weight_bytes(model, setting["dtype"])),
        "attention": str(2 * attention),
        "operators": [[o.name, str(o.operations), str(o.bytes)] for o in found],
        "operations": str(total.operations),
        "bytes": str(total.bytes),
        "parts": total.parts,
        "seconds": seconds,
    }


FRONTIERS = [
    ("gta-1b", "gqa-1b", "h100", "prefill", True, "moved"),
    ("gta-1b", "gqa-1b", "h100", "decode", False, "llm-viewer"),
    ("gta2", "mla", "rtx3060", "decode", True, "moved"),
]
START = "batch=32&length=4096&dtype=bfloat16&hardware=h100&stage=decode&fused=1&convention=moved&predict=0&head=7"
ADDRESSES = {  # what stands in the address, and what the page makes of it
    "": f"m=gta-1b&vs=gqa-1b&{START}",
    "m=mla&vs=mha&stage=prefill&fused=0": f"m=mla&vs=mha&{START}".replace("decode", "prefill").replace("fused=1", "fused=0"),
    "m=gta.20.64.20.7.1.64.54": f"m=gta.20.64.20.5.1.64.54&vs=gqa-1b&{START}",
    "m=gta.20.64.5.1.1.128.54&batch=5000&length=3": f"m=gta-1b&vs=gqa-1b&{START}".replace("=32", "=256").replace("4096", "256"),
    "m=constructor&vs=gta.1e3&batch=-1&fused=yes&stage=__proto__": f"m=gta-1b&vs=gqa-1b&{START}",
    "m=gta.4.64.4.4.4.64.54&head=63": f"m=gta.4.64.4.4.4.64.54&vs=gqa-1b&{START}".replace("head=7", "head=3"),
}  # fmt: skip


@cache
def answers():
    """What the script makes of all of this, in one run of node."""
    question = {
        "cases": cases(),
        "frontiers": [
            {
                "model": sizes(*PRESETS[model]),
                "baseline": sizes(*PRESETS[baseline]),
                "setting": {
                    "hardware": machine,
                    "stage": stage,
                    "fused": fused,
                    "convention": convention,
                    "dtype": "bfloat16",
                },
            }
            for model, baseline, machine, stage, fused, convention in FRONTIERS
        ],
        "addresses": list(ADDRESSES),
    }
    command = [NODE, str(SCRIPTS / "count.js")]
    run = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@needs_node
def test_two_hundred_configurations_are_equal_to_every_digit():
    asked, told = cases(), answers()["cases"]
    assert len(told) == len(asked) == 200
    for case, found in zip(asked, told, strict=True):
        assert found == figures(case), case


@needs_node
def test_the_presets_are_the_published_models():
    presets = answers()["presets"]
    assert presets == {name: sizes(*given) for name, given in PRESETS.items()}
    for name, published in (("gta-1b", "gta-1b"), ("gqa-1b", "gqa-1b")):
        assert as_model(presets[name]) == replace(Model.preset(published), name="x")
    for name, published in (("gta1", "gta1-160m"), ("gta2", "gta2-160m"), ("gta3", "gta3-500m"), ("gta4", "gta4-500m")):
        assert as_model(presets[name]).structure == gta.structure(gta.Config.preset(published))


@needs_node
@pytest.mark.parametrize("i", range(len(FRONTIERS)))
def test_the_frontier_is_that_of_the_command(i):
    model, baseline, machine, stage, fused, convention = FRONTIERS[i]
    both = (as_model(sizes(*PRESETS[name])) for name in (model, baseline))
    expected = speed_ups(*both, hardware.PRESETS[machine], convention=convention)
    name, found = f"{stage} {'fused' if fused else 'unfused'}", answers()["frontiers"][i]
    # NaN is null in JSON, and sum() of newer Pythons differs in the last digit
    np.testing.assert_allclose(np.array(found["ratio"], float), expected["ratio"][name], rtol=1e-14)
    assert found["reached"] == list(expected["reached"][name].values())


@needs_node
@pytest.mark.parametrize("i", range(len(ADDRESSES)), ids=list(ADDRESSES))
def test_the_address_holds_the_state_and_nothing_else_gets_in(i):
    address, expected = list(ADDRESSES.items())[i]
    written, model = answers()["addresses"][i]
    assert written == expected
    assert model["n_h"] % model["n_q"] == model["n_q"] % model["n_k"] == model["n_q"] % model["n_c"] == 0


@cache
def played():
    """What was seen while the page was played, in one run of the browser."""
    page = (EXPLORER / "index.html").as_uri()
    command = [NODE, str(SCRIPTS / "play.js"), CHROMIUM, page]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@needs_browser
def test_the_page_starts_with_the_ratios_of_the_paper():
    start = played()["start"]
    assert start["chain"] == "head 7 → map 1 → key 0 → latent 0"
    assert start["ratios"][:2] == ["0.300 ×", "0.375 ×"]
    assert "GTA-1B against GQA-1B" in start["summary"]
    assert all(ratio in start["summary"] for ratio in start["ratios"])
    assert start["hash"] == ""


@needs_browser
def test_it_is_played_with_the_keyboard():
    seen = played()
    slider = seen["slider"]
    assert slider["hash"].startswith("#m=gta.20.64.10.1.1.128.54&vs=gqa-1b&")
    assert (slider["output"], slider["focus"]) == ("10", "n_q")  # the next divisor of 20 after 5
    assert (slider["chain"], slider["attention"]) == ("head 7 → map 3 → key 0 → latent 0", "0.750 ×")
    assert seen["preset"]["hash"].startswith("#m=mla&")
    assert seen["preset"]["hidden"] == ["n_q", "n_k", "n_c"]
    assert seen["tab"] == "n_h"
    assert seen["head"][:2] == ["head 9 → map 2 → key 0 → latent 0", "head 9 → map 9 → key 2 → value 2"]
    assert seen["head"][2] == 7  # four boxes and three lines
    assert seen["cross"]["focus"] == "cross"
    assert "batch=64&length=4871" in seen["cross"]["hash"]
    assert "64 × 4,871 tokens" in seen["cross"]["words"]


@needs_browser
def test_it_is_played_with_the_mouse():
    assert played()["hover"] == "head 18 → map 4 → key 0 → latent 0"
    assert "batch=256&length=131072" in played()["click"]


@needs_browser
def test_the_address_brings_the_whole_page_back():
    assert played()["round"]["same"]
    for words in ("your GTA against MLA", "8 sequences of 8,192", "float32, A100, unfused, convention llm-viewer"):
        assert words in played()["round"]["summary"]
    assert "MHA against GQA-1B, one decoding step of 32 sequences of 1,024 tokens" in played()["query"]


@needs_browser
def test_predict_first_hides_every_figure_until_a_guess_is_typed():
    seen = played()
    assert seen["predict"]["ratios"] == seen["asked"] == [None] * 4
    assert seen["predict"]["charts"] == ["roofline-part", "frontier-part", "memory-part"]
    assert seen["predict"]["shown"] == 0
    assert seen["predict"]["summary"].count("?") == 4
    assert seen["guessed"]["ratios"] == ["0.300 ×", None, None, None]
    assert seen["guessed"]["charts"] == ["roofline-part", "frontier-part"]
    assert seen["words"] == "You guessed 0.5 ×."


@needs_browser
def test_it_suits_narrow_dark_and_paper():
    seen = played()
    assert seen["narrow"] == [[0]] * 3  # nothing to the right of the window, at 390 and 320 px
    for light, dark in zip(seen["light"][:2], seen["dark"][:2], strict=True):
        assert light != dark
    assert seen["print"] == ["none", "block", "grid", "none"]


@needs_browser
def test_every_picture_has_a_text_and_tables_stand_beside_them():
    assert len(played()["pictures"]) == 4
    assert all(played()["pictures"])
    assert played()["tables"] == 9


@needs_browser
def test_it_loads_only_its_own_files_and_reports_no_fault():
    folder = EXPLORER.as_uri() + "/"
    loaded = {address.removeprefix(folder).partition("?")[0] for address in played()["requests"]}
    assert loaded == {path.name for path in EXPLORER.iterdir()}
    assert played()["faults"] == []
