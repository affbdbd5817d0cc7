"""The ready adapters around attention functions of PyTorch, JAX and MLX."""

import functools
import math

import numpy as np
import pytest

from gta_ref.verify import adapters, vectors, verify
from gta_ref.verify.exchange import to_numpy
from tests.verify.needs import needs_jax, needs_mlx, needs_torch
from tests.verify.wrong_arrays import wrong_arrays


@pytest.fixture
def sdpa():
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def function(*arrays, **told):
        with sdpa_kernel(SDPBackend.MATH):
            return torch.nn.functional.scaled_dot_product_attention(*arrays, enable_gqa=True, **told)

    return function


@needs_torch
@pytest.mark.parametrize(
    ("dtype", "which"),
    [
        ("float32", None),  # all of the suite "attention"
        ("float64", ["gqa-heads", "through-lse", "other-scale"]),
        ("bfloat16", ["gqa-heads", "blind-rows", "chunk", "token-major"]),
    ],
)
def test_sdpa_passes_all_cases_that_it_claims(sdpa, dtype, which):
    mine = adapters.torch_core(sdpa, mask="attn_mask", heads="grouped", without=["poison"])
    chosen = {"suite": "attention"} if which is None else {"cases": [f"attention/{name}" for name in which]}
    report = verify(mine, dtype=dtype, capabilities=mine.capabilities, arrays="torch", **chosen)
    assert report.passed, report
    assert {result.text for result in report.results if result.status == "skip"} <= {"needs poison, not declared"}


@needs_torch
def test_a_flag_aligned_to_the_start_is_found(sdpa):
    """PyTorch's is_causal lets row 0 see key 0 alone, whatever N_q and N_k are."""
    mine = adapters.torch_core(sdpa, causal="is_causal", heads="grouped")
    for name in ("one-query", "more-queries-than-keys"):
        assert "z" in wrong_arrays(mine, f"attention/{name}")
    said = adapters.torch_core(sdpa, causal="is_causal", align="start", heads="expand", widths="pad")
    for name in ("plain", "not-causal", "value-narrower", "other-scale", "no-token"):
        assert wrong_arrays(said, f"attention/{name}") == []


@needs_torch
def test_a_torch_function_that_returns_lse(sdpa):
    import torch

    def with_lse(q, k, v, mask, scale, detach=False):
        scores = ((q @ k.mT) * scale).masked_fill(~mask, -math.inf)
        lse = scores.logsumexp(-1)
        return (scores - (lse.detach() if detach else lse)[..., None]).exp() @ v, lse.detach() if detach else lse

    mine = adapters.torch_core(with_lse, mask="mask", returns=("z", "lse"))
    assert wrong_arrays(mine, "attention/through-lse") == []
    dropped = adapters.torch_core(functools.partial(with_lse, detach=True), mask="mask", returns=("z", "lse"))
    with pytest.raises(
        ValueError, match=r"^lse has no gradient; expected one by autograd, or the option backward=False$"
    ):
        wrong_arrays(dropped, "attention/through-lse")
    few = adapters.torch_core(lambda q, k, v, mask, scale: torch.zeros(1), mask="mask", returns=("z", "lse"))
    with pytest.raises(ValueError, match=r"^fn returned 1 arrays; expected z, lse$"):
        wrong_arrays(few, "attention/plain")


@needs_torch
def test_a_device_gets_the_arrays_and_the_mask():
    """The device "meta" stands for a GPU here: it has no numbers, so that the function cannot return any."""

    def on_meta(q, k, v, mask, scale):
        assert {x.device.type for x in (q, k, v, mask)} == {"meta"}
        return q * scale

    mine = adapters.torch_core(on_meta, device="meta", mask="mask", backward=False)
    vector = vectors.make("attention/a-head-each", "float32")
    found = mine({name: np.array(x) for name, x in vector.inputs.items()}, vector.settings)
    with pytest.raises(ValueError, match=r"^z is a tensor of torch\.float32, torch\.strided, on meta, which NumPy"):
        to_numpy(found["z"], "z")


# ---- JAX and MLX --------------------------------------------------------------------------------------------------


@needs_jax
def test_jax_nn():
    import jax

    attention = jax.jit(jax.nn.dot_product_attention, static_argnames=("scale", "is_causal"))
    options = {"heads": "grouped", "widths": "pad", "order": "token-major"}
    mine = adapters.jax_core(attention, mask="mask", **options)
    assert wrong_arrays(mine, "attention/heads-differ", "bfloat16") == []
    mine = adapters.jax_core(attention, mask="mask", backward=False, **options)
    assert wrong_arrays(mine, "attention/blind-rows") == ["z"]  # the mean of the values
    lengths = {"k_stop": "key_value_seq_lengths", "causal": "is_causal"}
    start = adapters.jax_core(attention, align="start", backward=False, **lengths, **options)
    assert wrong_arrays(start, "attention/right-padded") == []
    end = adapters.jax_core(attention, backward=False, **lengths, **options)
    assert wrong_arrays(end, "attention/one-query") == ["z"]


@needs_mlx
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mlx_fast(dtype):
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    fast = mx.fast.scaled_dot_product_attention
    mine = adapters.mlx_core(fast, mask="mask", heads="grouped")
    for name in ("plain", "heads-differ", "chunk", "right-padded", "other-scale", "one-query"):
        assert wrong_arrays(mine, f"attention/{name}", dtype) == [], name
    assert "z" in wrong_arrays(mine, "attention/blind-rows", dtype)
