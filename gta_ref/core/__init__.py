"""The attention core, (q, k, v, mask) → (z, lse): one definition, several engines that compute it."""

from gta_ref.core.engines import EngineError, attention_backward, attention_forward
from gta_ref.core.mask import Mask

__all__ = ["EngineError", "Mask", "attention_backward", "attention_forward"]
