"""The initialisation of a transformer, as `Transformer.init` describes it."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from seedfast.models.attention import QKV
from seedfast.models.transformer_block import TransformerBlock

if TYPE_CHECKING:
    from seedfast.models.transformer_network import TransformerNetwork


@torch.no_grad()
def initialise(network: "TransformerNetwork") -> None:
    """Draw all weights with torch's generator."""
    config, gpt2 = network.config, network.config.init == "gpt2"
    blocks = [module for module in network.modules() if isinstance(module, TransformerBlock)]
    residual_outputs = {id(module) for block in blocks for module in block.residual_outputs()}
    tables = set(map(id, network.ngrams.tables)) if network.ngrams else set[int]()
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            std = 0.02 if gpt2 or config.tied else 1.0  # an n-gram that is never seen adds nothing
            nn.init.normal_(module.weight, std=0.0 if id(module) in tables else std)
        elif isinstance(module, QKV):
            module.initialise(0.02 if gpt2 else config.width**-0.5)
        elif isinstance(module, nn.Linear) and module is not network.head:
            std = 0.02 if gpt2 else module.in_features**-0.5
            if id(module) in residual_outputs:
                # Zero, except behind a gate that starts at zero: there neither would ever receive a gradient.
                std = std / (2 * config.layers) ** 0.5 if gpt2 or network.time is not None else 0.0
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if not config.tied:
        nn.init.normal_(network.head.weight, std=0.02 if gpt2 else 0.0)
    for modulation in [network.modulation, *(block.modulation for block in blocks)]:
        if modulation is not None:
            nn.init.zeros_(modulation.weight)
