"""Recomputed activations: the same losses and gradients to the last bit, also under dropout."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from seedfast import keys
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM
from seedfast.models.diffusers_unet import DiffusersUNet
from seedfast.models.dit import DiT
from seedfast.models.transformer import Transformer
from seedfast.models.unet import UNet
from seedfast.models.vit import ViT

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


IMAGE_MODELS = {
    "unet": lambda on: UNet(
        width=8, multipliers=(1, 2), blocks=1, attention=(False, True), heads=2, groups=4, dropout=0.3,
        gradient_checkpointing=on,
    ),
    "dit": lambda on: DiT(
        patch=4,
        body=Transformer(
            positions="learned", layers=2, heads=2, width=16, dropout=0.3, gradient_checkpointing=on
        ),
    ),
    "diffusers": lambda on: DiffusersUNet(
        widths=(8, 16), blocks=1, attention=(False, True), head_size=4, groups=4, dropout=0.3, gradient_checkpointing=on
    ),
    "vit": lambda on: ViT(patch=4, layers=2, heads=2, width=16, dropout=0.3, gradient_checkpointing=on),
}  # fmt: skip


def image_results(model: Any, dropout_seed: int = 3) -> tuple[list[Tensor], int]:
    """The output and the gradients of a step, and how many bytes its forward pass keeps."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.random.fork_rng():
        torch.manual_seed(1)
        is_vit = isinstance(model, ViT)
        network = model.build(size=8, channels=1, **({} if is_vit else {"classes": 3})).train()
        for parameter in network.parameters():
            if not parameter.any():  # zero at first, so that nothing behind it has a gradient
                torch.nn.init.normal_(parameter, std=0.1)
        x_BCSS, time_B = torch.randn(8, 1, 8, 8), torch.rand(8)
        keys.seed_torch(1, "dropout", dropout_seed)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = network(x_BCSS) if is_vit else network(x_BCSS, time_B)
        output.square().sum().backward()
    return [output.detach(), *(p.grad for p in network.parameters() if p.grad is not None)], sum(kept.values())


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_recomputed_activations_of_image_networks_change_no_bit_and_are_not_kept(name: str) -> None:
    (plain, stored), (recomputed, fewer) = (image_results(IMAGE_MODELS[name](on)) for on in (False, True))
    assert len(plain) == len(recomputed) > 3
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert fewer < stored
    other, _ = image_results(IMAGE_MODELS[name](True), dropout_seed=4)
    assert not torch.equal(plain[0], other[0]), "the twin, with other dropout masks, is seen"


@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_changes_no_bit(name: str) -> None:
    plain, recomputed = results(MODELS[name](False)), results(MODELS[name](True))
    assert len(plain) == len(recomputed) > 3
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    other = results(MODELS[name](True), dropout_seed=4)
    assert not torch.equal(plain[0], other[0]), "the twin, with other dropout masks, is seen"
