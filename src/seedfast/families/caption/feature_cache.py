"""The features of a frozen encoder, computed once for each image and stored in the cache."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seedfast.console import Bar
from seedfast.data.cache import cached_folder
from seedfast.data.caption.dataset import CaptionCorpus
from seedfast.models.captioner import CaptionerNetwork

BATCH = 16
"""Images per forward pass. Size and order of the batches are fixed, so features have the same bits every time."""


def with_features(network: CaptionerNetwork, corpus: CaptionCorpus) -> CaptionCorpus:
    """The corpus with the encoder's features in place of pixels: from the cache, or computed and stored there.

    The cache key is made of the digests of all pixels and of the encoder, so other runs and captions share features.
    """
    key = hashlib.sha256(f"{corpus.pixels} {network.encoder_digest()}".encode()).hexdigest()[:32]
    pixels_MCSS = corpus.train.images.pixels_MCSS
    title = f"{len(pixels_MCSS):,} encoded images"
    encode = partial(_encode, network, pixels_MCSS)
    folder, summary = cached_folder(key, encode, kind="features", title=title)
    features_MPU = np.memmap(folder / "features.bin", np.float32, mode="r", shape=tuple(summary["shape"]))
    images = replace(corpus.train.images, features_MPU=features_MPU)
    return replace(
        corpus, train=replace(corpus.train, images=images), validation=replace(corpus.validation, images=images)
    )


@torch.no_grad()
def _encode(network: CaptionerNetwork, pixels_MCSS: npt.NDArray[np.uint8], folder: Path) -> dict[str, Any]:
    """Write features.bin, float32 [M, P, U], and return its shape."""
    device = next(network.parameters()).device
    shape: list[int] = []
    with (folder / "features.bin").open("xb") as file, Bar("Computing features", len(pixels_MCSS)) as bar:
        for start in range(0, len(pixels_MCSS), BATCH):
            pixels = torch.from_numpy(np.array(pixels_MCSS[start : start + BATCH]))
            features = network.encode(pixels.to(device)).float().cpu()
            file.write(features.numpy().tobytes())
            shape = [len(pixels_MCSS), *features.shape[1:]]
            bar.advance(len(pixels))
    return {"shape": shape}
