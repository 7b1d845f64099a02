"""Export of seedfast's own text networks: as a class of transformers, or with modelling code of their own."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seedfast import huggingface
from seedfast.data.text.config import STORED
from seedfast.data.text.corpus import TextAssets
from seedfast.evaluate.bare import OWN_TRANSFORMER
from seedfast.evaluate.trained import Trained
from seedfast.export.card import text_card
from seedfast.export.hf_tokenizer import write_tokenizer
from seedfast.export.transformers_shape import as_transformers
from seedfast.families.text.autoregressive import AutoregressiveObjective
from seedfast.families.text.masked import MaskedObjective
from seedfast.files import to_json
from seedfast.models.transformer_network import TransformerNetwork
from seedfast.run_folder.tensors import save_tensors

_MODELLING = "modeling_seedfast.py"


def text_writer(model: Trained) -> Callable[[Path], None] | None:
    """The function that writes a text model into a folder; None for a network that neither form can hold.

    A proofreading model leaves as the masked diffusion model that its likelihood bound is of: without the answers about
    wrong words.
    """
    network, objective, assets = model.network, model.family.evaluated, model.assets
    if not isinstance(network, TransformerNetwork) or not isinstance(assets, TextAssets):
        return None
    if isinstance(objective, AutoregressiveObjective):
        plain = as_transformers(network, end_of_text=assets.tokenizer.end_of_text)
        if plain is not None:
            return partial(_write_plain, model, assets, plain)
        return partial(_write_own, model, assets, network, mask=None)
    if isinstance(objective, MaskedObjective) and objective.block is None:
        return partial(_write_own, model, assets, network, mask=objective.mask)
    return None


def _write_plain(model: Trained, assets: TextAssets, plain: Any, folder: Path) -> None:
    with huggingface.quiet():
        plain.save_pretrained(folder)
    _write_rest(model, assets, folder, text_card(model, plain.config), is_masked=False)


def _write_own(
    model: Trained, assets: TextAssets, network: TransformerNetwork, folder: Path, *, mask: int | None
) -> None:
    words = assets.tokenizer.size
    tensors = _tensors(network, words=words, mask=mask)
    save_tensors(tensors, folder / "model.safetensors")
    name = "SeedfastForCausalLM" if mask is None else "SeedfastForMaskedLM"
    auto = "AutoModelForCausalLM" if mask is None else "AutoModelForMaskedLM"
    module, end = Path(_MODELLING).stem, assets.tokenizer.end_of_text
    shape = replace(network.config, hidden=network.config.mlp_width)
    config = {
        "model_type": OWN_TRANSFORMER,
        "architectures": [name],
        "auto_map": {"AutoConfig": f"{module}.SeedfastConfig", auto: f"{module}.{name}"},
        "vocab_size": len(tensors["tokens.weight"]),
        "outputs": len(tensors.get("head.weight", tensors["tokens.weight"])),
        "max_position_embeddings": network.context,
        "transformer": asdict(shape),
        "tie_word_embeddings": shape.tied,
        "dtype": "float32",
        "bos_token_id": end,
        "eos_token_id": end,
        "use_cache": False,
        **({} if mask is None else {"mask_token_id": words}),
    }
    (folder / "config.json").write_text(to_json(config), "utf-8")
    (folder / _MODELLING).write_text((Path(__file__).parent / _MODELLING).read_text("utf-8"), "utf-8")
    _write_rest(model, assets, folder, text_card(model, None), is_masked=mask is not None)


def _tensors(network: TransformerNetwork, *, words: int, mask: int | None) -> dict[str, Tensor]:
    """The weights by their names here; of a masked model, the words and [MASK] after them, without other symbols."""
    tensors = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    if network.config.tied:
        del tensors["head.weight"]
    if mask is not None:
        for name in {"tokens.weight", "ngrams.numbers_V"} & tensors.keys():
            tensors[name] = torch.cat([tensors[name][:words], tensors[name][mask : mask + 1]])
        if "head.weight" in tensors:
            tensors["head.weight"] = tensors["head.weight"][:words]
    return tensors


def _write_rest(model: Trained, assets: TextAssets, folder: Path, card: str, *, is_masked: bool) -> None:
    """The tokenizer for transformers, the assets for seedfast, and the card."""
    write_tokenizer(assets.tokenizer, folder, mask=is_masked)
    (folder / STORED).mkdir()
    assets.save(folder / STORED)
    (folder / "README.md").write_text(card, "utf-8")
