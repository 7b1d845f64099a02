"""Causal language models of transformers, and adapters of peft, from their own folders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seedfast import huggingface
from seedfast.data.text.config import STORED, TextData
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.hub import pretrained_tokenizer
from seedfast.errors import UserError
from seedfast.evaluate.bare import BareKind
from seedfast.evaluate.bare.brought import whole_text
from seedfast.evaluate.trained import Trained
from seedfast.families.family import FamilyConfig
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.families.text.mask_counts import MEASURED
from seedfast.families.text.masked import Masked
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.loop.config import Run
from seedfast.loop.distributed import DistributedContext
from seedfast.models import hf_causal_lm
from seedfast.models.adapter import load_adapter
from seedfast.models.causal_lm import PretrainedLM
from seedfast.models.config import TokenModel

MASKED = "seedfast_masked"
"""The key in the config.json of a fine-tuned model that predicts masked tokens."""
_CONTEXT = 2048  # of a bare model: some have room for a million tokens


def text_model(
    model: TokenModel,
    objective: FamilyConfig,
    assets: TextAssets,
    *,
    tokenizer: Path | str,
    device: str,
    data: str | None,
) -> Trained:
    """A text model in evaluation mode, with its pretrained weights; with data, to be evaluated on all of it.

    tokenizer: the folder or hub name of that of the assets.
    """
    run = Run(recipe="", objective=objective, data=TextData(context=assets.context), model=model)
    corpus = None
    if data is not None:
        text = TextData(path=data, tokenizer=str(tokenizer), context=assets.context).located()
        run, corpus = replace(run, data=text), whole_text(text, longest=assets.context)
        assets = corpus.assets
    family, distributed = objective.build(assets), DistributedContext.single(device, "fp32")
    with torch.random.fork_rng():
        network = family.objective.network(model)
        model.initialise(network)
    network.to(distributed.device).eval()
    return Trained(run, family, assets, network, {}, "base", None, distributed, brought=corpus)


def _assets(folder: Path, model: PretrainedLM, tokenizer: str) -> TextAssets:
    """Those that an export stored, or the tokenizer of transformers with the longest context."""
    if (folder / STORED).is_dir():
        return TextAssets.load(folder / STORED)
    context = min(hf_causal_lm.longest_context(model.architecture) or _CONTEXT, _CONTEXT)
    return TextAssets(pretrained_tokenizer(tokenizer), context, validation_tokens=1, validation_bytes=1)


def _language_model(folder: Path, device: str, data: str | None) -> Trained:
    is_masked = _is_masked(folder)
    architecture = hf_causal_lm.architecture(str(folder), masked=is_masked)
    attention = hf_causal_lm.attention(architecture)
    model = PretrainedLM(path=str(folder), architecture=architecture, attention=attention).located()
    assets = _assets(folder, model, str(folder))
    # A network that was trained from scratch has seen the other documents of its window.
    isolated = not (folder / STORED).is_dir()
    objective = (
        Masked(estimator=MEASURED, document_mask=isolated) if is_masked else Autoregressive(document_mask=isolated)
    )
    return text_model(model, objective, assets, tokenizer=folder, device=device, data=data)


def _is_masked(folder: Path) -> bool:
    return huggingface.read_json(folder / "config.json").get(MASKED) is True


def _request(folder: Path) -> type[Any]:
    if _is_masked(folder):
        return MaskedRequest
    hf_causal_lm.refuse_masked(str(folder))
    return AutoregressiveRequest


def _adapter(folder: Path, device: str, data: str | None) -> Trained:
    config = huggingface.read_json(folder / "adapter_config.json")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / 'adapter_config.json'} does not name the model that the adapter belongs to.")
    model = PretrainedLM(path=base).located()
    model = replace(model, attention=hf_causal_lm.attention(model.architecture))
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    tokenizer = str(folder) if has_tokenizer else model.path
    assets, objective = _assets(folder, model, tokenizer), Autoregressive(document_mask=True)
    found = text_model(model, objective, assets, tokenizer=tokenizer, device=device, data=data)
    network: Any = found.network
    network.set_model(load_adapter(network.plain, folder))
    network.to(found.distributed.device).eval()
    return replace(found, weights="raw")


LANGUAGE_MODEL = BareKind(_request, _language_model)
ADAPTER = BareKind(lambda _: AutoregressiveRequest, _adapter)
