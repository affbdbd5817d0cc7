"""Capabilities: what a case needs follows from its settings; groups, `without`, widths, and strings."""

import itertools

import numpy as np
import pytest

from gta_ref.core import Mask
from gta_ref.verify import abilities, cases, verify
from gta_ref.verify.abilities import DECLARED, FEATURES
from gta_ref.verify.cases import Case
from gta_ref.verify.selftest import by_engine

reference = by_engine("reference")


def attention(mask=None, **changes):
    sizes = {"B": 2, "n_q": 4, "n_k": 2, "n_v": 2, "N_q": 8, "N_k": 8, "d_k": 16, "d_v": 16}
    more = {name: changes.pop(name) for name in set(changes) - set(sizes)}
    return Case("attention/x", "attention", ("gradient",), 0, {"sizes": sizes | changes, "mask": mask or {}, **more})


@pytest.mark.parametrize(
    "case, features",
    [
        (attention(), ()),
        (attention(N_q=1), ("decode",)),
        (attention(N_q=1, N_k=1), ()),
        (attention(N_q=3), ("chunk",)),
        (attention(N_k=0), ("blind", "empty")),
        (attention(N_q=0), ("empty",)),
        (attention({"causal": False}), ("noncausal",)),
        (attention({"q_start": 0}), ("offset",)),
        (attention({"q_start": [0, -1]}), ("blind", "offset")),
        (attention({"k_start": [0, 3]}), ("padding", "blind")),
        (attention({"k_start": [0, 3], "causal": False}), ("padding", "noncausal")),
        (attention({"k_start": [0, 0], "k_stop": 8}), ()),
        (attention({"k_stop": [8, 2]}), ("padding",)),
        (attention({"k_stop": [8, 0]}), ("padding", "blind")),
        (attention({"k_stop": [8, 2]}, poison=True), ("padding", "poison")),
        (attention(n_v=4), ("n_v",)),
        (attention(d_v=32), ("wide-values",)),
        (attention(scale=0.25), ()),
        (attention(scale=0.5), ("scale",)),
        (attention(layout="token-major"), ("strided",)),
        (attention(layout="contiguous"), ()),
    ],
)
def test_features_follow_from_the_settings(case, features):
    assert abilities.features(case) == features
    assert abilities.needs(case, "float32") == ("attention", "float32", *features)


def test_each_feature_has_a_case_and_each_tag_is_a_feature():
    seen = {feature for case in cases.CASES for feature in abilities.features(case)}
    assert seen >= set(FEATURES) | {"decode", "padding"}
    for case in cases.CASES:
        found = set(abilities.features(case))
        assert "padding" not in case.tags or "padding" in found, case.name
        assert "decode" not in case.tags or found & {"decode", "chunk"}, case.name


def test_blind_is_what_the_mask_says():
    for case in cases.suite("attention"):
        s, settings = case.settings["sizes"], case.settings["mask"]
        q_start, k_start, k_stop = Mask(**settings).resolve(s["B"], s["N_q"], s["N_k"])
        j, i = np.arange(s["N_k"]), np.arange(s["N_q"])[:, None]
        sees = np.array(
            [
                (j >= a) & (j < b) & (settings.get("causal") is False or j <= q + i)
                for q, a, b in zip(q_start, k_start, k_stop, strict=True)
            ]
        )
        blind = sees.size == 0 < s["N_q"] or bool((~sees.any(-1)).any()) if s["N_k"] else s["N_q"] > 0
        assert ("blind" in abilities.features(case)) == blind, case.name


def test_groups():
    able = abilities.abilities({"attention", "backward"})
    assert able == {"attention", "backward", *cases.DTYPES, *abilities.MECHANISMS, *FEATURES}
    able = abilities.abilities({"attention", "float32", "noncausal", "padding"})
    assert able == {"attention", "float32", *abilities.MECHANISMS, "noncausal", "padding"}
    assert abilities.abilities(None) == set(abilities.ABILITIES) - {"lse"}
    assert abilities.abilities("attention, backward") == abilities.abilities(["attention", "backward"])
    without = abilities.abilities(None, "padding,lse,float16")
    assert without == abilities.abilities(None) - {"padding", "lse-gradient", "float16"}
    assert abilities.abilities({"attention"}, {"poison"}) == abilities.abilities({"attention"}) - {"poison"}


@pytest.mark.parametrize("name", [*FEATURES, "decode", "padding", "attention", "float32"])
def test_without_skips_exactly_the_cases_that_need_it(name):
    asked = []

    def counts(arrays, settings):
        asked.append(settings)
        raise NotImplementedError

    report = verify(counts, "attention", without={name})
    needing = {case.name for case in cases.suite("attention", "float32") if name in abilities.needs(case, "float32")}
    assert {r.case for r in report.results if r.text == f"needs {name}, not declared"} == needing
    assert len(asked) == len(report.results) - len(needing)
    assert needing


