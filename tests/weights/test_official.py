"""The authors' state dicts: converted there and back bit for bit, shards, bfloat16, and every fault named."""

import json

import ml_dtypes
import numpy as np
import pytest

from gta_ref import files
from gta_ref.lm import model
from gta_ref.mechanisms import gqa, gta
from gta_ref.weights.llama import save_llama
from gta_ref.weights.official import load_official, read_state, save_official


@pytest.fixture(scope="module")
def layer(official):
    return official("attention_grouped")


@pytest.fixture(scope="module")
def lm(official):
    return official("causal_lm_tiny")


def same(got, want):
    assert got.keys() == want.keys()
    for name, x in want.items():
        assert got[name].dtype == x.dtype
        np.testing.assert_array_equal(got[name], x)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_round_trip(layer, lm, dtype):
    low = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    for case, kind in ((layer, gta.Config), (lm, model.Config)):
        state = {name: x.astype(low) for name, x in case.param.items()}
        config, params = load_official(state, case.config)
        assert isinstance(config, kind)
        same(save_official(params, config), state)


def test_loaded_parameters_are_copies(layer):
    state = {name: x.copy() for name, x in layer.param.items()}
    _, params = load_official(state, layer.config)
    for p in params.values():
        p[...] = 0
    same(state, layer.param)


def test_strides_do_not_matter(layer):
    """The decoder's layout is that of row-major memory, even if the array is a transposed view."""
    state = {name: np.asfortranarray(x) for name, x in layer.param.items()}
    _, want = load_official(layer.param, layer.config)
    same(load_official(state, layer.config)[1], want)


def test_untied_head(lm, rng):
    head = rng.standard_normal((97, 64))
    state = {**lm.param, "lm_head.weight": head}
    config, params = load_official(state, {**lm.config, "tie_word_embeddings": False})
    assert not config.tied
    np.testing.assert_array_equal(params["head"], head.T)
    same(save_official(params, config), state)


def test_tied_head_may_be_there_twice(lm):
    embed = lm.param["model.embed_tokens.weight"]
    extra = {"lm_head.weight": embed.copy(), "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4)}
    config, params = load_official({**lm.param, **extra}, lm.config)
    same(save_official(params, config), lm.param)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        load_official({**lm.param, "lm_head.weight": embed + 1}, lm.config)


def test_every_fault_is_named(layer, lm):
    state = dict(layer.param)
    del state["q_proj.bias"]
    state["z_proj.weight"] = np.zeros(3)
    state["k_proj.weight"] = state["k_proj.weight"][:-1]
    state["v_b_proj.weight"] = state["v_b_proj.weight"].T
    state["o_proj.weight"] = state["o_proj.weight"].astype("float32")
    with pytest.raises(ValueError, match="official state: ") as caught:
        load_official(state, layer.config)
    for part in (
        "missing q_proj.bias",
        "unknown z_proj.weight",
        "k_proj.weight has shape (31, 128); expected (32, 128)",
        "v_b_proj.weight has shape (64, 32); expected (32, 64)",
        "dtypes float32, float64 are mixed, expected one",
    ):
        assert part in str(caught.value)
    whole = {name: x for name, x in lm.param.items() if not name.startswith("model.layers.1.mlp.up")}
    with pytest.raises(ValueError, match=r"missing model\.layers\.1\.mlp\.up_proj\.weight"):
        load_official(whole, lm.config)
    with pytest.raises(ValueError, match="official config: missing vocab_size"):
        load_official(lm.param, {k: v for k, v in lm.config.items() if k != "vocab_size"})
    with pytest.raises(ValueError, match="official config: hidden_act='gelu' must be 'silu'"):
        load_official(lm.param, {**lm.config, "hidden_act": "gelu"})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(decoder_residual=False), "decoder_residual=False must be True in the released code's form"),
        (dict(bias=False), "bias=False must be True"),
        (dict(gate="silu"), "gate='silu' must be 'sigmoid'"),
        (dict(rope_pairing="interleaved"), "rope_pairing='interleaved' must be 'half'"),
    ],
)
def test_what_the_released_code_cannot_hold(change, message, rng):
    sizes = dict(hidden_size=16, n_heads=4, head_dim=4, n_q=2, n_k=1, n_c=1, latent_dim=8, decoder_residual=True)
    config = gta.Config(**{**sizes, **change})
    with pytest.raises(ValueError, match=message):
        save_official(gta.init(config, rng), config)


