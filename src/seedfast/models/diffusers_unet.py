"""`diffusers.UNet2DModel` as a network of seedfast."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.huggingface import first_line
from seedfast.models.config import ImageModel, Size
from seedfast.models.network import Network
from seedfast.models.unet import check_levels, check_size
from seedfast.options import AddedLater, Affects, AtLeast, Between, Example, check


@dataclass(frozen=True, kw_only=True)
class DiffusersUNet(ImageModel):
    """The shape of diffusers' U-Net. `seedfast export` writes a finished run as a pipeline of diffusers."""

    widths: Annotated[tuple[int, ...], AtLeast(1), Example((8, 24), widths=(8, 16), attention=(False, True))] = (
        32,
        64,
        128,
    )
    """Channels of each level; each level has half the height and width of the one before."""
    blocks: Annotated[int, AtLeast(1)] = 2
    """Residual blocks in each level."""
    attention: Annotated[tuple[bool, ...], Example((True, False), widths=(8, 16), attention=(False, True))] = (
        False,
        False,
        True,
    )
    """Whether each level has attention."""
    head_size: Annotated[int, AtLeast(1)] = 8
    """Channels of an attention head."""
    groups: Annotated[int, AtLeast(1)] = 8
    """Groups of GroupNorm; must divide every level's channels."""
    dropout: Annotated[float, Between(0, 1, open_high=True)] = 0.0
    """Dropout in the residual blocks."""

    gradient_checkpointing: Annotated[bool, Affects("computation"), AddedLater(False)] = False
    """Recompute the activations of each block in the backward pass instead of storing them: a third slower, much less
    memory, the same numbers."""

    def __post_init__(self) -> None:
        check(self, "model.")
        check_levels("model.widths", self.widths, self.attention)
        if any(width % self.groups for width in self.widths):
            raise UserError(f"model.groups ({self.groups}) must divide all of model.widths {self.widths}.")
        if any(width % self.head_size for width in self.widths):
            raise UserError(f"model.head_size ({self.head_size}) must divide all of model.widths {self.widths}.")

    def sizes(self) -> Mapping[Size, Self]:
        """The levels of the sizes of `UNet`, whose folded pixels this network lacks."""
        return {size: replace(self, **shape) for size, shape in _SIZES.items()}

    def build(self, *, size: int, channels: int, classes: int) -> "DiffusersNetwork":
        """A freshly initialised network. Raises UserError if diffusers is missing or the size cannot be halved."""
        check_size(size, 2 ** (len(self.widths) - 1), "model.widths")
        try:
            from diffusers import UNet2DModel
        except ModuleNotFoundError:
            raise UserError("This network needs diffusers: pip install 'seedfast[diffusers]'.") from None
        unet = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=self.blocks,
            block_out_channels=self.widths,
            down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in self.attention),
            up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(self.attention)),
            attention_head_dim=self.head_size,
            norm_num_groups=self.groups,
            dropout=self.dropout,
            num_class_embeds=classes + 1 if classes > 1 else None,
        )
        if self.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        return DiffusersNetwork(unet, classes)


_SIZES: Mapping[Size, Mapping[str, Any]] = {
    "tiny": {"widths": (32, 64, 128), "blocks": 2, "attention": (False, False, True), "head_size": 8, "groups": 8},
    "small": {"widths": (64, 128, 128), "blocks": 2, "attention": (False, False, True), "head_size": 32, "groups": 32},
    "base": {"widths": (128, 256, 256, 256), "blocks": 2, "attention": (False, True, False, False)}
    | {"head_size": 64, "groups": 32},
    "large": {"widths": (128, 256, 384, 512), "blocks": 3, "attention": (False, False, True, True)}
    | {"head_size": 64, "groups": 32},
    "xl": {"widths": (192, 384, 576, 768), "blocks": 3, "attention": (False, True, True, True)}
    | {"head_size": 64, "groups": 32},
}


class DiffusersNetwork(Network):
    """The network of `DiffusersUNet.build`, or one that was stored.

    patch: height and width of the blocks of pixels that are channels of the U-Net.
    """

    def __init__(self, unet: nn.Module, classes: int, *, patch: int = 1) -> None:
        super().__init__()
        self.unet, self.classes, self.patch = unet, classes, patch

    @property
    def blocks_in_order(self) -> list[nn.Module]:
        """The levels on the way down, the middle, and the levels on the way up."""
        unet: Any = self.unet
        return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]

    @property
    def label_embedding(self) -> nn.Embedding | None:
        """The embedding that diffusers adds to the time's."""
        return self.unet.class_embedding  # type: ignore[return-value]

    def forward(self, x_BCSS: Tensor, time_B: Tensor, label_B: Tensor | None = None) -> Tensor:
        """The network's output at this time (in units of 1/1000 for diffusers), [B, C, S, S]."""
        if self.classes > 1 and label_B is None:
            label_B = torch.full_like(time_B, self.classes, dtype=torch.int64)
        if self.patch > 1:
            x_BCSS = F.pixel_unshuffle(x_BCSS, self.patch)
        output: Tensor = self.unet(x_BCSS, time_B * 1000, class_labels=label_B, return_dict=False)[0]
        return F.pixel_shuffle(output, self.patch) if self.patch > 1 else output


@dataclass(frozen=True, kw_only=True)
class StoredUNet(ImageModel):
    """A U-Net that diffusers stored in the folder `path`. patch: as in `DiffusersNetwork`."""

    path: str
    patch: int = 1

    def build(self, *, size: int, channels: int, classes: int) -> DiffusersNetwork:
        """The network with its weights.

        Raises UserError if diffusers is missing, or the U-Net cannot be read or is of another size.
        """
        try:
            from diffusers import UNet2DModel
        except ModuleNotFoundError:
            raise UserError("This network needs diffusers: pip install 'seedfast[diffusers]'.") from None
        try:
            unet = UNet2DModel.from_pretrained(self.path, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{self.path} holds no U-Net of diffusers ({first_line(error)}).") from error
        shape = unet.config
        found = (shape.in_channels, shape.sample_size * self.patch, shape.num_class_embeds)
        expected = (channels * self.patch**2, size, classes + 1 if classes > 1 else None)
        if found != expected:
            raise UserError(f"The U-Net in {self.path} has {found} channels, pixels and classes, not {expected}.")
        return DiffusersNetwork(unet, classes, patch=self.patch)
