"""Features of images by a pretrained network, as a space for fidelity.

`device` is where the network computes; features come back on the CPU.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from seedfast import huggingface
from seedfast.console import abbreviate
from seedfast.data.image import processor as image_processor
from seedfast.errors import UserError
from seedfast.evaluate.image_distance import Features
from seedfast.families.image.samples import to_pil
from seedfast.files import sha256
from seedfast.models.inception import Inception, preprocessed
from seedfast.models.stored_state import read_state
from seedfast.models.vit import PretrainedVision, architecture

INCEPTION = "inception:"
"""What precedes the path of the weights of the published FID."""

_IMAGES = 32
"""Images of 299 × 299 pixels that are in memory together."""


def inception(path: Path, device: torch.device | str = "cpu") -> tuple[Features, str]:
    """The 2,048 features of the Fréchet inception distance (Heusel et al. 2017), and their name with the digest.

    path: a file with the state dict of the published PyTorch conversion (pt_inception-2015-12-05), as torch.save or
    safetensors writes it. Raises UserError if it cannot be read, or its names or shapes are others.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: inception: needs the path of the weights (docs/images.md).")
    with torch.device("meta"):
        network = Inception()
    state = {name: each for name, each in read_state(path).items() if not name.endswith("num_batches_tracked")}
    _check(state, {n: each for n, each in network.state_dict().items() if not n.endswith("num_batches_tracked")}, path)
    network.load_state_dict(state, strict=False, assign=True)
    del network.fc
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):  # the counter is of no use, and the published file has none
            norm.num_batches_tracked = None
    network.to(device=device, dtype=torch.float32).eval()

    @torch.no_grad()
    def features(images_BCSS: Tensor) -> Tensor:
        parts = torch.split(images_BCSS, _IMAGES)
        return torch.cat([network(preprocessed(part.to(device))).cpu() for part in parts])

    return features, f"FID's Inception-v3, pool3 ({path.name}, sha256 {sha256(path)[:8]})"


def _check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError unless the tensors have these names and shapes."""
    head = state.get("fc.weight")
    if any(name.startswith("AuxLogits.") for name in state) or (head is not None and len(head) == 1000):
        raise UserError(
            f"{path} holds the Inception-v3 that classifies 1,000 classes, whose distances are not comparable with any "
            "FID: use the weights of the FID, pt_inception-2015-12-05."
        )
    missing, other = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [n for n, each in expected.items() if n in state and state[n].shape != each.shape]
    for what, names in {"lacks": missing, "has the unknown": other, "has another shape for": shapes}.items():
        if names:
            raise UserError(f"{path} is not the Inception-v3 of the FID: it {what} {abbreviate(names)}.")


def pretrained(name: str, device: torch.device | str = "cpu") -> Features:
    """The mean over patches of a vision model's output. name: a model of transformers, a folder or on the hub.

    Raises UserError if it could not be loaded, or is not a vision model.
    """
    name = str(Path(name).absolute()) if Path(name).is_dir() else name
    with huggingface.quiet():
        processor = image_processor.pretrained(name)
        network = PretrainedVision(architecture(name), size=processor.size, random_weights=False)
        network.load_pretrained(name)
    network.to(device).eval()
    mean, std = (torch.tensor(each, device=device).view(-1, 1, 1) for each in (processor.mean, processor.std))

    @torch.no_grad()
    def features(images_BCSS: Tensor) -> Tensor:
        pixels_BCSS = torch.stack([torch.from_numpy(processor(to_pil(image_CSS)).copy()) for image_CSS in images_BCSS])
        output_BMW: Tensor = network((pixels_BCSS.to(device).float() / 255 - mean) / std)
        return output_BMW.mean(dim=1).cpu()

    return features
