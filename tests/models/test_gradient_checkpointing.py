"""Recomputed activations: the same losses and gradients to the last bit, also under dropout."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from seedfast import keys
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM
from seedfast.models.transformer import Transformer

_GPT2 = json.dumps({"model_type": "gpt2", "vocab_size": 40, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2})
MODELS = {
    "own": lambda on: Transformer(layers=2, heads=2, width=16, init="gpt2", dropout=0.3, gradient_checkpointing=on),
    "gpt2": lambda on: PretrainedLM(architecture=_GPT2, dropout=0.3, gradient_checkpointing=on),
    "lora": lambda on: PretrainedLM(
        architecture=_GPT2, dropout=0.3, gradient_checkpointing=on, adapter=Adapter(kind="lora", dropout=0.2)
    ),
    "nf4": lambda on: PretrainedLM(
        architecture=_GPT2, dropout=0.3, gradient_checkpointing=on, adapter=Adapter(kind="lora", base_precision="nf4")
    ),
}


def results(model: Any, dropout_seed: int = 3) -> list[Tensor]:
    """The loss and the gradients of a step."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = model.build(vocabulary=40, context=12, causal=True).train()
        ids = torch.randint(0, 40, (3, 12))
        keys.seed_torch(1, "dropout", dropout_seed)
        scores = network(ids, where_N=torch.arange(5), targets_N=torch.arange(5))
        loss = scores.nats_N.sum()
        loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_changes_no_bit(name: str) -> None:
    plain, recomputed = results(MODELS[name](False)), results(MODELS[name](True))
    assert len(plain) == len(recomputed) > 3
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    other = results(MODELS[name](True), dropout_seed=4)
    assert not torch.equal(plain[0], other[0]), "the twin, with other dropout masks, is seen"
