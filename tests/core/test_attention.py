"""The same tests for every engine: the attention core against loops over scalars, and its gradients.

The truth is computed here from the definition with Python's own floats, without any engine.
"""

import math

import ml_dtypes
import numpy as np
import pytest

from gta_ref.core import EngineError, Mask, attention_backward, attention_forward, engines
from gta_ref.core.cpu import matrix_units
from gta_ref.ops import softmax_lse_forward
from gta_ref.verify.gradcheck import directional_error, elementwise_error
from tests.support import CASES

AVAILABLE = [name for name in engines.MODULES if name != "cuda" and engines.why_not(name) is None]


@pytest.fixture(params=AVAILABLE)
def engine(request):
    return request.param


def truth(q, k, v, mask, scale):
    """z and lse by the definition, one scalar at a time."""
    (batch, n_q, n_queries, d_k), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
    visible = np.broadcast_to(mask.to_dense(n_queries, n_keys), (batch, n_queries, n_keys))
    z = np.zeros((batch, n_q, n_queries, d_v))
    lse = np.full((batch, n_q, n_queries), -np.inf)
    for b, m, i in np.ndindex(batch, n_q, n_queries):
        keys = [j for j in range(n_keys) if visible[b, i, j]]
        if not keys:
            continue
        key_head, value_head = m // (n_q // n_k), m // (n_q // n_v)
        scores = [scale * math.fsum(q[b, m, i, d] * k[b, key_head, j, d] for d in range(d_k)) for j in keys]
        largest = max(scores)
        weights = [math.exp(s - largest) for s in scores]
        total = math.fsum(weights)
        lse[b, m, i] = largest + math.log(total)
        for d in range(d_v):
            z[b, m, i, d] = math.fsum(w * v[b, value_head, j, d] for w, j in zip(weights, keys, strict=True)) / total
    return z, lse


def make(rng, sizes, dtype="float64"):
    batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v = sizes
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def used(mask, batch, n_queries, n_keys):
    """Which slots are in use, that is, inside [k_start, k_stop); (B, N_k)."""
    _, k_start, k_stop = mask.resolve(batch, n_queries, n_keys)
    slot = np.arange(n_keys)
    return (k_start[:, None] <= slot) & (slot < k_stop[:, None])


@pytest.mark.parametrize("case", CASES)
def test_forward_is_the_definition(engine, case, rng):
    sizes, mask = CASES[case]
    q, k, v = make(rng, sizes)
    z, lse, _ = attention_forward(q, k, v, mask=mask, engine=engine)
    want_z, want_lse = truth(q, k, v, mask, 1 / math.sqrt(q.shape[3]))
    # float64 sums of some tens of terms of size 1 have an error of about 1e-14, and exp a relative error of 2e-16
    np.testing.assert_allclose(z, want_z, rtol=0, atol=1e-13)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-13)
    blind = np.isneginf(want_lse)
    assert not z[blind].any()


@pytest.mark.parametrize("case", CASES)
def test_backward_is_the_gradient(engine, case, rng):
    """The gradient through z and through lse along a random direction; lse is constant in rows that see nothing."""
    sizes, mask = CASES[case]
    q, k, v = make(rng, sizes)
    z, lse, saved = attention_forward(q, k, v, mask=mask, engine=engine)
    dz, dlse = rng.standard_normal(z.shape), rng.standard_normal(lse.shape)
    grads = dict(zip("qkv", attention_backward(dz, saved, dlse=dlse), strict=True))
    sees = np.isfinite(lse)

    def both(a):
        z, lse, _ = attention_forward(a["q"], a["k"], a["v"], mask=mask, engine=engine, need_saved=False)
        return np.concatenate([z.ravel(), lse[sees]])

    cotangent = np.concatenate([dz.ravel(), dlse[sees]])
    error = directional_error(both, {"q": q, "k": k, "v": v}, cotangent, grads, rng)
    assert error <= 1e-8  # see tests/ops/test_gradients.py; softmax's fifth derivative is larger here
    unused = ~used(mask, q.shape[0], q.shape[2], k.shape[2])
    assert not grads["k"].swapaxes(1, 2)[unused].any()
    assert not grads["v"].swapaxes(1, 2)[unused].any()
    assert not grads["q"][~sees].any()
    without, _, _ = attention_backward(dz, saved)
    assert np.abs(without - grads["q"]).max() > 1e-3 or not sees.any() or k.shape[2] == 1  # dlse matters


