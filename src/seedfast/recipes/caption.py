"""Image captioning; by default of characters with their names."""

from seedfast.data.caption.config import CaptionData
from seedfast.families.caption.family import Captioning
from seedfast.loop.config import Run
from seedfast.models.captioner import Captioner
from seedfast.models.transformer import Transformer
from seedfast.models.vit import ViT
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig


def image_caption() -> Run:
    """A vision transformer and a decoder, both from scratch: a few minutes on two CPU cores."""
    return Run(
        recipe="image-caption",
        objective=Captioning(),
        data=CaptionData(),
        model=Captioner(vit=ViT(), decoder=Transformer(layers=2, heads=4, width=128)),
        optimizer=OptimizerConfig(kind="muon", lr=1e-2, weight_decay=0.0),
        schedule=Schedule(shape="linear", warmup=100),
        ema=EMA(half_life=100),
        clip=None,
        steps=2000,
        batch_size=64,
        eval_examples=256,
    )
