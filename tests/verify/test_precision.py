"""The reference in float64 against a plain attention core and GTA layer in long double, written apart from it."""

import numpy as np
import pytest

from gta_ref.verify import cases
from gta_ref.verify.terms import largest_terms
from gta_ref.verify.tolerance import ulp
from gta_ref.verify.truth import draw

LONG = np.longdouble
# the large cases would take minutes, because long double has no BLAS
SMALL = [case for case in cases.CASES if "large" not in case.tags]
MOST = 16.0  # ulp of the largest term; measured: 9.6, for a sum over 4097 keys

needs_long_double = pytest.mark.skipif(
    bool(np.finfo(LONG).eps > 2.0**-60), reason="this machine's long double is not more precise than float64"
)


def seen_by(a, causal, n_queries, n_keys):
    """Which query sees which key, and which slots are in use, by the rule as it is written in the docs."""
    seen = np.zeros((len(a["k_start"]), n_queries, n_keys), bool)
    for b, i, j in np.ndindex(seen.shape):
        seen[b, i, j] = a["k_start"][b] <= j < a["k_stop"][b] and (not causal or j <= a["q_start"][b] + i)
    used = (np.arange(n_keys) >= a["k_start"][:, None]) & (np.arange(n_keys) < a["k_stop"][:, None])
    return seen, used


def attention(a, settings):
    """z, lse, d_q, d_k, d_v in long double, map by map."""
    q, k, v, d_z = (a[name].astype(LONG) for name in ("q", "k", "v", "d_z"))
    (batch, n_q, n_queries, width), n_keys = q.shape, k.shape[2]
    seen, used = seen_by(a, settings["mask"].get("causal", True), n_queries, n_keys)
    scale = LONG(settings.get("scale") or 1 / np.sqrt(np.float64(width)))
    z, lse = np.zeros(d_z.shape, LONG), np.full(q.shape[:3], -np.inf, LONG)
    d_q, d_k, d_v = np.zeros(q.shape, LONG), np.zeros(k.shape, LONG), np.zeros(v.shape, LONG)
    for b, m in np.ndindex(batch, n_q):
        h_k, h_v = m * k.shape[1] // n_q, m * v.shape[1] // n_q
        keys, values = k[b, h_k][used[b]], v[b, h_v][used[b]]
        rows = np.flatnonzero(seen[b].any(-1))
        if not len(rows):
            continue
        s = np.where(seen[b][rows][:, used[b]], q[b, m, rows] @ keys.T * scale, -np.inf)
        top = s.max(-1, keepdims=True)
        e = np.exp(s - top)
        lse[b, m, rows] = (top + np.log(e.sum(-1, keepdims=True)))[:, 0]
        p = e / e.sum(-1, keepdims=True)
        z[b, m, rows] = p @ values
        d_p = d_z[b, m, rows] @ values.T
        inner = d_p - (d_z[b, m, rows] * z[b, m, rows]).sum(-1, keepdims=True)  # another form of the row sum
        if "d_lse" in a:
            inner = inner + a["d_lse"][b, m, rows].astype(LONG)[:, None]
        d_s = p * inner
        d_q[b, m, rows] = d_s @ keys * scale
        d_k[b, h_k, used[b]] += d_s.T @ q[b, m, rows] * scale
        d_v[b, h_v, used[b]] += p.T @ d_z[b, m, rows]
    return {"z": z, "lse": lse, "d_q": d_q, "d_k": d_k, "d_v": d_v}


def off(problem, exact):
    """The error of the reference in float64, in ulp of the largest term, by array."""
    found = problem.compute(problem.inputs)
    terms = largest_terms(problem, found)
    errors = {}
    for name, want in exact.items():
        finite = np.isfinite(want)
        np.testing.assert_array_equal(found[name][~finite], want[~finite].astype(float))
        error = float(np.abs(found[name][finite] - want[finite]).max(initial=0))
        errors[name] = error / ulp(terms[name], "float64") if terms[name] else error
    return errors


