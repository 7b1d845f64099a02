"""Image encoders: a small vision transformer trained from scratch, and any vision model of transformers.

Shapes: B batch, C channels, S height and width, M patches, W width.
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast import huggingface
from seedfast.errors import UserError
from seedfast.models.attention import SelfAttention
from seedfast.models.network import recomputed
from seedfast.models.rms_norm import RMSNorm
from seedfast.models.transformer_block import MLP, BlockContext, TransformerBlock
from seedfast.options import AddedLater, Affects, AtLeast, Between, check


@dataclass(frozen=True, kw_only=True)
class ViT:
    """A vision transformer (Dosovitskiy et al. 2021) that is trained from scratch."""

    patch: int = 8
    """Height and width of a patch in pixels, a power of two. A stem of convolutions with stride two reduces the image
    by it: it trains better than one large stride (Xiao et al. 2021)."""
    layers: Annotated[int, AtLeast(1)] = 4
    """Blocks, each of attention and MLP."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads; must divide the width."""
    width: Annotated[int, AtLeast(1)] = 128
    """Channels of the residual stream."""
    dropout: Annotated[float, Between(0, 1, open_high=True)] = 0.0
    """Dropout of attention weights and of the output of each attention and MLP."""

    gradient_checkpointing: Annotated[bool, Affects("computation"), AddedLater(False)] = False
    """Recompute the activations of each block in the backward pass instead of storing them: a third slower, much less
    memory, the same numbers."""

    def __post_init__(self) -> None:
        check(self, "model.vit.")
        if self.patch < 2 or self.patch & (self.patch - 1):
            raise UserError(f"model.vit.patch must be a power of two and at least 2, not {self.patch}.")
        if self.width % self.heads:
            raise UserError(f"model.vit.heads ({self.heads}) must divide model.vit.width ({self.width}).")

    def build(self, *, size: int, channels: int) -> "ViTNetwork":
        """A new network, initialised by torch's generator. Raises UserError if patches do not fit into the size."""
        if size % self.patch:
            raise UserError(f"model.vit.patch ({self.patch}) must divide the size of the images ({size}).")
        return ViTNetwork(self, size=size, channels=channels)


