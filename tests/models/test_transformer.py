"""The transformer: sizes, initialisation, conditioning, selected positions, invalid options."""

import dataclasses
from typing import Any

import pytest
import torch
from tests.helpers.networks import SMALL, build, tokens
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from seedfast.errors import UserError
from seedfast.models.token_network import SequenceInputs
from seedfast.models.transformer import Transformer
from seedfast.models.transformer_block import TransformerBlock

# Two documents and padding behind them.
DOCUMENTS = torch.tensor([[0] * 6 + [1] * 8 + [2] * 2] * 2)


@pytest.mark.parametrize(
    ("options", "inner"),
    [
        ({}, 3 * 16 * 40),
        ({"mlp": "gelu"}, 8 * 16**2),
        ({"mlp": "relu2"}, 8 * 16**2),
        ({"hidden": 5}, 3 * 16 * 5),
    ],
)
def test_the_number_of_parameters_follows_from_the_shape(options: dict[str, Any], inner: int) -> None:
    network = dataclasses.replace(SMALL, **options).build(vocabulary=11, context=16, causal=True, outputs=9)
    block = 4 * 16**2 + inner
    assert sum(p.numel() for p in network.parameters()) == 2 * block + 11 * 16 + 9 * 16


def test_the_smallest_gpt2_has_124_million_parameters() -> None:
    with torch.device("meta"):
        network = Transformer.gpt2().build(vocabulary=50257, context=1024, causal=True)
    assert sum(p.numel() for p in network.parameters()) == 124_439_808


def test_tied_weights_share_storage_and_untied_ones_do_not() -> None:
    tied = build(dataclasses.replace(SMALL, tied=True))
    assert tied.output_layer.weight is tied.tokens.weight
    assert tied.output_layer.weight.data_ptr() == tied.tokens.weight.data_ptr()
    assert build().output_layer.weight.data_ptr() != build().tokens.weight.data_ptr()


def test_the_first_loss_is_log_v_and_every_weight_gets_a_gradient_after_one_step() -> None:
    torch.manual_seed(0)
    network = SMALL.build(vocabulary=11, context=16, causal=True, time_conditioned=True, memory_width=3)
    inputs: dict[str, Any] = {"time_B": torch.tensor([0.2, 0.7]), "memory_BMD": torch.randn(2, 4, 3)}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x_BL = tokens(2, 16)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(network(x_BL, **inputs).flatten(0, 1), x_BL.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(11.0).log().item(), abs=1e-6)
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize("conditioned", [False, True])
def test_every_block_starts_as_the_identity(conditioned: bool) -> None:
    network = SMALL.build(vocabulary=11, context=16, causal=True, time_conditioned=conditioned)
    entered: dict[int, torch.Tensor] = {}
    for index, block in enumerate(network.blocks):
        block.register_forward_hook(
            lambda _module, arguments, out, index=index: entered.__setitem__(index, out - arguments[0])
        )
    network(tokens(2, 8), time_B=torch.rand(2) if conditioned else None)
    assert all(not difference.any() for difference in entered.values())
    assert len(entered) == 2


def test_the_gpt2_initialisation_has_gpt2s_spread() -> None:
    torch.manual_seed(0)
    network = Transformer.gpt2(layers=8, heads=2, width=128).build(vocabulary=64, context=64, causal=True)
    block = network.blocks[0]
    assert isinstance(block, TransformerBlock)
    assert block.mlp.up.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert block.mlp.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.03)
    assert network.tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_time_has_no_effect_at_initialisation_and_has_one_after_a_step() -> None:
    torch.manual_seed(0)
    network = SMALL.build(vocabulary=11, context=16, causal=False, time_conditioned=True)
    nn.init.normal_(network.head.weight)
    x_BL, early_B, late_B = tokens(2, 8), torch.full((2,), 0.1), torch.full((2,), 0.9)
    assert torch.equal(network(x_BL, time_B=early_B), network(x_BL, time_B=late_B))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    F.cross_entropy(network(x_BL, time_B=early_B).flatten(0, 1), x_BL.flatten()).backward()
    optimizer.step()
    assert not torch.allclose(network(x_BL, time_B=early_B), network(x_BL, time_B=late_B), atol=1e-4)


