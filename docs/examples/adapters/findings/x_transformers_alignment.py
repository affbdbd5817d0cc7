"""x-transformers' causal flag for more queries than keys: aligned to the end, and with flash=True to the start.

All scores are 0 and v is the identity, so that entry (i, j) of z is positive where row i sees key j; a row that sees
nothing gets the mean of v.
"""

from importlib.metadata import version

import torch
from x_transformers.attend import Attend

print("x-transformers", version("x-transformers"))
for n_q, n_k in ((3, 5), (5, 3)):
    q, k, v = torch.zeros(1, 1, n_q, 8), torch.zeros(1, 1, n_k, 8), torch.eye(n_k, 8)[None, None]
    for flash in (False, True):
        z = Attend(heads=1, causal=True, flash=flash)(q, k, v)[0]
        rows = ("".join("01"[int(x > 0)] for x in row) for row in z[0, 0, :, :n_k])
        print(f"N_q = {n_q}, N_k = {n_k}, flash={flash}:", *rows)
