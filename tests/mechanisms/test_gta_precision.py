"""float32 stays float32 from end to end, and stays close to float64."""

import numpy as np
import pytest

from gta_ref.mechanisms import gta

CONFIG = gta.Config.preset("gta-1b")
EPS = np.finfo(np.float32).eps


@pytest.mark.parametrize("length", [64, 1024, 4096])
def test_float32_error(length, rng):
    """Every stage is right to 8 eps of its largest value, and every gradient to 8 + √N eps.

    The longest product of the forward pass has 1280 terms for any N. The gradient of a weight is a sum over N tokens,
    one after the other, whose independent roundings add up to √N times one of them.
    """
    params = gta.init(CONFIG, rng, "float32")
    x = rng.standard_normal((1, length, CONFIG.hidden_size)).astype(np.float32)
    dout = rng.standard_normal(x.shape).astype(np.float32)

    def run(dtype):
        p = {name: a.astype(dtype) for name, a in params.items()}
        stages = {} if length < 4096 else None  # at 4096 the scores alone are 0.7 GB in float64
        out, saved = gta.forward(p, x.astype(dtype), CONFIG, engine="reference", trace=stages)
        dx, grads = gta.backward(dout.astype(dtype), saved)
        return {"out": out, **(stages or {})}, {"dx": dx, **grads}

    single, double = run(np.float32), run(np.float64)
    for kind, bound in ((0, 8), (1, 8 + np.sqrt(length))):
        for name, exact in double[kind].items():
            got = single[kind][name]
            assert got.dtype == np.float32, name
            error = np.abs(got - exact).max() / np.abs(exact).max() / EPS
            assert error <= bound, f"{name}: {error:.1f} eps"
