"""Dump a model's activations with forward hooks, for ``gta-ref verify model``.

    python dump_transformers.py CHECKPOINT activations.safetensors "The capital of France is"
    gta-ref verify model CHECKPOINT activations.safetensors

CHECKPOINT is a folder that transformers can load. For a program of your own, keep the part from `dump` on: the names
are those of the modules, and what matters is the output of each of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

# modules whose input is a stage as well: after the gate or the activation, or after the residual
INPUTS = ("o_proj", "down_proj", "post_attention_layernorm")


def dump(model: torch.nn.Module, ids: torch.Tensor, path: str | Path) -> None:
    """Run `model` on ids (B, N) and write the output of every module, the logits and the ids."""
    found: dict[str, torch.Tensor] = {"ids": ids}

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            out = output[0] if isinstance(output, tuple) else output  # attention returns its map besides
            if isinstance(out, torch.Tensor):
                found[name] = out
            if name.endswith(INPUTS) and inputs:
                found[f"{name}.input"] = inputs[0]

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        found["logits"] = model(ids, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    # contiguous copies, because safetensors refuses arrays that share memory
    save_file({name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in found.items()}, path)


def main(checkpoint: str, path: str, text: str) -> None:
    """Load a checkpoint and a tokenizer, and dump the activations for a text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto").eval()
    dump(model, AutoTokenizer.from_pretrained(checkpoint)(text, return_tensors="pt").input_ids, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