def test_masked_memory_has_no_effect_and_visible_memory_has_one() -> None:
    network = build(memory_width=5)
    x_BL, memory_BMD = tokens(2, 8), torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    mask_BM = torch.tensor([[True] * 4 + [False] * 2, [True, False, True, False, True, False]])
    other_BMD = torch.where(mask_BM[..., None], memory_BMD, 100.0)
    logits_BLV = network(x_BL, memory_BMD=memory_BMD, memory_mask_BM=mask_BM)
    assert torch.equal(logits_BLV, network(x_BL, memory_BMD=other_BMD, memory_mask_BM=mask_BM))
    assert not torch.allclose(logits_BLV, network(x_BL, memory_BMD=other_BMD), atol=1e-3)  # without the mask
    short = network(x_BL[:1], memory_BMD=memory_BMD[:1, :4])
    torch.testing.assert_close(logits_BLV[:1], short, atol=1e-5, rtol=0)


def test_embeddings_instead_of_tokens_give_the_same_logits_and_hidden_states_are_the_heads_input() -> None:
    network, x_BL = build(), tokens(2, 8)
    logits_BLV = network(x_BL)
    assert torch.equal(network(embeddings_BLD=network.tokens(x_BL)), logits_BLV)
    assert torch.equal(network.head(network.hidden_states(SequenceInputs(tokens_BL=x_BL))), logits_BLV)


@pytest.mark.parametrize(
    "changed",
    [
        {"layers": 3},
        {"heads": 4},
        {"width": 24},
        {"mlp": "relu2"},
        {"mlp": "gelu"},
        {"mlp": "gelu-erf"},
        {"hidden": 24},
        {"norm": "layer"},
        {"qk_norm": False},
        {"positions": "learned"},
        {"bias": True},
        {"init": "gpt2"},
        {"tied": True},
        {"dropout": 0.5},
    ],
    ids=str,
)
def test_every_option_changes_the_trained_network(changed: dict[str, Any]) -> None:
    def trained(config: Transformer) -> torch.Tensor:
        torch.manual_seed(0)
        network = config.build(vocabulary=11, context=16, causal=True)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
        for step in range(3):
            x_BL = tokens(4, 16, seed=step)
            optimizer.zero_grad()
            F.cross_entropy(network(x_BL).flatten(0, 1), x_BL.flatten()).backward()
            optimizer.step()
        logits_BLV: torch.Tensor = network.eval()(tokens(1, 16)).detach()
        return logits_BLV

    assert not torch.allclose(trained(dataclasses.replace(SMALL, **changed)), trained(SMALL), atol=1e-6)
    assert {f.name for f in dataclasses.fields(Transformer)} >= changed.keys()


def test_a_cast_to_bfloat16_leaves_the_rotary_table_unchanged() -> None:
    network = build()
    before = network.rotary.clone()
    assert torch.equal(network.to(torch.bfloat16).rotary, before)
    assert network(tokens(1, 8)).dtype == torch.bfloat16
    assert "rotary" not in network.state_dict()


def test_autocast_to_bfloat16_gives_nearly_the_same_logits() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BLV = build()(tokens(2, 8))
    torch.testing.assert_close(logits_BLV.float(), build()(tokens(2, 8)), atol=0.3, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": 3}, r"heads \(3\) must divide model.width \(16\).*15 and 18"),
        ({"heads": 32}, "nearest possible widths are 32"),
        ({"width": 15, "heads": 5}, "head size must be even"),
        ({"layers": 0}, "model.layers must be at least 1, not 0"),
        ({"hidden": -1}, "model.hidden must be at least 1"),
        ({"dropout": 1.0}, r"model\.dropout must be in \[0, 1\), not 1.0"),
    ],
)
def test_invalid_shapes_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Transformer(**{"layers": 2, "heads": 2, "width": 16, **options})


