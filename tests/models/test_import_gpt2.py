"""Imported GPT-2 weights give the logits of the original model."""

import builtins
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.import_gpt2 import from_gpt2, from_nanogpt

transformers = pytest.importorskip("transformers")


def gpt2(**shape: Any) -> Any:
    torch.manual_seed(0)
    defaults = {"vocab_size": 23, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**defaults, **shape})).eval()
    with torch.no_grad():
        for (
            name,
            parameter,
        ) in model.named_parameters():  # biases and gains too, so that none can be forgotten
            spread = 0.2 if parameter.ndim == 1 else 1 / math.sqrt(shape.get("n_embd", 16))
            parameter.copy_(("ln" in name and name.endswith("weight")) + spread * torch.randn_like(parameter))
    return model


SHAPES: list[dict[str, Any]] = [
    {},
    {"n_inner": 24},
    {"tie_word_embeddings": False},
    {"vocab_size": 1009, "n_positions": 128, "n_embd": 192, "n_layer": 3, "n_head": 6},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_gpt2_gives_the_logits_of_transformers(shape: dict[str, Any], tmp_path: Path) -> None:
    model = gpt2(**shape)
    model.save_pretrained(tmp_path)
    tokens_BL = torch.randint(model.config.vocab_size, (3, model.config.n_positions))
    expected_BLV = model(tokens_BL).logits
    for source in (model, tmp_path, str(tmp_path)):
        network = from_gpt2(source).eval()
        torch.testing.assert_close(network(tokens_BL), expected_BLV, atol=1e-4, rtol=0)
    assert expected_BLV.std() > 0.1
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())


def test_an_import_copies_the_weights() -> None:
    model = gpt2()
    network = from_gpt2(model)
    before = model.transformer.wte.weight.detach().clone()
    with torch.no_grad():
        network.tokens.weight.zero_()
    assert torch.equal(model.transformer.wte.weight, before)


@pytest.mark.parametrize(
    "shape",
    [
        {"activation_function": "relu"},
        {"scale_attn_by_inverse_layer_idx": True},
        {"layer_norm_epsilon": 1e-6},
    ],
    ids=str,
)
def test_a_gpt2_with_other_computations_is_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(shape))):
        from_gpt2(gpt2(**shape))


def test_other_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Linear"):
        from_gpt2(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"no config\.json"):
        from_gpt2(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="type llama"):
        from_gpt2(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="could not be read"):
        from_gpt2(tmp_path)
    real_import = builtins.__import__

    def without_transformers(name: str, *rest: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_transformers)
    with pytest.raises(UserError, match=r"pip install 'seedfast\[hub\]'"):
        from_gpt2(tmp_path)


ARGS = {
    "n_layer": 3,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 12,
    "vocab_size": 32,
    "bias": True,
    "dropout": 0.0,
}