def test_layers_that_differ_have_no_published_form(rng):
    """Neither the released code's nor Llama's."""
    for mechanism, save, layers in (
        ("gta", save_official, [gta.Config(16, 4, 4, n_q, 1, 1, 8) for n_q in (2, 4)]),
        ("gqa", save_llama, [gqa.Config(16, 4, 4, n_k) for n_k in (2, 4)]),
    ):
        config = model.Config(11, 2, 6, layers, mechanism)
        with pytest.raises(
            ValueError, match=r"config\.attention differs from layer to layer; expected one for all, as in"
        ):
            save(model.init(config, rng), config)


@pytest.fixture
def folder(tmp_path, lm):
    """A checkpoint in two shards with an index, in bfloat16, as such models are published."""
    state = {name: x.astype(ml_dtypes.bfloat16) for name, x in lm.param.items()}
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, inside in shards.items():
        files.write_tensors(tmp_path / shard, {name: state[name] for name in inside})
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(lm.config))
    return tmp_path, state


def test_shards(folder, lm):
    path, state = folder
    same(read_state(path), state)
    config, params = load_official(read_state(path), lm.config)
    logits, _ = model.forward(params, lm.input["input_ids"], config)
    assert logits.dtype == ml_dtypes.bfloat16
    want = lm.output["logits"]
    # bfloat16 weights: a relative error of 2⁻⁹ each, over two layers
    assert np.abs(logits.astype(float) - want).max() <= 0.1 * np.abs(want).max()
    (path / "model.safetensors.index.json").unlink()
    same(read_state(path), state)  # without an index, every file belongs to the checkpoint


def test_one_file(tmp_path, layer):
    files.write_tensors(tmp_path / "layer.safetensors", layer.param)
    same(read_state(tmp_path / "layer.safetensors"), layer.param)
    same(read_state(tmp_path), layer.param)


def test_faulty_folders(folder, tmp_path_factory):
    path, state = folder
    first = path / "model-00001-of-00002.safetensors"
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"model-00001-of-00002\.safetensors: not a complete safetensors file"):
        read_state(path)
    first.unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00001-of-00002\.safetensors: no such file"):
        read_state(path)
    names = sorted(state)
    files.write_tensors(first, {name: state[name] for name in names[2::2]})
    with pytest.raises(ValueError, match=f"the shards lack {names[0]}"):
        read_state(path)
    files.write_tensors(first, state)
    with pytest.raises(ValueError, match="are in another shard too"):
        read_state(path)
    (path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json: not JSON with a weight_map"):
        read_state(path)
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors there"):
        read_state(tmp_path_factory.mktemp("empty"))


@pytest.mark.parametrize("name", ["../secret.safetensors", "a/../../secret.safetensors", "/secret.safetensors",
                                  "..\\secret.safetensors", "C:\\secret.safetensors", "C:secret.safetensors"])  # fmt: skip
def test_a_shard_outside_the_folder_is_not_read(folder, name, monkeypatch):
    """It would be read if it were only looked for: the index of a download may name any file of the machine."""
    path, state = folder
    inside = path / "checkpoint"
    inside.mkdir()
    files.write_tensors(path / "secret.safetensors", state)
    monkeypatch.setattr("gta_ref.weights.official.read_tensors", None)
    shard = name if not name.startswith("/") else str(path / "secret.safetensors")
    (inside / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(state, shard)}))
    with pytest.raises(ValueError, match=r"index\.json: the shard '.*' must be in the folder of the index"):
        read_state(inside)


def test_shards_may_be_links_and_in_folders_below(folder, tmp_path_factory):
    """A download cache keeps its files elsewhere, and links to them."""
    path, state = folder
    elsewhere = tmp_path_factory.mktemp("blobs") / "blob"
    first, second = sorted(path.glob("*.safetensors"))
    first.rename(elsewhere)
    first.symlink_to(elsewhere)
    (path / "below").mkdir()
    second.rename(path / "below" / second.name)
    index = path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(second.name, f"below/{second.name}"))
    same(read_state(path), state)