def test_every_element_of_the_gradient(engine, rng):
    mask = Mask(k_start=[0, 2], k_stop=[4, 4])
    q, k, v = make(rng, (2, 2, 1, 2, 3, 5, 2, 3))
    z, _, saved = attention_forward(q, k, v, mask=mask, scale=0.7, engine=engine)
    dz = rng.standard_normal(z.shape)
    grads = dict(zip("qkv", attention_backward(dz, saved), strict=True))

    def function(a):
        return attention_forward(a["q"], a["k"], a["v"], mask=mask, scale=0.7, engine=engine, need_saved=False)[0]

    assert max(elementwise_error(function, {"q": q, "k": k, "v": v}, dz, grads).values()) <= 1e-9


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_unused_slots_may_hold_anything(engine, poison, rng):
    mask = Mask(k_start=[0, 3, 6], k_stop=[4, 7, 6])
    q, k, v = make(rng, (3, 4, 2, 1, 5, 7, 8, 4))
    dz, dlse = rng.standard_normal((3, 4, 5, 4)), rng.standard_normal((3, 4, 5))
    results = []
    for fill in (0.0, poison):
        slots = used(mask, 3, 5, 7)[:, None, :, None]
        z, lse, saved = attention_forward(
            q, np.where(slots, k, fill), np.where(slots, v, fill), mask=mask, engine=engine
        )
        results.append((z, lse, *attention_backward(dz, saved, dlse=dlse)))
    for clean, poisoned in zip(*results, strict=True):
        np.testing.assert_array_equal(poisoned, clean)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_huge_logits(engine, dtype, rng):
    """With scores of ±1e4 and more, one key has all the weight, and nothing overflows."""
    q, k, v = make(rng, (1, 2, 1, 1, 6, 6, 4, 3), dtype)
    q, k = q * np.array(300, dtype), k * np.array(300, dtype)
    z, lse, saved = attention_forward(q, k, v, engine=engine)
    want_z, want_lse = truth(q.astype(float), k.astype(float), v.astype(float), Mask(), 0.5)
    eps = np.finfo(dtype).eps
    # a score of size S has an error of S·d_k·eps, and its weight has the same relative error
    bound = 4 * np.abs(want_lse).max() * 4 * eps
    np.testing.assert_allclose(z, want_z, rtol=0, atol=bound)
    np.testing.assert_allclose(lse, want_lse, rtol=8 * eps)
    for grad in attention_backward(rng.standard_normal(z.shape).astype(dtype), saved):
        assert np.isfinite(grad).all()


def test_scale(engine, rng):
    q, k, v = make(rng, (1, 2, 1, 1, 5, 5, 4, 3))
    z, lse, _ = attention_forward(q, k, v, mask=None, scale=0.3, engine=engine)
    want_z, want_lse = truth(q, k, v, Mask(), 0.3)
    np.testing.assert_allclose(z, want_z, rtol=0, atol=1e-13)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-13)


@pytest.mark.parametrize("sizes", [(2, 2, 1, 1, 0, 5, 4, 3), (2, 2, 1, 1, 3, 0, 4, 3), (0, 2, 1, 1, 3, 3, 4, 3)])
def test_empty(engine, sizes, rng):
    q, k, v = make(rng, sizes)
    z, lse, saved = attention_forward(q, k, v, engine=engine)
    assert z.shape == (*q.shape[:3], 3)
    assert not z.any()
    assert np.isneginf(lse).all()
    for grad, x in zip(attention_backward(np.ones_like(z), saved), (q, k, v), strict=True):
        assert grad.shape == x.shape
        assert not grad.any()


