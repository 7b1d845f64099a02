"""Features of images by a pretrained network, to measure fidelity in."""

from pathlib import Path

import torch
from torch import Tensor

from seedfast import huggingface
from seedfast.data.image import processor as vision
from seedfast.evaluate.fidelity import Features
from seedfast.families.image.samples import pillow
from seedfast.models.vit import PretrainedVision, architecture


def pretrained(name: str) -> Features:
    """What a vision model of transformers, a folder or a name on the hub, says of an image: the mean over its patches.

    Raises UserError if it cannot be had, or sees no images.
    """
    name = str(Path(name).absolute()) if Path(name).is_dir() else name
    with huggingface.quiet():
        processor = vision.pretrained(name)
        network = PretrainedVision(architecture(name), size=processor.size, random_weights=False)
        network.load_pretrained(name)
    network.eval()
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (processor.mean, processor.std))

    @torch.no_grad()
    def features(images_BCSS: Tensor) -> Tensor:
        seen_BCSS = torch.stack([torch.from_numpy(processor(pillow(image_CSS)).copy()) for image_CSS in images_BCSS])
        answer_BMW: Tensor = network((seen_BCSS.float() / 255 - mean) / std)
        return answer_BMW.mean(dim=1)

    return features
