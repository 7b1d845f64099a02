"""A model as a folder that transformers, peft, diffusers or `seedfast sample` loads, with a model card."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from seedfast import huggingface, sealed_folder
from seedfast.data.text import tokenizers
from seedfast.data.text.config import STORED
from seedfast.data.text.tokenizers import Subwords
from seedfast.errors import UserError
from seedfast.evaluate.bare import CAPTIONER
from seedfast.evaluate.bare.language_model import MASKED
from seedfast.evaluate.trained import Trained
from seedfast.export import diffusers_pipeline as pipelines
from seedfast.export.card import language_model_card, simple_card
from seedfast.export.hf_tokenizer import write_tokenizer
from seedfast.export.own_text import text_writer
from seedfast.files import to_json
from seedfast.models import hf_causal_lm
from seedfast.models.adapter import merged
from seedfast.models.captioner import Captioner, CaptionerNetwork
from seedfast.models.causal_lm import PretrainedLM
from seedfast.models.causal_lm_network import CausalLMNetwork
from seedfast.models.diffusers_unet import DiffusersNetwork
from seedfast.models.unet import UNetNetwork
from seedfast.run_folder.tensors import save_tensors
from seedfast.run_folder.train_state import network_tensors


def export(model: Trained, folder: Path, *, merge: bool = False) -> None:
    """Write weights, tokenizer and model card into a new folder, which appears only when it is complete.

    merge: add the change of an adapter to the weights that it adapts. Otherwise the adapter is exported alone and names
        the model that it belongs to.
    Raises UserError if only seedfast can load the network, or the folder is not empty.
    """
    write = writer(model, merge=merge) or _own_writer(model)
    if merge and not isinstance(model.run.model, PretrainedLM):
        raise UserError(f"A model of {model.run.recipe} has no adapter to merge; leave --merge out.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already; choose a new folder for --out.")
    origin = model.came_from
    assert origin is not None, "only a run is exported"
    with sealed_folder.new_folder(folder) as attempt:
        write(attempt)
        origin.write(attempt)


def _own_writer(model: Trained) -> Callable[[Path], None]:
    """The function that writes one of seedfast's own networks.

    Raises UserError for those that nothing else can load.
    """
    if isinstance(model.network, UNetNetwork):
        return partial(pipelines.write, pipelines.pipeline(model), model)
    if write := text_writer(model):
        return write
    raise UserError(
        f"The network of this run ({model.run.recipe}) is seedfast's own, which neither transformers nor diffusers "
        "can load; fine-tuned, autoregressive and masked text models, captioners and U-Nets are exported."
    )


def writer(model: Trained, *, merge: bool) -> Callable[[Path], None] | None:
    """The function that writes the files of this model into a folder; None for seedfast's own networks."""
    network, config = model.network, model.run.model
    if isinstance(network, DiffusersNetwork):
        return partial(pipelines.write, pipelines.pipeline(model), model)
    if isinstance(network, CaptionerNetwork) and isinstance(config, Captioner):
        return partial(_write_captioner, model, config)
    if not isinstance(network, CausalLMNetwork) or not isinstance(config, PretrainedLM):
        return None
    is_adapted = network.model is not network.plain
    if merge and not is_adapted:
        raise UserError("This run trained all weights, so there is no adapter to merge; leave --merge out.")
    return partial(_write_language_model, model, config, network, adapter=is_adapted and not merge)


def _write_captioner(model: Trained, config: Captioner, folder: Path) -> None:
    """Weights as safetensors, shape as JSON, tokenizer, image processor and card: all that `bare` needs."""
    save_tensors(network_tensors(model.network), folder / "model.safetensors")
    shape = replace(config, path=Path(config.path).name, language_model="")
    contents = {"model_type": CAPTIONER, "architectures": ["CaptionerNetwork"], "captioner": asdict(shape)}
    (folder / "config.json").write_text(to_json(contents), "utf-8")
    model.assets.save(folder)
    card = simple_card(model, "An image captioner", "image-to-text", "seedfast sample PATH --image PICTURE")
    (folder / "README.md").write_text(card, "utf-8")


def _write_language_model(
    model: Trained, config: PretrainedLM, network: CausalLMNetwork, folder: Path, *, adapter: bool
) -> None:
    tokenizer, plain = model.tokenizer, network.plain
    if isinstance(tokenizer, Subwords):
        plain.config.eos_token_id = plain.generation_config.eos_token_id = tokenizer.end_of_text
    if model.family.objective.measure.is_bound:
        setattr(plain.config, MASKED, True)  # otherwise nothing tells its weights from those of a causal model
        plain.config.mask_token_id = tokenizer.size
    with huggingface.quiet():
        if adapter:
            if not fits_its_base(model):
                raise UserError("This adapter fits only the model that was created in its run; pass --merge.")
            network.model.peft_config["default"].base_model_name_or_path = config.path
            # The embeddings are those of the base; peft would ask the hub to find that out.
            network.model.save_pretrained(folder, save_embedding_layers=False)
        else:
            whole = plain if network.model is plain else merged(network.model)
            whole.save_pretrained(folder)
    if isinstance(tokenizer, Subwords):
        tokenizers.save(tokenizer, folder)
    else:
        write_tokenizer(tokenizer, folder, mask=False)
        (folder / STORED).mkdir()
        model.assets.save(folder / STORED)
    (folder / "README.md").write_text(language_model_card(model, config, plain.config, adapter=adapter), "utf-8")


def fits_its_base(model: Trained) -> bool:
    """Whether a fine-tuned model has no adapter, or one that works on the pretrained model as it is."""
    network, config = model.network, model.run.model
    if not isinstance(network, CausalLMNetwork) or not isinstance(config, PretrainedLM):
        return True
    if network.model is network.plain:
        return True
    # A model that predicts masked tokens has a row for [MASK], and one with added tokens has rows for them.
    return bool(config.path) and hf_causal_lm.vocabulary(config.architecture) == network.plain.config.vocab_size
