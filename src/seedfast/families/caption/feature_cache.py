"""What a frozen encoder says of each image, computed once and kept in the cache."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seedfast.console import Bar
from seedfast.data.cache import cached_folder
from seedfast.data.caption.dataset import CaptionCorpus, Captions
from seedfast.data.dataset import Corpus
from seedfast.models.captioner import CaptionerNetwork

BATCH = 16
"""Images that are encoded together: a fixed number in a fixed order, so that features are the same bits every time."""


def with_features(network: CaptionerNetwork, corpus: Corpus) -> Corpus:
    """The corpus, whose images are seen by their features: from the cache, or computed and kept there.

    They are kept under the digests of all pixels and of the encoder, so they belong to no run and to no captions.
    """
    assert isinstance(corpus, CaptionCorpus)
    assert isinstance(corpus.train, Captions)
    assert isinstance(corpus.validation, Captions)
    key = hashlib.sha256(f"{corpus.pixels} {network.encoder_digest()}".encode()).hexdigest()[:32]
    pixels_MCSS = corpus.train.pixels_MCSS
    folder, facts = cached_folder(key, lambda attempt: _encode(network, pixels_MCSS, attempt), kind="features")
    features_MPW = np.memmap(folder / "features.bin", np.float32, mode="r", shape=tuple(facts["shape"]))
    return replace(corpus, train=corpus.train.seeing(features_MPW), validation=corpus.validation.seeing(features_MPW))


@torch.no_grad()
def _encode(network: CaptionerNetwork, pixels_MCSS: Any, folder: Path) -> dict[str, Any]:
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
