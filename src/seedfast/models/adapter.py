"""Adapters: a few new weights added to a frozen pretrained network, through `peft`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from safetensors import SafetensorError

from seedfast.errors import UserError
from seedfast.huggingface import first_line
from seedfast.models.four_bit import is_linear, quantise_layers, restore_layers
from seedfast.options import AtLeast, Between, Example, MoreThan, OnlyWith, check

_LOW_RANK = ("lora", "dora", "rslora")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The trained part of a pretrained network: all weights, or an adapter on frozen weights."""

    kind: Annotated[Literal["none", "lora", "dora", "rslora", "ia3"], Example("rslora")] = "none"
    """`none` trains all weights. `lora`: W + (alpha / rank) B A (Hu et al. 2021); `dora`: the same on directions, with
    learned magnitudes (Liu et al. 2024); `rslora`: alpha / √rank instead (Kalajdzievski 2023); `ia3`: learned gains of
    activations (Liu et al. 2022)."""
    rank: Annotated[int | None, AtLeast(1), OnlyWith(kind=_LOW_RANK), Example(2)] = None
    """Rank of the update B A (default 8)."""
    alpha: Annotated[float | None, MoreThan(0), OnlyWith(kind=_LOW_RANK), Example(1.0)] = None
    """Scale of the update (default twice the rank)."""
    dropout: Annotated[float | None, Between(0, 1, open_high=True), OnlyWith(kind=_LOW_RANK), Example(0.5)] = None
    """Dropout rate of the input of A (default 0)."""
    targets: Annotated[tuple[str, ...], OnlyWith(kind=(*_LOW_RANK, "ia3")), Example(("c_attn",))] = ()
    """Names of the adapted layers, such as q_proj (default: every linear layer except the output layer; for ia3, the
    layers that peft lists for the architecture)."""
    base_precision: Annotated[Literal["fp32", "bf16", "nf4"], OnlyWith(kind=(*_LOW_RANK, "ia3"))] = "fp32"
    """Type of the frozen weights: `bf16` halves their memory, and activations are bfloat16 too; `nf4` also stores
    linear layers in 4 bits (QLoRA, Dettmers et al. 2023). The adapter stays in float32."""

    def __post_init__(self) -> None:
        check(self, "model.adapter.")
        if self.kind == "dora" and self.base_precision == "nf4":
            raise UserError(
                "model.adapter.base_precision=nf4 does not go with dora, which needs the norms of the frozen weights: "
                "choose another kind, or bf16."
            )

    @property
    def base_type(self) -> torch.dtype:
        """The type of the model that `wrap` takes."""
        return torch.float32 if self.base_precision == "fp32" else torch.bfloat16

    def wrap(self, model: Any) -> Any:
        """A transformers model with frozen weights and the adapter; the model itself for the kind "none".

        Torch's generator draws the new weights; a new adapter leaves the model's outputs unchanged. Raises UserError if
        peft is missing or a target does not exist.
        """
        if self.kind == "none":
            return model
        try:
            import peft
        except ImportError as error:
            raise UserError("Adapters need peft: pip install 'seedfast[finetune]'.") from error
        if self.base_precision == "nf4":
            quantise_layers(model)
        shape: Any
        if self.kind == "ia3":
            # Without targets, peft looks up both lists; with targets, no layer is treated as a feed-forward layer.
            shape = peft.IA3Config(
                target_modules=list(self.targets) or None, feedforward_modules=[] if self.targets else None
            )
        else:
            rank = self.rank or 8
            shape = peft.LoraConfig(
                r=rank,
                lora_alpha=2 * rank if self.alpha is None else self.alpha,
                lora_dropout=self.dropout or 0.0,
                target_modules=list(self.targets) or "all-linear",
                use_dora=self.kind == "dora",
                use_rslora=self.kind == "rslora",
            )
        shape.task_type = peft.TaskType.CAUSAL_LM
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about GPT-2's transposed layers, which peft handles correctly
            try:
                return peft.get_peft_model(model, shape)
            except ValueError as error:
                linear = {name.rpartition(".")[2] for name, part in model.named_modules() if is_linear(part)}
                raise UserError(
                    f"This model has no layers for model.adapter.targets={self.targets} with {self.kind}; "
                    f"its linear layers are called {', '.join(sorted(linear))}."
                ) from error


def is_adapted(model: Any) -> bool:
    """Whether a transformers model is inside a peft model, as `Adapter.wrap` returns it."""
    return hasattr(model, "disable_adapter")  # peft is an optional package, so its class cannot be named here


def merged(model: Any) -> Any:
    """The transformers model with the changes of its adapter added to its weights. The peft model is used up."""
    restore_layers(model)
    return model.merge_and_unload()


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """The peft model computes as its base alone. peft freezes the adapter meanwhile, and thaws a frozen one after."""
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with model.disable_adapter():
        yield
    for parameter, is_trained in trained.items():
        parameter.requires_grad_(is_trained)


def load_adapter(model: Any, folder: Path) -> Any:
    """A transformers model with the adapter that peft wrote into `folder`.

    Raises UserError if peft is missing, or the adapter cannot be read or belongs to another model.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError("Adapters need peft: pip install 'seedfast[finetune]'.") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about GPT-2's transposed layers, which peft handles correctly
        try:
            return peft.PeftModel.from_pretrained(model, str(folder))
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"The adapter in {folder} cannot be used ({first_line(error)}).") from error
