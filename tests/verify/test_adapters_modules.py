"""The ready adapter around modules of PyTorch: a layer with parameters of its own names."""

from types import SimpleNamespace

import numpy as np
import pytest

from gta_ref.verify import adapters, vectors, verify
from tests.verify.needs import needs_torch
from tests.verify.wrong_arrays import wrong_arrays


def grouped_layer(c, wrong=None):
    """A GQA layer as other libraries write it, with their names."""
    import torch
    from torch import nn

    c = {"n_k": c["n_heads"], **c}
    n, n_k, d = c["n_heads"], c["n_k"], c["head_dim"]

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(c["hidden_size"], (n + 2 * n_k) * d, bias=c.get("bias", False))
            self.o_proj = nn.Linear(n * d, c["hidden_size"], bias=c.get("output_bias", False))

        def rope(self, x, positions):
            angle = positions[:, None, :, None] * 1e4 ** -(torch.arange(0, d, 2, dtype=torch.float64) / d)
            cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        def forward(self, x, attention_mask=None, position_ids=None):
            if position_ids is None:
                position_ids = torch.arange(x.shape[1])[None]
            q, k, v = self.qkv(x).unflatten(-1, (-1, d)).transpose(1, 2).split([n, n_k, n_k], 1)
            q, k = self.rope(q, position_ids), self.rope(k, position_ids)
            told = {"is_causal": True} if attention_mask is None else {"attn_mask": attention_mask}
            if wrong == "tiled heads":
                k, v = (y.repeat(1, n // n_k, 1, 1) for y in (k, v))
            z = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True, **told)
            return self.o_proj(z.transpose(1, 2).flatten(2)), None

    return Attention()


NAMES = {
    "qkv.weight": ("w_q.T", "w_k.T", "w_v.T"),
    "qkv.bias": ("b_q", "b_k", "b_v"),
    "o_proj.weight": "w_o.T",
    "o_proj.bias": "b_o",
}


@needs_torch
@pytest.mark.parametrize("mechanism", ["mha", "gqa"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_module_with_names_of_its_own(mechanism, dtype):
    for told in ({}, {"mask": "attention_mask", "positions": "position_ids"}):
        mine = adapters.torch_module(grouped_layer, NAMES, mechanism, **told)
        assert wrong_arrays(mine, f"layer/{mechanism}", dtype) == []
    wrong = adapters.torch_module(lambda c: grouped_layer(c, "tiled heads"), NAMES, "gqa")
    assert "out" in wrong_arrays(wrong, "layer/gqa")


@needs_torch
def test_a_module_is_verified_with_its_capabilities():
    mine = adapters.torch_module(grouped_layer, NAMES, "gqa", mask="attention_mask", positions="position_ids")
    assert mine.capabilities == {"layer", "gqa", "backward", "deterministic", "padding"}
    report = verify(mine, cases="layer/gqa,layer/gqa-decode,layer/mla", capabilities=mine.capabilities, arrays="torch")
    assert [(result.case, result.status) for result in report.results] == [
        ("layer/gqa", "pass"), ("layer/gqa-decode", "skip"), ("layer/mla", "skip"),
    ]  # fmt: skip


@needs_torch
def test_a_call_of_its_own_and_a_function_for_a_weight():
    import torch

    names = {**NAMES, "qkv.weight": lambda p: torch.cat([p["w_q"], p["w_k"], p["w_v"]], 1).T}
    mine = adapters.torch_module(
        grouped_layer, names, "gqa", mask="seen", call=lambda module, x, seen: module(x, attention_mask=seen)[0]
    )
    assert wrong_arrays(mine, "layer/gqa") == []
    forgets = {**NAMES, "qkv.weight": lambda p: torch.cat([p["w_q"], p["w_v"], p["w_v"]], 1).T}
    with pytest.raises(ValueError, match=r"^names does not use w_k, which the case has$"):
        wrong_arrays(adapters.torch_module(grouped_layer, forgets, "gqa"), "layer/gqa")


@needs_torch
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"o_proj.weight": "w_o"}, None),  # (48, 48) either way: the numbers tell
        ({"qkv.weight": "w_q.T"}, r"qkv.weight has shape \(80, 48\); w_q.T has \(48, 48\)"),
        ({"out.weight": "w_o.T"}, "names: the module has no parameter 'out.weight'; it has qkv.weight, o_proj.weight"),
        ({"o_proj.weight": "w_out.T"}, "names lacks the module's o_proj.weight"),
        ({"qkv.weight": ("w_q.T", "w_q.T", "w_v.T")}, r"qkv.weight has shape"),
        ({"qkv.weight": ("w_q.T", "w_v.T", "w_v.T")}, "names does not use w_k, which the case has"),
    ],
)
def test_wrong_names_are_one_line(change, error):
    mine = adapters.torch_module(grouped_layer, {**NAMES, **change}, "gqa")
    if error is None:
        assert "out" in wrong_arrays(mine, "layer/gqa")
        return
    with pytest.raises(ValueError, match=f"^{error}"):
        wrong_arrays(mine, "layer/gqa")


@needs_torch
def test_a_module_skips_what_it_cannot_be_told():
    mine = adapters.torch_module(grouped_layer, NAMES, "gqa")
    for name, reason in (("gqa-decode", "decoding from a cache"), ("mla", "mla; this module is gqa")):
        with pytest.raises(NotImplementedError, match=reason):
            wrong_arrays(mine, f"layer/{name}")
    vector = vectors.make("layer/gqa", "float32")
    for bound in ({"k_start": np.array([0, 3])}, {"k_stop": np.array([11, 3])}):
        padded = {**vector.inputs, **bound}
        with pytest.raises(NotImplementedError, match="the case's mask, for which the module has no argument"):
            mine({name: np.array(x) for name, x in padded.items()}, vector.settings)
    later = {**vector.inputs, "positions": vector.inputs["positions"] + 5}
    with pytest.raises(NotImplementedError, match="the case's positions, for which the module has no argument"):
        mine({name: np.array(x) for name, x in later.items()}, vector.settings)


def test_a_factory_is_a_function():
    with pytest.raises(ValueError, match=r"^factory=namespace\(\) must be a function from a config to a module$"):
        adapters.torch_module(SimpleNamespace(), NAMES, "gqa")
    with pytest.raises(ValueError, match=r"^mechanism='mqa' must be one of"):
        adapters.torch_module(grouped_layer, NAMES, "mqa")
