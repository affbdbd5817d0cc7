"""The published models: which mechanism each has, and the sizes of the model around it.

A mechanism's own sizes are the presets of its Config.
"""

from __future__ import annotations

from typing import Any

PUBLISHED = {"gta-1b": "gta", "gqa-1b": "gqa"}  # name: mechanism

# the model around the attention layers: that of GTA-1B, and of GQA-1B, its baseline in the paper
BASE: dict[str, Any] = {"n_layers": 54, "intermediate_size": 3584, "vocab_size": 128256, "tied": True}
BASE_ATTENTION: dict[str, Any] = {"hidden_size": 1280, "n_heads": 20, "head_dim": 64}
