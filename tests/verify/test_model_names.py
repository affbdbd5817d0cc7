"""Dumps under every name and in every layout that is accepted, and those that are refused."""

import numpy as np
import pytest

from gta_ref.verify.models.names import suggestion, target
from gta_ref.verify.models.reference import from_hugging_face
from gta_ref.verify.models.report import grouped
from gta_ref.verify.models.verify import stage_shapes, verify_model
from tests.verify.model_candidate import SIZES, Llama, random_state

STATE = random_state(3)
REFERENCE = from_hugging_face("tiny", STATE, SIZES)
IDS = np.random.default_rng(2).integers(0, SIZES["vocab_size"], (1, 9))
DUMP = Llama(STATE).run(IDS)
HOOKS = {
    "input_layernorm": "norm_1",
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v",
    "self_attn.o_proj.input": "attention.heads",
    "self_attn.o_proj": "attention.out",
    "self_attn": "attention.out",
    "self_attn.attn_weights": "attention.map",
    "post_attention_layernorm.input": "residual",
    "post_attention_layernorm": "norm_2",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj.input": "mlp.product",
    "mlp.down_proj": "mlp.out",
    "mlp": "mlp.out",
    "": "output",
}


def hooked(dump=DUMP, layers=4):
    """The dump as forward hooks in transformers would write it."""
    found = {"input_ids": dump["ids"], "model.embed_tokens": dump["embedding"], "lm_head": dump["logits"]}
    for i in range(layers):
        for theirs, ours in HOOKS.items():
            x = dump[f"blocks.{i}.{ours}"]
            flat = x.reshape(*x.shape[:2], -1) if theirs.endswith(("q_proj", "k_proj", "v_proj")) else x
            found[f"model.layers.{i}.{theirs}".rstrip(".")] = flat
    return found | {"model.norm": dump["norm"], "model.rotary_emb": np.zeros(3, np.float32)}


def test_names_of_hooks():
    report = verify_model(REFERENCE, hooked())
    assert report.exit_status == 0, report
    assert len(report.stages) == 1 + 4 * 14 + 2
    assert list(report.ignored) == ["model.rotary_emb"]
    assert "blocks.0…3.attention.q" in report.unchecked
    assert not any("input" in name for name in report.unchecked)


def test_hidden_states_and_attentions_of_transformers():
    arrays = {"ids": IDS, "logits": DUMP["logits"], "hidden_states.4": DUMP["norm"]}
    arrays |= {f"hidden_states.{i}": DUMP[f"blocks.{i}.input"] for i in range(4)}
    arrays |= {f"attentions.{i}": DUMP[f"blocks.{i}.attention.map"] for i in range(4)}
    assert verify_model(REFERENCE, arrays).exit_status == 0
    report = verify_model(REFERENCE, {**arrays, "hidden_states.4": DUMP["blocks.3.output"]})
    assert (report.wrong.stage, report.cause) == ("norm", "it was taken before the final norm")


def test_names_of_llama_cpp():
    short = {"attn_norm": "norm_1", "ffn_inp": "residual", "ffn_norm": "norm_2", "ffn_gate": "mlp.gate"}
    short |= {"ffn_up": "mlp.up", "ffn_out": "mlp.out", "l_out": "output"}
    arrays = {f"{theirs}-{i}": DUMP[f"blocks.{i}.{ours}"][0] for theirs, ours in short.items() for i in range(4)}
    arrays |= {"inp_embd": DUMP["embedding"], "result_norm": DUMP["norm"], "result_output": DUMP["logits"][:, -1]}
    report = verify_model(REFERENCE, arrays, ids=IDS[0])
    assert report.exit_status == 0, report
    assert len(report.stages) == len(arrays)


def test_joined_projections():
    arrays = {"ids": IDS, "logits": DUMP["logits"]}
    for i in range(4):
        s = f"blocks.{i}."
        qkv = [DUMP[f"{s}attention.{name}"].reshape(1, 9, -1) for name in ("q_proj", "k_proj", "v")]
        arrays[f"model.layers.{i}.self_attn.qkv_proj"] = np.concatenate(qkv, axis=-1)
        both = [DUMP[f"{s}mlp.gate"], DUMP[f"{s}mlp.up"]]
        arrays[f"model.layers.{i}.mlp.gate_up_proj"] = np.concatenate(both, axis=-1)
    report = verify_model(REFERENCE, arrays)
    assert report.exit_status == 0, report
    assert len(report.stages) == 4 * 5 + 1


