"""Transformers of seedfast that `seedfast export` wrote with their modelling code; here the code is not needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedfast import huggingface
from seedfast.data.text.config import STORED
from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.evaluate.bare import BareKind, load_weights
from seedfast.evaluate.bare.language_model import text_model
from seedfast.evaluate.trained import Trained
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.families.text.mask_counts import MEASURED
from seedfast.families.text.masked import Masked
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.loop.plain_config import from_mapping
from seedfast.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class _Stored(Transformer):
    """A transformer whose new networks get the weights of an export. folder: the export."""

    folder: Path

    def initialise(self, network: Any) -> None:
        """Load the weights. Raises UserError if they are not those of this network."""
        load_weights(network, self.folder, "model")


def _is_masked(folder: Path) -> bool:
    return huggingface.read_json(folder / "config.json").get("mask_token_id") is not None


def _load(folder: Path, device: str, data: str | None) -> Trained:
    path = folder / "config.json"
    shape = huggingface.read_json(path).get("transformer")
    if not isinstance(shape, dict):
        raise UserError(f'{path} has no "transformer", so it is not an export of seedfast.')
    config = from_mapping(Transformer(), shape, where=str(path))
    model = _Stored(**vars(config), folder=folder)
    objective = Masked(estimator=MEASURED) if _is_masked(folder) else Autoregressive()
    assets = TextAssets.load(folder / STORED)
    return text_model(model, objective, assets, tokenizer=folder, device=device, data=data)


BARE_TRANSFORMER = BareKind(lambda folder: MaskedRequest if _is_masked(folder) else AutoregressiveRequest, _load)
