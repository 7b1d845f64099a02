"""The U-Net of image diffusion: residual blocks at halved sizes, with attention at the levels that ask for it.

Shapes: B batch, C channels, S height and width, W width of a level, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.config import ImageModel, Size
from seedfast.models.network import CompiledInTraining, Network, recomputed
from seedfast.models.transformer_block import sinusoid
from seedfast.options import AddedLater, Affects, AtLeast, Between, Example, check


@dataclass(frozen=True, kw_only=True)
class UNet(ImageModel):
    """The shape of a U-Net (Ho et al. 2020; the blocks of Dhariwal & Nichol 2021)."""

    width: Annotated[int, AtLeast(1)] = 32
    """Channels of the first level."""
    multipliers: Annotated[
        tuple[int, ...], AtLeast(1), Example((1, 3), multipliers=(1, 2), attention=(False, True))
    ] = (1, 2, 2)
    """Channels of each level, as multiples of `width`; each level has half the height and width of the one before."""
    blocks: Annotated[int, AtLeast(1)] = 2
    """Residual blocks in each level on the way down (and one more on the way up)."""
    attention: Annotated[tuple[bool, ...], Example((True, False), multipliers=(1, 2), attention=(False, True))] = (
        False,
        False,
        True,
    )
    """Whether each level has attention after its residual blocks."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads."""
    groups: Annotated[int, AtLeast(1)] = 8
    """Groups of GroupNorm; must divide every level's channels."""
    dropout: Annotated[float, Between(0, 1, open_high=True)] = 0.0
    """Dropout in the residual blocks."""
    gradient_checkpointing: Annotated[bool, Affects("computation"), AddedLater(False)] = False
    """Recompute the activations of each block in the backward pass instead of storing them: a third slower, much less
    memory, the same numbers."""
    patch: Annotated[int, AtLeast(1)] = 1
    """Height and width of the pixel blocks that are folded into channels before the first level; 2 quarters the number
    of positions everywhere."""

    def __post_init__(self) -> None:
        check(self, "model.")
        check_levels("model.multipliers", self.multipliers, self.attention)
        if self.width % 2:
            raise UserError(f"model.width must be even, for the time's cosines and sines, not {self.width}.")
        if self.width % self.groups:
            raise UserError(f"model.groups ({self.groups}) must divide model.width ({self.width}).")
        if any(self.attention) and any(self.width * m % self.heads for m in self.multipliers):
            raise UserError(
                f"model.heads ({self.heads}) must divide the channels of every level of {self.multipliers}."
            )

    def sizes(self) -> Mapping[Size, Self]:
        """The recipe's network (tiny), a small one, and those of papers."""
        return {size: replace(self, **shape) for size, shape in _SIZES.items()}

    def build(self, *, size: int, channels: int, classes: int) -> "UNetNetwork":
        """A freshly initialised network. Raises UserError if the size cannot be halved as often as there are levels."""
        check_size(size, self.patch * 2 ** (len(self.multipliers) - 1), "model.multipliers and model.patch")
        return UNetNetwork(self, channels=channels, classes=classes)


