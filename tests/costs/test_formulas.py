"""The structure compared with the paper's closed formulas (its complexity table), for all six mechanisms."""

import pytest

from gta_ref.costs.flops import attention_layer, pairs
from gta_ref.mechanisms import gha, gqa, gta, gva, mha, mla

H, N_H, D = 96, 12, 8  # n_h d_h = H, as in every published model
# without biases and, except for GTA, without a gate: the paper counts neither

# structure, cache / N, attention / N², linear / N
TABLE = {
    "mha": (mha.structure(mha.Config(H, N_H, D)), 2 * N_H * D, 2 * N_H * D, 4 * H**2),
    "gqa": (gqa.structure(gqa.Config(H, N_H, D, n_k=3)), 2 * 3 * D, 2 * N_H * D, 2 * H**2 + 2 * 3 * D * H),
    "mqa": (gqa.structure(gqa.Config(H, N_H, D, n_k=1)), 2 * 1 * D, 2 * N_H * D, 2 * H**2 + 2 * 1 * D * H),
    "gva": (gva.structure(gva.Config(H, N_H, D, n_q=4)), H + 4 * D, 4 * D + N_H * D, None),
    "gha": (
        gha.structure(gha.Config(H, N_H, D, n_q=4, n_k=2, n_v=6)),
        2 * D + 6 * D,
        4 * D + N_H * D,
        H**2 + (4 + 2 + 6) * D * H,
    ),
    "gta": (
        gta.structure(gta.Config(H, N_H, D, n_q=4, n_k=2, n_c=1, latent_dim=24)),
        2 * D + 24,
        4 * (D + 24),
        2 * H**2 + (4 * D + 2 * D + 24 + 24) * H,
    ),
    "mla": (
        mla.structure(mla.Config(H, N_H, latent_dim=20, nope_dim=D, rope_dim=4, value_dim=D)),
        20 + 4,
        N_H * (4 + 2 * D),
        (20 + 4) * H + N_H * (4 + D) * H + 2 * N_H * 20 * D + H**2,
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_papers_table(name):
    structure, cache, attention, linear = TABLE[name]
    assert structure.cache_elements == cache
    assert structure.attention_macs == attention
    if linear is not None:
        assert structure.linear_macs == linear


def test_gva_linear():
    """The paper's row is 2 H² + 2 n_k d_h H: that of GQA with n_k maps, as if not all n_h values were projected.

    By counting, W_V and W_O are H × H, and W_Q and W_K are H × n_q d_h (n_q = n_k), which is the same number.
    """
    structure = TABLE["gva"][0]
    assert structure.linear_macs == 2 * H**2 + 2 * 4 * D * H


def test_mla_the_other_way():
    """Absorbed, MLA has the same linear products and a wider core, and a decoding step repeats no product."""
    config = mla.Config(H, N_H, latent_dim=20, nope_dim=D, rope_dim=4, value_dim=D)
    plain, absorbed = mla.structure(config), mla.structure(config, absorb=True)
    assert plain.linear_macs == absorbed.linear_macs
    assert absorbed.attention_macs == N_H * (20 + 4 + 20)
    assert (plain.n_k, absorbed.n_k) == (N_H, 1)
    assert absorbed.held_macs == 0
    assert plain.held_macs == 2 * N_H * D * 20
    # a step of one token after 99: decompressing costs 100 times the up-projections
    assert attention_layer(plain, 1, 99)["linear"] == plain.linear_macs + 99 * plain.held_macs
    assert attention_layer(absorbed, 1, 99)["linear"] == plain.linear_macs


@pytest.mark.parametrize("new, held", [(1, 0), (1, 7), (5, 0), (5, 3)])
def test_pairs_are_those_of_the_mask(new, held):
    from gta_ref.core import Mask

    assert pairs(new, held) == Mask().to_dense(new, held + new).sum()
    assert pairs(new, held, causal_saving=False) == new * (held + new)