@pytest.mark.parametrize(
    "option, given, message",
    [
        ("capabilities", "attention,telepathy", "capabilities='telepathy' must be one of 'attention', 'layer'"),
        ("capabilities", {3}, "capabilities=3 must be one of"),
        ("capabilities", 3, "capabilities=3 must be a set of names"),
        ("without", "backwards", "without='backwards' must be one of"),
        ("head_dim", "wide", "head_dim='wide' must be a width such as 64, or 192x128"),
        ("head_dim", [(1, 2, 3)], r"head_dim=\[1, 2, 3\] must be a width, or a pair|head_dim=\(1, 2, 3\) must be"),
        ("head_dim", 0, "head_dim=0 must be a whole number of at least 1"),
        ("seed", -1, "seed=-1 must be a whole number of at least 0"),
        ("repeat", 0, "repeat=0 must be a whole number of at least 1"),
        ("isolate", 1, "isolate=1 must be True or False"),
        ("products", "fp8", "products='fp8' must be one of"),
        ("cases", "attention/plian", "case='attention/plian' matches no case; did you mean attention/plain?"),
        ("cases", "nothing*", "case='nothing\\*' matches no case; gta-ref vectors list names them"),
        ("cases", [], r"cases=\[\] must name one or several"),
    ],
)
def test_wrong_options_are_one_line(option, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        verify(reference, **{option: given})
    assert "\n" not in str(caught.value)


def test_head_dims():
    assert abilities.head_dims(None) is None
    assert abilities.head_dims(64) == abilities.head_dims("64") == {(64, 64)}
    assert abilities.head_dims((64, 128)) == set(itertools.product((64, 128), (64, 128)))
    assert abilities.head_dims("64, 192x128") == abilities.head_dims([64, (192, 128)]) == {(64, 64), (192, 128)}
    given = []

    def keeps(arrays, settings):
        given.append((arrays["q"].shape[-1], arrays["v"].shape[-1]))
        return reference(arrays, settings)

    report = verify(keeps, "attention", head_dim="16,32")
    assert set(given) == {(16, 16), (16, 32), (32, 32)}
    assert report.passed
    plain = verify(keeps, cases="attention/plain", head_dim=64)
    assert plain.results[0].text == "needs head_dim 16x32, not declared"
    assert plain.exit_status == 2
    assert "1 case skipped (needs another head_dim, not declared)" in plain.not_checked


def test_a_promised_lse_must_be_given():
    def withholds(arrays, settings):
        return {name: x for name, x in reference(arrays, settings).items() if name != "lse"}

    for declared, status in (("attention,backward", "pass"), ("attention,backward,lse", "missing"), (None, "pass")):
        (result,) = verify(withholds, cases="attention/plain", capabilities=declared).results
        assert result.status == status
    assert "lse" not in {*FEATURES}
    assert DECLARED.keys() >= {"lse", "lse-gradient"}


def test_lse_and_its_gradient_are_two():
    def no_gradient(arrays, settings):
        assert "d_lse" not in arrays
        return reference(arrays, settings)

    report = verify(no_gradient, "attention", capabilities="attention,backward,padding,decode,lse")
    assert report.passed
    assert report.unchecked == {"needs lse-gradient, not declared": 3 * sum(bool(r.unchecked) for r in report.results)}
    assert report.unchecked


def test_selected_cases():
    def names(**options):
        return [r.case for r in verify(reference, **options).results]

    assert names(cases="attention/plain") == ["attention/plain"]
    assert names(cases=["layer/mha", "attention/chunk"]) == ["attention/chunk", "layer/mha"]  # in the table's order
    assert names(cases="layer/gva*", suite="layer") == [
        c.name for c in cases.suite("layer") if c.name.startswith("layer/gva")
    ]
    assert "attention/gta-1b-1024" not in names(cases="attention/gta-1b*")  # a large case
    with pytest.raises(ValueError, match="matches no case in the suite lm"):
        names(cases="layer/mha", suite="lm")
    with pytest.raises(ValueError, match="no case of attention/huge-logits exists in bfloat16"):
        names(cases="attention/huge-logits", dtype="bfloat16")
    report = verify(reference, cases=["attention/huge-logits", "attention/plain"], dtype=["bfloat16", "float32"])
    assert (report.results[0].case, report.results[0].dtype) == ("attention/plain", "bfloat16")
    assert "1 case of the suite not made in bfloat16" in report.not_checked
