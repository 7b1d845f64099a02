"""The U-Net of image diffusion: residual blocks at halved sizes, attention where a level asks for it.

Shapes: B batch, C channels, S height and width, W width of a level, E embedding.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.config import ModelConfig
from seedfast.models.network import Network
from seedfast.models.transformer_block import sinusoid


class ImageModel(Protocol):
    """The configuration of a network of images: (x [B, C, S, S], time [B] in [0, 1], label [B] or None) → [B, C, S, S].

    The label `classes` is the null label; None means it too.
    """

    def build(self, *, size: int, channels: int, classes: int) -> nn.Module:
        """A freshly initialised network. Raises UserError if it cannot take this size."""
        ...


@dataclass(frozen=True, kw_only=True)
class UNet(ModelConfig):
    """The shape of a U-Net (Ho et al. 2020; the blocks of Dhariwal & Nichol 2021)."""

    width: int = 32
    """Channels of the first level."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Each level's channels, as multiples of `width`; each level is half as large as the one before."""
    blocks: int = 2
    """Residual blocks in each level on the way down (and one more on the way up)."""
    attention: tuple[bool, ...] = (False, False, True)
    """Whether each level has attention after its residual blocks."""
    heads: int = 4
    """Attention heads."""
    groups: int = 8
    """Groups of GroupNorm; must divide every level's channels."""
    dropout: float = 0.0
    """In the residual blocks."""
    patch: int = 1
    """Pixels that are folded into channels at the entrance: 2 makes everything inside a quarter as large."""

    def __post_init__(self) -> None:
        for key in ("width", "blocks", "heads", "groups", "patch"):
            if getattr(self, key) < 1:
                raise UserError(f"model.{key} must be at least 1, not {getattr(self, key)}.")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(f"model.multipliers must be positive, one for each level, not {self.multipliers}.")
        if len(self.attention) != len(self.multipliers):
            raise UserError(
                f"model.attention says yes or no for each level: {len(self.multipliers)} times, "
                f"not {len(self.attention)} ({self.attention})."
            )
        if self.width % 2:
            raise UserError(f"model.width must be even, for the time's cosines and sines, not {self.width}.")
        if self.width % self.groups:
            raise UserError(f"model.groups ({self.groups}) must divide model.width ({self.width}).")
        if any(self.attention) and any(self.width * m % self.heads for m in self.multipliers):
            raise UserError(
                f"model.heads ({self.heads}) must divide the channels of every level of {self.multipliers}."
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout must lie in [0, 1), not {self.dropout}.")

    def build(self, *, size: int, channels: int, classes: int) -> "UNetNetwork":
        """A freshly initialised network. Raises UserError if the size cannot be halved as often as there are levels."""
        check_size(size, self.patch * 2 ** (len(self.multipliers) - 1), "model.multipliers and model.patch")
        return UNetNetwork(self, channels=channels, classes=classes)


def check_size(size: int, factor: int, what: str) -> None:
    """Raise UserError, naming the nearest that fit, if a size is no multiple of what a network divides it by."""
    if size % factor:
        low, high = size // factor * factor, -(-size // factor) * factor
        raise UserError(
            f"data.size must be a multiple of {factor} (by {what}), not {size}; "
            f"the nearest that fit are {f'{low} and ' if low else ''}{high}."
        )


class UNetNetwork(Network):
    """What `UNet.build` builds."""

    def __init__(self, config: UNet, *, channels: int, classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.embed = 4 * config.width
        self.time = nn.Sequential(nn.Linear(config.width, self.embed), nn.SiLU(), nn.Linear(self.embed, self.embed))
        self.label = nn.Embedding(classes + 1, self.embed) if classes > 1 else None
        inside = channels * config.patch**2
        self.enter = nn.Conv2d(inside, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept, now = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            if level:
                self.down.append(Down(now))
                kept.append(now)
            for _ in range(config.blocks):
                self.down.append(self._stage(now, width, level))
                kept.append(now := width)
        self.middle = nn.ModuleList(
            [self._residual(now, now), Attention(now, config), self._residual(now, now)]
            if any(config.attention)
            else [self._residual(now, now)]
        )
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(self._stage(now + kept.pop(), width, level))
                now = width
            if level:
                self.up.append(Up(now))
        self.leave = nn.Sequential(nn.GroupNorm(config.groups, now), nn.SiLU(), nn.Conv2d(now, inside, 3, padding=1))
        nn.init.zeros_(self.leave[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.leave[2].bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def output_layer(self) -> nn.Conv2d:
        """The last convolution, whose outputs are the predicted channels."""
        return self.leave[2]  # type: ignore[return-value]

    def _residual(self, inputs: int, outputs: int) -> "Residual":
        return Residual(inputs, outputs, self.embed, self.config)

    def _stage(self, inputs: int, outputs: int, level: int) -> "Stage":
        attention = Attention(outputs, self.config) if self.config.attention[level] else None
        return Stage(self._residual(inputs, outputs), attention)

    def forward(self, x_BCSS: Tensor, time_B: Tensor, label_B: Tensor | None = None) -> Tensor:
        """The network's answer at this time, [B, C, S, S]."""
        time_BE = self.time(sinusoid(time_B, self.config.width).to(x_BCSS.dtype))
        if self.label is not None:
            if label_B is None:
                label_B = torch.full_like(time_B, self.classes, dtype=torch.int64)
            time_BE = time_BE + self.label(label_B)
        time_BE = F.silu(time_BE)
        x = F.pixel_unshuffle(x_BCSS, self.config.patch).contiguous(memory_format=torch.channels_last)
        x = self.enter(x)
        kept = [x]
        for module in self.down:
            x = module(x, time_BE)
            kept.append(x)
        for module in self.middle:
            x = module(x, time_BE)
        for module in self.up:
            x = module(x if isinstance(module, Up) else torch.cat([x, kept.pop()], dim=1), time_BE)
        return F.pixel_shuffle(self.leave(x), self.config.patch)


class Residual(nn.Module):
    """GroupNorm, SiLU, convolution, twice, on top of the identity; the time shifts and scales the second norm."""

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


class Attention(nn.Module):
    """Every place sees every other, on top of the identity."""

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
        mixed: Tensor = self.out(y.transpose(-1, -2).flatten(1, 2).view_as(x))
        return x + mixed


class Stage(nn.Module):
    """A residual block and, if there is one, attention."""

    def __init__(self, residual: Residual, attention: Attention | None) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, x: Tensor, time_BE: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, outputs, S, S]."""
        x = self.residual(x, time_BE)
        return x if self.attention is None else self.attention(x, time_BE)


class Down(nn.Module):
    """Half the size, by a convolution with stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """[B, W, S, S] to [B, W, S/2, S/2]."""
        half: Tensor = self.conv(x)
        return half


class Up(nn.Module):
    """Twice the size: each pixel four times, then a convolution."""

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
