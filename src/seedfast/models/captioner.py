"""The captioner: an encoder of images whose patches are the memory of a causal decoder.

Shapes: B images, P captions, C channels, S height and width, M patches, U the encoder's width, L positions.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models import vit as vision
from seedfast.models.attention import CrossAttention
from seedfast.models.config import ModelConfig
from seedfast.models.import_gpt2 import from_gpt2
from seedfast.models.kv_cache import KVCache
from seedfast.models.network import Network
from seedfast.models.token_network import Scores
from seedfast.models.transformer import Transformer
from seedfast.models.vit import PretrainedVision, ViT


@dataclass(frozen=True, kw_only=True)
class Captioner(ModelConfig):
    """Which encoder sees, and which decoder writes."""

    path: str = ""
    """A pretrained vision model of transformers (ViT, CLIP, DINO, SigLIP): a folder or a name on the Hugging Face hub.
    Without one, `vit` is trained from scratch."""
    architecture: str = ""
    """The shape of the pretrained model as a transformers configuration in JSON (default: that of `path`)."""
    frozen: bool | None = None
    """Leave the pretrained encoder as it is (the default): always in evaluation mode, and kept once beside all
    checkpoints. False trains it too."""
    cache_features: bool | None = None
    """Compute what a frozen encoder sees in each training image once, and keep it on the disk (the default)."""
    vit: ViT = field(default_factory=ViT)
    """Our own encoder."""
    language_model: str = ""
    """A folder with a GPT-2 of transformers, which gives the decoder its shape and its first weights; the data need
    its tokenizer (--data.tokenizer model)."""
    decoder: Transformer = field(default_factory=Transformer)
    """The causal decoder, with cross-attention to the patches."""

    def __post_init__(self) -> None:
        pretrained = bool(self.path or self.architecture)
        for key in ("frozen", "cache_features"):
            if getattr(self, key) is not None and not pretrained:
                raise UserError(f"model.{key} belongs to a pretrained encoder: name one with --model, or leave it out.")
        if self.cache_features and self.frozen is False:
            raise UserError("The features of an encoder that is trained change: leave model.cache_features out.")
        if pretrained and self.vit != ViT():
            raise UserError("model.vit is our own encoder's shape, and --model names another: give one of them.")

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder stays as it is."""
        return bool(self.architecture or self.path) and self.frozen is not False

    @property
    def caches(self) -> bool:
        """Whether the encoder's features are computed once."""
        return self.is_frozen and self.cache_features is not False

    def pretrained_parts(self) -> dict[str, str]:
        """The encoder's image processor and the language model's tokenizer."""
        parts = {"processor": self.path, "tokenizer": self.language_model}
        return {option: path for option, path in parts.items() if path}

    def located(self) -> Self:
        """The same model with its shapes written out, and paths that hold from any folder.

        Raises UserError if a pretrained part cannot be had.
        """
        located = self
        if self.path and not self.architecture:
            located = replace(located, path=_absolute(self.path), architecture=vision.architecture(self.path))
        if self.language_model and Path(self.language_model).expanduser().exists():
            # Where it is gone its shape has been written out already; a new run cannot begin without it (`initialise`).
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
        """A freshly initialised network (torch's generator draws), whose pretrained parts wait for `initialise`.

        context: the longest caption in tokens. mean, std: of each channel, what pixels in [0, 1] are normalised by.
        """
        shape = self.located()
        encoder: nn.Module
        if shape.architecture:
            encoder = PretrainedVision(shape.architecture, size=size, drawn=not shape.path)
        else:
            encoder = shape.vit.build(size=size, channels=channels)
        return CaptionerNetwork(
            encoder, shape.decoder, frozen=self.is_frozen, vocabulary=vocabulary, context=context, mean=mean, std=std
        )

    def initialise(self, network: "CaptionerNetwork") -> None:
        """Give a new network its pretrained weights."""
        if self.path and isinstance(network.encoder, PretrainedVision):
            network.encoder.read(self.path)
        if self.language_model:
            network.adopt(from_gpt2(Path(self.language_model)))


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


class CaptionerNetwork(Network):
    """What `Captioner.build` builds."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self,
        encoder: Any,
        decoder: Transformer,
        *,
        frozen: bool,
        vocabulary: int,
        context: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.encoder, self.frozen = encoder, frozen
        self.decoder = decoder.build(vocabulary=vocabulary, context=context, causal=True, memory_width=encoder.width)
        self.register_buffer("mean_C11", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std_C11", torch.tensor(std)[:, None, None], persistent=False)
        if frozen:
            self.encoder.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "CaptionerNetwork":
        """Training mode, in which a frozen encoder stays as it is: no dropout, no statistics that move."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    @property
    def output_layer(self) -> nn.Linear:
        """The decoder's output layer."""
        return self.decoder.head

    def cache(self, batch: int, length: int | None = None) -> KVCache:
        """An empty key-value cache of the decoder."""
        return self.decoder.cache(batch, length)

    def encode(self, pixels_BCSS: Tensor) -> Tensor:
        """The memory of uint8 images, [B, M, U]. Each patch is normalised: encoders differ in scale."""
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

        Either pixels_BCSS or memory_BMU says what is seen; a cache that has seen it needs neither. image_P: which image
        each caption is about (default: caption i is about image i). Without tokens, the memory.
        """
        if pixels_BCSS is not None:
            memory_BMU = self.encode(pixels_BCSS)
        if tokens_PL is None:
            assert memory_BMU is not None, "there is nothing to see"
            return memory_BMU
        if memory_BMU is not None and image_P is not None:
            memory_BMU = memory_BMU.index_select(0, image_P)
        answer: Tensor | Scores = self.decoder(tokens_PL, memory_BMD=memory_BMU, cache=cache, **scored)
        return answer

    @torch.no_grad()
    def attention(self, tokens_PL: Tensor, memory_PMU: Tensor) -> Tensor:
        """How much each position looks at each patch, [P, L, M]: the mean over layers and heads of cross-attention."""
        layers: list[Tensor] = []

        def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            assert isinstance(module, CrossAttention)
            layers.append(module.weights(inputs[0], inputs[1]).mean(dim=1))

        parts = [module for module in self.decoder.modules() if isinstance(module, CrossAttention)]
        hooks = [part.register_forward_pre_hook(look) for part in parts]
        try:
            self.decoder(tokens_PL, memory_BMD=memory_PMU)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(layers).mean(dim=0)

    @torch.no_grad()
    def adopt(self, source: nn.Module) -> None:
        """Begin with a language model's weights. Raises UserError if it has too few tokens or positions.

        What it does not have (the cross-attention) stays as it was drawn.
        """
        given = source.state_dict()
        for name, tensor in self.decoder.state_dict().items():
            if name not in given:
                continue
            if any(own > theirs for own, theirs in zip(tensor.shape, given[name].shape, strict=True)):
                raise UserError(
                    f"The language model's {name} has {len(given[name])} rows, and {len(tensor)} are needed: use its "
                    "own tokenizer (--data.tokenizer model), or shorten data.context."
                )
            tensor.copy_(given[name][tuple(slice(0, own) for own in tensor.shape)])

    def encoder_digest(self) -> str:
        """SHA-256 of everything that features depend on: the encoder's kind, weights and buffers, and normalisation."""
        total = hashlib.sha256(repr(getattr(self.encoder, "model", self.encoder)).encode())
        for name, tensor in [*self.encoder.state_dict().items(), ("mean", self.mean_C11), ("std", self.std_C11)]:
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()