def test_strides_do_not_matter_and_inputs_stay(engine, rng):
    sizes, mask = CASES["n_k and n_v differ"]
    q, k, v = make(rng, sizes)
    strided = [np.repeat(x.swapaxes(1, 2).copy().swapaxes(1, 2), 2, axis=3)[..., ::2] for x in (q, k, v)]
    for x in strided:
        assert not x.flags.c_contiguous
        x.flags.writeable = False
    z, lse, saved = attention_forward(*strided, mask=mask, engine=engine)
    want, want_lse, want_saved = attention_forward(q, k, v, mask=mask, engine=engine)
    dz = rng.standard_normal(z.shape)
    dz_strided = np.asfortranarray(dz)
    dz_strided.flags.writeable = False
    for got, expected in zip(
        (z, lse, *attention_backward(dz_strided, saved)),
        (want, want_lse, *attention_backward(dz, want_saved)),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_storage(engine, dtype, rng, monkeypatch):
    """With 16-bit inputs, all arithmetic is in float32 on the widened inputs, and each result is rounded once.

    A CPU's matrix unit, which rounds the weights of bfloat16 as well, has tests of its own.
    """
    monkeypatch.setattr(matrix_units, "form", lambda: None)
    low = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    sizes, mask = CASES["left padding"]
    arrays = [x.astype(low) for x in make(rng, sizes)]
    z, lse, saved = attention_forward(*arrays, mask=mask, engine=engine)
    want, want_lse, want_saved = attention_forward(*(x.astype(np.float32) for x in arrays), mask=mask, engine=engine)
    assert z.dtype == low
    assert lse.dtype == np.float32
    np.testing.assert_allclose(lse, want_lse, rtol=1e-6)
    dz = rng.standard_normal(z.shape).astype(low)
    pairs = [
        (z, want),
        *zip(attention_backward(dz, saved), attention_backward(dz.astype(np.float32), want_saved), strict=True),
    ]
    unit = 2.0 ** -(8 if dtype == "bfloat16" else 11)  # half a unit in the last place, as a relative error
    for got, expected in pairs:
        assert got.dtype == low
        # one rounding, plus the error of float32 before it
        bound = unit * np.abs(expected) + 1e-6 * np.abs(expected).max()
        assert (np.abs(got.astype(np.float32) - expected) <= bound).all()


def test_float32_stays_float32(engine, rng):
    q, k, v = make(rng, CASES["causal"][0], "float32")
    z, lse, saved = attention_forward(q, k, v, engine=engine)
    for a in (z, lse, *attention_backward(z, saved, dlse=lse)):
        assert a.dtype == np.float32


def test_without_saved(engine, rng):
    q, k, v = make(rng, CASES["causal"][0])
    z, _, saved = attention_forward(q, k, v, engine=engine, need_saved=False)
    assert saved is None
    np.testing.assert_array_equal(z, attention_forward(q, k, v, engine=engine)[0])
    with pytest.raises(ValueError, match="saved is None; expected what attention_forward returns with need_saved=True"):
        attention_backward(z, saved)


def test_trace_of_the_reference(rng):
    q, k, v = make(rng, CASES["left padding"][0])
    mask = CASES["left padding"][1]
    trace, back = {}, {}
    z, lse, saved = attention_forward(q, k, v, mask=mask, scale=0.3, engine="auto", trace=trace)
    assert list(trace) == ["scores", "map"]
    np.testing.assert_allclose(trace["scores"][0], 0.3 * q[0] @ k[0].swapaxes(-1, -2), rtol=1e-12)
    sees = np.isfinite(lse)
    np.testing.assert_allclose(trace["map"].sum(-1), sees, rtol=1e-13)
    assert not trace["map"][~np.broadcast_to(mask.to_dense(8, 8)[:, None], trace["map"].shape)].any()
    dz = rng.standard_normal(z.shape)
    attention_backward(dz, saved, trace=back)
    assert list(back) == ["d_map", "d_scores"]
    # sequence 0 has no padding; in the others the masked slots of v count as 0
    np.testing.assert_allclose(back["d_map"][0], dz[0] @ v[0].swapaxes(-1, -2), rtol=1e-12, atol=1e-13)


def test_auto_takes_what_it_can(rng):
    q, k, v = make(rng, CASES["causal"][0])
    z, _, saved = attention_forward(q, k, v, engine="auto")
    np.testing.assert_allclose(z, attention_forward(q, k, v, engine="reference")[0], rtol=0, atol=1e-13)
    assert saved.engine in AVAILABLE


def test_the_definition_has_the_softmax_of_ops(rng):
    """core/reference.py writes its softmax out; it is the operation of ops/, to the last bit."""
    (shape, mask), trace = CASES["left padding"], {}
    q, k, v = make(rng, shape)
    _, lse, _ = attention_forward(q, k, v, mask=mask, engine="reference", trace=trace)
    visible = mask.to_dense(q.shape[2], k.shape[2])
    map_, want, _ = softmax_lse_forward(trace["scores"], visible if visible.ndim == 2 else visible[:, None])
    np.testing.assert_array_equal(trace["map"], map_)
    np.testing.assert_array_equal(lse, want)


def test_an_engine_that_cannot_run_says_why(rng, monkeypatch):
    q, k, v = make(rng, CASES["causal"][0])
    monkeypatch.setattr("gta_ref.core.cpu.engine.why_not", lambda: "no BLAS")
    with pytest.raises(EngineError, match="engine 'numba' cannot run here: no BLAS"):
        attention_forward(q, k, v, engine="numba")


Q, K, V = np.zeros((2, 4, 3, 8)), np.zeros((2, 2, 5, 8)), np.zeros((2, 1, 5, 6))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(q=[1.0]), "q is a list; expected an array of floats"),
        (dict(q=Q.astype(int)), "q has dtype int64; expected one of float64, float32, float16, bfloat16"),
        (dict(k=K.astype("float32")), "k has dtype float32; expected float64, as q"),
        (dict(v=V.astype("float32")), "v has dtype float32; expected float64, as q"),
        (dict(q=Q[0]), r"q has shape \(4, 3, 8\); expected \(B, n_q, N_q, d_k\)"),
        (dict(q=Q[..., :0], k=K[..., :0]), r"q has shape \(2, 4, 3, 0\); expected a d_k of at least 1"),
        (dict(k=K[:1]), r"k has shape \(1, 2, 5, 8\); expected \(2, n_k, N_k, 8\)"),
        (dict(k=K[..., :7]), r"k has shape \(2, 2, 5, 7\); expected \(2, n_k, N_k, 8\)"),
        (dict(v=V[:, :, :4]), r"v has shape \(2, 1, 4, 6\); expected \(2, n_v, 5, d_v\)"),
        (dict(k=np.zeros((2, 3, 5, 8))), "n_k=3 must divide n_q=4"),
        (dict(v=np.zeros((2, 8, 5, 6))), "n_v=8 must divide n_q=4"),
        (dict(v=V[:, :0]), "n_v=0 must divide n_q=4"),
        (dict(mask=np.ones((3, 5))), r"mask is a ndarray; expected a gta_ref\.core\.Mask"),
        (dict(mask=Mask(k_stop=9)), "k_stop=9 of sequence 0 must be between 0 and N_k=5"),
        (dict(scale=0), "scale=0 must be a finite number above 0"),
        (dict(scale="big"), "scale='big' must be a number above 0"),
        (dict(engine="triton"), f"engine='triton' must be one of {', '.join(map(repr, engines.ENGINES))}"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        attention_forward(**{"q": Q, "k": K, "v": V, **arguments})


def test_wrong_cotangents():
    z, lse, saved = attention_forward(Q, K, V, engine="reference")
    with pytest.raises(ValueError, match=r"dz has shape \(2, 4, 3, 5\); expected \(2, 4, 3, 6\)"):
        attention_backward(z[..., :5], saved)
    with pytest.raises(ValueError, match="dz has dtype float32; expected float64, as z"):
        attention_backward(z.astype("float32"), saved)
    with pytest.raises(ValueError, match=r"dlse has shape \(2, 4\); expected \(2, 4, 3\)"):
        attention_backward(z, saved, dlse=lse[..., 0])
