"""Weights from elsewhere: GPT-2 from transformers, and nanoGPT's checkpoints."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seedfast.errors import UserError
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
_MASKS = (".attn.bias", ".attn.masked_bias")  # older files hold the causal mask as a buffer


def from_gpt2(source: Path | str | Any) -> TransformerNetwork:
    """GPT-2's weights, from a folder that `save_pretrained` wrote or from a transformers GPT2LMHeadModel.

    The network is causal and has the model's vocabulary and context; its `config` says the rest.
    Raises UserError if transformers is missing, or if the model is another or computes otherwise.
    """
    model = _open_gpt2(Path(source)) if isinstance(source, str | Path) else source
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
        if (found := getattr(shape, key, value)) != value:
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
        raise UserError(f"{folder} is no folder of a transformers model: it has no config.json.")
    try:
        import transformers
    except ImportError as error:
        raise UserError("Reading a transformers model needs transformers: pip install seedfast[hub]") from error
    try:
        kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind != "gpt2":
            raise UserError(f"{folder} holds a model of type {kind}; only gpt2 can be imported.")
        return transformers.GPT2LMHeadModel.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder} could not be read as a GPT-2 model: {_first_line(error)}") from error


def from_nanogpt(path: Path, *, vocabulary: int | None = None) -> TransformerNetwork:
    """The network of a nanoGPT `ckpt.pt`: causal, with the shape that its `model_args` give.

    vocabulary: keep only so many tokens. nanoGPT pads GPT-2's 50257 to 50304; rows that no token uses may go.
    Raises UserError, in one sentence, if the file is broken, foreign or not of its own shape.
    """
    checkpoint = _open_nanogpt(path)
    args, state = checkpoint["model_args"], checkpoint["model"]
    needed = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    if absent := [key for key in needed if not isinstance(args.get(key), int)]:
        raise UserError(f"{path} is no nanoGPT checkpoint: its model_args lack {', '.join(absent)}.")
    # Checkpoints of a compiled model carry torch.compile's prefix.
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
            f"{path} could not be read as a nanoGPT checkpoint: torch.save writes zip archives, this is none."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} could not be read as a nanoGPT checkpoint: {_first_line(error)}") from error
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(k), dict) for k in ("model", "model_args")
    ):
        raise UserError(f"{path} is no nanoGPT checkpoint: it has no 'model' with its 'model_args'.")
    return checkpoint


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _names(network: TransformerNetwork) -> Iterator[tuple[str, str]]:
    """Each tensor's name in GPT-2, and the name here."""
    ours = set(network.state_dict())
    yield "transformer.wte.weight", "tokens.weight"
    yield "transformer.wpe.weight", "positions.weight"
    yield "lm_head.weight", "head.weight"
    parts = {"transformer.ln_f": "norm"}
    for layer in range(network.config.layers):
        parts |= {f"transformer.h.{layer}.{theirs}": f"blocks.{layer}.{own}" for theirs, own in _BLOCK.items()}
    for theirs, own in parts.items():
        for kind in ("weight", "bias"):
            if f"{own}.{kind}" in ours or (own.endswith("qkv") and kind == "weight"):
                yield f"{theirs}.{kind}", f"{own}.{kind}"


def _load(network: TransformerNetwork, state: Mapping[str, Tensor], source: str) -> TransformerNetwork:
    """Fill a network with GPT-2's tensors, each of which must be there, be used, and have the right shape."""
    rest = {name: tensor for name, tensor in state.items() if not name.endswith(_MASKS)}
    if network.config.tied:
        rest.setdefault("lm_head.weight", rest.get("transformer.wte.weight", torch.empty(0)))
    names = dict(_names(network))
    if missing := sorted(names.keys() - rest.keys()):
        raise UserError(f"{source} lacks {len(missing)} tensors that its shape needs: {', '.join(missing[:4])}.")
    if unexpected := sorted(rest.keys() - names.keys()):
        raise UserError(f"{source} has {len(unexpected)} tensors without a place: {', '.join(unexpected[:4])}.")
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
                "its weights do not belong to its description."
            )
    network.load_state_dict(own)
    return network


@torch.no_grad()
def adopt(network: TransformerNetwork, source: TransformerNetwork) -> None:
    """Copy the weights of an imported network into a run's own, which may know more or fewer tokens.

    A tokenizer of ours ends with an end-of-text that a character model from elsewhere never had, and files pad their
    vocabulary: rows that the source lacks start at zero, and rows that only the source has are left out.
    """
    vocabulary = {"tokens.weight", "head.weight"}
    theirs = source.state_dict()
    for name, own in network.state_dict().items():
        given = theirs[name]
        if name not in vocabulary and own.shape != given.shape:
            raise UserError(f"{name} has shape {list(given.shape)} in the import and {list(own.shape)} in this run.")
        if name in vocabulary:
            own.zero_()
        rows = min(len(own), len(given)) if name in vocabulary else len(own)
        own[:rows] = given[:rows]
