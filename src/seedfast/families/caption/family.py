"""Image captioning: a causal decoder with cross-attention to an image predicts its captions, token by token."""

from dataclasses import dataclass

from seedfast.data.caption.dataset import CaptionAssets
from seedfast.families.caption.generator import CaptionGenerator
from seedfast.families.caption.objective import CaptionObjective
from seedfast.families.caption.options import CaptionOptions
from seedfast.families.family import Family


@dataclass(frozen=True, kw_only=True)
class Captioning(CaptionOptions):
    """Next-token prediction of captions given their image."""

    def build(self, assets: CaptionAssets) -> Family:
        """The family for this tokenizer and image processor."""
        return Family(objective=CaptionObjective(self, assets), generator=CaptionGenerator(assets))
