"""The page on costs: every number of its example is that of gta_ref.costs."""

import re
from pathlib import Path

import pytest

from gta_ref.costs import hardware
from gta_ref.costs.flops import forward_macs, pairs
from gta_ref.costs.memory import cache_bytes
from gta_ref.costs.model import Model
from gta_ref.costs.operators import operators

PAGE = (Path(__file__).parents[2] / "docs" / "costs.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.partition("### GTA-1B, with the numbers put in")[2].partition("\n### ")[0]
GTA, GQA = (Model.preset(name) for name in ("gta-1b", "gqa-1b"))
N = 2048
STEP = next(o for o in operators(GTA, 32, 1, 4096, fused=True) if o.name == "attention")
H100 = hardware.get("h100")
RESULTS = {
    "cache elements": GTA.structure.cache_elements,
    "cache bytes": cache_bytes(GTA, 1, N),
    "core, per pair": GTA.structure.attention_macs,
    "pairs": pairs(N),
    "core, prefill": forward_macs(GTA, 1, N)["attention"],
    "core, decoding step": forward_macs(GTA, 1, 1, N)["attention"],
    "core's backward": 2 * GTA.structure.attention_macs + GTA.structure.n_q * GTA.structure.d_k,
    "linear layers": GTA.structure.linear_macs,
    "parameters": GTA.parameters,
    "operations": 2 * forward_macs(GTA, 1, N)["total"],
}


def formulas():
    """The formulas of the example, with numbers as Python writes them."""
    return [tex.replace("{,}", "").replace("\n", " ") for tex in re.findall(r"\$\$(.+?)\$\$", EXAMPLE, re.DOTALL)]


def test_there_is_a_formula_for_every_quantity():
    found = [float(re.search(r"([\d.]+)(?: \\, \\text\{ms\})?$", tex)[1]) for tex in formulas()]
    milliseconds = round(1e3 * max(STEP.operations / H100.peak, STEP.bytes / H100.bandwidth), 3)
    ratio = GTA.structure.attention_macs / GQA.structure.attention_macs
    assert found == [*RESULTS.values(), milliseconds, ratio]


def value(tex):
    """Compute a part of a formula that consists of numbers alone."""
    plain = tex.replace(r"\tfrac{1}{2}", "0.5").replace(r"\cdot", "*").replace("^", "**").replace(r"\,", "*")
    return eval(plain) if re.fullmatch(r"[\d.\s()*+]+", plain) else None


SUMS = {tex: values for tex in formulas() if len(values := [v for part in tex.split("=") if (v := value(part))]) > 1}


def test_most_formulas_have_their_numbers_put_in():
    assert len(SUMS) >= 7


@pytest.mark.parametrize("tex", SUMS)
def test_the_numbers_put_in_give_the_result(tex):
    assert len(set(SUMS[tex])) == 1


def test_the_terms_of_the_sums_are_right():
    macs, layer = forward_macs(GTA, 1, N), GTA.structure
    assert layer.parameters - layer.linear_macs == 1792
    assert macs["linear"] == GTA.n_layers * N * layer.linear_macs
    assert macs["mlp"] == GTA.n_layers * N * 3 * GTA.hidden_size * GTA.intermediate_size
    assert macs["head"] == GTA.vocab_size * GTA.hidden_size
    for number in (f"{STEP.operations / 1e9:.2f}", f"{STEP.bytes / 1e9:.3f}", f"{H100.peak / 1e12:.1f}"):
        assert number in EXAMPLE
    assert (GQA.structure.cache_elements, GQA.structure.attention_macs) == (640, 2560)
