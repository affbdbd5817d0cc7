"""How arrays are compared besides their values: wider dtypes, a loss without axes, unused slots, MLA's two ways."""

import numpy as np
import pytest

from gta_ref.verify import vectors
from gta_ref.verify.compare import compare


def the(findings):
    (finding,) = findings
    return finding


def one(vector, **given):
    return the(compare(vector, given, wanted=given))


@pytest.mark.parametrize(
    "dtype, given, kind",
    [
        ("bfloat16", "float32", "ok"),
        ("bfloat16", "float64", "ok"),
        ("float32", "float64", "dtype"),
        ("bfloat16", "float16", "dtype"),
        ("float16", "bfloat16", "dtype"),
        ("float32", "float16", "dtype"),
        ("float64", "float32", "dtype"),
    ],
)
def test_a_wider_dtype_is_right_and_a_narrower_one_is_not(dtype, given, kind):
    import ml_dtypes  # noqa: F401, registers bfloat16

    vector = vectors.make("attention/plain", dtype)
    low = vector.inputs["q"].dtype
    d_q = vector.expected["d_q"].astype(low).astype(np.dtype(given))
    finding = one(vector, d_q=d_q)
    assert finding.kind == kind
    if kind == "ok":
        assert finding.text == f"d_q agrees, in {given} where {dtype} is enough"
    assert one(vector, scores=vector.expected["scores"].astype("float64")).text == "scores agrees"


def test_a_loss_may_have_no_axes():
    vector = vectors.make("lm/gta", "float32")
    loss = vector.expected["loss"].astype("float32")
    assert one(vector, loss=loss[0]).kind == one(vector, loss=loss).kind == "ok"
    assert one(vector, loss=loss[0] * np.float32(1.01)).kind == "value"
    assert one(vector, loss=loss[None]).kind == "shape"


def test_a_layer_may_show_scores_of_slots_that_are_not_in_use():
    """At the level "attention" they count as 0, because there the slots may hold NaN."""
    for name, kind in (("layer/gta-left-padded", "ok"), ("attention/left-padded", "value")):
        vector = vectors.make(name, "float32")
        for stage in ("scores", "d_map"):
            x = vector.expected[stage].astype("float32")
            slot = np.arange(x.shape[-1])
            unused = slot < vector.inputs["k_start"][:, None]
            given = np.where(unused[:, None, None], np.float32(3), x)
            assert one(vector, **{stage: given}).kind == kind
        x[0] += 1
        assert one(vector, **{stage: x}).kind == "value"


def test_the_stages_of_the_other_way_of_mla_are_left_out():
    config = vectors.make("layer/mla-compressed", "float32").settings["config"]
    names = ["layer/mla-compressed", "layer/mla-absorbed"]
    vs = [vectors.make(name, "float32") for name in names]
    assert {name: vs[0].inputs[name].shape for name in vs[0].inputs} == {n: x.shape for n, x in vs[1].inputs.items()}
    for vector, other in (vs, vs[::-1]):
        stages = {
            n: np.zeros(x.shape, "float32")
            for n, x in other.expected.items()
            if n in ("q", "k", "z", "q_latent", "k_nope")
        }
        right = {name: vector.expected[name].astype("float32") for name in vector.required}
        assert {f.kind for f in compare(vector, {**right, **stages})} == {"ok"}
        only_z = {"z": np.zeros(other.expected["z"].shape, "float32")}
        assert compare(vector, only_z, wanted=()) == []
        # its own stages are compared
        own = {n: np.zeros(x.shape, "float32") for n, x in vector.expected.items() if n in ("q", "z")}
        assert [f.kind for f in compare(vector, own, wanted=())] == ["value", "value"]
        assert one(vector, values=np.zeros(vector.expected["values"].shape, "float32")).kind == "value"
    assert config["latent_dim"] != config["value_dim"]


def test_quality_is_the_error_over_that_of_float32_inside():
    vector = vectors.make("attention/plain", "bfloat16")
    low = vector.inputs["q"].dtype
    z = vector.expected["z"]
    assert one(vector, z=z.astype(low)).quality == pytest.approx(1, rel=0.02)
    assert one(vector, z=z.astype("float32")).quality < 0.01
    noise = np.random.default_rng(0).standard_normal(z.shape) * 4e-3 * np.abs(z).mean()
    assert 1.5 < one(vector, z=(z + noise).astype(low)).quality < 5
    # a stage that came in 16 bits is compared with its rounding, one in float32 with the errors of float32
    assert one(vector, scores=vector.expected["scores"].astype(low)).quality == pytest.approx(1, rel=0.1)
    assert one(vectors.make("attention/no-token", "bfloat16"), z=np.zeros((1, 3, 0, 24), low)).quality is None


def test_lse_is_judged_in_the_precision_in_which_it_comes():
    vector = vectors.make("attention/plain", "bfloat16")
    lse = vector.expected["lse"]
    low = vector.inputs["q"].dtype
    assert one(vector, lse=lse.astype(low)).kind == "ok"
    assert one(vector, lse=lse.astype("float32")).kind == "ok"
    found = one(vector, lse=(lse * 1.44 / np.log2(np.e)).astype("float32"))
    assert (found.kind, found.ratio > 100) == ("value", True)
    assert one(vector, lse=lse.astype(low).astype("float32")).kind == "value"
