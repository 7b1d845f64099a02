"""Importing GPT-2 weights from transformers and from nanoGPT checkpoints, causal or of masked diffusion."""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from seedfast.errors import UserError
from seedfast.huggingface import first_line, read_json
from seedfast.models.masked_checkpoints import MASKED_KEYS, masked_model
from seedfast.models.stored_state import DAMAGED, read_state, torch_load
from seedfast.models.transformer import Transformer
from seedfast.models.transformer_network import TransformerNetwork

_BLOCK = {
    "ln_1": "norm_attention",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "ln_2": "norm_mlp",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
_SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_MASKS = (".attn.bias", ".attn.masked_bias")  # older files store the causal mask as a buffer


@dataclass(frozen=True)
class Imported:
    """An imported network and the configuration that it was stored with (config.json, or nanoGPT's model_args).

    masked: how the configuration shows that the model predicts masked tokens; None for a causal model.
    """

    network: TransformerNetwork
    config: Mapping[str, Any]

    @property
    def masked(self) -> str | None:
        return masked_model(self.config)


def open_model(source: Path) -> Imported:
    """The model in a nanoGPT checkpoint (a file) or in the folder of a GPT-2.

    Raises UserError if it cannot be read, or has another architecture.
    """
    if not source.is_dir():
        checkpoint = _open_nanogpt(source)
        args = _model_args(checkpoint)
        return Imported(_nanogpt_network(source, args, checkpoint["model"]), args)
    config = _folder_config(source)
    if config.get("model_type") == "gpt2":
        return Imported(from_gpt2(source), config)
    return Imported(_nanogpt_network(source, _as_model_args(source, config), _folder_weights(source)), config)


def from_gpt2(source: Path | str | Any) -> TransformerNetwork:
    """A network with GPT-2's weights, vocabulary and context: bidirectional if its configuration has a mask token.

    source: a folder written by `save_pretrained`, or a transformers GPT2LMHeadModel.
    Raises UserError if transformers is missing, or for a model with another architecture.
    """
    model = _open_gpt2(Path(source)) if isinstance(source, str | Path) else source
    # Attributes are looked up because `source` may be any object and transformers, with its classes, is optional.
    shape: Any = getattr(model, "config", None)
    if getattr(shape, "model_type", None) != "gpt2" or not hasattr(model, "lm_head"):
        raise UserError(f"A GPT2LMHeadModel is needed, but this is a {type(model).__name__}.")
    for key, value in {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "layer_norm_epsilon": 1e-5,
        "add_cross_attention": False,
    }.items():
        if (found := getattr(shape, key, value)) != value:  # older configurations lack some of these keys
            raise UserError(f"Only GPT-2 with {key} = {value} can be imported, but this model has {found}.")
    config = Transformer.gpt2(
        layers=shape.n_layer,
        heads=shape.n_head,
        width=shape.n_embd,
        hidden=shape.n_inner,
        tied=shape.tie_word_embeddings,
    )
    is_causal = masked_model(shape.to_dict()) is None
    network = config.build(vocabulary=shape.vocab_size, context=shape.n_positions, causal=is_causal)
    return _load(network, transposed(model.state_dict()), "This GPT-2")


def transposed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with GPT-2's matrices transposed: transformers' Conv1D keeps them as [in, out]."""
    names = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {name: tensor.T if tensor.ndim == 2 and name.endswith(names) else tensor for name, tensor in state.items()}


def _folder_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder. Raises UserError for a model without GPT-2's architecture, naming what it is."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not the folder of a transformers model: it has no config.json.")
    config = read_json(path)
    kind, masked = config.get("model_type"), masked_model(config)
    if kind == "gpt2" or (masked and all(isinstance(config.get(key), int) for key in _SIZES[:3])):
        return config
    what = f"a masked diffusion model ({masked})" if masked else f"a model of type {kind}"
    raise UserError(f"{folder} holds {what}; only models with the architecture of gpt2 can be imported.")


def _open_gpt2(folder: Path) -> Any:
    _folder_config(folder)
    try:
        import transformers
    except ImportError as error:
        raise UserError("Reading a transformers model needs transformers: pip install 'seedfast[hub]'.") from error
    try:
        return transformers.GPT2LMHeadModel.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} could not be read as a GPT-2 model: {first_line(error)}") from error


def _as_model_args(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a fork's config.json as nanoGPT's model_args."""
    context = config.get("block_size", config.get("n_positions", config.get("n_ctx")))
    if config.get("activation_function", "gelu") != "gelu":
        raise UserError(f"{folder} has the activation {config['activation_function']}; nanoGPT's forks have gelu.")
    return {**config, "block_size": context}


def _folder_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model.safetensors or pytorch_model.bin, matrices as [out, in]."""
    path = next((path for name in _WEIGHTS if (path := folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no weights: it should hold {' or '.join(_WEIGHTS)}.")
    state = read_state(path)
    up = state.get("transformer.h.0.mlp.c_fc.weight")
    return transposed(state) if up is not None and up.shape[0] < up.shape[-1] else state


def from_nanogpt(path: Path, *, vocabulary: int | None = None) -> TransformerNetwork:
    """The network of a nanoGPT `ckpt.pt`, with the sizes in its `model_args`: bidirectional for masked diffusion.

    vocabulary: number of tokens to keep (default: all). nanoGPT pads GPT-2's 50257 tokens to 50304, and the rows of
        the padding can be dropped.
    Raises UserError if the file is damaged, no nanoGPT checkpoint, or inconsistent.
    """
    checkpoint = _open_nanogpt(path)
    return _nanogpt_network(path, _model_args(checkpoint), checkpoint["model"], vocabulary)


def _model_args(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """nanoGPT's model_args, and what the settings of its training say about masked diffusion."""
    settings = checkpoint.get("config")
    known = settings if isinstance(settings, dict) else {}
    return {**{key: known[key] for key in MASKED_KEYS if key in known}, **checkpoint["model_args"]}


def _nanogpt_network(
    path: Path, args: Mapping[str, Any], state: Mapping[str, Tensor], vocabulary: int | None = None
) -> TransformerNetwork:
    if absent := [key for key in _SIZES if not isinstance(args.get(key), int)]:
        raise UserError(f"{path} is not a nanoGPT checkpoint: its model_args lack {', '.join(absent)}.")
    # Checkpoints of a compiled model have the prefix of torch.compile.
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    vocabulary = args["vocab_size"] if vocabulary is None else vocabulary
    if vocabulary > args["vocab_size"]:
        raise UserError(f"{path} has {args['vocab_size']} tokens, so {vocabulary} cannot be kept.")
    for name in ("transformer.wte.weight", "lm_head.weight"):
        if name in state:
            state[name] = state[name][:vocabulary]
    config = Transformer.gpt2(
        layers=args["n_layer"],
        heads=args["n_head"],
        width=args["n_embd"],
        mlp="gelu-erf",
        bias=bool(args.get("bias", True)),
        dropout=float(args.get("dropout", 0.0)),
    )
    network = config.build(vocabulary=vocabulary, context=args["block_size"], causal=masked_model(args) is None)
    return _load(network, state, str(path))


def _open_nanogpt(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} could not be read as a nanoGPT checkpoint: it is not a zip archive, which torch.save writes."
        )
    try:
        checkpoint = torch_load(path)
    except DAMAGED as error:
        raise UserError(f"{path} could not be read as a nanoGPT checkpoint: {first_line(error)}") from error
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(k), dict) for k in ("model", "model_args")
    ):
        raise UserError(f"{path} is not a nanoGPT checkpoint: it lacks 'model' or 'model_args'.")
    return checkpoint


