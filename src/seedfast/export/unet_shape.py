"""seedfast's U-Net as `diffusers.UNet2DModel`, which computes the same.

Blocks of pixels that the network folds into channels stay folded: the model of diffusers works on the folded image, and
the pipeline unfolds it. Gaussian noise and the steps of a sampler are the same for folded pixels.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from seedfast.errors import UserError
from seedfast.models.unet import Attention, Down, Residual, Stage, UNet, UNetNetwork, Up


def as_unet2d(network: UNetNetwork, *, size: int, channels: int) -> Any:
    """A UNet2DModel with the weights of the network, for images of this size.

    Raises UserError if diffusers is missing, or if levels with attention have different widths: UNet2DModel has one
    head size, and seedfast one number of heads.
    """
    try:
        from diffusers import UNet2DModel
    except ModuleNotFoundError:
        raise UserError("Pipelines need diffusers: pip install 'seedfast[diffusers]'.") from None
    config = network.config
    widths = [config.width * multiplier for multiplier in config.multipliers]
    unet = UNet2DModel(
        sample_size=size // config.patch,
        in_channels=channels * config.patch**2,
        out_channels=channels * config.patch**2,
        layers_per_block=config.blocks,
        block_out_channels=tuple(widths),
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in config.attention),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(config.attention)),
        attention_head_dim=_head_size(config, widths),
        norm_num_groups=config.groups,
        attn_norm_num_groups=config.groups,
        norm_eps=1e-5,
        dropout=config.dropout,
        resnet_time_scale_shift="scale_shift",
        add_attention=any(config.attention),
        num_class_embeds=network.classes + 1 if network.classes > 1 else None,
    )
    state = dict(_state(network))
    if not any(config.attention):  # its middle has a second residual block, which must do nothing
        for name, tensor in unet.mid_block.resnets[1].state_dict().items():
            state[f"mid_block.resnets.1.{name}"] = torch.zeros_like(tensor)
    unet.load_state_dict(state)
    return unet.eval()


def _head_size(config: UNet, widths: list[int]) -> int | None:
    if not any(config.attention):
        return None
    # The middle of the network has the width of the last level, and attention if any level has some.
    sizes = {width // config.heads for width, here in zip(widths, config.attention, strict=True) if here}
    sizes.add(widths[-1] // config.heads)
    if len(sizes) > 1:
        raise UserError(
            f"diffusers' UNet2DModel has one head size for all levels, but model.heads={config.heads} gives the levels "
            f"with attention (and the middle) the sizes {', '.join(map(str, sorted(sizes)))}: such a network cannot be "
            "exported."
        )
    return sizes.pop()


def _state(network: UNetNetwork) -> Iterator[tuple[str, Tensor]]:
    """The weights under diffusers' names."""
    yield from _layer("time_embedding.linear_1", network.time[0])
    yield from _layer("time_embedding.linear_2", network.time[2])
    if network.label is not None:
        yield "class_embedding.weight", network.label.weight
    yield from _layer("conv_in", network.enter)
    yield from _side("down_blocks", network.down, "downsamplers")
    for number, module in enumerate(module for module in network.middle if isinstance(module, Residual)):
        yield from _residual(f"mid_block.resnets.{number}", module)
    for attention in network.middle:
        if isinstance(attention, Attention):
            yield from _attention("mid_block.attentions.0", attention)
    yield from _side("up_blocks", network.up, "upsamplers")
    yield from _layer("conv_norm_out", network.leave[0])
    yield from _layer("conv_out", network.leave[2])


def _side(name: str, modules: nn.ModuleList, resampler: str) -> Iterator[tuple[str, Tensor]]:
    """The blocks on the way down or up: each has its stages, and all but the last the change of size after them."""
    level = stage = 0
    for module in modules:
        if isinstance(module, Down | Up):
            yield from _layer(f"{name}.{level}.{resampler}.0.conv", module.conv)
            level, stage = level + 1, 0
            continue
        assert isinstance(module, Stage)
        yield from _residual(f"{name}.{level}.resnets.{stage}", module.residual)
        if module.attention is not None:
            yield from _attention(f"{name}.{level}.attentions.{stage}", module.attention)
        stage += 1


def _residual(name: str, block: Residual) -> Iterator[tuple[str, Tensor]]:
    parts = {"norm1": block.norm1, "conv1": block.conv1, "norm2": block.norm2, "conv2": block.conv2}
    parts |= {"time_emb_proj": block.modulation}
    if isinstance(block.skip, nn.Conv2d):
        parts["conv_shortcut"] = block.skip
    for part, layer in parts.items():
        yield from _layer(f"{name}.{part}", layer)


def _attention(name: str, block: Attention) -> Iterator[tuple[str, Tensor]]:
    """1 × 1 convolutions become linear layers."""
    yield from _layer(f"{name}.group_norm", block.norm)
    assert block.qkv.bias is not None
    weights, biases = block.qkv.weight.flatten(1).chunk(3), block.qkv.bias.chunk(3)
    for letter, weight, bias in zip("qkv", weights, biases, strict=True):
        yield f"{name}.to_{letter}.weight", weight
        yield f"{name}.to_{letter}.bias", bias
    assert block.out.bias is not None
    yield f"{name}.to_out.0.weight", block.out.weight.flatten(1)
    yield f"{name}.to_out.0.bias", block.out.bias


def _layer(name: str, layer: Any) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", layer.weight
    yield f"{name}.bias", layer.bias
