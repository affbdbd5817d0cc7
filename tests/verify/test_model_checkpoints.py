"""Checkpoints of every form, files of dumps, and the command."""

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

from gta_ref.cli import app
from gta_ref.files import read_tensors, write_tensors
from gta_ref.lm import model, model_files
from gta_ref.lm.language_model import Bytes
from gta_ref.lm.small import config as small
from gta_ref.lm.text import from_file
from gta_ref.lm.train import Settings, begin, save
from gta_ref.mechanisms import gta
from gta_ref.verify.models.block import Computer, Way, run
from gta_ref.verify.models.export import export_activations
from gta_ref.verify.models.reference import Reference, from_hugging_face, load_reference
from gta_ref.verify.models.verify import stage_shapes, verify_model
from gta_ref.weights import pretrained
from gta_ref.weights.llama_deepseek import save_deepseek_attention
from tests.verify.model_candidate import SIZES, Llama, random_state

STATE = random_state(3)
REFERENCE = from_hugging_face("tiny", STATE, SIZES)
IDS = np.random.default_rng(2).integers(0, SIZES["vocab_size"], (1, 9))
DUMP = Llama(STATE).run(IDS)


def folder(tmp_path, state=STATE, sizes=SIZES):
    path = tmp_path / "checkpoint"
    path.mkdir()
    write_tensors(path / "model.safetensors", state)
    (path / "config.json").write_text(json.dumps(sizes))
    return path


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_files(tmp_path, kind):
    dump = Llama(STATE, dtype=ml_dtypes.bfloat16).run(IDS)
    path = tmp_path / f"dump.{kind}"
    if kind == "npz":
        np.savez(path, **dump)
    else:
        write_tensors(path, dump)
    report = verify_model(folder(tmp_path), path)
    assert (report.exit_status, report.dtype) == (0, "bfloat16")


def test_damaged_files(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=r"a\.npz: not a complete \.npz file"):
        verify_model(REFERENCE, tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError, match=r"b\.npz: no such file"):
        verify_model(REFERENCE, tmp_path / "b.npz")
    with pytest.raises(FileNotFoundError, match="no such file; expected a checkpoint"):
        load_reference(tmp_path / "none")
    write_tensors(tmp_path / "model.safetensors", STATE)
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file"):
        load_reference(tmp_path)


def test_bfloat16_numbers_in_float32_arrays_are_recognised():
    dump = Llama(STATE, dtype=ml_dtypes.bfloat16).run(IDS)
    wide = {name: x.astype(np.float32) if x.dtype.kind not in "iu" else x for name, x in dump.items()}
    wide = {name: x for name, x in wide.items() if not name.endswith(("scores", "map", "lse"))}  # float32 in any case
    report = verify_model(REFERENCE, wide)
    assert (report.exit_status, report.dtype) == (0, "bfloat16")
    assert report.notes == ("All numbers are bfloat16's, in arrays of float32; compared as bfloat16",)
    assert verify_model(REFERENCE, wide, dtype="float32").exit_status == 1


def own_dump(reference, ids, dtype):
    """The library's stages in another dtype."""
    computer = Computer(reference, ids, np.arange(ids.shape[1])[None])
    way = Way(dtype)
    x = computer.embedding(way)
    found = {"ids": ids, "embedding": x}
    for i in range(reference.config.n_layers + 1):
        prefix = f"blocks.{i}." if i < reference.config.n_layers else ""
        stages = run(computer.part(i, way), x, way)
        found |= {prefix + name: value for name, value in stages.items()}
        x = stages.get("output", x)
    return found


@pytest.mark.parametrize("mechanism", ["gta", "mha", "gqa", "mla", "gva", "gha"])
def test_our_own_models_of_every_mechanism(mechanism):
    config = small(mechanism, vocab_size=50, hidden_size=32, n_heads=4, n_layers=2)
    reference = Reference("own", config, model.init(config, np.random.default_rng(0)))
    ids = np.random.default_rng(1).integers(0, 50, (2, 7))
    dump = own_dump(reference, ids, "float32")
    logits, _ = model.forward(reference.params, ids, config, need_saved=False)
    np.testing.assert_allclose(dump["logits"], logits, rtol=2e-4, atol=2e-5)  # the blocks are those of gta_ref.lm
    assert verify_model(reference, dump).exit_status == 0
    known, shapes = stage_shapes(reference, 2, 7)
    assert {name: x.shape for name, x in dump.items() if name != "ids"} == {name: shapes[name] for name in known}
    wrong = {**dump, "blocks.1.attention.heads": dump["blocks.1.attention.heads"] * np.float32(1.01)}
    assert verify_model(reference, wrong).wrong.stage == "blocks.1.attention.heads"