def tensor_names(network: TransformerNetwork) -> Iterator[tuple[str, str]]:
    """Each tensor's name in GPT-2 and in our network."""
    own_names = set(network.state_dict())
    yield "transformer.wte.weight", "tokens.weight"
    yield "transformer.wpe.weight", "positions.weight"
    yield "lm_head.weight", "head.weight"
    parts = {"transformer.ln_f": "norm"}
    for layer in range(network.config.layers):
        parts |= {f"transformer.h.{layer}.{theirs}": f"blocks.{layer}.{own}" for theirs, own in _BLOCK.items()}
    for theirs, own in parts.items():
        for kind in ("weight", "bias"):
            if f"{own}.{kind}" in own_names or (own.endswith("qkv") and kind == "weight"):
                yield f"{theirs}.{kind}", f"{own}.{kind}"


def _load(network: TransformerNetwork, state: Mapping[str, Tensor], source: str) -> TransformerNetwork:
    """Load GPT-2's tensors. Raises UserError if one is missing, unexpected or of another shape."""
    rest = {name: tensor for name, tensor in state.items() if not name.endswith(_MASKS)}
    if network.config.tied:
        rest.setdefault("lm_head.weight", rest.get("transformer.wte.weight", torch.empty(0)))
    names = dict(tensor_names(network))
    if missing := sorted(names.keys() - rest.keys()):
        raise UserError(f"{source} lacks {len(missing)} tensors that its shape needs: {', '.join(missing[:4])}.")
    if unexpected := sorted(rest.keys() - names.keys()):
        raise UserError(f"{source} has {len(unexpected)} unexpected tensors: {', '.join(unexpected[:4])}.")
    if network.config.tied and not torch.equal(rest["lm_head.weight"], rest["transformer.wte.weight"]):
        raise UserError(f"{source} should share lm_head.weight with transformer.wte.weight, but they differ.")
    own: dict[str, Tensor] = {}
    for theirs, name in names.items():
        if name.endswith("qkv.weight"):
            q, k, v = rest[theirs].tensor_split(3)
            own |= {name.replace("weight", part): piece for part, piece in zip("qkv", (q, k, v), strict=True)}
        else:
            own[name] = rest[theirs]
    for name, tensor in network.state_dict().items():
        if own[name].shape != tensor.shape:
            raise UserError(
                f"{source} has the shape {list(own[name].shape)} where {name} needs {list(tensor.shape)}: "
                "its weights do not match its configuration."
            )
    network.load_state_dict(own)
    return network


@torch.no_grad()
def copy_weights(network: TransformerNetwork, source: TransformerNetwork, rows: Mapping[int, int]) -> None:
    """Copy the weights of an imported network into the network of a run, whose vocabulary may differ.

    rows: for each token of the run that the import knows, its id there. The rows of all others start at zero:
    tokenizers here end with an end-of-text that an imported character model does not have.
    """
    vocabulary = {"tokens.weight", "head.weight"}
    own_ids, source_ids = (torch.tensor(list(ids)) for ids in (rows.keys(), rows.values()))
    imported = source.state_dict()
    for name, own in network.state_dict().items():
        other = imported[name]
        if name in vocabulary:
            own.zero_()
            own[own_ids] = other[source_ids]
            continue
        if own.shape != other.shape:
            raise UserError(f"{name} has shape {list(other.shape)} in the import and {list(own.shape)} in this run.")
        own.copy_(other)
