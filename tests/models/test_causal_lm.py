"""Causal language models of transformers: their logits, one shift, no leak between documents, adapters."""

import json
import os
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import tiny_models
from tests.helpers.quick import slow_but
from torch import Tensor
from torch.nn import functional as F

from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Characters
from seedfast.errors import UserError
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.keys import Draws
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM
from seedfast.models.causal_lm_network import CausalLMNetwork

VOCABULARY = 31
ASSETS = TextAssets(Characters("abcdefghijklmnopqrstuvwxyzABCD"), 12, validation_tokens=1, validation_bytes=1)
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 7] * 3)
BACKENDS = slow_but(
    [("gpt2", "sdpa"), ("gpt2", "eager"), ("gemma3_text", "sdpa"), ("qwen3", "eager")],
    product(tiny_models.ARCHITECTURES, ("sdpa", "eager")),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved model of every architecture."""
    places = {}
    for kind in tiny_models.ARCHITECTURES:
        places[kind] = tmp_path_factory.mktemp("models") / kind
        tiny_models.model(kind, VOCABULARY).save_pretrained(places[kind])
    return places


def network(folder: Path, *, causal: bool = True, vocabulary: int = VOCABULARY, **options: Any) -> CausalLMNetwork:
    config = PretrainedLM(path=str(folder), **options).located()
    torch.manual_seed(0)  # for the initial weights of an adapter
    made = config.build(vocabulary=vocabulary, context=16, causal=causal)
    config.initialise(made)
    made.eval()
    return made


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "attention"), BACKENDS)
@torch.no_grad()
def test_the_logits_are_those_of_the_transformers_model(kind: str, attention: str, folders: dict[str, Path]) -> None:
    ours, theirs = network(folders[kind], attention=attention), tiny_models.model(kind, VOCABULARY)
    torch.testing.assert_close(ours(tokens()), theirs(tokens()).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", tiny_models.ARCHITECTURES)
@torch.no_grad()
def test_targets_are_shifted_once(kind: str, folders: dict[str, Path]) -> None:
    """The twin shifts in the data set and again in the model, which gets labels: it trains token t+2."""
    objective, ours = Autoregressive().build(ASSETS).objective, network(folders[kind])
    theirs = tiny_models.model(kind, VOCABULARY)
    batch = {"tokens": tokens(), "scored": torch.ones(3, 11, dtype=torch.bool)}
    task = objective.task(batch, Draws(seed=0, scope="train", positions_B=torch.arange(3)))
    loss = objective.loss(ours, task, {}).total_B.sum() / task.weight_B.sum()
    logits = theirs(tokens()[:, :-1]).logits
    by_hand = F.cross_entropy(logits.flatten(0, 1), tokens()[:, 1:].flatten())
    torch.testing.assert_close(loss, by_hand, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss, theirs(tokens(), labels=tokens()).loss, rtol=1e-5, atol=0)
    shifted_twice = theirs(tokens()[:, :-1], labels=tokens()[:, 1:]).loss
    after_next = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 2:].flatten())
    torch.testing.assert_close(shifted_twice, after_next, rtol=1e-5, atol=0)
    assert abs(float(loss - shifted_twice)) > 1e-3, "the broken twin is caught"


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize(("kind", "attention"), BACKENDS)
@torch.no_grad()
def test_documents_of_a_window_do_not_influence_each_other(
    kind: str, attention: str, causal: bool, folders: dict[str, Path]
) -> None:
    ours, first, other = network(folders[kind], causal=causal, attention=attention), tokens(), tokens()
    other[:, :5] = tokens(1)[:, :5]
    packed = ours(first, documents_BL=DOCUMENTS)
    assert torch.equal(packed[:, 5:], ours(other, documents_BL=DOCUMENTS)[:, 5:]), "the other document is unchanged"
    torch.testing.assert_close(packed[:, 5:], ours(first[:, 5:]), rtol=1e-5, atol=1e-6)  # as without the other
    torch.testing.assert_close(packed[:, :5], ours(first[:, :5]), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours(first)[:, 5:], ours(other)[:, 5:], atol=1e-4), "the twin without documents leaks"


@torch.no_grad()
def test_twin_a_boolean_mask_leaks_through_eager_attention(folders: dict[str, Path]) -> None:
    """Eager attention adds the mask: a boolean one adds 1 or 0 to the logits and hides nothing."""
    model = tiny_models.model("gpt2", VOCABULARY)
    model.set_attn_implementation("eager")
    mask = (DOCUMENTS[:, None, :, None] == DOCUMENTS[:, None, None, :]) & torch.ones(12, 12, dtype=torch.bool).tril()
    first, other = tokens(), tokens()
    other[:, :5] = tokens(1)[:, :5]
    assert not torch.equal(
        model(first, attention_mask=mask).logits[:, 5:], model(other, attention_mask=mask).logits[:, 5:]
    )


@torch.no_grad()
def test_a_model_whose_documents_influence_each_other_is_refused(tmp_path: Path) -> None:
    shape = tiny_models.transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, state_size=2
    )
    tiny_models.transformers.AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path / "mamba")
    recurrent = network(tmp_path / "mamba", attention="eager")
    recurrent(tokens())
    with pytest.raises(UserError, match=r"MambaForCausalLM lets documents .* influence each other"):
        recurrent(tokens(), documents_BL=DOCUMENTS)


@pytest.mark.parametrize(("kind", "attention"), BACKENDS)
@torch.no_grad()
def test_cached_logits_equal_uncached_ones_and_padding_is_ignored(
    kind: str, attention: str, folders: dict[str, Path]
) -> None:
    ours = network(folders[kind], attention=attention)
    whole, real = ours(tokens()), torch.ones(3, 12, dtype=torch.bool)
    real[0, :3] = False
    alone = ours(tokens()[:1, 3:])[0]
    torch.testing.assert_close(ours(tokens(), real_BL=real)[0, 3:], alone, rtol=1e-5, atol=1e-6)
    cache = ours.cache(3, 12)
    parts = [ours(tokens()[:, :6], cache=cache)]
    cache.select(torch.tensor([2, 0]))
    parts += [ours(tokens()[[2, 0], i : i + 1], cache=cache) for i in range(6, 12)]
    torch.testing.assert_close(torch.cat([parts[0][[2, 0]], *parts[1:]], dim=1), whole[[2, 0]], rtol=1e-5, atol=1e-6)
    cache = ours.cache(3, 12)
    parts = [ours(tokens()[:, :6], real_BL=real[:, :6], cache=cache)]
    parts += [ours(tokens()[:, i : i + 1], cache=cache) for i in range(6, 12)]
    torch.testing.assert_close(torch.cat(parts, dim=1)[0, 3:], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "attention"), BACKENDS)
@torch.no_grad()
def test_a_bidirectional_network_attends_to_all_tokens_and_keeps_the_shift(
    kind: str, attention: str, folders: dict[str, Path]
) -> None:
    ours, changed = network(folders[kind], causal=False, attention=attention), tokens()
    changed[:, -1] = (changed[:, -1] + 1) % VOCABULARY
    moved = (ours(tokens()) - ours(changed)).abs().amax(dim=-1) > 1e-6
    assert bool(moved.all()), "every position attends to the last token"
    # With causal attention, the shifted logits are those of the causal model: position i-1 predicts token i.
    ours.plain.config.is_causal = True
    ours._run = lambda ids, **_: ours.plain.base_model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[method-assign]
    for part in ours.plain.modules():
        if hasattr(part, "is_causal"):
            part.is_causal = True
    causal = network(folders[kind], attention=attention)(tokens())
    shifted = ours(tokens())
    torch.testing.assert_close(shifted[:, 1:], causal[:, :-1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shifted[:, 0], causal[:, 0], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_capped_and_scaled_logits_are_those_of_the_transformers_model(tmp_path: Path) -> None:
    for kind, options in (
        ("gemma2", {"final_logit_softcapping": 0.5, "sliding_window": 4}),
        ("granite", {"logits_scaling": 3.0}),
        ("cohere", {"logit_scale": 0.25}),
    ):
        theirs = tiny_models.model(kind, VOCABULARY, **options)
        theirs.save_pretrained(tmp_path / kind)
        ours = network(tmp_path / kind, attention="eager")
        torch.testing.assert_close(ours(tokens()), theirs(tokens()).logits, rtol=1e-4, atol=1e-5)


def test_an_unknown_output_head_is_refused(folders: dict[str, Path]) -> None:
    ours = network(folders["llama"])
    theirs = ours.plain
    whole = theirs.forward
    theirs.forward = lambda **inputs: replace(answer := whole(**inputs), logits=answer.logits * 2)
    with pytest.raises(UserError, match="changes its logits in an unknown way"):
        ours.set_model(theirs)


@torch.no_grad()
def test_embeddings_of_new_tokens_start_as_the_mean_of_the_pretrained_ones(folders: dict[str, Path]) -> None:
    for kind in ("gpt2", "llama"):
        before, after = network(folders[kind]), network(folders[kind], vocabulary=VOCABULARY + 2)
        assert torch.allclose(after(tokens())[..., :VOCABULARY], before(tokens()), atol=1e-6)
        rows = after.plain.get_input_embeddings().weight
        assert torch.allclose(rows[VOCABULARY:], rows[:VOCABULARY].mean(dim=0).expand(2, -1))
        assert torch.isfinite(after(torch.full((1, 4), VOCABULARY + 1))).all()


def gradients(ours: CausalLMNetwork) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(1)
    ours.train()
    loss = ours(tokens()[:, :-1], targets_N=tokens()[:, 1:].flatten()).nats_N.sum()
    return loss.detach(), list(torch.autograd.grad(loss, [p for p in ours.parameters() if p.requires_grad]))


@pytest.mark.parametrize("kind", slow_but(["gpt2", "gemma3_text"], tiny_models.ARCHITECTURES))
@pytest.mark.parametrize("adapter", [Adapter(), Adapter(kind="lora", dropout=0.3)], ids=["full", "lora"])
def test_gradient_checkpointing_gives_the_same_gradient(kind: str, adapter: Adapter, folders: dict[str, Path]) -> None:
    (stored_loss, stored), (recomputed_loss, recomputed) = (
        gradients(network(folders[kind], adapter=adapter, dropout=0.2, gradient_checkpointing=each))
        for each in (False, True)
    )
    assert torch.equal(stored_loss, recomputed_loss)
    assert all(torch.equal(a, b) for a, b in zip(stored, recomputed, strict=True))


def test_the_dropout_option_sets_every_rate_of_the_architecture(folders: dict[str, Path]) -> None:
    for kind in tiny_models.ARCHITECTURES:
        without, with_dropout = (gradients(network(folders[kind], dropout=rate))[0] for rate in (0.0, 0.5))
        assert not torch.equal(without, with_dropout)


def test_a_located_configuration_builds_without_the_pretrained_weights(folders: dict[str, Path]) -> None:
    located = PretrainedLM(path=str(folders["gpt2"])).located()
    assert json.loads(located.architecture)["model_type"] == "gpt2"
    gone = replace(located, path="/nowhere")
    assert gone.located() == gone
    relative = os.path.relpath(folders["gpt2"])
    assert PretrainedLM(path=relative).located() == located
    assert replace(located, path=relative).located() == located, "the same command resumes a run"
    shell = gone.build(vocabulary=VOCABULARY, context=16, causal=True)
    assert shell(tokens()).shape == (3, 12, VOCABULARY)
    with pytest.raises(UserError, match='The model "/nowhere" cannot be loaded'):
        gone.initialise(shell)


def test_without_a_path_weights_are_initialised_at_random() -> None:
    config = PretrainedLM(architecture=json.dumps(tiny_models.shape("gpt2", VOCABULARY).to_diff_dict()))
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(config.build(vocabulary=VOCABULARY, context=16, causal=True).eval()(tokens()))
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])


def test_unusable_models_are_refused_in_a_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    located = PretrainedLM(path=str(folders["gpt2"])).located()
    with pytest.raises(UserError, match=r"context of this model is 64 tokens, so --data\.context cannot be 65"):
        located.build(vocabulary=VOCABULARY, context=65, causal=True)
    with pytest.raises(UserError, match="name a folder or a hub name with --model"):
        PretrainedLM().located()
    with pytest.raises(UserError, match="no such folder"):
        PretrainedLM(path="./nowhere").located()
    with pytest.raises(UserError, match=r'"some-model" cannot be loaded .*without a network, name a folder'):
        PretrainedLM(path="some-model").located()
    with pytest.raises(UserError, match="is not a transformers configuration"):
        PretrainedLM(architecture="{}").build(vocabulary=VOCABULARY, context=16, causal=True)
    tiny_models.transformers.BertConfig(hidden_size=8).save_pretrained(tmp_path / "bert-like")
    tiny_models.transformers.T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="type t5, which is not a causal language model"):
        PretrainedLM(path=str(tmp_path / "t5")).located()
    with pytest.raises(UserError, match="its linear layers are called c_attn, c_fc, c_proj"):
        network(folders["gpt2"], adapter=Adapter(kind="lora", targets=("q_proj",)))
    tiny_models.transformers.GPT2Model(tiny_models.shape("gpt2", VOCABULARY)).save_pretrained(tmp_path / "broken")
    state = tmp_path / "broken" / "model.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        network(tmp_path / "broken")
    tiny_models.model("gemma2", VOCABULARY, sliding_window=4).save_pretrained(tmp_path / "gemma2")
    with pytest.raises(UserError, match=r"no sdpa attention for gemma2; set model\.attention to eager"):
        network(tmp_path / "gemma2")
    with pytest.raises(UserError, match="longer than the context of 16"):
        network(folders["gpt2"])(torch.zeros(1, 17, dtype=torch.int64))
    with pytest.raises(UserError, match="Only a causal network"):
        network(folders["gpt2"], causal=False).cache(1)
    with pytest.raises(UserError, match=r"model\.dropout must be in \[0, 1\), not 1\.5"):
        PretrainedLM(dropout=1.5)
    shape = tiny_models.transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1)
    mamba = PretrainedLM(architecture=json.dumps({**shape.to_diff_dict(), "model_type": "mamba"}), dropout=0.1)
    with pytest.raises(UserError, match=r"mamba has no dropout, so model\.dropout has no effect"):
        mamba.build(vocabulary=VOCABULARY, context=16, causal=True)


def test_an_unreachable_hub_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from seedfast import huggingface

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # no server listens there
    monkeypatch.setattr(huggingface, "getproxies", dict)
    with pytest.raises(UserError, match=r"127\.0\.0\.1 cannot be reached from this machine \(Connection refused\)"):
        PretrainedLM(path="some-model").located()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        PretrainedLM(path="some-model").located()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 4}, r"adapter\.rank \(4\) has no effect without model\.adapter\.kind lora or dora or rslora"),
        ({"kind": "ia3", "alpha": 2.0}, r"adapter\.alpha \(2\.0\) has no effect without model\.adapter\.kind lora"),
        ({"targets": ("x",)}, r"adapter\.targets .* has no effect without model\.adapter\.kind lora .* or ia3"),
        ({"kind": "lora", "rank": 0}, r"adapter\.rank must be at least 1, not 0"),
        ({"kind": "lora", "alpha": 0.0}, r"adapter\.alpha must be positive, not 0\.0"),
        ({"kind": "lora", "dropout": 1.0}, r"adapter\.dropout must be in \[0, 1\), not 1\.0"),
    ],
    ids=str,
)
def test_invalid_options_of_adapters_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Adapter(**options)
