"""A transformer of patches for image diffusion: DiT (Peebles & Xie 2023) on the backbone of the text families."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.config import ModelConfig
from seedfast.models.network import Network
from seedfast.models.transformer import Transformer
from seedfast.models.unet import check_size


@dataclass(frozen=True, kw_only=True)
class PatchTransformer(ModelConfig):
    """The shape of a patch transformer."""

    patch: int = 4
    """Height and width of a patch in pixels."""
    body: Transformer = field(default_factory=lambda: Transformer(positions="learned", width=192, heads=6, layers=6))
    """The transformer that the patches go through; the time shifts, scales and gates each of its blocks."""

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise UserError(f"model.patch must be at least 1, not {self.patch}.")
        if self.body.tied:
            raise UserError("model.body.tied would share the classes' embedding with the pixels: leave it out.")

    def build(self, *, size: int, channels: int, classes: int) -> "PatchNetwork":
        """A freshly initialised network. Raises UserError if the patches do not fill an image of this size."""
        check_size(size, self.patch, "model.patch")
        return PatchNetwork(self, size=size, channels=channels, classes=classes)


class PatchNetwork(Network):
    """What `PatchTransformer.build` builds. The label is the first token, in front of the patches."""

    def __init__(self, config: PatchTransformer, *, size: int, channels: int, classes: int) -> None:
        super().__init__()
        self.patch, self.classes = config.patch, classes
        inside = channels * config.patch**2
        self.enter = nn.Linear(inside, config.body.width)
        self.body = config.body.build(
            vocabulary=classes + 1,
            outputs=inside,
            context=1 + (size // config.patch) ** 2,
            causal=False,
            time_conditioned=True,
        )

    @property
    def output_layer(self) -> nn.Linear:
        """The output layer of the transformer."""
        return self.body.head

    def forward(self, x_BCSS: Tensor, time_B: Tensor, label_B: Tensor | None = None) -> Tensor:
        """The network's answer at this time, [B, C, S, S]."""
        if label_B is None:
            label_B = torch.full_like(time_B, self.classes, dtype=torch.int64)
        patches = F.pixel_unshuffle(x_BCSS, self.patch)
        tokens_BLW = torch.cat([self.body.tokens(label_B)[:, None], self.enter(patches.flatten(2).mT)], dim=1)
        answer_BLP = self.body(embeddings_BLD=tokens_BLW, time_B=time_B)[:, 1:]
        return F.pixel_shuffle(answer_BLP.mT.reshape(patches.shape), self.patch)
