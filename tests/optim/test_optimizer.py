"""The optimizers: Muon agrees with torch's, and every parameter is in the right group."""

import math
import random
from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from torch import nn

from seedfast.errors import UserError
from seedfast.loop.plain_config import from_mapping
from seedfast.models.transformer import Transformer
from seedfast.models.transformer_network import TransformerNetwork
from seedfast.models.unet import UNet
from seedfast.optim import muon
from seedfast.optim.adamw import AdamW
from seedfast.optim.ema import Average
from seedfast.optim.optimizer import Optimizer, OptimizerConfig
from seedfast.optim.update_rule import UpdateRule

TRUE, FALSE = torch.tensor(True), torch.tensor(False)


def matrices() -> list[nn.Parameter]:
    torch.manual_seed(0)
    shapes = [(16, 16), (48, 16), (16, 16), (16, 40), (48, 16)]
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def trajectory(build: Callable[[list[nn.Parameter]], Any], broken: Collection[int] = ()) -> list[torch.Tensor]:
    """The parameters and the state of an optimizer after five steps. broken: further steps before these, not finite."""
    parameters = matrices()
    optimizer = build(parameters)
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        if step in broken:
            for parameter in parameters:
                parameter.grad = torch.full(parameter.shape, [math.nan, math.inf][step % 2])
            optimizer.step(FALSE)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step(*([TRUE] if isinstance(optimizer, UpdateRule) else []))
    state = [value for p in parameters for _, value in sorted(optimizer.state[p].items())]
    return [p.detach() for p in parameters] + state


ADAMW = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-7}
RULES: dict[str, Callable[[list[nn.Parameter]], UpdateRule]] = {
    "adamw": lambda parameters: AdamW([{"params": parameters, "weight_decay": 0.2}], **ADAMW),  # type: ignore[arg-type]
    "muon": lambda parameters: muon.StackedMuon(parameters, lr=0.02),
}


def test_adamw_has_the_bits_of_torch() -> None:
    torchs = trajectory(lambda p: torch.optim.AdamW(p, weight_decay=0.2, fused=True, **ADAMW))  # type: ignore[arg-type]
    assert all(map(torch.equal, trajectory(RULES["adamw"]), torchs))


@pytest.mark.parametrize("rule", RULES)
def test_a_step_that_is_not_finite_changes_no_bit_of_weights_and_state(rule: str) -> None:
    undisturbed = trajectory(RULES[rule])
    assert all(map(torch.equal, trajectory(RULES[rule], broken={0, 3}), undisturbed))


@pytest.mark.parametrize("rule", RULES)
def test_a_rate_that_the_device_reads_has_the_effect_of_the_number(rule: str) -> None:
    def with_tensor(parameters: list[nn.Parameter], rate: float = 0.02) -> UpdateRule:
        built = RULES[rule](parameters)
        for group in built.param_groups:
            group["lr"] = torch.tensor(rate, dtype=torch.float64)
        return built

    expected, read, twin = (trajectory(each) for each in (RULES[rule], with_tensor, lambda p: with_tensor(p, 0.021)))
    for one, other in zip(read, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)  # the kernels read it in float32
    assert not torch.allclose(twin[0], expected[0], rtol=1e-4)


def test_an_average_whose_decay_the_device_reads_is_the_average() -> None:
    raw = nn.Linear(3, 2)
    averages = [Average(raw), Average(raw), Average(raw)]
    decay = torch.tensor(0.3, dtype=torch.float64)
    with torch.no_grad():
        raw.weight.add_(1.0)
    for average, value in zip(averages, (0.3, decay, decay + 0.1), strict=True):
        average.update(value, FALSE)
        assert not torch.equal(average.network.weight, raw.weight)
        average.update(value, TRUE)
    by_number, by_tensor, twin = (average.network.weight for average in averages)
    torch.testing.assert_close(by_tensor, by_number)
    assert not torch.allclose(twin, by_number)


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.0}, {"momentum": 0.5}, {"nesterov": False}, {"ns_steps": 3}], ids=str
)
def test_stacked_muon_agrees_with_torch_to_bfloat16(options: dict[str, float]) -> None:
    """Five steps move each entry by up to 0.1; bfloat16 has three digits."""
    pairs = zip(
        trajectory(lambda p: muon.StackedMuon(p, lr=0.02, **options)),  # type: ignore[arg-type]
        trajectory(lambda p: torch.optim.Muon(p, lr=0.02, **options)),  # type: ignore[arg-type]
        strict=True,
    )
    for ours, torchs in pairs:
        assert (ours - torchs).abs().max() < 2e-3


