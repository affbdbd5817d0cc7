"""Reference implementation of Grouped-head latenT Attention (GTA, arXiv 2506.17286).

Framework-free: NumPy and Numba on the CPU, CuPy and Numba CUDA on a GPU, with every forward and
backward pass written out. Start with :mod:`gta_ref.mechanisms.gta`; the letters used for shapes are
in ``docs/notation.md``.

>>> import gta_ref as gr
>>> config = gr.gta.Config.preset("gta-1b")

Everything below is imported on first use, so that ``import gta_ref`` takes milliseconds: the mechanisms ``gr.gta``,
``gr.mha``, ``gr.gqa``, ``gr.mla``, ``gr.gva`` and ``gr.gha``; ``gr.KVCache``, ``gr.Mask``, ``gr.attention_forward``,
``gr.attention_backward``; ``gr.verify``, ``gr.load_model``, ``gr.set_threads``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gta_ref.mechanisms import NAMES

__version__ = "0.2.0"

# name: the module that has it; a name without a colon is the module itself
_PLACES = {
    **{name: f"gta_ref.mechanisms.{name}" for name in NAMES},
    "KVCache": "gta_ref.cache:KVCache",
    "Mask": "gta_ref.core:Mask",
    "EngineError": "gta_ref.core:EngineError",
    "attention_forward": "gta_ref.core:attention_forward",
    "attention_backward": "gta_ref.core:attention_backward",
    "verify": "gta_ref.verify",
    "load_model": "gta_ref.weights.load:load_model",
    "set_threads": "gta_ref.threads:set_threads",
}
__all__ = [*_PLACES]

if TYPE_CHECKING:
    from gta_ref import verify as verify
    from gta_ref.cache import KVCache as KVCache
    from gta_ref.core import EngineError as EngineError
    from gta_ref.core import Mask as Mask
    from gta_ref.core import attention_backward as attention_backward
    from gta_ref.core import attention_forward as attention_forward
    from gta_ref.mechanisms import gha as gha
    from gta_ref.mechanisms import gqa as gqa
    from gta_ref.mechanisms import gta as gta
    from gta_ref.mechanisms import gva as gva
    from gta_ref.mechanisms import mha as mha
    from gta_ref.mechanisms import mla as mla
    from gta_ref.threads import set_threads as set_threads
    from gta_ref.weights.load import load_model as load_model


def __getattr__(name: str) -> Any:
    """Import a name of the table on first use and keep it."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, member = _PLACES[name].partition(":")
    found = import_module(module)
    globals()[name] = getattr(found, member) if member else found
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