LAYOUTS = {
    "heads first": lambda x: x.swapaxes(1, 2),
    "flat": lambda x: x.reshape(1, 9, -1),
    "no batch": lambda x: x[0],
    "no batch, flat": lambda x: x[0].reshape(9, -1),
    "no batch, heads first": lambda x: x[0].swapaxes(0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_heads(layout):
    arrays = {name: LAYOUTS[layout](x) if x.ndim == 4 and x.shape[1] == 9 else x for name, x in DUMP.items()}
    assert verify_model(REFERENCE, arrays).exit_status == 0


@pytest.mark.parametrize("layout", [lambda x: x[0], lambda x: x.swapaxes(0, 1)])
def test_layouts_of_tokens(layout):
    arrays = {name: layout(x) if x.ndim == 3 and x.shape[1] == 9 else x for name, x in DUMP.items()}
    assert verify_model(REFERENCE, arrays).exit_status == 0


def test_as_many_heads_as_tokens():
    """The documented form, heads first, is taken; what stays open is an error that says so."""
    dump = Llama(STATE).run(IDS[:, :4])
    first = {name: x.swapaxes(1, 2) if x.ndim == 4 and "map" not in name else x for name, x in dump.items()}
    first |= {name: dump[name] for name in dump if name.endswith("scores")}
    assert verify_model(REFERENCE, first).exit_status == 0
    heads = dump["blocks.0.attention.heads"].reshape(1, 4, 4, 8)
    report = verify_model(REFERENCE, {**first, "blocks.0.attention.heads": heads})
    assert report.wrong.kind == "shape"
    assert "the axes of heads and tokens cannot be distinguished" in report.wrong.text
    report = verify_model(REFERENCE, {**first, "blocks.0.attention.q": dump["blocks.0.attention.q"]})
    assert report.wrong.kind == "shape"
    assert "agrees with these axes exchanged" in report.wrong.text


def test_one_token():
    assert verify_model(REFERENCE, Llama(STATE).run(IDS[:, :1])).exit_status == 0


def test_queries_in_the_order_of_the_other_pairing():
    order = np.arange(8).reshape(2, 4).T.ravel()  # 0 4 1 5 …: neighbours are what halves were
    arrays = dict(DUMP)
    for name in DUMP:
        if name.endswith(("q_proj", "k_proj", ".q", ".k")):
            arrays[name] = DUMP[name][..., order]
    report = verify_model(REFERENCE, arrays)
    assert report.exit_status == 0
    assert "order of RoPE's other pairing" in report.notes[0]


def test_scores_may_be_masked_above_the_diagonal():
    arrays = dict(DUMP)
    for name in [name for name in DUMP if name.endswith("scores")]:
        arrays[name] = np.where(np.tri(9, dtype=bool), DUMP[name], np.float32(-np.inf))
    assert verify_model(REFERENCE, arrays).exit_status == 0


def test_a_shape_that_fits_nothing():
    report = verify_model(REFERENCE, {**DUMP, "blocks.1.norm_2": DUMP["blocks.1.norm_2"][:, :, :31]})
    assert (report.wrong.stage, report.wrong.kind) == ("blocks.1.norm_2", "shape")
    assert report.wrong.text == "blocks.1.norm_2 has shape (1, 9, 31); expected (1, 9, 32)"


def test_without_the_logits_the_status_is_3():
    report = verify_model(REFERENCE, {name: x for name, x in DUMP.items() if name != "logits"})
    assert report.exit_status == 3
    assert not report.passed
    assert "logits" in report.unchecked


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("blocks.2.attention.qproj", "blocks.2.attention.q_proj"),
        ("block.1.norm_1", "blocks.1.norm_1"),
        ("model.layers.3.self_attn.qproj", "model.layers.3.self_attn.q_proj"),
        ("hidden_state.2", "hidden_states.2"),
        ("logit", "logits"),
        ("embeding", "embedding"),
        ("something_else_entirely", None),
    ],
)
def test_names_that_are_nearly_right(name, meant):
    report = verify_model(REFERENCE, {**DUMP, name: DUMP["norm"]})
    assert report.ignored == {name: meant}
    assert meant is None or f"Unknown: {name}; is it {meant}?" in report.summary()


def test_a_block_that_the_model_does_not_have_is_unknown():
    assert "blocks.4.norm_1" in verify_model(REFERENCE, {**DUMP, "blocks.4.norm_1": DUMP["norm"]}).ignored


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"ids": IDS, "nrm": DUMP["norm"]}, {}, "no name that is known: nrm; nrm may be norm"),
        ({"norm": DUMP["norm"]}, {}, "the token ids are missing"),
        ({"ids": IDS + 60, "norm": DUMP["norm"]}, {}, r"expected 0 to 60 \(the vocabulary\)"),
        ({"ids": IDS * 1.0, "norm": DUMP["norm"]}, {}, "ids has dtype float64"),
        ({**DUMP, "model.norm": DUMP["norm"] + 1}, {}, "model.norm and norm are both norm, and they differ"),
        ({"ids": IDS, "norm": IDS}, {}, "norm has dtype int64; expected one of float64"),
        (DUMP, {"dtype": "float31"}, "dtype='float31' must be one of"),
        (DUMP, {"prompt": "x"}, "tiny has no tokenizer"),
        ({**DUMP, "attention_mask": np.tri(9)[-2:-1]}, {}, "attention_mask has other numbers than 1"),
    ],
)
def test_refused(arrays, options, message):
    with pytest.raises(ValueError, match=message):
        verify_model(REFERENCE, arrays, **options)


def test_positions_are_taken_from_the_dump():
    arrays = {**DUMP, "position_ids": np.arange(9)[None] + 5}
    assert verify_model(REFERENCE, arrays).wrong.stage == "blocks.0.attention.q"
    assert verify_model(REFERENCE, {**DUMP, "position_ids": np.arange(9)}).exit_status == 0


def test_grouped_names():
    names = ["embedding", *(f"blocks.{i}.q" for i in (0, 1, 2, 5)), "blocks.1.k", "norm"]
    assert grouped(names) == ("embedding", "blocks.0…2,5.q", "blocks.1.k", "norm")


def test_every_documented_name_is_known():
    known = frozenset(stage_shapes(REFERENCE, 1, 1)[0])
    for name in hooked():
        if name not in ("input_ids", "model.rotary_emb"):
            found = target(name, known, 4)
            assert found is not None, name
            assert set(found.stages) <= known
    assert suggestion("blocks.3.norm1", sorted(known)) == "blocks.3.norm_1"
