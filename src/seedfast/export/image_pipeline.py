"""A pipeline of diffusers that generates images by class, and unfolds blocks of pixels. `seedfast export` copies this
file next to the models that need it, so it does not import seedfast.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F


class ImagePipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """DDIM with classifier-free guidance (Ho & Salimans 2022) on a U-Net, class-conditional or not.

    id2label: the classes' names by their numbers. The number after the last one is the null label, for any class.
    patch: height and width of the blocks of pixels that are channels of the U-Net.
    """

    def __init__(
        self, unet: UNet2DModel, scheduler: DDIMScheduler, id2label: dict[Any, str] | None = None, patch: int = 1
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(id2label=id2label, patch=patch)
        self.labels = {name: int(number) for number, name in (id2label or {}).items()}

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[str | int] | None = None,
        *,
        batch_size: int = 1,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """One image for each of these classes, by name or number; by default `batch_size` images of any class.

        guidance_scale: w of u + w (c - u); 1 is the conditional model. latents: the noise to start from.
        output_type: "pil", "np" [B, S, S, C] or "pt" [B, C, S, S], in [0, 1].
        """
        config, patch = self.unet.config, self.config.patch
        labels_B = self._labels(class_labels, batch_size)
        if labels_B is None and guidance_scale != 1:
            raise ValueError("This model has no classes, so guidance_scale must be 1.")
        count = batch_size if labels_B is None else len(labels_B)
        if latents is None:
            shape = (count, config.in_channels // patch**2, config.sample_size * patch, config.sample_size * patch)
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        self.scheduler.set_timesteps(num_inference_steps)
        x = F.pixel_unshuffle(latents, patch)
        for t in self.progress_bar(self.scheduler.timesteps):
            output = self.unet(x, t, class_labels=labels_B).sample
            if labels_B is not None and guidance_scale != 1:
                null_B = torch.full_like(labels_B, config.num_class_embeds - 1)
                unconditional = self.unet(x, t, class_labels=null_B).sample
                output = unconditional + guidance_scale * (output - unconditional)
            # use_clipped_model_output derives the noise again from the clamped image.
            step = self.scheduler.step(output, t, x, eta=eta, use_clipped_model_output=True, generator=generator)
            x = step.prev_sample
        images: Any = (F.pixel_shuffle(x, patch) / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, class_labels: Sequence[str | int] | None, batch_size: int) -> torch.Tensor | None:
        """The labels of a batch, the null label where none are given; None for a model without classes."""
        if self.unet.config.num_class_embeds is None:
            if class_labels is not None:
                raise ValueError("This model has no classes: give batch_size instead.")
            return None
        null = self.unet.config.num_class_embeds - 1
        chosen = [null] * batch_size if class_labels is None else [self._number(label) for label in class_labels]
        return torch.tensor(chosen, device=self._execution_device)

    def _number(self, label: str | int) -> int:
        if isinstance(label, str):
            if label not in self.labels:
                raise ValueError(f"There is no class {label!r}; there are {', '.join(self.labels)}.")
            return self.labels[label]
        return label
