"""Importing GPT-2 weights from transformers and from nanoGPT checkpoints."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seedfast.errors import UserError
from seedfast.huggingface import first_line
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
_MASKS = (".attn.bias", ".attn.masked_bias")  # older files store the causal mask as a buffer


def from_gpt2(source: Path | str | Any) -> TransformerNetwork:
    """A causal network with GPT-2's weights, vocabulary and context.

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
    network = config.build(vocabulary=shape.vocab_size, context=shape.n_positions, causal=True)
    # transformers' Conv1D keeps its matrices as [in, out].
    state = {
        name: tensor.T
        if tensor.ndim == 2 and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        else tensor
        for name, tensor in model.state_dict().items()
    }
    return _load(network, state, "This GPT-2")


def _open_gpt2(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not the folder of a transformers model: it has no config.json.")
    try:
        import transformers
    except ImportError as error:
        raise UserError("Reading a transformers model needs transformers: pip install 'seedfast[hub]'.") from error
    try:
        kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind != "gpt2":
            raise UserError(f"{folder} holds a model of type {kind}; only gpt2 can be imported.")
        return transformers.GPT2LMHeadModel.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder} could not be read as a GPT-2 model: {first_line(error)}") from error


def from_nanogpt(path: Path, *, vocabulary: int | None = None) -> TransformerNetwork:
    """The causal network of a nanoGPT `ckpt.pt`, with the sizes in its `model_args`.

    vocabulary: number of tokens to keep (default: all). nanoGPT pads GPT-2's 50257 tokens to 50304, and the rows of
        the padding can be dropped.
    Raises UserError if the file is damaged, no nanoGPT checkpoint, or inconsistent.
    """
    checkpoint = _open_nanogpt(path)
    args, state = checkpoint["model_args"], checkpoint["model"]
    needed = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    if absent := [key for key in needed if not isinstance(args.get(key), int)]:
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
    network = config.build(vocabulary=vocabulary, context=args["block_size"], causal=True)
    return _load(network, state, str(path))


def _open_nanogpt(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} could not be read as a nanoGPT checkpoint: it is not a zip archive, which torch.save writes."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} could not be read as a nanoGPT checkpoint: {first_line(error)}") from error
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(k), dict) for k in ("model", "model_args")
    ):
        raise UserError(f"{path} is not a nanoGPT checkpoint: it lacks 'model' or 'model_args'.")
    return checkpoint


def _names(network: TransformerNetwork) -> Iterator[tuple[str, str]]:
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
    names = dict(_names(network))
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
def copy_weights(network: TransformerNetwork, source: TransformerNetwork) -> None:
    """Copy the weights of an imported network into the network of a run, whose vocabulary may differ in size.

    Rows that the source lacks start at zero: tokenizers here end with an end-of-text token that an imported character
    model does not have. Rows that only the source has are dropped: some files pad their vocabulary.
    """
    vocabulary = {"tokens.weight", "head.weight"}
    imported = source.state_dict()
    for name, own in network.state_dict().items():
        other = imported[name]
        if name not in vocabulary and own.shape != other.shape:
            raise UserError(f"{name} has shape {list(other.shape)} in the import and {list(own.shape)} in this run.")
        if name in vocabulary:
            own.zero_()
        rows = min(len(own), len(other)) if name in vocabulary else len(own)
        own[:rows] = other[:rows]
