"""A diffusion transformer of image patches, DiT (Peebles & Xie 2023), on the transformer of the text families.

Shapes: B batch, C channels, S height and width, L tokens, W width, P values of a patch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.config import ImageModel, Size
from seedfast.models.network import CompiledInTraining, Network
from seedfast.models.transformer import Transformer
from seedfast.models.unet import check_size
from seedfast.options import AtLeast, check

_SIZES: Mapping[Size, tuple[int, int, int]] = {
    "tiny": (6, 6, 192),
    "small": (12, 6, 384),
    "base": (12, 12, 768),
    "large": (24, 16, 1024),
    "xl": (28, 16, 1152),
}
"""Layers, heads and width of DiT-S, B, L and XL (Peebles & Xie 2023, table 1), and of the recipe ("tiny")."""


@dataclass(frozen=True, kw_only=True)
class DiT(ImageModel):
    """The shape of a diffusion transformer."""

    patch: Annotated[int, AtLeast(1)] = 4
    """Height and width of a patch in pixels."""
    body: Transformer = field(default_factory=lambda: Transformer(positions="learned", width=192, heads=6, layers=6))
    """The transformer of the patches; the time shifts, scales and gates each of its blocks."""

    def __post_init__(self) -> None:
        check(self, "model.")
        if self.body.tied:
            raise UserError("model.body.tied would share the class embedding with the pixels: leave it out.")
        if self.body.ngrams:
            raise UserError("model.body.ngrams embeds tokens, and an image has none: leave it out.")

    def sizes(self) -> Mapping[Size, Self]:
        """The shapes of the paper, with this patch."""
        return {size: replace(self, body=self.body.shaped(*shape)) for size, shape in _SIZES.items()}

    def build(self, *, size: int, channels: int, classes: int) -> "DiTNetwork":
        """A freshly initialised network. Raises UserError if the patches do not divide an image of this size."""
        check_size(size, self.patch, "model.patch")
        return DiTNetwork(self, size=size, channels=channels, classes=classes)


class DiTNetwork(Network):
    """The network of `DiT.build`. The label is the first token, before the patches."""

    def __init__(self, config: DiT, *, size: int, channels: int, classes: int) -> None:
        super().__init__()
        self.patch, self.classes = config.patch, classes
        patch_values = channels * config.patch**2
        self.enter = nn.Linear(patch_values, config.body.width)
        self.body = config.body.build(
            vocabulary=classes + 1,
            outputs=patch_values,
            context=1 + (size // config.patch) ** 2,
            causal=False,
            time_conditioned=True,
        )

    @property
    def blocks_in_order(self) -> list[nn.Module]:
        """The blocks of the transformer."""
        return self.body.blocks_in_order

    @property
    def compiled_parts(self) -> list[CompiledInTraining]:
        """The blocks of the transformer."""
        return self.body.compiled_parts

    @property
    def output_layer(self) -> nn.Linear:
        """The output layer of the transformer."""
        return self.body.head

    @property
    def label_embedding(self) -> nn.Embedding:
        """The embedding of the first token."""
        return self.body.tokens

    def forward(self, x_BCSS: Tensor, time_B: Tensor, label_B: Tensor | None = None) -> Tensor:
        """The network's output at this time, [B, C, S, S]."""
        if label_B is None:
            label_B = torch.full_like(time_B, self.classes, dtype=torch.int64)
        patches = F.pixel_unshuffle(x_BCSS, self.patch)
        tokens_BLW = torch.cat([self.body.tokens(label_B)[:, None], self.enter(patches.flatten(2).mT)], dim=1)
        output_BLP = self.body(embeddings_BLD=tokens_BLW, time_B=time_B)[:, 1:]
        return F.pixel_shuffle(output_BLP.mT.reshape(patches.shape), self.patch)
