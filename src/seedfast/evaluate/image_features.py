"""Features of images by a pretrained network, as a space for fidelity."""

from pathlib import Path

import torch
from torch import Tensor

from seedfast import huggingface
from seedfast.data.image import processor as image_processor
from seedfast.evaluate.image_distance import Features
from seedfast.families.image.samples import to_pil
from seedfast.models.vit import PretrainedVision, architecture


def pretrained(name: str) -> Features:
    """The mean over patches of a vision model's output. name: a model of transformers, a folder or on the hub.

    Raises UserError if it could not be loaded, or is not a vision model.
    """
    name = str(Path(name).absolute()) if Path(name).is_dir() else name
    with huggingface.quiet():
        processor = image_processor.pretrained(name)
        network = PretrainedVision(architecture(name), size=processor.size, random_weights=False)
        network.load_pretrained(name)
    network.eval()
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (processor.mean, processor.std))

    @torch.no_grad()
    def features(images_BCSS: Tensor) -> Tensor:
        pixels_BCSS = torch.stack([torch.from_numpy(processor(to_pil(image_CSS)).copy()) for image_CSS in images_BCSS])
        output_BMW: Tensor = network((pixels_BCSS.float() / 255 - mean) / std)
        return output_BMW.mean(dim=1)

    return features
