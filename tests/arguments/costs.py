"""Public functions of the costs, with arguments that are right; as in :mod:`tests.arguments.layers`."""

from gta_ref.costs import flops, frontier, hardware, llm_viewer, memory, operators, roofline
from gta_ref.costs.experts import Experts
from gta_ref.costs.model import Group, Model
from gta_ref.costs.summary import summary
from gta_ref.mechanisms import load
from tests.arguments.layers import CONFIGS

GTA_1B = Model.preset("gta-1b")
STRUCTURE = GTA_1B.structure
H100 = hardware.get("h100")
EXPERTS = Experts(1, 4, 2, 1, 3)


def cost_functions():
    sizes = {"batch": 2, "length": 8}
    return {
        "mechanisms.load": (load, lambda: {"name": "gta"}),
        "pairs": (flops.pairs, lambda: {"new": 3, "held": 2, "causal_saving": True}),
        "attention_layer": (
            flops.attention_layer,
            lambda: {"structure": STRUCTURE, "new": 3, "held": 2, "causal_saving": True},
        ),
        "forward_macs": (
            flops.forward_macs,
            lambda: {"model": GTA_1B, "batch": 1, "new": 3, "held": 2, "causal_saving": True, "all_logits": True},
        ),
        "training_macs": (
            flops.training_macs,
            lambda: {"model": GTA_1B, **sizes, "fused": True, "causal_saving": True},
        ),
        "cache_bytes": (memory.cache_bytes, lambda: {"model": GTA_1B, **sizes, "dtype": "float32"}),
        "weight_bytes": (memory.weight_bytes, lambda: {"model": GTA_1B, "dtype": "float32"}),
        "attention_activations": (
            memory.attention_activations,
            lambda: {"structure": STRUCTURE, **sizes, "fused": True},
        ),
        "training_activations": (memory.training_activations, lambda: {"model": GTA_1B, **sizes, "fused": True}),
        "operators": (
            operators.operators,
            lambda: {"model": GTA_1B, "batch": 2, "new": 3, "held": 2, "fused": True, "itemsize": 2},
        ),
        "operators.attention": (
            operators.attention,
            lambda: {"s": STRUCTURE, "batch": 2, "new": 3, "held": 2, "fused": True},
        ),
        "llm_viewer.operators": (
            llm_viewer.operators,
            lambda: {"model": GTA_1B, **sizes, "prefill": True, "fused": True},
        ),
        "estimate": (
            roofline.estimate,
            lambda: (
                {"model": GTA_1B, "stage": "decode", **sizes, "hardware": H100, "fused": True} | {"convention": "moved"}
            ),
        ),
        "time": (
            roofline.time,
            lambda: {"found": operators.operators(GTA_1B, 1, 2, 3, fused=True), "hardware": H100},
        ),
        "check_fits": (roofline.check_fits, lambda: {"model": GTA_1B, **sizes, "hardware": H100}),
        "speed_ups": (
            frontier.speed_ups,
            lambda: (
                {"model": GTA_1B, "baseline": GTA_1B, "hardware": H100, "batches": (1, 2), "lengths": (8, 16)}
                | {"convention": "moved"}
            ),
        ),
        "choices": (
            frontier.choices,
            lambda: {"hidden_size": 8, "n_heads": 4, "head_dim": 2, "parameters": 0, "latent_dims": (2, 4)},
        ),
        "summary": (
            summary,
            lambda: (
                {"models": [GTA_1B], **sizes, "hardware": H100, "fused": True, "convention": "moved"}
                | {"dtype": "float32"}
            ),
        ),
        "Hardware": (
            hardware.Hardware,
            lambda: {"name": "x", "peak": 1e12, "bandwidth": 1e9, "memory": None, "source": "a test"},
        ),
        "hardware.get": (hardware.get, lambda: {"text": "h100"}),
        "Model": (
            Model,
            lambda: (
                {"name": "x", "groups": (Group(STRUCTURE, STRUCTURE, 1),), "intermediate_size": 4, "vocab_size": 5}
                | {"tied": True, "experts": EXPERTS}
            ),
        ),
        "Model.of": (
            Model.of,
            lambda: (
                {"name": "x", "mechanism": "gta", "attention": CONFIGS["gta"], "n_layers": 2} | {"experts": EXPERTS}
            ),
        ),
        "Experts": (Experts, lambda: {"first": 1, "routed": 4, "used": 2, "shared": 1, "width": 3}),
        "Experts.macs": (EXPERTS.macs, lambda: {"hidden_size": 8}),
        "Experts.parameters": (EXPERTS.parameters, lambda: {"hidden_size": 8}),
        "Experts.kept": (EXPERTS.kept, lambda: {"hidden_size": 8}),
        "Experts.operators": (EXPERTS.operators, lambda: {"hidden_size": 8, "tokens": 3}),
        "Model.preset": (Model.preset, lambda: {"name": "gta-1b"}),
        "Model.from_dict": (Model.from_dict, lambda: {"sizes": {"mechanism": "gqa", "n_k": 5}}),
        "Model.parse": (Model.parse, lambda: {"text": "gqa n_k=5"}),
    }