@needs_long_double
@pytest.mark.parametrize("case", [case for case in SMALL if case.level == "attention"], ids=lambda case: case.name)
def test_attention(case):
    problem = draw(case, "float64")
    errors = off(problem, attention(problem.inputs, case.settings))
    assert max(errors.values()) < MOST, errors


def gta(a, settings):
    """The output of a GTA layer in long double, head by head: Eq. 7 of the paper, with values decoded before the sum."""
    c, x = settings["config"], a["x"].astype(LONG)
    w = {name: a[name].astype(LONG) for name in a if name.startswith(("w_", "b_"))}
    batch, n_tokens, _ = x.shape
    d, n_h, n_q = c["head_dim"], c["n_heads"], c["n_q"]
    pairing = c.get("rope_pairing", "half")
    frequencies = [LONG(np.float64(c.get("rope_theta", 10000.0)) ** (-2 * t / d)) for t in range(d // 2)]
    pairs = [(2 * t, 2 * t + 1) if pairing == "interleaved" else (t, t + d // 2) for t in range(d // 2)]

    def project(name, heads):
        return (x @ w[f"w_{name}"] + w.get(f"b_{name}", LONG(0))).reshape(batch, n_tokens, heads, -1)

    def turned(y):
        y = y.copy()
        for frequency, (i, j) in zip(frequencies if pairing != "none" else [], pairs, strict=False):
            angle = a["positions"].astype(LONG) * frequency
            cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
            y[..., i], y[..., j] = y[..., i] * cos - y[..., j] * sin, y[..., j] * cos + y[..., i] * sin
        return y

    q, k = turned(project("q", n_q)), turned(project("k", c["n_k"]))
    latents, gates = project("c", c["n_c"]), None
    if c.get("gate", "sigmoid") != "none":
        g = project("g", n_h)
        sigmoid = 1 / (1 + np.exp(-g))
        gates = {"sigmoid": sigmoid, "silu": g * sigmoid, "relu2": np.maximum(g, 0) ** 2}[c.get("gate", "sigmoid")]
    heads = np.zeros((batch, n_tokens, n_h, d), LONG)
    for b, i in np.ndindex(batch, n_h):
        m, place = i * n_q // n_h, i % (n_h // n_q) * d  # the map of head i, and its columns in the map's decoder
        values = latents[b, :, m * c["n_c"] // n_q] @ w["w_p"][m, :, place : place + d]
        if c.get("decoder_residual"):
            columns = np.arange(place, place + d) % c["latent_dim"]
            values = values + latents[b, :, m * c["n_c"] // n_q][:, columns]
        for t in range(n_tokens):
            keys = [j for j in range(t + 1) if a["k_start"][b] <= j < a["k_stop"][b]]
            if keys:
                s = k[b, keys, m * c["n_k"] // n_q] @ q[b, t, m] * LONG(1 / np.sqrt(np.float64(d)))
                e = np.exp(s - s.max())
                heads[b, t, i] = e / e.sum() @ values[keys]
    return {"out": (heads if gates is None else heads * gates).reshape(batch, n_tokens, -1) @ w["w_o"]}


@needs_long_double
@pytest.mark.parametrize(
    "case", [c for c in SMALL if c.level == "layer" and c.settings["mechanism"] == "gta" and c.settings["length"] < 100],
    ids=lambda case: case.name,
)  # fmt: skip
def test_gta(case):
    """Decoding too: the output is that of whole sequences."""
    problem = draw(case, "float64")
    found, exact = problem.compute(problem.inputs)["out"], gta(problem.inputs, case.settings)["out"]
    # an angle of p radians is itself rounded, to p · 2⁻⁵³
    most = max(MOST, float(problem.inputs["positions"].max()))
    assert np.abs(found - exact).max() < most * ulp(float(np.abs(exact).max()), "float64")
