"""torch.nn.MultiheadAttention gives NaN to a row that sees no key if weights are asked for, and numbers if not."""

import torch

torch.manual_seed(0)
attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
x = torch.randn(1, 3, 8)
hidden = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])  # row 0 sees nothing
print("torch", torch.__version__)
for need_weights in (True, False):
    attention.zero_grad()
    z, _ = attention(x, x, x, attn_mask=hidden, need_weights=need_weights)
    z[:, 1:].sum().backward()  # the loss leaves row 0 out
    bad = [int(rows.isnan().sum()) for rows in (z[:, 0], z[:, 1:], attention.in_proj_weight.grad)]
    print(f"need_weights={need_weights}: NaN in row 0: {bad[0]}, in the others: {bad[1]}, in the gradient: {bad[2]}")
