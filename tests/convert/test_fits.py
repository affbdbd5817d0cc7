"""The closed forms: the best key and query for several, the best latent, and regression near a prior."""

import numpy as np
import pytest

from gta_ref.convert import latents, rotary

RNG = np.random.default_rng


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_pairs_of_features_as_complex_numbers(pairing):
    from gta_ref.ops import rope_forward, rope_tables

    x = RNG(0).standard_normal((1, 2, 5, 8))
    cos, sin = rope_tables(x, np.arange(5), 10000.0, pairing)
    turned, _ = rope_forward(x, cos, sin, pairing)
    angles = np.arange(5)[:, None] * 10000.0 ** (-np.arange(4) / 4)
    z = rotary.as_complex(x, pairing)
    np.testing.assert_allclose(rotary.as_features(z * np.exp(1j * angles), pairing), turned, atol=1e-12)
    np.testing.assert_array_equal(rotary.as_features(z, pairing), x)


def products(q, k):
    """conj(q(t)) k(s) of all pairs of tokens, frequency by frequency: (d/2, T, T)."""
    return np.einsum("tf,sf->fts", q.conj(), k)


def fitted(maps, weights, key_of, q, k):
    """The new keys (T, d/2), and the new queries of each map, by the definition of KeyFit."""
    fit = rotary.fit_key(maps, weights, key_of, rotary.moments(q[None], k[None], "half"))
    q, k = rotary.as_complex(q, "half"), rotary.as_complex(k, "half")  # (n, T, d/2)
    key = sum(fit.beta[:, place] * k[g] for place, g in enumerate(fit.key_heads))
    rho = {g: fit.rho[:, place] for place, g in enumerate(fit.key_heads)}
    queries = [sum(weights[i] * rho[key_of[i]].conj() * q[i] for i in heads) for heads in maps]
    wanted = [sum(weights[i] * products(q[i], k[key_of[i]]) for i in heads) for heads in maps]
    return fit, key, queries, wanted


def test_heads_of_one_key_get_their_mean_query_exactly():
    rng = RNG(1)
    q, k = rng.standard_normal((4, 50, 6)), rng.standard_normal((2, 50, 6))
    weights, key_of = np.array([0.25, 0.75, 0.5, 0.5]), np.array([0, 0, 1, 1])
    fit, key, (query,), (wanted,) = fitted([(0, 1)], weights, key_of, q, k)
    assert fit.key_heads == (0,)
    assert abs(fit.lost) <= 1e-14 * fit.kept
    np.testing.assert_allclose(key, rotary.as_complex(k[0], "half"), rtol=1e-13)
    np.testing.assert_allclose(products(query, key), wanted, atol=1e-12)


def test_one_key_for_several_loses_least():
    rng = RNG(2)
    mix = rng.standard_normal((6, 6))
    q, k = rng.standard_normal((4, 200, 6)) @ mix, rng.standard_normal((3, 200, 6)) @ mix
    k[1] += 0.5 * k[0]
    maps, weights, key_of = [(0, 1), (2, 3)], np.array([0.3, 0.7, 0.6, 0.4]), np.array([0, 1, 1, 2])
    fit, key, queries, wanted = fitted(maps, weights, key_of, q, k)

    def loss(key, queries):
        pairs = zip(wanted, queries, strict=True)
        return sum(np.mean(np.abs(w - products(a, key)) ** 2, axis=(1, 2)).sum() for w, a in pairs)

    least = loss(key, queries)
    assert least == pytest.approx(fit.lost, rel=1e-10)
    assert least + fit.kept == pytest.approx(sum(np.mean(np.abs(w) ** 2, axis=(1, 2)).sum() for w in wanted))
    z = rotary.as_complex(k, "half")
    for seed in range(20):  # other combinations of the keys, each with the best queries for it
        noise = RNG(seed).standard_normal((2, 3, 3)) @ np.array([1, 1j, 0])[:, None] * 0.05
        other = key + np.einsum("cg,gtf->tf", noise[:1, :, 0], z)
        norms = np.mean(np.abs(other) ** 2, axis=0)
        best = [np.einsum("fts,sf->tf", w, other.conj()).conj() / len(other) / norms for w in wanted]
        assert loss(other, best) > least


def test_new_weights_make_the_new_queries_and_keys():
    rng = RNG(3)
    x, w_q, w_k = rng.standard_normal((40, 5)), rng.standard_normal((5, 4, 6)), rng.standard_normal((5, 2, 6))
    q, k = (np.einsum("th,hnd->ntd", x, w) for w in (w_q, w_k))
    maps, weights, key_of = [(0, 2), (1, 3)], np.array([0.5, 0.2, 0.5, 0.8]), np.array([0, 0, 1, 1])
    fit, key, queries, _ = fitted(maps, weights, key_of, q, k)
    new_q, new_k = rotary.new_projections(w_q, w_k, maps, [fit], weights, key_of, "half")
    np.testing.assert_allclose(x @ new_k, rotary.as_features(key, "half"), atol=1e-12)
    np.testing.assert_allclose(
        x @ new_q, np.concatenate([rotary.as_features(a, "half") for a in queries], 1), atol=1e-12
    )


def test_the_latent_loses_least():
    rng = RNG(4)
    v = rng.standard_normal((300, 8)) @ rng.standard_normal((8, 8))
    w = rng.standard_normal((8, 5)) * np.array([3, 2, 1, 1, 1, 0.1, 0.1, 2])[:, None]
    fit = latents.fit_latent(v.T @ v / len(v), w @ w.T, 3)

    def loss(a, p):
        return np.mean(np.sum(((v - v @ a @ p) @ w) ** 2, axis=1))

    least = loss(fit.a, fit.p)
    assert least == pytest.approx(fit.lost, rel=1e-8)
    for _ in range(50):
        assert loss(fit.a + 0.02 * rng.standard_normal(fit.a.shape), fit.p) > least
        assert loss(fit.a, fit.p + 0.02 * rng.standard_normal(fit.p.shape)) > least
    _, _, rows = np.linalg.svd(v, full_matrices=False)  # the plain SVD of the values loses more
    assert loss(rows[:3].T, rows[:3]) > least


def test_a_latent_as_wide_as_the_values_is_exact():
    v = RNG(5).standard_normal((100, 6))
    for width in (6, 9):
        fit = latents.fit_latent(v.T @ v, np.eye(6), width)
        assert (fit.a.shape, fit.p.shape) == ((6, width), (width, 6))
        np.testing.assert_allclose(fit.a @ fit.p, np.eye(6), atol=1e-12)


def test_regression_keeps_a_prior_that_is_right_and_leaves_one_that_is_wrong():
    rng = RNG(6)
    x, true, weights = rng.standard_normal((500, 4)), rng.standard_normal((4, 3)), rng.random(500)
    np.testing.assert_allclose(latents.ridge(x, x @ true, true, weights, 10.0), true, atol=1e-13)
    wrong = true + 1
    found = latents.ridge(x, x @ true, wrong, weights, 0.1)
    gram = (x.T * weights) @ x
    strength = 0.1 * np.trace(gram) / 4  # the gradient of the sum of both parts is 0
    np.testing.assert_allclose(gram @ (found - true) + strength * (found - wrong), 0, atol=1e-9)
    assert np.abs(found - true).max() < 0.2
