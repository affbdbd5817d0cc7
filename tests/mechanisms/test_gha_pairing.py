"""GHA's pairing of maps and value heads: against pairs written by hand and loops over heads; no pair occurs twice."""

import numpy as np
import pytest

from gta_ref.mechanisms import gha

# (n_h, n_q, n_v): (map, value head) of every output head, written by hand
BY_HAND = {
    (8, 4, 4): [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3)],  # two blocks of two
    (6, 3, 2): [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)],  # one block: the full crossing
    (6, 2, 6): [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5)],  # one block per map: GVA
    (4, 4, 2): [(0, 0), (1, 0), (2, 1), (3, 1)],  # one map per head: GQA
    (4, 1, 4): [(0, 0), (0, 1), (0, 2), (0, 3)],  # one map for all
}


@pytest.mark.parametrize("sizes", BY_HAND, ids=str)
def test_pairs(sizes, rng):
    """Each head is softmax(q_m kᵀ/√d) v_h of its own pair (m, h), and of no other."""
    (n_h, n_q, n_v), n_k, d, length = sizes, 1, 3, 6
    config = gha.Config(10, n_h, d, n_q, n_k, n_v, rope_pairing="none")
    params = gha.init(config, rng, "float64")
    x = rng.standard_normal((1, length, 10))
    trace = {}
    gha.forward(params, x, config, trace=trace)
    heads = trace["heads"][0].reshape(length, n_h, d)

    def of_pair(m, h):
        q = x[0] @ params["w_q"][:, m * d : (m + 1) * d]
        k = x[0] @ params["w_k"]
        v = x[0] @ params["w_v"][:, h * d : (h + 1) * d]
        o = np.zeros((length, d))
        for t in range(length):
            weights = np.exp(np.array([q[t] @ k[s] for s in range(t + 1)]) / np.sqrt(d))
            for s in range(t + 1):
                o[t] += weights[s] / weights.sum() * v[s]
        return o

    for i, pair in enumerate(BY_HAND[sizes]):
        for m, h in np.ndindex(n_q, n_v):
            same = np.allclose(heads[:, i], of_pair(m, h), rtol=0, atol=1e-12)
            assert same == ((m, h) == pair), f"head {i} and the pair {(m, h)}"


@pytest.mark.parametrize("n_h", [1, 2, 4, 6, 12, 20])
def test_every_pair_differs_at_every_size(n_h, rng):
    """For all allowed n_q and n_v, the n_h heads of a layer differ from each other."""
    allowed = 0
    for n_q, n_v in np.ndindex(n_h + 1, n_h + 1):
        try:
            config = gha.Config(8, n_h, 2, n_q, 1, n_v)
        except ValueError:
            continue
        allowed += 1
        trace = {}
        gha.forward(gha.init(config, rng, "float64"), rng.standard_normal((1, 3, 8)), config, trace=trace)
        heads = trace["heads"].reshape(3, n_h, 2).swapaxes(0, 1).reshape(n_h, 6)
        distance = np.abs(heads[:, None] - heads).max(axis=-1) + np.eye(n_h)
        assert distance.min() > 1e-6, (n_q, n_v)
    divisors = [q for q in range(1, n_h + 1) if n_h % q == 0]
    assert allowed == sum(sum(q % s == 0 for s in range(1, q + 1)) for q in divisors)  # every s that divides n_q