def test_a_training_run(tmp_path):
    text = tmp_path / "text"
    text.write_bytes(bytes(range(256)) * 20)
    run_ = begin(small("gta", hidden_size=32, n_heads=4, n_layers=2), Settings(steps=1, length=8), from_file(text))
    save(tmp_path / "run.safetensors", run_)
    names = export_activations(tmp_path / "run.safetensors", tmp_path / "a.safetensors", prompt="abcdefgh")
    assert names[:2] == ["ids", "embedding"]
    assert names[-1] == "logits"
    assert verify_model(tmp_path / "run.safetensors", tmp_path / "a.safetensors").exit_status == 0


@pytest.mark.official
def test_the_authors_gta(official):
    case = official("causal_lm_tiny")
    reference = from_hugging_face("gta", case.param, case.config)
    ids = case.input["input_ids"]
    assert verify_model(reference, own_dump(reference, ids, "float32")).exit_status == 0
    logits = case.output["logits"]  # of their code, in float64
    for dtype in ("float32", "float64"):
        assert verify_model(reference, {"ids": ids, "logits": logits.astype(dtype)}).exit_status == 0
    assert verify_model(reference, {"ids": ids, "logits": logits * (1 + 1e-12)}).exit_status == 1


GTA_FAULTS = {
    "the gate is missing": {"gate": "none"},
    "the gate's activation is silu": {"gate": "silu"},
    "the decoder's residual is missing": {"decoder_residual": False},
    "RoPE pairs features as 'interleaved' instead of 'half'": {"rope_pairing": "interleaved"},
}


@pytest.mark.official
@pytest.mark.parametrize("cause", GTA_FAULTS)
def test_a_fault_in_gta_is_named(official, cause):
    case = official("causal_lm_tiny")
    reference = from_hugging_face("gta", case.param, case.config)
    config = reference.config
    faulty = replace(config, attention=replace(config.attention, **GTA_FAULTS[cause]))
    params = {name: w for name, w in reference.params.items() if name in model.param_shapes(faulty)}
    dump = own_dump(Reference("faulty", faulty, params), case.input["input_ids"], "float32")
    report = verify_model(reference, dump)
    assert report.cause == cause
    assert report.wrong.stage.startswith("blocks.0.attention.")


@pytest.fixture(scope="module")
def deepseek():
    """A DeepSeek model of two blocks; the feed-forward of the second has experts."""
    sizes = {
        "model_type": "deepseek_v3",
        "hidden_size": 24,
        "num_attention_heads": 4,
        "q_lora_rank": 9,
        "kv_lora_rank": 10,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 5,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "vocab_size": 31,
        "rms_norm_eps": 1e-6,
    }
    from gta_ref.mechanisms import mla
    from gta_ref.weights.config_json import deepseek_attention

    rng, config = np.random.default_rng(0), deepseek_attention(sizes)

    def matrix(*shape):
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    state = {"model.embed_tokens.weight": matrix(31, 24), "lm_head.weight": matrix(31, 24)}
    state["model.norm.weight"] = 1 + matrix(24)
    for i in range(2):
        p = f"model.layers.{i}."
        layer = save_deepseek_attention(mla.init(config, rng), config)
        state |= {f"{p}self_attn.{name}": x for name, x in layer.items()}
        state |= {f"{p}input_layernorm.weight": 1 + matrix(24), f"{p}post_attention_layernorm.weight": 1 + matrix(24)}
    state |= {f"model.layers.0.mlp.{n}_proj.weight": matrix(40, 24) for n in ("gate", "up")}
    state["model.layers.0.mlp.down_proj.weight"] = matrix(24, 40)
    state["model.layers.1.mlp.experts.0.gate_proj.weight"] = matrix(8, 24)
    return from_hugging_face("deepseek", state, sizes)


def test_deepseek_up_to_its_experts_and_after_them(deepseek):
    ids = np.random.default_rng(1).integers(0, 31, (2, 7))
    computer = Computer(deepseek, ids, np.arange(7)[None])
    way = Way("float32")
    x = computer.embedding(way)
    dump = {"ids": ids, "embedding": x}
    for i in range(2):
        stages = run(computer.block(i, way), x, way)
        dump |= {f"blocks.{i}.{name}": value for name, value in stages.items()}
        x = stages.get("output", x)
    # what the experts of the second block may have given
    dump["blocks.1.output"] = dump["blocks.1.residual"] + np.float32(0.25)
    head = run(computer.head(way), dump["blocks.1.output"], way)
    dump |= head
    del dump["blocks.1.output"]
    report = verify_model(deepseek, dump)
    assert report.exit_status == 3
    assert "2 stages from norm on, because block 1 has experts" in report.notes[0]
    report = verify_model(deepseek, {**dump, "model.norm.input": dump["blocks.1.residual"] + np.float32(0.25)})
    assert report.exit_status == 0, report
    assert report.stages[-1].since == "blocks.1.output"
    assert report.stages[-1].accumulated is None


