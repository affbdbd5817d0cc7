"""Ready adapters: make the functions and modules of other libraries into implementations that can be verified.

    mine = adapters.torch_core(my_attention, causal="causal", scale="softmax_scale")
    print(verify(mine, suite="attention", capabilities=mine.capabilities))

``torch_core``, ``jax_core``, ``mlx_core`` and ``numpy_core`` make an attention core of a function of (q, k, v);
``torch_module`` makes a layer of a module and the names of its parameters. An adapter converts arrays
by itself, computes the gradients, and raises NotImplementedError in a case that cannot be told to the function, so that
the case is skipped with a reason. Its ``capabilities`` are what it can be asked for at all.
"""

from __future__ import annotations

from gta_ref.verify.adapters.cores import jax_core, mlx_core, numpy_core, torch_core
from gta_ref.verify.adapters.modules import torch_module

__all__ = ["jax_core", "mlx_core", "numpy_core", "torch_core", "torch_module"]