_SIZES: Mapping[Size, Mapping[str, Any]] = {
    "tiny": {"width": 32, "multipliers": (1, 2, 2), "blocks": 1, "attention": (False, False, True), "heads": 4}
    | {"groups": 8, "patch": 2},
    "small": {"width": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention": (False, False, True), "heads": 4}
    | {"groups": 32, "patch": 1},
    # Ho et al. 2020, of 32 × 32 pixels.
    "base": {"width": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (False, True, False, False)}
    | {"heads": 1, "groups": 32, "patch": 1},
    # Nichol & Dhariwal 2021, of 64 × 64 pixels.
    "large": {"width": 128, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (False, False, True, True)}
    | {"heads": 4, "groups": 32, "patch": 1},
    # Dhariwal & Nichol 2021, of 64 × 64 pixels.
    "xl": {"width": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (False, True, True, True)}
    | {"heads": 3, "groups": 32, "patch": 1},
}


def check_levels(key: str, levels: Sequence[int], attention: Sequence[bool]) -> None:
    """Raise UserError unless there is at least one level, and one value of `attention` for each."""
    if not levels:
        raise UserError(f"{key} must have a number for each level, and at least one level.")
    if len(attention) != len(levels):
        raise UserError(
            f"model.attention must have one value for each of the {len(levels)} levels of {key}, "
            f"not {len(attention)} ({tuple(attention)})."
        )


def check_size(size: int, factor: int, what: str) -> None:
    """Raise UserError, naming the nearest sizes that fit, if an image size is not a multiple of `factor`.

    what: the options that determine the factor.
    """
    if size % factor:
        low, high = size // factor * factor, -(-size // factor) * factor
        raise UserError(
            f"data.size must be a multiple of {factor} (because of {what}), not {size}; "
            f"the nearest that fit are {f'{low} and ' if low else ''}{high}."
        )


class UNetNetwork(CompiledInTraining, Network):
    """The network of `UNet.build`."""

    def __init__(self, config: UNet, *, channels: int, classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.embed = 4 * config.width
        self.time = nn.Sequential(nn.Linear(config.width, self.embed), nn.SiLU(), nn.Linear(self.embed, self.embed))
        self.label = nn.Embedding(classes + 1, self.embed) if classes > 1 else None
        pixel_channels = channels * config.patch**2
        self.enter = nn.Conv2d(pixel_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skip_widths, last = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            if level:
                self.down.append(Down(last))
                skip_widths.append(last)
            for _ in range(config.blocks):
                self.down.append(self._stage(last, width, level))
                skip_widths.append(last := width)
        self.middle = nn.ModuleList(
            [self._residual(last, last), Attention(last, config), self._residual(last, last)]
            if any(config.attention)
            else [self._residual(last, last)]
        )
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(self._stage(last + skip_widths.pop(), width, level))
                last = width
            if level:
                self.up.append(Up(last))
        output = nn.Conv2d(last, pixel_channels, 3, padding=1)
        self.leave = nn.Sequential(nn.GroupNorm(config.groups, last), nn.SiLU(), output)
        nn.init.zeros_(self.leave[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.leave[2].bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def blocks_in_order(self) -> list[nn.Module]:
        """The stages on the way down, in the middle, and on the way up."""
        return [*self.down, *self.middle, *self.up]

    @property
    def compiled_parts(self) -> list[CompiledInTraining]:
        """The whole network: hardly two of its blocks have the same shape."""
        return [self]

    @property
    def output_layer(self) -> nn.Conv2d:
        """The last convolution, whose outputs are the predicted channels."""
        return self.leave[2]  # type: ignore[return-value]

    @property
    def label_embedding(self) -> nn.Embedding | None:
        """The embedding that is added to the time's."""
        return self.label

    def _residual(self, inputs: int, outputs: int) -> "Residual":
        return Residual(inputs, outputs, self.embed, self.config)

    def _stage(self, inputs: int, outputs: int, level: int) -> "Stage":
        attention = Attention(outputs, self.config) if self.config.attention[level] else None
        return Stage(self._residual(inputs, outputs), attention)

    def forward(self, x_BCSS: Tensor, time_B: Tensor, label_B: Tensor | None = None) -> Tensor:
        """The network's output at this time, [B, C, S, S]."""
        time_BE = self.time(sinusoid(time_B, self.config.width).to(x_BCSS.dtype))
        if self.label is not None:
            if label_B is None:
                label_B = torch.full_like(time_B, self.classes, dtype=torch.int64)
            time_BE = time_BE + self.label(label_B)
        time_BE = F.silu(time_BE)
        x = F.pixel_unshuffle(x_BCSS, self.config.patch).contiguous(memory_format=torch.channels_last)
        x = self.enter(x)
        skips = [x]
        for module in self.down:
            x = self._through(module, x, time_BE)
            skips.append(x)
        for module in self.middle:
            x = self._through(module, x, time_BE)
        for module in self.up:
            x = self._through(module, x if isinstance(module, Up) else torch.cat([x, skips.pop()], dim=1), time_BE)
        return F.pixel_shuffle(self.leave(x), self.config.patch)

    def _through(self, module: nn.Module, x: Tensor, time_BE: Tensor) -> Tensor:
        y: Tensor = recomputed(module, x, time_BE) if self.config.gradient_checkpointing else module(x, time_BE)
        return y


class Residual(CompiledInTraining):
    """Twice GroupNorm, SiLU, convolution, plus the input; the time shifts and scales the second norm."""

    def __init__(self, inputs: int, outputs: int, embed: int, config: UNet) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm1 = nn.GroupNorm(config.groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embed, 2 * outputs)
        self.norm2 = nn.GroupNorm(config.groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time_BE: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, outputs, S, S]."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(time_BE)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        total: Tensor = self.skip(x) + self.conv2(h)
        return total


class Attention(CompiledInTraining):
    """Self-attention over all positions, plus the input."""

    def __init__(self, width: int, config: UNet) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.GroupNorm(config.groups, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """[B, W, S, S] to the same."""
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        y = F.scaled_dot_product_attention(*qkv.unbind(1))
        output: Tensor = self.out(y.transpose(-1, -2).flatten(1, 2).view_as(x))
        return x + output


class Stage(CompiledInTraining):
    """A residual block, followed by attention at the levels that have it."""

    def __init__(self, residual: Residual, attention: Attention | None) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, x: Tensor, time_BE: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, outputs, S, S]."""
        x = self.residual(x, time_BE)
        return x if self.attention is None else self.attention(x, time_BE)


class Down(CompiledInTraining):
    """Half the height and width, by a convolution with stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """[B, W, S, S] to [B, W, S/2, S/2]."""
        half: Tensor = self.conv(x)
        return half


class Up(CompiledInTraining):
    """Twice the height and width: nearest neighbours, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """[B, W, S, S] to [B, W, 2 S, 2 S]."""
        # Not F.interpolate: its gradient on CUDA depends on the order of atomic additions.
        b, w, s = x.shape[:3]
        wide = x[:, :, :, None, :, None].expand(b, w, s, 2, s, 2).reshape(b, w, 2 * s, 2 * s)
        whole: Tensor = self.conv(wide)
        return whole