def test_twin_muon_without_the_larger_step_of_tall_matrices_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "max", lambda low, _: low, raising=False)
    pairs = zip(trajectory(RULES["muon"]), trajectory(lambda p: torch.optim.Muon(p, lr=0.02)), strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) > 2e-3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_filters_are_updated_as_the_matrices_that_act_on_a_patch(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    values, gradient = torch.randn(2, 6, 4, 3, 3, generator=generator)
    filters = nn.Parameter(values.clone(memory_format=layout))
    matrix = nn.Parameter(values.flatten(1).clone())
    for parameter in (filters, matrix):
        optimizer = muon.StackedMuon([parameter], lr=0.1)
        parameter.grad = gradient.view(parameter.shape)
        optimizer.step(TRUE)
    assert torch.equal(filters.flatten(1), matrix)
    assert not torch.equal(matrix, values.flatten(1))


def test_muon_gets_the_filters_of_a_unet_and_adamw_its_class_embedding_and_output_layer() -> None:
    network = UNet(width=8, multipliers=(1, 2), attention=(False, True), heads=2).build(size=8, channels=1, classes=3)
    hidden, *rest = OptimizerConfig(kind="muon").build(network).parts
    placed = {id(p) for group in hidden.param_groups for p in group["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in placed}
    assert "down.0.residual.conv1.weight" in names
    assert "middle.1.qkv.weight" in names
    assert not {"label.weight", "leave.2.weight", "leave.2.bias"} & names
    assert len(rest) == 1


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32], ids=str)
def test_orthogonalised_matrices_have_singular_values_near_one(
    precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both precisions, independent of this processor."""
    monkeypatch.setattr(muon, "orthogonalisation_dtype", lambda device: precision)
    stack = torch.randn(3, 12, 30, generator=torch.Generator().manual_seed(0))
    options = {"coefficients": (3.4445, -4.775, 2.0315), "steps": 5, "eps": 1e-7}
    values = torch.linalg.svdvals(muon.orthogonalise(stack, **options))  # type: ignore[arg-type]
    assert values.min() > 0.6
    assert values.max() < 1.3


OBLONG = {"long": (3, 12, 30), "tall": (3, 30, 12), "square": (3, 16, 16)}


def difference_of_forms(stack: torch.Tensor, steps: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """The largest difference between iterations on matrices, in float64, and on Gram matrices, in float32."""
    options: dict[str, Any] = {"coefficients": (3.4445, -4.775, 2.0315), "steps": steps, "eps": 1e-7}
    by_gram = muon.orthogonalise(stack, gram=True, **options)
    monkeypatch.setattr(muon, "orthogonalisation_dtype", lambda device: torch.float64)
    return float((by_gram - muon.orthogonalise(stack.double(), **options)).abs().max())


def of_rank(rank: int, shape: str = "long") -> torch.Tensor:
    """Matrices whose other singular values are rounding alone."""
    count, height, width = OBLONG[shape]
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(count, size, rank, generator=generator) for size in (height, width))
    return left @ right.mT


@pytest.mark.parametrize(("rank", "steps"), [(2, 1), (2, 3), (2, 5), (12, 5), (12, 12)])
@pytest.mark.parametrize("shape", ["long", "tall"])
def test_iterations_on_gram_matrices_are_those_on_the_matrices_up_to_rounding(
    shape: str, rank: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert difference_of_forms(of_rank(rank, shape), steps, monkeypatch) < 1e-3


def test_twin_many_iterations_on_one_gram_matrix_diverge(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"coefficients": (3.4445, -4.775, 2.0315), "steps": 12, "eps": 1e-7, "gram": True}
    assert torch.linalg.matrix_norm(muon.orthogonalise(of_rank(2), **options), 2).max() < 1.3
    monkeypatch.setattr(muon, "_MOST_BY_GRAM", 12)
    assert not muon.orthogonalise(of_rank(2), **options).abs().max() < 10


@pytest.mark.parametrize("shape", OBLONG)
def test_only_matrices_longer_than_three_halves_of_their_width_have_other_bits(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "orthogonalisation_dtype", lambda device: torch.float32)
    stack = torch.randn(OBLONG[shape], generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"coefficients": (3.4445, -4.775, 2.0315), "steps": 5, "eps": 1e-7}
    ours, grams = (muon.orthogonalise(stack, gram=gram, **options) for gram in (False, True))
    assert torch.equal(ours, grams) == (shape == "square")


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group_and_in_the_right_one(tied: bool) -> None:
    network = Transformer(layers=2, heads=2, width=16, norm="layer", bias=True, tied=tied).build(
        vocabulary=11, context=8, causal=True
    )
    optimizer = OptimizerConfig(kind="muon", weight_decay=0.1).build(network)
    names = {id(p): name for name, p in network.named_parameters()}
    placed: dict[str, tuple[str, float]] = {}
    for part in optimizer.parts:
        for group in part.param_groups:
            for p in group["params"]:
                assert names[id(p)] not in placed
                placed[names[id(p)]] = (type(part).__name__, group["weight_decay"])
    assert set(placed) == set(names.values())
    for name, p in network.named_parameters():
        if p.ndim < 2:
            assert placed[name] == ("AdamW", 0.0), name
        elif name.startswith(("tokens.", "head.")):
            assert placed[name] == ("AdamW", 0.1), name
        else:
            assert placed[name] == ("StackedMuon", 0.1), name


def small_network() -> TransformerNetwork:
    return Transformer(layers=1, heads=2, width=16).build(vocabulary=11, context=8, causal=True)


def test_the_learning_rate_is_a_fraction_of_the_peak_of_each_optimizer() -> None:
    optimizer = OptimizerConfig(kind="muon", lr=1e-2, matrix_lr_factor=4).build(small_network())
    assert optimizer.set_lr(0.5) == {"adamw": 0.5 * 1e-2, "muon": 0.5 * 0.04}
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.02, 0.005]
    assert OptimizerConfig(lr=1e-2).build(small_network()).set_lr(0.25) == {"adamw": 0.25 * 1e-2}


def test_lr_scales_every_group_alike() -> None:
    """The rate that is called lr is that of the whole network: a sweep over it moves Muon's matrices too."""
    rates = [OptimizerConfig(kind="muon", lr=lr).build(small_network()).set_lr(1.0) for lr in (1e-2, 2e-2)]
    assert rates == [{"adamw": 1e-2, "muon": 0.015}, {"adamw": 2e-2, "muon": 0.03}]


RATES = [10 ** random.Random(n).uniform(-6, 0) for n in range(200)]


@pytest.mark.parametrize(
    ("stored", "rate"),
    [
        ({"kind": "muon", "lr": 1e-2, "matrix_lr": None}, 0.015),
        ({"kind": "muon", "lr": 3e-3, "matrix_lr": None}, 0.015),
        ({"kind": "muon", "lr": "2e-3", "matrix_lr": "5e-2"}, 0.05),
        *(({"kind": "muon", "lr": lr, "matrix_lr": rate}, rate) for lr, rate in zip(RATES, RATES[::-1], strict=True)),
    ],
)
def test_a_stored_absolute_rate_of_the_matrices_is_migrated_to_the_last_bit(stored: Any, rate: float) -> None:
    config = from_mapping(OptimizerConfig(), stored, where="run.yaml")
    assert config.matrix_lr == rate
    assert config.build(small_network()).set_lr(1.0)["muon"] == rate


def test_some_rates_are_no_multiple_in_floating_point() -> None:
    """Without the pair of numbers, the last bit of these would be lost."""
    migrated = [
        from_mapping(OptimizerConfig(), {"kind": "muon", "lr": lr, "matrix_lr": rate}, where="x").matrix_lr_factor
        for lr, rate in zip(RATES, RATES[::-1], strict=True)
    ]
    assert {type(factor) for factor in migrated} == {float, tuple}


def test_adamw_has_no_rate_of_matrices_to_migrate() -> None:
    assert from_mapping(OptimizerConfig(), {"lr": 0.1, "matrix_lr": None}, where="x") == OptimizerConfig(lr=0.1)
    with pytest.raises(UserError, match="has no effect without"):
        from_mapping(OptimizerConfig(), {"lr": 0.1, "matrix_lr": 0.2}, where="x")
    with pytest.raises(UserError, match="must be of type"):
        from_mapping(OptimizerConfig(), {"kind": "muon", "matrix_lr": "fast"}, where="x")


def step(optimizer: Optimizer, network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    for part in optimizer.parts:
        part.step(TRUE)


def test_state_tensors_are_named_after_their_parameters_and_restored() -> None:
    network = small_network()
    config = OptimizerConfig(kind="muon")
    optimizer, other = config.build(network), config.build(network)
    step(optimizer, network)
    stored = optimizer.state()
    assert set(stored) > {"blocks.0.mlp.up.weight/momentum_buffer", "tokens.weight/exp_avg", "tokens.weight/step"}
    other.load_state(stored)
    assert all(torch.equal(other.state()[name], tensor) for name, tensor in stored.items())
    with pytest.raises(ValueError, match="nothing/exp_avg belongs to no parameter"):
        other.load_state({"nothing/exp_avg": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"AdamW has no momentum_buffer, which the checkpoint has for blocks\.0"):
        OptimizerConfig().build(network).load_state(stored)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"matrix_lr_factor": 0.5}, r"optimizer\.matrix_lr_factor \(0\.5\) has no effect without optimizer\.kind muon"),
        ({"momentum": 0.9}, r"optimizer\.momentum \(0\.9\) has no effect without optimizer\.kind muon"),
        ({"lr": 0.0}, r"optimizer\.lr must be positive, not 0\.0"),
        ({"kind": "muon", "matrix_lr_factor": -1.0}, r"optimizer\.matrix_lr_factor must be positive, not -1\.0"),
        ({"eps": 0.0}, r"optimizer\.eps must be positive, not 0\.0"),
        ({"betas": (0.9, 1.0)}, r"optimizer\.betas must be in \[0, 1\), not 1\.0"),
        ({"kind": "muon", "momentum": 1.0}, r"optimizer\.momentum must be in \[0, 1\), not 1\.0"),
        ({"weight_decay": -0.1}, r"optimizer\.weight_decay must be at least 0, not -0\.1"),
    ],
    ids=str,
)
def test_invalid_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        OptimizerConfig(**options)
