"""Sizes at which an index that is off shows. Mutants of the operations that no other test had found led to these cases."""

import numpy as np
import pytest

from gta_ref import ops


def test_softmax_of_empty_rows_in_more_dimensions():
    y, lse, _ = ops.softmax_lse_forward(np.zeros((2, 3, 4, 0)))
    assert y.shape == (2, 3, 4, 0)
    assert lse.shape == (2, 3, 4)
    assert np.isneginf(lse).all()


def test_a_vocabulary_of_one_word():
    """The probability of the only word is 1, and a target that is ignored need not be an index."""
    loss, saved = ops.cross_entropy_forward(np.array([[[3.0]], [[-1.0]]]), np.array([[0], [-100]]))
    assert loss == 0
    assert not ops.cross_entropy_backward(1.0, saved).any()
    divergence, saved = ops.kl_forward(np.array([[3.0], [-1.0]]), np.array([[0.5], [2.0]]))
    assert divergence == 0
    assert not ops.kl_backward(1.0, saved).any()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_the_divergence_of_no_tokens_is_zero(shape):
    divergence, saved = ops.kl_forward(np.zeros(shape, np.float32), np.ones(shape, np.float32))
    assert divergence == 0
    dlogits = ops.kl_backward(1.0, saved)
    assert (dlogits.shape, dlogits.dtype) == (shape, np.float32)