def test_invalid_sizes_and_inputs_are_refused() -> None:
    with pytest.raises(UserError, match="tied"):
        dataclasses.replace(SMALL, tied=True).build(vocabulary=11, context=16, causal=True, outputs=10)
    with pytest.raises(UserError, match="context of a transformer"):
        SMALL.build(vocabulary=11, context=0, causal=True)
    with pytest.raises(UserError, match="17 tokens is longer than the 16 positions"):
        build()(tokens(1, 17))
    with pytest.raises(UserError, match="Only a causal network can use a key-value cache"):
        build(causal=False).cache(1)
    with pytest.raises(AssertionError, match="time_B"):
        build()(tokens(1, 4), time_B=torch.zeros(1))
    with pytest.raises(AssertionError, match="tokens or embeddings"):
        build()()


@pytest.mark.parametrize(
    "extra",
    [{}, {"time_conditioned": True}, {"memory_width": 3}, {"block": 4, "causal": False}],
    ids=["plain", "time", "memory", "blocks"],
)
def test_hidden_states_of_selected_positions_are_those_of_all_positions(extra: dict[str, Any]) -> None:
    network = SMALL.build(**{"vocabulary": 11, "context": 16, "causal": True} | extra).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # gates and residual outputs start at zero
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) / 4)
    inputs: dict[str, Any] = {
        "time_conditioned": {"time_B": torch.tensor([0.2, 0.7])},
        "memory_width": {"memory_BMD": torch.randn(2, 4, 3)},
        "block": {"clean_BL": tokens(2, 16)},
    }.get(next(iter(extra), ""), {})
    where_N = torch.tensor([0, 3, 15, 16, 30])
    given = SequenceInputs[Any](tokens_BL=tokens(2, 16), **inputs)
    all_BLW = network.hidden_states(given)
    selected_NW = network.hidden_states(dataclasses.replace(given, where_N=where_N))
    assert selected_NW.shape == (5, 16)
    assert torch.allclose(selected_NW, all_BLW.flatten(0, 1)[where_N], atol=1e-6)
    rolled_NW = network.hidden_states(dataclasses.replace(given, where_N=where_N.roll(1)))
    assert not torch.allclose(rolled_NW, selected_NW, atol=1e-2)  # the broken twin is caught


def test_an_unknown_input_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'documents'"):
        build()(tokens(1, 4), documents=torch.zeros(1, 4))


class HostSynchronisations(TorchDispatchMode):
    """Records the operations that copy a value from the device, or whose output shape depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_dim", "_unique2"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({}, {"documents_BL": DOCUMENTS, "real_BL": DOCUMENTS < 2, "where_N": torch.tensor([0, 3, 17])}),
        ({"causal": False, "block": 4}, {"documents_BL": DOCUMENTS, "clean_BL": tokens(2, 16)}),
        (
            {"time_conditioned": True, "memory_width": 3},
            {"time_B": torch.rand(2), "memory_BMD": torch.randn(2, 4, 3), "memory_mask_BM": torch.ones(2, 4).bool()},
        ),
    ],
    ids=["packed and padded", "blocks", "conditioned"],
)
def test_a_training_step_never_waits_for_the_device(options: dict[str, Any], inputs: dict[str, Any]) -> None:
    network = build(**options).train()
    targets_N = torch.zeros(3 if "where_N" in inputs else 32, dtype=torch.int64)
    with HostSynchronisations() as seen:
        network(tokens(2, 16), targets_N=targets_N, **inputs).nats_N.sum().backward()
    assert seen.found == []
    with HostSynchronisations() as seen:  # the broken twin is caught
        assert bool((DOCUMENTS >= 0).all())
        DOCUMENTS.nonzero()
    assert seen.found == ["_local_scalar_dense", "nonzero"]
