"""The decoder of a plain nanoGPT-style loop, written for these benchmarks."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class PlainBlock(nn.Module):
    """A block as nanoGPT has it: LayerNorm without bias, fused causal attention, GELU."""

    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.gelu, self.down = nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        split = self.qkv(self.norm1(x)).split(d, dim=2)
        q, k, v = (s.view(b, t, self.heads, d // self.heads).transpose(1, 2) for s in split)
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(b, t, d))
        return x + self.down(self.gelu(self.up(self.norm2(x))))


class Plain(nn.Module):
    """The plain decoder."""

    def __init__(self, shape):
        super().__init__()
        d = shape.d_model
        self.tokens = nn.Embedding(shape.vocab_size, d)
        self.positions = nn.Embedding(shape.context_length, d)
        self.blocks = nn.ModuleList(PlainBlock(d, shape.num_heads) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(d, bias=False)
        self.head = nn.Linear(d, shape.vocab_size, bias=False)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
