"""`gta-ref bench e2e`: its counts, plans, checks and predictions. Nothing here is timed."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from gta_ref.bench import e2e, e2e_model, e2e_parts
from gta_ref.bench.e2e_model import Case
from gta_ref.commands import bench_e2e
from gta_ref.costs.hardware import Hardware
from gta_ref.lm import model
from gta_ref.mechanisms import gta

app = typer.Typer()
app.command()(bench_e2e.e2e)

CONFIGS = e2e_model.configs(quick=True)
PREFILL, DECODE = Case("prefill", 1, 12), Case("decode", 2, 9)


class Ceilings:
    """A stand-in for a machine with 10 Gop/s and 1 GB/s."""

    def gemm(self):
        return 1e10

    def read(self):
        return 1e9


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(e2e, "PAUSE", 0)
    monkeypatch.setattr(e2e, "Ceilings", Ceilings)


@pytest.fixture(scope="module")
def models():
    return e2e_model.build(CONFIGS, 2)


def one_layer_on_paper():
    """A model to count by hand: H 8, two heads of 4 on one map, one key head of 4, latent of 4, MLP of 16, 32 words."""
    attention = gta.Config(
        8, n_heads=2, head_dim=4, n_q=1, n_k=1, n_c=1, latent_dim=4, decoder_residual=True, bias=True
    )
    return model.Config(32, 1, 16, attention, "gta")


def test_predicted_operations_by_hand():
    """A decoding step of batch 2 after 10 tokens, if memory costs nothing and an operation takes one second."""
    found = e2e_parts.predicted(one_layer_on_paper(), 2, 1, 10, Hardware("", 1.0, 1e30, None, ""))
    assert found == {
        "projections": 2 * 2 * (8 * 4 + 8 * 4 + 8 * 4 + 8 * 8),  # q, k, c, out
        "gate": 2 * 2 * 8 * 8,
        "decoder": 2 * 2 * 4 * 8 + 2 * 8,  # and its residual
        "mlp": 2 * 2 * 3 * 8 * 16,
        "head": 2 * 2 * 8 * 32,
        "attention": 2 * 11 * (2 * 4 + 5 + 2 * 4),
        "norm": 3 * 7 * 2 * 8,
        "rope": 3 * 2 * (4 + 4),
        "gate activation": 5 * 2 * 8,
        "swiglu": 5 * 2 * 16,
        "residual": 2 * 2 * 8,
        "embedding": pytest.approx(2 * 2 * 8 * 4 / 1e30),
        "copies": 0,
        "between": 0,
    }


def test_predicted_bytes_by_hand():
    """The same step if operations cost nothing and a byte takes one second, with 4 bytes per element."""
    found = e2e_parts.predicted(one_layer_on_paper(), 2, 1, 10, Hardware("", 1e30, 1.0, None, ""))
    rows = 2
    assert {name: seconds / 4 for name, seconds in found.items()} == {
        "projections": 3 * (32 + 4 + rows * (8 + 4)) + (64 + rows * (8 + 8)),  # with the biases of q, k and c
        "gate": 64 + 8 + rows * (8 + 8),
        "decoder": 32 + rows * (4 + 8) + rows * (4 + 2 * 8),
        "mlp": 3 * 128 + rows * (8 + 16 + 8 + 16 + 16 + 8),
        "head": 8 * 32 + rows * (8 + 32),
        "attention": rows * (4 + 11 * (4 + 4) + 4),
        "norm": 3 * rows * 2 * 8,
        "rope": 2 * rows * (4 + 4),
        "gate activation": 3 * rows * 8,
        "swiglu": 3 * rows * 16,
        "residual": 2 * 3 * rows * 8,
        "embedding": 2 * rows * 8,
        "copies": 0,
        "between": 0,
    }


def test_predicted_prefill_saves_the_masked_half():
    found = e2e_parts.predicted(one_layer_on_paper(), 1, 10, 0, Hardware("", 1.0, 1e30, None, ""))
    assert found["attention"] == 10 * 11 // 2 * (2 * 4 + 5 + 2 * 4)
    assert found["head"] == 2 * 8 * 32  # the last token's logits


@pytest.mark.parametrize("name, own", [("gta-1b", {"gate": 1, "gate activation": 1, "decoder": 1}), ("gqa-1b", {})])
def test_every_call_belongs_to_one_part(models, monkeypatch, name, own):
    """With a clock that ticks at every reading, a timed call takes one tick, or more if it contains another one."""
    config, params = models[name]
    step = e2e.prepare(DECODE, config, params)
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    with e2e_parts.timed_parts(params) as found:
        step()
    layer = {"projections": 4, "mlp": 3, "attention": 1, "norm": 2, "rope": 3, "swiglu": 1, "residual": 2, **own}
    layer["copies"] = 1 if own else 5  # the cache; GQA also splits heads three times and merges them
    want = dict.fromkeys(e2e_parts.PARTS, 0) | {part: 2 * calls for part, calls in layer.items()}
    want |= {"head": 1, "embedding": 1, "norm": want["norm"] + 1}
    assert found == want


def test_functions_come_back(models):
    before = [getattr(owner, name) for owner, name, _ in e2e_parts._TIMED]
    params = models["gta-1b"][1]
    with e2e_parts.timed_parts(params):
        assert model.linear_forward is not before[2]
    assert [getattr(owner, name) for owner, name, _ in e2e_parts._TIMED] == before

    def fail():
        with e2e_parts.timed_parts(params):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [getattr(owner, name) for owner, name, _ in e2e_parts._TIMED] == before


@pytest.mark.parametrize("name", CONFIGS)
def test_bare_products_are_those_of_the_pass(models, monkeypatch, name):
    config, params = models[name]
    macs = []
    monkeypatch.setattr(np, "matmul", lambda x, w: macs.append(np.prod(x.shape) * w.shape[-1]))
    e2e_parts.bare_products(params, config, 3, 5)
    s = config.module.structure(config.attention)
    layer = 3 * 5 * (s.linear_macs + 3 * config.hidden_size * config.intermediate_size)
    assert sum(macs) == 2 * layer + 3 * config.hidden_size * config.vocab_size


def test_depth_and_difference():
    measured = dict.fromkeys(e2e_parts.PARTS, 1.0)
    deep = e2e_parts.to_depth(measured, 2, 6)
    assert {name for name, taken in deep.items() if taken == 1} == {"head", "embedding"}
    assert {taken for name, taken in deep.items() if name not in e2e_parts.ONCE} == {3}
    expected = dict.fromkeys(e2e_parts.PARTS, 0.25) | {"copies": 0, "between": 0}
    causes = e2e_parts.difference(measured, expected, 4.0)
    assert causes == {
        "blas": 4 - 5 * 0.25,
        "elementwise": 6 * 0.75,
        "attention": 0.75,
        "copies": 1,
        "around": 5 - 4,
        "between": 1,
    }
    assert sum(causes.values()) == sum(measured.values()) - sum(expected.values())


@pytest.mark.parametrize("n_layers", [1, 2])
def test_bytes_are_those_that_are_allocated(n_layers):
    built = e2e_model.build(CONFIGS, n_layers)
    arrays = {id(x): x.nbytes for _, params in built.values() for x in params.values()}
    assert sum(arrays.values()) == e2e_model.weight_bytes(CONFIGS, n_layers)
    caches = [cache for config, _ in built.values() for cache in e2e_model.filled_caches(config, DECODE)]
    assert sum(cache.nbytes for cache in caches) == n_layers * e2e_model.cache_bytes(CONFIGS, DECODE)
    assert e2e_model.cache_bytes(CONFIGS, PREFILL) == 0


def test_layers_do_not_share_their_weights(models):
    for _, params in models.values():
        assert len({id(x) for x in params.values()}) == len(params)
        assert all(x.dtype == np.float32 for x in params.values())
    mine, other = (params for _, params in models.values())
    assert mine["embed"] is other["embed"]
    assert mine["layers.1.mlp.w_up"] is other["layers.1.mlp.w_up"]
    assert not np.array_equal(mine["layers.1.attention.w_q"], mine["layers.0.attention.w_q"])


def test_plan_takes_what_fits():
    deep = {name: replace(config, n_layers=10) for name, config in CONFIGS.items()}
    todo = [PREFILL, Case("decode", 1, 99), Case("decode", 1, 399), Case("decode", 1, 10**6)]
    small, large = (e2e_model.cache_bytes(deep, case) for case in todo[1:3])
    weights = e2e_model.weight_bytes(deep, 6) + e2e_model.ASIDE
    assert e2e_model.plan(deep, todo, weights + 6 * small, None) == [6, 6, 6 * small // large, 0]
    assert e2e_model.plan(deep, todo, weights + 6 * small - 1, None)[0] == 5
    assert e2e_model.plan(deep, todo, weights + 2 * large, 6) == [6, 6, 2, 0]
    assert e2e_model.plan(deep, todo, 10**12, None) == [10, 10, 10, 10]
    with pytest.raises(ValueError, match=r"memory=1\.1 GB is too little: 6 layer\(s\) of weights need 1\.1 GB"):
        e2e_model.plan(deep, todo, weights - 1, 6)
    with pytest.raises(ValueError, match="layers=11 must be at most 10"):
        e2e_model.plan(deep, todo, 10**12, 11)


def test_caches_are_filled_in_pieces(monkeypatch):
    monkeypatch.setattr(e2e_model, "FILL", 4)
    for config in CONFIGS.values():
        for cache in e2e_model.filled_caches(config, DECODE):
            assert (cache.length, cache.capacity) == (9, 10)
            assert all((np.abs(x).max(axis=(0, 1, 3)) > 0).all() for x in cache.held().values())


def test_a_step_leaves_the_cache_as_it_was(models):
    step = e2e.prepare(DECODE, *models["gta-1b"])
    first = step()
    assert first.shape == (2, 1, 256)
    np.testing.assert_array_equal(step(), first)  # again after 9 tokens; after 10 there would be no room


@pytest.mark.parametrize("name", CONFIGS)
def test_check_finds_a_wrong_step(models, monkeypatch, name):
    assert e2e_model.check(*models[name]) < 1e-5
    decode, prefill = model.decode, e2e_model.prefill
    monkeypatch.setattr(model, "decode", lambda *args: decode(*args) * np.float32(1.00002))
    with pytest.raises(RuntimeError, match=f"{name[:3]}: logits differ from float64"):
        e2e_model.check(*models[name])
    monkeypatch.setattr(model, "decode", lambda *args: decode(*args) * np.float32(np.nan))
    with pytest.raises(RuntimeError):
        e2e_model.check(*models[name])
    monkeypatch.setattr(model, "decode", decode)
    monkeypatch.setattr(e2e_model, "prefill", lambda p, ids, c: prefill(p, ids[:, :-1], c))
    with pytest.raises(RuntimeError):
        e2e_model.check(*models[name])


def test_command_and_its_json(tmp_path):
    file, figure = tmp_path / "e2e.json", tmp_path / "e2e.png"
    done = CliRunner().invoke(app, ["--quick", "--json", str(file), "--plot", str(figure)])
    assert done.exit_code == 0, done.output
    assert figure.read_bytes().startswith(b"\x89PNG")
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found.keys() == {"machine", "setting", "errors", "calls", "cases", "groups"}
    assert [case["name"] for case in found["cases"]] == [
        "prefill, B 1, N 64",
        *(f"decode, B {b}, N {n}" for b in (1, 2) for n in (32, 64)),
    ]
    for case in found["cases"]:
        assert case["name"] in done.output
        assert case["layers"] == 2
        for name, one in case["models"].items():
            assert one["measured"].keys() == one["predicted"].keys() == set(e2e_parts.PARTS)
            assert one["measured"]["between"] > 0
            assert sum(one["measured"].values()) == pytest.approx(one["seconds"])
            gap = one["seconds"] - sum(one["predicted"].values())
            assert sum(one["causes"].values()) == pytest.approx(gap)
            assert one["least"] <= one["seconds"] <= one["most"]
            held = case["length"] if case["stage"] == "decode" else 0
            here = Hardware("", case["gemm"], case["read"], None, "")
            new = 1 if held else case["length"]
            assert one["predicted"] == e2e_parts.predicted(CONFIGS[name], case["batch"], new, held, here)
        assert case["ratio"]["least"] <= case["ratio"]["median"] <= case["ratio"]["most"]
        gta_, gqa_ = (case["models"][name] for name in ("gta-1b", "gqa-1b"))
        assert gqa_["least"] / gta_["most"] <= case["ratio"]["least"]
        assert case["ratio"]["most"] <= gqa_["most"] / gta_["least"]
        slow, fast = (sum(one["predicted"].values()) for one in (gqa_, gta_))
        assert case["ratio_predicted"] == pytest.approx(slow / fast)


def test_a_cache_that_does_not_fit_is_said_to_be_left_out():
    done = CliRunner().invoke(app, ["--quick", "--contexts", "32,9999999", "--batches", "1", "--memory", "1.2"])
    assert done.exit_code == 0, done.output
    assert "decode, B 1, N 9999999: left out, one layer's caches need 4.5 GB" in done.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--contexts", "2048;4096"], "contexts='2048;4096' must be whole numbers"),
        (["--batches", "0"], "batches=0 must be a whole number of at least 1"),
        (["--length", "0"], "length=0 must be a whole number of at least 1"),
        (["--layers", "55"], "layers=55 must be at most 54"),
        (["--layers", "0"], "layers=0 must be a whole number of at least 1"),
        (["--memory", "1.5"], "memory=1.5 GB is too little: 1 layer(s) of weights need 1.8 GB"),
        (["--memory", "-1"], "memory=-1.0 must be a finite number above 0"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert f"gta-ref: {message}" in done.output
    assert len(done.output.strip().splitlines()) == 1