def nanogpt_state(args: dict[str, Any]) -> dict[str, Tensor]:
    """Random weights under nanoGPT's names."""
    generator = torch.Generator().manual_seed(0)
    width, state = args["n_embd"], {}

    def linear(name: str, out: int, inner: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, inner, generator=generator) / inner**0.5
        if args["bias"]:
            state[f"{name}.bias"] = 0.2 * torch.randn(out, generator=generator)

    def norm(name: str) -> None:
        state[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=generator)
        if args["bias"]:
            state[f"{name}.bias"] = 0.2 * torch.randn(width, generator=generator)

    state["transformer.wte.weight"] = torch.randn(args["vocab_size"], width, generator=generator)
    state["transformer.wpe.weight"] = torch.randn(args["block_size"], width, generator=generator)
    for layer in range(args["n_layer"]):
        block = f"transformer.h.{layer}"
        norm(f"{block}.ln_1")
        linear(f"{block}.attn.c_attn", 3 * width, width)
        linear(f"{block}.attn.c_proj", width, width)
        norm(f"{block}.ln_2")
        linear(f"{block}.mlp.c_fc", 4 * width, width)
        linear(f"{block}.mlp.c_proj", width, 4 * width)
    norm("transformer.ln_f")
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def nanogpt_logits(state: dict[str, Tensor], args: dict[str, Any], tokens_L: Tensor) -> Tensor:
    """nanoGPT's equations, one head and one position at a time where that is simplest."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros(()))

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state.get(f"{name}.bias", torch.zeros(()))

    length, size = len(tokens_L), args["n_embd"] // args["n_head"]
    x = state["transformer.wte.weight"][tokens_L] + state["transformer.wpe.weight"][:length]
    for layer in range(args["n_layer"]):
        block = f"transformer.h.{layer}"
        q, k, v = linear(f"{block}.attn.c_attn", norm(f"{block}.ln_1", x)).split(args["n_embd"], dim=1)
        heads = []
        for head in range(args["n_head"]):
            part = slice(head * size, (head + 1) * size)
            rows = [
                (q[i, part] @ k[: i + 1, part].T / math.sqrt(size)).softmax(-1) @ v[: i + 1, part]
                for i in range(length)
            ]
            heads.append(torch.stack(rows))
        x = x + linear(f"{block}.attn.c_proj", torch.cat(heads, dim=1))
        h = linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))
        x = x + linear(f"{block}.mlp.c_proj", 0.5 * h * (1 + torch.erf(h / math.sqrt(2))))
    return norm("transformer.ln_f", x) @ state["lm_head.weight"].T


def save(path: Path, state: dict[str, Tensor], args: dict[str, Any], prefix: str = "") -> Path:
    torch.save(
        {
            "model": {prefix + name: tensor for name, tensor in state.items()},
            "optimizer": {"state": {}, "param_groups": []},
            "model_args": args,
            "iter_num": 3,
            "best_val_loss": torch.tensor(1.5),
            "config": {"dataset": "shakespeare"},
        },
        path,
    )
    return path


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@torch.no_grad()
def test_a_nanogpt_checkpoint_gives_the_logits_of_its_equations(bias: bool, prefix: str, tmp_path: Path) -> None:
    args = {**ARGS, "bias": bias}
    state = nanogpt_state(args)
    network = from_nanogpt(save(tmp_path / "ckpt.pt", state, args, prefix)).eval()
    tokens_L = torch.randint(32, (12,))
    expected_LV = nanogpt_logits(state, args, tokens_L)
    torch.testing.assert_close(network(tokens_L[None])[0], expected_LV, atol=1e-4, rtol=0)
    assert network.head.weight is network.tokens.weight
    assert (network.context, network.config.bias) == (12, bias)


def test_the_exact_gelu_differs_from_the_tanh_approximation() -> None:
    """Otherwise the comparisons above could not distinguish the two."""
    x = torch.linspace(-4, 4, 1000)
    assert (F.gelu(x) - F.gelu(x, approximate="tanh")).abs().max() > 4e-4


@torch.no_grad()
def test_padding_of_the_vocabulary_and_old_mask_buffers_are_dropped(tmp_path: Path) -> None:
    state = nanogpt_state(ARGS)
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 12, 12)
    path = save(tmp_path / "ckpt.pt", state, ARGS)
    tokens_BL = torch.randint(27, (2, 12))
    cut = from_nanogpt(path, vocabulary=27).eval()(tokens_BL)
    torch.testing.assert_close(cut, from_nanogpt(path).eval()(tokens_BL)[..., :27], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="33 cannot be kept"):
        from_nanogpt(path, vocabulary=33)


def test_damaged_and_foreign_nanogpt_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path, state = tmp_path / "ckpt.pt", nanogpt_state(ARGS)
    with pytest.raises(UserError, match="There is no file"):
        from_nanogpt(path)
    for content in (b"", b"not a checkpoint", save(path, state, ARGS).read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="could not be read"):
            from_nanogpt(path)
    torch.save(torch.nn.Linear(2, 2), path)  # a pickled object: weights only
    with pytest.raises(UserError, match="could not be read"):
        from_nanogpt(path)
    for foreign in (state, [1], {"model": state}):
        torch.save(foreign, path)
        with pytest.raises(UserError, match="is not a nanoGPT checkpoint"):
            from_nanogpt(path)
    with pytest.raises(UserError, match="model_args lack n_layer"):
        from_nanogpt(save(path, state, {k: v for k, v in ARGS.items() if k != "n_layer"}))


def test_unusable_tensors_are_named(tmp_path: Path) -> None:
    path, state = tmp_path / "ckpt.pt", nanogpt_state(ARGS)

    def changed(**tensors: Tensor) -> Path:
        return save(path, {**state, **{name.replace("/", "."): t for name, t in tensors.items()}}, ARGS)

    with pytest.raises(UserError, match=r"lacks 1 tensors.*transformer\.ln_f\.bias"):
        from_nanogpt(save(path, {k: v for k, v in state.items() if k != "transformer.ln_f.bias"}, ARGS))
    with pytest.raises(UserError, match=r"1 unexpected tensors: extra\.weight"):
        from_nanogpt(changed(**{"extra.weight": torch.zeros(1)}))
    with pytest.raises(UserError, match=r"\[11, 16\] where positions\.weight needs \[12, 16\]"):
        from_nanogpt(changed(**{"transformer.wpe.weight": torch.zeros(11, 16)}))
    with pytest.raises(UserError, match="should share"):
        from_nanogpt(changed(**{"lm_head.weight": torch.zeros(32, 16)}))
    with pytest.raises(UserError, match="unexpected tensors"):
        from_nanogpt(save(path, state, {**ARGS, "bias": False}))
