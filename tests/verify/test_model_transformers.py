"""docs/examples/dump_transformers.py on models of transformers; without it, the hooks on a module of the same names."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from gta_ref.files import read_tensors
from gta_ref.verify.models.verify import verify_model

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "dump_transformers.py"
MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
needs_transformers = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def example():
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("dump_transformers", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_transformers
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["LlamaConfig", "Qwen2Config", "Qwen3Config"])
def test_a_model_of_transformers_passes(tmp_path, kind, dtype):
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, kind)(
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=96,
        num_hidden_layers=3,
        vocab_size=300,
        initializer_range=0.15,
        pad_token_id=None,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    # loaded rather than converted: .to(torch.bfloat16) would round RoPE's frequencies
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype)).eval()
    example().dump(model, torch.randint(0, 300, (2, 24)), tmp_path / "dump")
    report = verify_model(tmp_path, tmp_path / "dump")
    assert report.exit_status == 0, report
    assert report.dtype == dtype
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.1)
    example().dump(model, torch.randint(0, 300, (2, 24)), tmp_path / "dump")
    assert verify_model(tmp_path, tmp_path / "dump").wrong.stage == "blocks.1.mlp.up"


def test_what_the_hooks_write(tmp_path):
    module = example()
    import torch
    from torch import nn

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.o_proj, self.lm_head = nn.Linear(3, 3), nn.Linear(3, 5)

        def forward(self, ids, use_cache):
            assert use_cache is False
            x = torch.nn.functional.one_hot(ids, 3).float()
            self.seen = x
            return type("Output", (), {"logits": self.lm_head(self.o_proj(x))})

    inner, ids = Inner(), torch.tensor([[0, 2, 1]])
    module.dump(inner, ids, tmp_path / "dump")
    found, _ = read_tensors(tmp_path / "dump")
    assert found.keys() == {"ids", "o_proj", "o_proj.input", "lm_head", "logits"}
    np.testing.assert_array_equal(found["o_proj.input"], inner.seen.numpy())
    np.testing.assert_array_equal(found["o_proj"], inner.o_proj(inner.seen).detach().numpy())
    np.testing.assert_array_equal(found["lm_head"], found["logits"])
    assert not inner.o_proj._forward_hooks  # removed
