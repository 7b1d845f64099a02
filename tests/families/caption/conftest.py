"""A corpus of thirty captioned images for the captioning tests."""

import pytest
from tests.helpers import captions as small_captions

from seedfast.data.caption.config import CaptionData
from seedfast.data.caption.dataset import CaptionCorpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CaptionCorpus:
    """Thirty images with one to three captions each."""
    nouns, verbs = ["cat", "dog", "bird", "fox"], ["sees", "likes", "hears"]
    text = "".join(f"the {nouns[i % 4]} {verbs[i * 7 % 3]} the {nouns[i * 5 % 3]} {i % 10}.\n" for i in range(500))
    path = small_captions.write(tmp_path_factory.mktemp("captions"), text)
    return CaptionData(path=str(path), tokenizer="bytes", context=24, size=8, channels=1, validation=0.25).load()
