"""The costs of published models from their config.json; numbers of parameters as transformers counts them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gta_ref import cli
from gta_ref.costs.experts import Experts
from gta_ref.costs.flops import forward_macs
from gta_ref.costs.memory import cache_bytes, training_activations
from gta_ref.costs.model import Model
from gta_ref.costs.operators import operators
from gta_ref.mechanisms import gqa
from gta_ref.weights.config_costs import costs_model
from tests.weights.published import CONFIGS

COUNTS = json.loads((Path(__file__).parents[1] / "data" / "transformers" / "counts.json").read_text())["parameters"]

CACHES = {
    "smollm2-135m": (2 * 3 * 64, 23_040),
    "llama-3-8b": (2 * 8 * 128, 131_072),
    "qwen3-0.6b": (2 * 8 * 128, 114_688),
    "deepseek-v2-lite": (512 + 64, 31_104),
    "deepseek-v3": (512 + 64, 70_272),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_and_cache(name):
    model = costs_model(name, CONFIGS[name])
    assert model.parameters == COUNTS[name]
    assert (model.structure.cache_elements, cache_bytes(model, 1, 1)) == CACHES[name]


def run(*arguments):
    return CliRunner().invoke(cli.app, ["costs", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "200"})


def test_the_command_takes_a_config_json(tmp_path):
    """A file called config.json has the name of its folder; a model that no H100 holds is told so, and counted."""
    files = []
    for name, content in CONFIGS.items():
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "config.json")
        files[-1].write_text(json.dumps(content))
    result = run("--models", ",".join(map(str, files)), "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())["models"]
    for name, (elements, per_token) in CACHES.items():
        assert found[name]["cache_elements"] == elements
        assert found[name]["cache_bytes_per_token"] == per_token
        assert found[name]["parameters"] == COUNTS[name]
    assert "deepseek-v3: its weights need 1,342,052,808,704 bytes and h100 holds 80,000,000,000" in result.output
    assert "70,272" in result.output
    assert "llama-3-8b: its weights" not in result.output


def test_a_config_json_that_is_refused(tmp_path):
    for change, message in (
        (dict(attn_logit_softcapping=50.0), r"mine: unknown attn_logit_softcapping=50\.0; expected no field that may"),
        (
            dict(model_type="gemma2"),
            "model_type='gemma2' must be one of 'llama', 'mistral', 'qwen2', 'qwen3', 'granite'",
        ),
        (dict(model_type="stablelm"), "model_type='stablelm' must be one of"),
        (dict(mlp_bias=True), "mine: mlp_bias=True must be False"),
        (dict(num_local_experts=8), "mine: unknown num_local_experts=8"),
        (dict(sliding_window=4096), "mine: sliding_window=4096 must be null"),
    ):
        (tmp_path / "mine.json").write_text(json.dumps({**CONFIGS["smollm2-135m"], **change}))
        result = run("--models", tmp_path / "mine.json")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        with pytest.raises(ValueError, match=message):
            raise ValueError(result.stderr)
    (tmp_path / "mine.json").write_text(json.dumps({"num_attention_heads": 9}))
    assert "mine: missing model_type, vocab_size" in run("--models", tmp_path / "mine.json").stderr
    (tmp_path / "mine.json").write_text(json.dumps({**CONFIGS["deepseek-v3"], "moe_layer_freq": 2}))
    assert "mine: moe_layer_freq=2 must be 1" in run("--models", tmp_path / "mine.json").stderr
    (tmp_path / "mine.json").write_text(json.dumps(CONFIGS["deepseek-v3"]))
    result = run("--models", tmp_path / "mine.json", "--convention", "llm-viewer")
    assert "model mine: convention 'llm-viewer' has no mixtures of experts" in result.stderr


EXPERTS = Experts(first=1, routed=6, used=2, shared=1, width=5)


def sizes(experts=None, intermediate_size=10):
    return Model.of(
        "x", "gqa", gqa.Config(8, 2, 4, 1), experts=experts,
        n_layers=3, intermediate_size=intermediate_size, vocab_size=11,
    )  # fmt: skip


def test_experts_count_as_the_mlps_that_a_token_passes_through():
    plain, mixed = sizes(), sizes(EXPERTS)
    mlp, expert, router = 3 * 8 * 10, 3 * 8 * 5, 8 * 6
    assert mixed.parameters - plain.parameters == 2 * (7 * expert + router - mlp)
    for new, held in ((4, 0), (1, 4)):
        more = forward_macs(mixed, 2, new, held)["total"] - forward_macs(plain, 2, new, held)["total"]
        assert more == 2 * new * 2 * (3 * expert + router - mlp)
    kept = training_activations(mixed, 2, 4) - training_activations(plain, 2, 4)
    assert kept == 2 * 4 * 2 * ((8 * 3 + 6 + 3 * 5 * 3) - (8 + 3 * 10))


def test_one_expert_that_every_token_uses_moves_what_an_mlp_moves():
    """Apart from the router and the sum of the outputs."""
    plain, mixed = sizes(), sizes(Experts(0, 1, 1, 0, 10))
    for batch, new, held in ((1, 1, 4), (2, 7, 0)):
        tokens = batch * new
        mlps = [
            [o for o in operators(model, batch, new, held, fused=True) if o.name == "mlp"] for model in (plain, mixed)
        ]
        router, *same, total = mlps[1]
        assert same == mlps[0]
        assert (router.operations, router.bytes) == (3 * 2 * tokens * 8, 3 * 2 * (8 + tokens * 9))
        assert (total.operations, total.bytes) == (3 * 2 * tokens * 8, 3 * 2 * 2 * tokens * 8)


def test_weights_of_experts_are_moved_once_and_only_if_used():
    def weights(batch):
        """Elements of routed experts that a decoding step moves in one layer, without the rows in and out."""
        found = [o for o in operators(sizes(EXPERTS), batch, 1, 4, fused=True) if o.name == "mlp"]
        first = found[4 + 1]  # after the plain MLP and the router: the routed experts' first map
        return first.bytes / 2 / 2 - batch * 2 * (8 + 5)

    assert [weights(batch) / (8 * 5) for batch in (1, 2, 3, 4, 100)] == [2, 4, 6, 6, 6]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(used=7), "used=7 must be at most routed=6"),
        (dict(routed=0), "routed=0 must be a whole number of at least 1"),
        (dict(first=-1), "first=-1 must be a whole number of at least 0"),
        (dict(width=1.5), r"width=1\.5 must be a whole number"),
        (dict(shared=None), "shared=None must be a whole number of at least 0"),
    ],
)
def test_wrong_experts(change, message):
    with pytest.raises(ValueError, match=message):
        Experts(**{**vars(EXPERTS), **change})


def test_more_layers_without_experts_than_layers():
    with pytest.raises(ValueError, match=r"experts\.first=4 must be at most n_layers=3"):
        sizes(Experts(4, 6, 2, 1, 5))
    with pytest.raises(ValueError, match=r"experts is a int; expected a gta_ref\.costs\.experts\.Experts or None"):
        sizes(3)
