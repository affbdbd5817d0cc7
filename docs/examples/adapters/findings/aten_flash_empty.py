"""The operator that PyTorch calls for flash attention on a CPU ends the process where there is no token.

scaled_dot_product_attention itself treats this case before it gets there.
"""

import signal
import subprocess
import sys

import torch

PROGRAM = """
import torch
q, k = torch.zeros(1, 2, {n_q}, 16), torch.zeros(1, 2, {n_k}, 16)
print(tuple(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, k)[0].shape))
"""

print("torch", torch.__version__)
for n_q, n_k in ((4, 4), (4, 0), (0, 4), (0, 0)):
    run = subprocess.run([sys.executable, "-c", PROGRAM.format(n_q=n_q, n_k=n_k)], capture_output=True, text=True)
    lines = run.stdout.split("\n") if run.returncode == 0 else run.stderr.strip().split("\n")[-1:]
    text = f"ended by {signal.Signals(-run.returncode).name}" if run.returncode < 0 else lines[0]
    print(f"N_q = {n_q}, N_k = {n_k}: {text}")
