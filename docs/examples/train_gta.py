"""Train a small GTA language model on Python's own source, from data to sample, in one file.

    python docs/examples/train_gta.py            400 steps, some minutes on two cores
    python docs/examples/train_gta.py 10         10 steps, to see that it runs

The model has 4 layers of width 128. A token is a byte. This is the loop of ``gta-ref train`` without its files,
threads and checks.
"""

import sys

import numpy as np

import gta_ref as gr
from gta_ref.lm import generate, model, optimizer, text

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 400
BATCH, LENGTH = 16, 256  # sequences per step, bytes per sequence
PEAK, WARMUP, DECAY, LARGEST = 6e-3, min(40, STEPS), 0.1, 1.0  # learning rate, its warm-up, weight decay, clipping


def main() -> None:
    """Train and print."""
    # the data: windows of LENGTH + 1 bytes; the targets are the ids moved by one
    source = text.standard_library()
    held_out = next(source.held_out(BATCH, LENGTH, BATCH))

    # the model: 8 output heads share 2 attention maps over 1 key head and 1 latent value head, 32 wide
    attention = gr.gta.Config(128, n_heads=8, head_dim=16, n_q=2, n_k=1, n_c=1, latent_dim=32, bias=False)
    config = model.Config(text.VOCABULARY, n_layers=4, intermediate_size=384, attention=attention)
    params = model.init(config, np.random.default_rng(0))
    cached = gr.gta.structure(attention).cache_elements
    print(f"{sum(p.size for p in params.values()):,} parameters; {cached} cached elements per token and layer")

    moments = optimizer.zeros(params)
    rng = np.random.default_rng(1)
    for step in range(1, STEPS + 1):
        ids, targets = source.batch(rng, BATCH, LENGTH)  # (B, N) both
        loss, saved = model.loss_forward(params, ids, config, targets=targets)  # nats per byte
        grads = model.loss_backward(saved)
        grads, norm = optimizer.clip(grads, LARGEST)
        rate = optimizer.learning_rate(step, STEPS, PEAK, WARMUP, final_fraction=0.1)
        params, moments = optimizer.step(params, grads, moments, step, rate, DECAY)
        if step == 1 or step % 20 == 0 or step == STEPS:
            print(f"step {step:4}  loss {float(loss):.3f}  gradient {norm:.2f}  learning rate {rate:.1e}", flush=True)

    loss, _ = model.loss_forward(params, held_out[0], config, targets=held_out[1])
    print(f"held-out loss {float(loss):.3f} nats per byte; a guess among all bytes has {np.log(256):.3f}")
    prompt = b"def "
    caches = model.new_caches(config, batch=1, capacity=256)
    sample = generate.stream(params, prompt, config, 200, caches=caches, temperature=0.8)
    print((prompt + bytes(sample)).decode(errors="replace"))


if __name__ == "__main__":
    main()
