"""Layers in 4 bits: their code in closed form, nearest values, and products with gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import norm
from tests.helpers import tiny_models
from torch import nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.adapter import Adapter, merged
from seedfast.models.causal_lm import PretrainedLM
from seedfast.models.four_bit import BLOCK, CODE, FourBitLinear, dequantise, quantise


def test_the_code_is_made_of_quantiles_of_the_normal_distribution() -> None:
    """Eight negative and nine positive quantiles with zero in common, scaled to [-1, 1] (section 3 of QLoRA)."""
    end = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))
    half = [(norm.ppf(torch.linspace(end, 0.5, count)[:-1].numpy())).tolist() for count in (9, 8)]
    values = sorted([*half[0], 0.0, *(-value for value in half[1])])
    assert [value / max(values) for value in values] == pytest.approx(list(CODE), abs=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (3, 5), (7, 130)])
def test_each_weight_becomes_the_nearest_value_of_its_block(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    packed, scale = quantise(weight)
    assert packed.dtype == torch.uint8
    assert 2 * len(packed) == BLOCK * len(scale) == -(-weight.numel() // BLOCK) * BLOCK
    back = dequantise(packed, scale, shape, torch.float32).flatten()
    twin = dequantise((packed % 16) * 16 + packed // 16, scale, shape, torch.float32).flatten()
    assert not torch.allclose(twin, back), "the twin, with the halves of a byte exchanged, is seen"
    code = torch.tensor(CODE)
    for start in range(0, weight.numel(), BLOCK):
        block = weight.flatten()[start : start + BLOCK]
        allowed = code * block.abs().max()
        nearest = allowed[(block[:, None] - allowed).abs().argmin(1)]
        torch.testing.assert_close(back[start : start + BLOCK], nearest)


def test_zeros_stay_zeros_and_values_of_the_code_stay_themselves() -> None:
    weight = torch.cat([torch.zeros(BLOCK), torch.tensor(CODE).repeat(4) * 3])
    assert dequantise(*quantise(weight), (2, BLOCK), torch.float32).flatten().equal(weight)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_layer_multiplies_by_its_weight_and_so_does_its_gradient(is_transposed: bool) -> None:
    layer: Any = nn.Linear(48, 32)
    if is_transposed:
        layer = tiny_models.transformers.pytorch_utils.Conv1D(32, 48)
        nn.init.normal_(layer.bias)
    layer.requires_grad_(False)
    made = FourBitLinear(layer)
    x = torch.randn(5, 48, requires_grad=True)
    y = made(x)
    weight = made.expanded(torch.float32)
    torch.testing.assert_close(y, F.linear(x, weight, layer.bias))
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], 2 * y @ weight)
    torch.testing.assert_close(made.plain()(x), y)
    assert type(made.plain()) is type(layer)
    error = (y - layer(x)).detach().norm() / layer(x).detach().norm()
    assert 0.01 < error < 0.2


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@torch.no_grad()
def test_an_adapted_model_in_4_bits_computes_what_its_merged_one_does(kind: str, tmp_path: Path) -> None:
    folder = tiny_models.folder(tmp_path / kind, kind)
    config = PretrainedLM(path=str(folder), adapter=Adapter(kind="lora", base_precision="nf4")).located()
    network: Any = config.build(vocabulary=272, context=16, causal=True)
    config.initialise(network)
    network.eval()
    frozen = [p for p in network.parameters() if not p.requires_grad]
    assert {p.dtype for p in network.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in frozen} == {torch.bfloat16, torch.uint8, torch.float32}
    ids = torch.arange(24).view(2, 12)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    expected = network(ids).float()
    whole = merged(network.model)
    assert not any(isinstance(module, FourBitLinear) for module in whole.modules())
    assert {name for name, _ in whole.named_parameters()} == {
        name for name, _ in tiny_models.model(kind, 272).named_parameters()
    }
    error = (whole(ids).logits.float() - expected).norm() / expected.norm()
    assert error < 0.05  # merged weights are rounded to bfloat16


def test_norms_of_weights_are_not_to_be_had_in_4_bits() -> None:
    with pytest.raises(UserError, match="nf4 does not go with dora"):
        Adapter(kind="dora", base_precision="nf4")
    with pytest.raises(UserError, match=r"base_precision .* has no effect without"):
        Adapter(base_precision="bf16")
