"""Small networks and token sequences for tests."""

from typing import Any

import torch

from seedfast.models.transformer import Transformer
from seedfast.models.transformer_network import TransformerNetwork

SMALL = Transformer(layers=2, heads=2, width=16)


def scramble(network: TransformerNetwork, seed: int = 0) -> TransformerNetwork:
    """The network with random weights, none of them zero: no two outputs are equal by accident."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def build(config: Transformer = SMALL, **options: Any) -> TransformerNetwork:
    return scramble(config.build(**{"vocabulary": 11, "context": 16, "causal": True, **options}))


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(seed))
