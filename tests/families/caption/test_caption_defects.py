"""What an older captioner got wrong, each as a guarantee (those that stand elsewhere are named at the end).

Its special ids were constants that were not the tokenizer's, its validation a mean of batch means, its vocabulary was
learned on what it was measured on, and it asked the network for models as soon as it was imported.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import captions as small_captions
from tests.helpers.runs import small_run, train_in, train_until

from seedfast import recipes
from seedfast.data.caption.config import CaptionData
from seedfast.data.caption.dataset import CaptionCorpus
from seedfast.evaluate import trained
from seedfast.families.caption.family import Captioning
from seedfast.families.caption.request import CaptionRequest, Seen
from seedfast.keys import Draws
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.open import open_session
from seedfast.loop.validate import validate
from seedfast.models.captioner import Captioner
from seedfast.models.transformer import Transformer
from seedfast.models.vit import ViT


@pytest.fixture(scope="module")
def corpus(story: Path, tmp_path_factory: pytest.TempPathFactory) -> CaptionCorpus:
    path = small_captions.write(tmp_path_factory.mktemp("captions"), story.read_text())
    return CaptionData(path=str(path), vocabulary=270, context=12, size=8, channels=1, validation=0.25).load()


def network_of(corpus: CaptionCorpus, **options: Any) -> tuple[Any, Any]:
    family = Captioning(**options).build(corpus.assets)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = family.network(
            Captioner(vit=ViT(patch=4, layers=1, heads=2, width=16), decoder=Transformer(layers=1, heads=2, width=16))
        )
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return family, network.eval()


@pytest.mark.parametrize("decoding", ["greedy", "beam", "nucleus"])
def test_the_end_is_the_tokenizers_own_and_it_ends_a_caption(decoding: Any, corpus: CaptionCorpus) -> None:
    family, network = network_of(corpus)
    end = corpus.assets.tokenizer.end_of_text
    assert family.end == end
    with torch.no_grad():  # a network that says the end after two tokens, whatever it sees
        network.decoder.head.weight.zero_()
    counted: list[int] = []

    def speak(module: Any, inputs: Any, output: Any) -> Any:
        counted.append(0)
        token = end if len(counted) % 3 == 0 else 5
        return torch.nn.functional.one_hot(torch.full(output.shape[:-1], token), output.shape[-1]).float() * 50

    hook = network.decoder.head.register_forward_hook(speak)
    pixels = corpus.validation.pixels([0])  # type: ignore[attr-defined]
    request = CaptionRequest(seen=Seen(pixels, ("x",)), decoding=decoding)
    draws = Draws(seed=1, scope="sample", positions_B=torch.arange(1), group=1)
    samples = family.sample(network, request, draws, {})
    hook.remove()
    assert samples.written[0][0].text == corpus.assets.tokenizer.decode([5, 5])


def test_validation_is_the_mean_over_all_tokens_however_it_is_batched(corpus: CaptionCorpus) -> None:
    family, network = network_of(corpus, captioned=None)
    ids = list(range(len(corpus.validation)))
    scores = [
        validate(
            family, network, {}, corpus.validation, ids, seed=1, batch_size=size, draws=1,
            distributed=DistributedContext(torch.device("cpu")),
        ).loss
        for size in (1, 3, len(ids))
    ]  # fmt: skip
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-6)
    task = family.task(
        corpus.validation.batch(ids), Draws(seed=1, scope="eval", positions_B=torch.arange(len(ids)), group=len(ids))
    )
    nats_B = family.loss(network, task, {}).total_B
    assert scores[0] == pytest.approx(float((nats_B.sum() / task.weight_B.sum()).detach()), rel=1e-6)
    mean_of_means = float((nats_B / task.weight_B).mean().detach())
    assert scores[0] != pytest.approx(mean_of_means, rel=1e-4), "the captions differ in length, so the twin is seen"


def test_the_vocabulary_is_learned_on_training_captions_alone(tmp_path: Path, story: Path) -> None:
    path = small_captions.write(tmp_path, story.read_text())
    data = CaptionData(path=str(path), vocabulary=270, size=8, channels=1, validation=0.25)
    before = data.load()
    held_out = set(before.validation.names)  # type: ignore[attr-defined]
    captions = json.loads(path.read_text())
    told = {name: ["zyzzyva " * 40] if name in held_out else said for name, said in captions.items()}
    path.write_text(json.dumps(told))
    after = data.load()
    assert set(after.validation.names) == held_out  # type: ignore[attr-defined]
    assert after.assets.tokenizer == before.assets.tokenizer


def test_nothing_is_asked_for_at_import() -> None:
    code = (
        "import sys, seedfast.families.caption.family, seedfast.data.caption.config, seedfast.loop.train\n"
        "print([name for name in ('transformers', 'huggingface_hub', 'wandb', 'datasets') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "[]", result.stderr


def test_the_newest_checkpoint_is_gone_on_from_and_the_best_is_kept_beside_it(story: Path, tmp_path: Path) -> None:
    run = small_run("image-caption", story, steps=12, eval_every=2, save_every=2, keep=1)
    with open_session(run, tmp_path / "run") as opened:
        train_until(opened, 9)
    assert json.loads((tmp_path / "run/latest.json").read_text())["step"] == 9
    with open_session(run, tmp_path / "run") as opened:
        assert opened.state.step == 9, "no step is lost since the best"
    train_in(tmp_path / "run", run)
    kept = {int(path.name[5:]) for path in (tmp_path / "run/checkpoints").glob("step-*")}
    best = json.loads((tmp_path / "run/best.json").read_text())
    assert kept == {12, *(record["step"] for record in best.values())}
    newest = trained.find(tmp_path / "run")
    assert recipes.stored(newest.folder) == run.located(), "the configuration is in every checkpoint"


def test_the_recipe_warms_up_and_needs_neither_hub_nor_board() -> None:
    run = recipes.make("image-caption")
    assert run.schedule.warmup > 0
    assert run.schedule.factor(0, run.steps) < run.schedule.factor(run.schedule.warmup, run.steps)
    assert (run.hub, run.wandb, run.tensorboard) == (None, None, False)
    assert replace(run, data=replace(run.data, path="x")).data.processor == "model", "nothing is fetched to build it"


# Elsewhere: captions of one image on one side (tests/data/test_caption_data), every patch seen, cut captions without an
# end, dynamic padding (test_caption), a frozen encoder in evaluation mode, in no checkpoint and computed once
# (test_caption_pretrained), broken images named and left out (tests/data), a beam (test_beam), metrics
# (tests/evaluate/test_overlap), an upload or a board that fails (tests/loop/test_listeners), a checkpoint that does not
# load is refused and never overwritten (tests/loop/test_checkpoint).
