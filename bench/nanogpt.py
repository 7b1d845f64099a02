"""nanoGPT's model and sampling loop, in our words: what the benchmarks of language models are compared with."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, HEADS, WIDTH = 4, 4, 128


class Block(nn.Module):
    """nanoGPT's block."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.attention, self.projection = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, W] to the same."""
        batch, length, _ = x.shape
        q, k, v = (
            each.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)
            for each in self.attention(self.ln_1(x)).split(WIDTH, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).contiguous().view(batch, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class NanoGPT(nn.Module):
    """nanoGPT's model: LayerNorm, learned positions, GELU, tied embedding, no bias, its initialisation."""

    def __init__(self, context: int, vocabulary: int) -> None:
        super().__init__()
        self.context = context
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(context, WIDTH)
        self.blocks = nn.ModuleList(Block(context) for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("projection.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * LAYERS) ** 0.5 if residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of all positions, [B, L, V]."""
        logits: Tensor = self.head(self.hidden_states(tokens))
        return logits

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """The input of the output layer, [B, L, W]."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        normalised: Tensor = self.norm(x)
        return normalised

    @torch.no_grad()
    def generate(self, tokens: Tensor, count: int) -> Tensor:
        """nanoGPT's sampling loop."""
        for _ in range(count):
            recent = tokens if tokens.shape[1] <= self.context else tokens[:, -self.context :]
            probabilities = F.softmax(self.head(self.hidden_states(recent)[:, -1, :]), dim=-1)
            tokens = torch.cat([tokens, torch.multinomial(probabilities, num_samples=1)], dim=1)
        return tokens
