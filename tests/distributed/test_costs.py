"""The formulas of distributed/costs.py, with numbers that can be followed by hand."""

import pytest

from gta_ref.costs.hardware import PRESETS, Hardware
from gta_ref.costs.model import Model
from gta_ref.distributed import costs

GTA, GQA = (Model.preset(name).structure for name in ("gta-1b", "gqa-1b"))


def test_what_travels_is_what_is_cached():
    """1 · 64 + 1 · 128 against 2 · 5 · 64 numbers per token: the ratio of the caches."""
    assert costs.travels(GTA) == 192
    assert costs.travels(GQA) == 640
    assert costs.ring_bytes(GTA, 2**17, 8, itemsize=2) / costs.ring_bytes(GQA, 2**17, 8, itemsize=2) == 0.3


def test_bytes_of_a_ring():
    assert costs.ring_bytes(GTA, 1000, 1, itemsize=2, backward=True) == 0
    # 3 steps, 250 tokens of 192 numbers of 2 bytes; then 4 steps with float32 gradients
    assert costs.ring_bytes(GTA, 1000, 4, itemsize=2) == 3 * 250 * 192 * 2
    assert costs.ring_bytes(GTA, 1000, 4, itemsize=2, backward=True) == 3 * 250 * 192 * 2 + 4 * 250 * 192 * 4
    assert costs.decode_bytes(GTA, 4) == 3 * 5 * 129 * 4


def test_where_the_ring_is_hidden():
    """At that length a step computes as long as it sends; GTA's is 0.8 of GQA's, since it computes less as well."""
    machine, link = Hardware("m", 1e12, 1e9, None, "made up"), costs.Link("l", 0.0, 1e9, "made up")
    least = costs.hidden_from(GTA, machine, link)
    assert least == 192 * 2 * 1e12 / (1e9 * 960)
    found = costs.ring_seconds(GTA, 4 * int(least), 4, machine, link, share=1.0)
    assert found["computing"] / 4 == pytest.approx(found["sending"] / 3)
    assert found["total"] == pytest.approx(found["computing"])
    assert costs.hidden_from(GTA, machine, link) / costs.hidden_from(GQA, machine, link) == pytest.approx(0.8)


def test_times_of_a_ring():
    machine, link = Hardware("m", 1e12, 1e9, None, "made up"), costs.Link("l", 1e-3, 1e9, "made up")
    found = costs.ring_seconds(GTA, 1000, 2, machine, link, itemsize=2, share=0.5)
    step, message = 500**2 * 960 / 5e11, 1e-3 + 500 * 192 * 2 / 1e9
    assert message > step
    assert found == {"computing": 2 * step, "sending": message, "total": message + step}
    assert costs.ring_seconds(GTA, 1000, 1, machine, link)["sending"] == 0


def test_every_link_has_a_source():
    assert all(link.source and link.bandwidth > 0 and link.latency > 0 for link in costs.LINKS.values())
    assert costs.hidden_from(GTA, PRESETS["h100"], costs.LINKS["nvlink"]) == pytest.approx(879, abs=1)