class Downsample(nn.Module):
    """A 3 × 3 convolution with stride two whose weight is a matrix, so that Muon trains it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(9 * in_channels, out_channels)
        nn.init.normal_(self.mix.weight, std=(9 * in_channels) ** -0.5)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H/2, W/2]."""
        height, width = (size // 2 for size in x_BCHW.shape[2:])
        y: Tensor = self.mix(F.unfold(x_BCHW, 3, padding=1, stride=2).transpose(1, 2))
        return y.transpose(1, 2).reshape(len(y), -1, height, width)


class ViTNetwork(nn.Module):
    """A vision transformer: a convolutional stem, then blocks with full attention between the patches."""

    def __init__(self, config: ViT, *, size: int, channels: int) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        halvings = config.patch.bit_length() - 1
        widths = [channels, *[config.width // 2] * (halvings > 1), *[config.width] * max(1, halvings - 1)]
        self.stem = nn.ModuleList(Downsample(*pair) for pair in pairwise(widths))
        self.positions = nn.Embedding((size // config.patch) ** 2, config.width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.blocks = nn.ModuleList(self._block(layer) for layer in range(config.layers))
        self.norm = self._norm()

    @property
    def blocks_in_order(self) -> list[nn.Module]:
        """Each block."""
        return list(self.blocks)

    def _norm(self) -> nn.Module:
        return RMSNorm(self.width)

    def _block(self, layer: int) -> TransformerBlock:
        config = self.config
        attention = SelfAttention(
            width=config.width, heads=config.heads, qk_norm=True, bias=False, dropout=config.dropout, layer=layer
        )
        attention.qkv.initialise(config.width**-0.5)
        hidden = (
            max(1, round(config.width / 3)) * 8
        )  # as many parameters as two matrices with a hidden width of 4 · width
        mlp = MLP(kind="swiglu", width=config.width, hidden=hidden, bias=False)
        for part in mlp.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=part.in_features**-0.5)
        block = TransformerBlock(
            attention=attention, mlp=mlp, cross=None, modulation=None, norm=self._norm, dropout=config.dropout
        )
        for layer_out in block.residual_outputs():
            nn.init.zeros_(layer_out.weight)
        return block

    def forward(self, x_BCSS: Tensor) -> Tensor:
        """The features of each patch, [B, M, W], from normalised pixels."""
        for index, layer in enumerate(self.stem):
            x_BCSS = layer(x_BCSS if index == 0 else F.gelu(x_BCSS))
        x_BMW = x_BCSS.flatten(2).transpose(1, 2) + self.positions.weight
        for block in self.blocks:
            inputs = (x_BMW, BlockContext())  # no mask: every patch attends to every other
            x_BMW = recomputed(block, *inputs) if self.config.gradient_checkpointing else block(*inputs)
        normed: Tensor = self.norm(x_BMW)
        return normed


def architecture(name: str) -> str:
    """The transformers configuration of a vision model, or of the vision part of a model like CLIP, as JSON.

    Raises UserError if the model has no image input.
    """
    shape = huggingface.fetch("The vision model", name, huggingface.transformers().AutoConfig.from_pretrained)
    shape = getattr(shape, "vision_config", shape)
    if not hasattr(shape, "num_channels"):
        raise UserError(f"{name} is of the type {shape.model_type}, which has no image input.")
    left_out = ("transformers_version", "dtype", "architectures")
    values = {key: value for key, value in shape.to_diff_dict().items() if key not in left_out}
    return json.dumps({**values, "model_type": shape.model_type}, sort_keys=True)


class PretrainedVision(nn.Module):
    """A vision model of transformers; its features are the last hidden state."""

    def __init__(self, architecture: str, *, size: int, random_weights: bool) -> None:
        """random_weights: whether torch's generator initialises the weights; False if others will be loaded."""
        super().__init__()
        transformers = huggingface.transformers()
        from transformers.initialization import no_init_weights

        try:
            values = dict(json.loads(architecture))
            with huggingface.quiet(), nullcontext() if random_weights else no_init_weights():
                shape = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
                self.model = transformers.AutoModel.from_config(shape, dtype=torch.float32, trust_remote_code=False)
        except (ValueError, KeyError, TypeError, ImportError) as error:
            raise UserError(
                f"model.architecture is not the configuration of a vision model: {huggingface.first_line(error)}"
            ) from error
        self.width, self.unused = self._probe(size)

    @property
    def blocks_in_order(self) -> list[nn.Module]:
        """Its layers."""
        return huggingface.blocks(self.model)

    def _probe(self, size: int) -> tuple[int, tuple[str, ...]]:
        """The width of the features, and the parameters that they do not depend on (a pooler's), which are frozen."""
        try:
            x = self(torch.zeros(1, self.model.config.num_channels, size, size))
        except (ValueError, RuntimeError, TypeError) as error:
            raise UserError(
                f"{type(self.model).__name__} cannot process images of {size} pixels: {huggingface.first_line(error)}"
            ) from error
        named = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(x.sum(), [parameter for _, parameter in named], allow_unused=True)
        unused = [(name, p) for (name, p), gradient in zip(named, gradients, strict=True) if gradient is None]
        for _, parameter in unused:
            parameter.requires_grad_(False)
        return x.shape[-1], tuple(name for name, _ in unused)

    def load_pretrained(self, name: str) -> None:
        """Load the pretrained weights. Raises UserError if they cannot be loaded, or some are missing."""
        model, found = huggingface.fetch(
            "The vision model",
            name,
            lambda source, **where: type(self.model).from_pretrained(
                source, config=self.model.config, dtype=torch.float32, output_loading_info=True, **where
            ),
        )
        if missing := sorted(set(found["missing_keys"]) - set(self.unused)):
            raise UserError(f"{name} lacks weights of its encoder: {', '.join(missing[:3])}.")
        self.model.load_state_dict(model.state_dict())

    def forward(self, x_BCSS: Tensor) -> Tensor:
        """The features, [B, M, W], of normalised pixels: of a class token and registers, if any, and of each patch."""
        x: Tensor = self.model(pixel_values=x_BCSS).last_hidden_state
        return x if x.ndim == 3 else x.flatten(2).transpose(1, 2)  # the feature map of a convolutional model