def test_deepseeks_names(deepseek):
    """Projections that hold several of our stages: in every head, or one after the other."""
    ids = np.random.default_rng(1).integers(0, 31, (1, 7))
    stages = run(Computer(deepseek, ids, np.arange(7)[None]).block(0), deepseek.params["embed"][ids])
    a = {name.removeprefix("attention."): x for name, x in stages.items() if name.startswith("attention.")}

    def flat(*names):
        joined = np.concatenate([a[name] for name in names], axis=-1)
        return joined.swapaxes(1, 2).reshape(1, 7, -1).astype(np.float32)

    p = "model.layers.0.self_attn."
    arrays = {"ids": ids, "model.embed_tokens": deepseek.params["embed"][ids]}
    arrays[f"{p}q_a_proj"], arrays[f"{p}q_a_layernorm"] = (a[n].astype(np.float32) for n in ("c_q_proj", "c_q"))
    arrays |= {f"{p}q_b_proj": flat("q_nope", "q_rope_proj"), f"{p}kv_b_proj": flat("k_nope", "v")}
    arrays |= {f"{p}kv_a_proj_with_mqa": flat("c_proj", "k_rope_proj"), f"{p}kv_a_layernorm": flat("c")}
    report = verify_model(deepseek, arrays)
    assert report.exit_status == 3, report
    assert len(report.stages) == 1 + 2 + 4 + 3


def test_the_command(tmp_path):
    checkpoint, good, bad = folder(tmp_path), tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    write_tensors(good, DUMP)
    runner = CliRunner()
    result = runner.invoke(app, ["verify", "model", str(checkpoint), str(good), "--json", str(tmp_path / "r.json")])
    assert result.exit_code == 0, result.output
    assert "blocks.2: 20 stages" in result.output
    assert json.loads((tmp_path / "r.json").read_text())["complete"] is True
    write_tensors(bad, {**DUMP, "blocks.2.mlp.up": DUMP["blocks.2.mlp.gate"]})
    result = runner.invoke(app, ["verify", "model", str(checkpoint), str(bad)])
    assert result.exit_code == 1
    assert "First wrong stage: blocks.2.mlp.up" in result.output
    result = runner.invoke(
        app, ["verify", "model", str(checkpoint), str(good), "--export", str(tmp_path / "o.safetensors")]
    )
    assert result.exit_code == 0, result.output
    ours = read_tensors(tmp_path / "o.safetensors")[0]
    assert ours.keys() == DUMP.keys()
    np.testing.assert_array_equal(ours["ids"], IDS)
    np.testing.assert_allclose(ours["logits"], DUMP["logits"], rtol=1e-3, atol=1e-4)
    result = runner.invoke(app, ["verify", "model", str(checkpoint)])
    assert result.exit_code == 2


def test_the_command_with_layers_that_differ(tmp_path, monkeypatch):
    """A file as gta-ref convert writes it: its own stages are right, and one of another layer's size is not."""
    monkeypatch.setattr(pretrained, "load_tokenizer", lambda name: Bytes())
    layers = [gta.Config(16, 4, 4, n_q, 1, 1, d_l) for n_q, d_l in ((4, 8), (1, 6), (2, 4))]
    config = model.Config(256, 3, 24, layers)
    params = model.init(config, np.random.default_rng(0))
    checkpoint, dump, bad = (str(tmp_path / f"{name}.safetensors") for name in ("gta", "dump", "bad"))
    model_files.save(checkpoint, model_files.Content(config, params, "smollm2", 99))
    runner = CliRunner()
    result = runner.invoke(app, ["verify", "model", checkpoint, "--export", dump, "--prompt", "some words"])
    assert result.exit_code == 0, result.output
    stages = read_tensors(dump)[0]
    assert [stages[f"blocks.{i}.attention.map"].shape for i in range(3)] == [(1, n, 10, 10) for n in (4, 1, 2)]
    result = runner.invoke(app, ["verify", "model", checkpoint, dump])
    assert result.exit_code == 0, result.output
    write_tensors(bad, {**stages, "blocks.2.attention.c": -stages["blocks.2.attention.c"]})
    result = runner.invoke(app, ["verify", "model", checkpoint, bad])
    assert result.exit_code == 1
    assert "First wrong stage: blocks.2.attention.c" in result.output
