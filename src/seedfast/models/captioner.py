"""The captioner: an image encoder, and a causal decoder with cross-attention to the encoder's patch features.

Shapes: B images, P captions, C channels, S height and width, M patches, U the encoder's width, L positions.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models import vit as vision
from seedfast.models.attention import CrossAttention
from seedfast.models.config import ModelConfig, Size
from seedfast.models.hf_causal_lm import refuse_masked
from seedfast.models.import_gpt2 import from_gpt2
from seedfast.models.kv_cache import KVCache
from seedfast.models.network import Network
from seedfast.models.token_network import Scores
from seedfast.models.transformer import Transformer
from seedfast.models.transformer_network import TransformerNetwork
from seedfast.models.vit import PretrainedVision, ViT, ViTNetwork
from seedfast.options import Affects, Example

_SIZES: Mapping[Size, tuple[int, int, int, int]] = {
    "tiny": (4, 2, 4, 128),
    "small": (12, 6, 6, 384),
    "base": (12, 6, 12, 768),
    "large": (24, 12, 16, 1024),
}
"""Layers of encoder and decoder, heads and width of both. The encoders are ViT-S (Touvron et al. 2021), B and L
(Dosovitskiy et al. 2021); the decoders have half their layers."""


@dataclass(frozen=True, kw_only=True)
class Captioner(ModelConfig):
    """The encoder and the decoder of a captioner."""

    path: str = ""
    """A pretrained vision model of transformers (ViT, CLIP, DINO, SigLIP): a folder or a name on the Hugging Face hub.
    Without it, `vit` is trained from scratch."""
    architecture: str = ""
    """The shape of the pretrained model as a transformers configuration in JSON (default: that of `path`)."""
    frozen: Annotated[bool | None, Example(False)] = None
    """Freeze the pretrained encoder (the default): always in evaluation mode, with its weights stored once for all
    checkpoints. False trains it too."""
    cache_features: Annotated[bool | None, Affects("computation"), Example(False)] = None
    """Compute the features of a frozen encoder once for each image and store them on disk (the default)."""
    vit: ViT = field(default_factory=ViT)
    """The encoder that is trained from scratch."""
    language_model: str = ""
    """A folder with a GPT-2 of transformers: the decoder takes its architecture and starts from its weights. The data
    need its tokenizer (--data.tokenizer model)."""
    decoder: Transformer = field(default_factory=Transformer)
    """The causal decoder, with cross-attention to the patches."""

    def __post_init__(self) -> None:
        pretrained = bool(self.path or self.architecture)
        for key in ("frozen", "cache_features"):
            if getattr(self, key) is not None and not pretrained:
                raise UserError(
                    f"model.{key} ({getattr(self, key)}) has no effect without a pretrained encoder: name one with "
                    "--model, or leave it out."
                )
        if self.cache_features and self.frozen is False:
            raise UserError(
                "model.cache_features (True) needs a frozen encoder, whose features do not change: leave it out, or "
                "leave model.frozen out."
            )
        if pretrained and self.vit != ViT():
            raise UserError(
                "model.vit (and --size) configures the encoder trained from scratch, and --model names a pretrained "
                "one: use one of them."
            )

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder is not trained."""
        return bool(self.architecture or self.path) and self.frozen is not False

    @property
    def caches(self) -> bool:
        """Whether the encoder's features are computed once for each image and stored."""
        return self.is_frozen and self.cache_features is not False

    def sizes(self) -> Mapping[Size, Self]:
        """Encoder and decoder; with a pretrained encoder, the decoder alone."""
        pretrained = bool(self.path or self.architecture)
        return {
            size: replace(
                self,
                vit=self.vit if pretrained else replace(self.vit, layers=encoder, heads=heads, width=width),
                decoder=self.decoder.shaped(decoder, heads, width),
            )
            for size, (encoder, decoder, heads, width) in _SIZES.items()
        }

    def pretrained_parts(self) -> dict[str, str]:
        """The encoder's image processor and the language model's tokenizer."""
        parts = {"processor": self.path, "tokenizer": self.language_model}
        return {option: path for option, path in parts.items() if path}

    def located(self) -> Self:
        """The same model with the architectures of its pretrained parts written out, and absolute paths.

        Raises UserError if a pretrained part cannot be loaded.
        """
        located = self
        if self.path and not self.architecture:
            located = replace(located, path=_absolute(self.path), architecture=vision.architecture(self.path))
        if self.language_model and Path(self.language_model).expanduser().exists():
            # If the folder is gone, its architecture is in `decoder` already; only a new run needs it (`initialise`).
            refuse_masked(self.language_model)
            source = from_gpt2(Path(self.language_model).expanduser())
            located = replace(located, language_model=_absolute(self.language_model), decoder=source.config)
        return located

    def build(
        self,
        *,
        vocabulary: int,
        context: int,
        size: int,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> "CaptionerNetwork":
        """A new network, initialised by torch's generator; `initialise` loads its pretrained parts.

        context: the longest caption in tokens. mean, std: normalisation of pixels in [0, 1], for each channel.
        """
        complete = self.located()
        encoder: ViTNetwork | PretrainedVision
        if complete.architecture:
            encoder = PretrainedVision(complete.architecture, size=size, random_weights=not complete.path)
        else:
            encoder = complete.vit.build(size=size, channels=channels)
        decoder = complete.decoder.build(
            vocabulary=vocabulary, context=context, causal=True, memory_width=encoder.width
        )
        return CaptionerNetwork(
            encoder, decoder, frozen=self.is_frozen, caches_features=self.caches, mean=mean, std=std
        )

    def initialise(self, network: "CaptionerNetwork") -> None:
        """Load the pretrained weights into the network of a new run."""
        if self.path and isinstance(network.encoder, PretrainedVision):
            network.encoder.load_pretrained(self.path)
        if self.language_model:
            network.load_language_model(from_gpt2(Path(self.language_model)))


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


class CaptionerNetwork(Network):
    """The network of a captioner.

    frozen: whether the encoder is not trained. caches_features: whether training computes its features only once.
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self,
        encoder: ViTNetwork | PretrainedVision,
        decoder: TransformerNetwork,
        *,
        frozen: bool,
        caches_features: bool,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.frozen, self.caches_features = frozen, caches_features
        self.register_buffer("mean_C11", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std_C11", torch.tensor(std)[:, None, None], persistent=False)
        if frozen:
            self.encoder.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "CaptionerNetwork":
        """Set the mode; a frozen encoder stays in evaluation mode: no dropout, no moving statistics."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    @property
    def blocks_in_order(self) -> list[nn.Module]:
        """Those of the encoder, and those of the decoder."""
        return [*self.encoder.blocks_in_order, *self.decoder.blocks_in_order]

    @property
    def unsharded(self) -> list[nn.Module]:
        """A frozen encoder that computes its features before the training."""
        return [self.encoder] if self.caches_features else []

    @property
    def output_layer(self) -> nn.Linear:
        """The decoder's output layer."""
        return self.decoder.head

    def cache(self, batch: int, length: int | None = None) -> KVCache:
        """An empty key-value cache of the decoder."""
        return self.decoder.cache(batch, length)

    def encode(self, pixels_BCSS: Tensor) -> Tensor:
        """The features of uint8 images, [B, M, U]. Each patch is normalised, because encoders differ in scale."""
        x_BCSS = (pixels_BCSS.float() / 255 - self.mean_C11) / self.std_C11
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            memory_BMU: Tensor = self.encoder(x_BCSS)
        return F.layer_norm(memory_BMU.float(), memory_BMU.shape[-1:])

    def forward(
        self,
        tokens_PL: Tensor | None = None,
        *,
        pixels_BCSS: Tensor | None = None,
        memory_BMU: Tensor | None = None,
        image_P: Tensor | None = None,
        cache: KVCache | None = None,
        **scored: Any,
    ) -> Tensor | Scores:
        """Logits of the captions' next tokens, [P, L, V], or their scores (see `TokenNetwork`).

        The images are pixels_BCSS or their features memory_BMU; after the first call a cache holds them. image_P: the
        image of each caption (default: caption i belongs to image i). Without tokens: the features.
        """
        if pixels_BCSS is not None:
            memory_BMU = self.encode(pixels_BCSS)
        if tokens_PL is None:
            assert memory_BMU is not None, "neither tokens nor images"
            return memory_BMU
        if memory_BMU is not None and image_P is not None:
            memory_BMU = memory_BMU.index_select(0, image_P)
        answer: Tensor | Scores = self.decoder(tokens_PL, memory_BMD=memory_BMU, cache=cache, **scored)
        return answer

    @torch.no_grad()
    def attention(self, tokens_PL: Tensor, memory_PMU: Tensor) -> Tensor:
        """Cross-attention weights of each position to each patch, [P, L, M], averaged over layers and heads."""
        layers: list[Tensor] = []

        def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            assert isinstance(module, CrossAttention)
            layers.append(module.weights(inputs[0], inputs[1]).mean(dim=1))

        parts = [module for module in self.decoder.modules() if isinstance(module, CrossAttention)]
        hooks = [part.register_forward_pre_hook(record) for part in parts]
        try:
            self.decoder(tokens_PL, memory_BMD=memory_PMU)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(layers).mean(dim=0)

    @torch.no_grad()
    def load_language_model(self, source: nn.Module) -> None:
        """Copy a language model's weights into the decoder. Raises UserError if it has too few tokens or positions.

        The cross-attention, which a language model does not have, keeps its initial weights.
        """
        weights = source.state_dict()
        for name, tensor in self.decoder.state_dict().items():
            if name not in weights:
                continue
            if any(needed > size for needed, size in zip(tensor.shape, weights[name].shape, strict=True)):
                raise UserError(
                    f"The language model's {name} has {len(weights[name])} rows, and {len(tensor)} are needed: use its "
                    "own tokenizer (--data.tokenizer model), or shorten data.context."
                )
            tensor.copy_(weights[name][tuple(slice(0, size) for size in tensor.shape)])

    def encoder_digest(self) -> str:
        """SHA-256 of all that features depend on: the encoder's architecture, weights, buffers, and normalisation."""
        digest = hashlib.sha256(repr(getattr(self.encoder, "model", self.encoder)).encode())
        for name, tensor in [*self.encoder.state_dict().items(), ("mean", self.mean_C11), ("std", self.std_C11)]:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
