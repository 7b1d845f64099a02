"""Image recipes: diffusion models of folders, lists and data sets of images; by default of glyphs."""

from seedfast.data.image.config import ImageData
from seedfast.families.image.family import ImageDiffusion
from seedfast.loop.config import Run
from seedfast.models.config import ImageModel
from seedfast.models.diffusers_unet import DiffusersUNet
from seedfast.models.dit import DiT
from seedfast.models.unet import UNet
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig


def image_diffusion() -> Run:
    """Class-conditional diffusion of pixels with a U-Net: a few minutes on two CPU cores."""
    return _image("image-diffusion", UNet(patch=2, blocks=1), lr=2e-3, steps=2400)


def image_transformer() -> Run:
    """The same with a transformer of patches (DiT), which is the transformer of the text families."""
    return _image("image-transformer", DiT())


def image_diffusers() -> Run:
    """The same with the U-Net of diffusers: `seedfast export` writes it as a pipeline of diffusers."""
    return _image("image-diffusers", DiffusersUNet())


def _image(
    recipe: str,
    model: ImageModel,
    *,
    lr: float = 1e-3,
    steps: int = 1500,
) -> Run:
    return Run(
        recipe=recipe,
        objective=ImageDiffusion(),
        data=ImageData(),
        model=model,
        optimizer=OptimizerConfig(lr=lr, betas=(0.9, 0.99), weight_decay=0.0),
        schedule=Schedule(shape="cosine", warmup=100),
        ema=EMA(half_life=100),
        steps=steps,
        batch_size=32,
        eval_examples=128,
    )
