"""A run of somebody else is checked for a fraction of its price: planted cheats are found."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from tests.helpers.cli import Run as Command
from tests.helpers.past import (
    STEPS,
    edit_lines,
    edit_step,
    edit_tensors,
    edit_text,
    edit_validation,
    past,
    reseal,
    tiny,
)
from tests.helpers.runs import finished, train_in

from seedfast.data.dataset import Corpus
from seedfast.data.sample_order import Order
from seedfast.loop import train as loop_train
from seedfast.loop import validate
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.step import digest
from seedfast.verify.best import evaluation
from seedfast.verify.entry import plan, prove_run
from seedfast.verify.finding import Finding

SEED = 7
BEST = STEPS
"""The losses of the honest run fall, so its last validation is the best."""


@pytest.fixture(scope="module")
def text(random_words: Path) -> Path:
    return random_words


@pytest.fixture(scope="module")
def honest(text: Path) -> Path:
    """The run that a cheat begins with."""
    return finished(tiny(text))


def failed(folder: Path, *, steps: int = STEPS, seed: int = SEED) -> set[str]:
    """The names of the findings that do not hold."""
    return {each.name for each in prove_run(past(folder), steps=steps, seed=seed) if each.holds is False}


class Cheats:
    """Each makes a run folder that claims more than was done. copy: an honest run, to be changed."""

    def __init__(self, copy: Path, text: Path) -> None:
        self.copy, self.text = copy, text

    def _trained(self, run: Run) -> None:
        """Train this run in the place of the honest one."""
        shutil.rmtree(self.copy)
        train_in(self.copy, run)

    def _rescored(self, loss: float, *, everywhere: bool) -> None:
        """Give the best validation another loss: in the journal, and everywhere else that has it."""
        old = past(self.copy).validations[BEST]["ema"]["loss"]
        scores = past(self.copy).validations[BEST]
        edit_validation(self.copy, BEST, validation={**scores, "ema": {**scores["ema"], "loss": loss}})
        if everywhere:
            for name in (
                "best.json",
                "checkpoints/step-00000008/state.json",
                "checkpoints/step-00000008/manifest.json",
            ):
                path = self.copy / name
                assert str(old) in path.read_text()
                path.write_text(path.read_text().replace(str(old), str(loss)))
            reseal(self.copy)

    def edited_loss(self) -> None:
        """The journal has a smaller loss."""
        edit_step(self.copy, 5, loss=1.0)

    def edited_loss_with_its_digest(self) -> None:
        """The same, with the digest that belongs to it."""
        line = past(self.copy).steps[5]
        the_past = past(self.copy)
        with the_past.session(the_past.runs_of(5)[0], None) as session:
            known = digest(session.ids(4), 1.0, line["gradient_norm"])
        edit_step(self.copy, 5, loss=1.0, digest=known)

    def edited_validation(self) -> None:
        """The journal has a smaller validation loss."""
        self._rescored(1.0, everywhere=False)

    def edited_validation_everywhere(self) -> None:
        """So have best.json, the state and the manifest."""
        self._rescored(1.0, everywhere=True)

    def edited_best(self) -> None:
        """best.json has a smaller loss."""
        path = self.copy / "best.json"
        stored = json.loads(path.read_text())
        stored["ema"]["loss"] = stored["ema"]["value"] = 1.0
        path.write_text(json.dumps(stored))

    def swapped_weights(self) -> None:
        """The files of another checkpoint lie in the best one."""
        source, target = (self.copy / f"checkpoints/step-{step:08}/model.safetensors" for step in (6, 8))
        shutil.copyfile(source, target)

    def swapped_weights_sealed(self) -> None:
        """The same, with a manifest that fits."""
        self.swapped_weights()
        reseal(self.copy)

    def edited_average(self) -> None:
        """The averaged weights of the best checkpoint are changed, and sealed."""
        edit_tensors(self.copy, BEST, "ema", lambda tensor: tensor * 1.001)

    def edited_average_with_its_validation(self) -> None:
        """The same, with the validation loss that these weights really have."""
        self.edited_average()
        the_past = past(self.copy)
        with the_past.session(the_past.stored(self.copy), the_past.checkpoints[-1]) as session:
            average = session.state.average
            assert average is not None
            networks = {"raw": session.state.network, "ema": average.network}
            measure = session.family.objective.measure
            record = {kind: validate.validate_session(session, each).record(measure) for kind, each in networks.items()}
        old = the_past.validations[BEST]
        edit_validation(self.copy, BEST, validation=record)
        for name in ("best.json", "checkpoints/step-00000008/state.json", "checkpoints/step-00000008/manifest.json"):
            content = (self.copy / name).read_text()
            for kind in ("raw", "ema"):
                for key in ("loss", "standard_error"):
                    content = content.replace(str(old[kind][key]), str(record[kind][key]))
            (self.copy / name).write_text(content)
        reseal(self.copy)

    def edited_optimizer(self) -> None:
        """The moments of a checkpoint are changed, and sealed."""
        edit_tensors(self.copy, 4, "optimizer", lambda tensor: tensor * 2)

    def removed_step(self) -> None:
        """A line is missing in the journal."""
        path = self.copy / "journal.jsonl"
        path.write_text("".join(line for line in path.read_text().splitlines(True) if '"step": 3,' not in line))
        reseal(self.copy)

    def fewer_steps(self) -> None:
        """The run claims more steps than it has."""
        edit_text(self.copy, "run.yaml", "steps: 8\n", "steps: 16\n")

    def renumbered_steps(self) -> None:
        """The last steps are copies of earlier ones, with other numbers."""
        steps = past(self.copy).steps
        for step in (7, 8):
            edit_step(self.copy, step, **{k: v for k, v in steps[step - 2].items() if k != "step"})

    def changed_rate(self) -> None:
        """Trained with another learning rate than run.yaml says."""
        run = tiny(self.text)
        self._trained(replace(run, optimizer=replace(run.optimizer, lr=2e-2)))
        edit_text(self.copy, "run.yaml", "lr: 0.02", "lr: 0.01")

    def changed_rate_in_the_journal_too(self) -> None:
        """The same, and the journal has the rates that run.yaml would give."""
        honest = past(self.copy).steps
        self.changed_rate()
        edit_lines(self.copy, lambda entry: entry.update(lr=honest[entry["step"]]["lr"]) if "loss" in entry else None)

    def changed_decay(self) -> None:
        """Trained with another weight decay than run.yaml says."""
        run = tiny(self.text)
        self._trained(replace(run, optimizer=replace(run.optimizer, weight_decay=0.5)))
        edit_text(self.copy, "run.yaml", "weight_decay: 0.5", "weight_decay: 0.1")

    def other_order(self) -> None:
        """Trained on examples in another order."""

        def order(corpus: Corpus, *, seed: int, batch_size: int) -> Order:
            return Order(size=len(corpus.train), seed=seed + 1)

        with mock.patch.object(Corpus, "order", order):
            self._trained(tiny(self.text))

    def validation_in_the_data(self) -> None:
        """The data has its validation split in the training split too."""
        folder = self.text.with_name("leak")
        folder.mkdir(exist_ok=True)
        lines = self.text.read_text().splitlines(keepends=True)
        (folder / "val.txt").write_text("".join(lines[:40]))
        (folder / "train.txt").write_text("".join(lines))
        run = tiny(self.text)
        self._trained(replace(run, data=replace(run.data, path=str(folder))))

    def trained_on_validation(self) -> None:
        """Other code than that of seedfast has trained on the validation split, and written what looks like a run."""
        with open_session(tiny(self.text), self.copy.with_name("look")) as session:
            validation, size = session.corpus.validation, len(session.corpus.train)

        def batch(ids: list[int]) -> dict[str, torch.Tensor]:
            return validation.batch([number % len(validation) for number in ids])

        leaking = mock.Mock(batch=batch, __len__=lambda _: size)
        shutil.rmtree(self.copy)
        with open_session(tiny(self.text), self.copy) as session:
            session.corpus = replace(session.corpus, train=leaking)
            loop_train.run_training(session, Silent())

    def pretrained_on_validation(self) -> None:
        """The run begins with weights of its own."""
        shutil.rmtree(self.copy)
        with open_session(tiny(self.text), self.copy, initialise=_filled) as session:
            loop_train.run_training(session, Silent())

    def easy_examples(self) -> None:
        """The validation scored only chosen examples."""
        with mock.patch.object(validate, "chosen_examples", return_value=list(range(8))):
            self._trained(tiny(self.text))

    def edited_data(self) -> None:
        """The data was edited after the training."""
        other = self.copy.with_name("book.txt")
        shutil.copyfile(self.text, other)
        self._trained(tiny(other))
        other.write_text(other.read_text().replace("cat", "owl"))

    def renamed_checkpoint(self) -> None:
        """A late checkpoint is shown as an early one."""
        shutil.rmtree(self.copy / "checkpoints/step-00000004")
        shutil.copytree(self.copy / "checkpoints/step-00000006", self.copy / "checkpoints/step-00000004")


def _filled(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1e-3


FOUND_BY = {
    "edited_loss": "order",
    "edited_loss_with_its_digest": "steps",
    "edited_validation": "best",
    "edited_validation_everywhere": "evaluation",
    "edited_best": "best",
    "swapped_weights": "checkpoints",
    "swapped_weights_sealed": "steps",
    "edited_average": "evaluation",
    "edited_average_with_its_validation": "steps",
    "edited_optimizer": "steps",
    "removed_step": "journal",
    "fewer_steps": "journal",
    "renumbered_steps": "order",
    "changed_rate": "rates",
    "changed_rate_in_the_journal_too": "steps",
    "changed_decay": "steps",
    "other_order": "order",
    "validation_in_the_data": "split",
    "trained_on_validation": "steps",
    "pretrained_on_validation": "start",
    "easy_examples": "evaluation",
    "edited_data": "data",
    "renamed_checkpoint": "checkpoints",
}
"""The finding that gives each cheat away."""
QUICK = ("edited_loss_with_its_digest", "edited_validation_everywhere", "trained_on_validation", "edited_average")


def test_the_honest_run_holds(honest: Path) -> None:
    found = list(prove_run(past(honest), steps=STEPS, seed=SEED))
    assert not [str(each) for each in found if each.holds is not True]
    assert {"checkpoints", "journal", "data", "split", "start", "steps", "best", "evaluation"} <= {
        e.name for e in found
    }


def test_a_validation_of_an_earlier_version_has_another_error(honest: Path, tmp_path: Path) -> None:
    """It has no blocks, and its error takes windows as independent: only the error is not compared."""
    copy = Path(shutil.copytree(honest, tmp_path / "run"))
    scores = past(copy).validations[BEST]
    older = {
        kind: {key: value for key, value in score.items() if key != "blocks"} | {"standard_error": 0.01}
        for kind, score in scores.items()
    }
    assert all("blocks" in score for score in scores.values())

    def holds() -> bool | None:
        the_past = past(copy)
        with the_past.session(the_past.stored(copy), the_past.checkpoints[-1]) as session:
            return evaluation(the_past, session, the_past.checkpoints[-1], "ema").holds

    edit_validation(copy, BEST, validation=older)
    assert holds()
    edit_validation(copy, BEST, validation=older | {"ema": older["ema"] | {"loss": 0.5}})
    assert not holds()


@pytest.mark.parametrize(
    "cheat", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FOUND_BY]
)
def test_a_cheat_is_found(cheat: str, honest: Path, text: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(honest, tmp_path / "run"))
    getattr(Cheats(copy, text), cheat)()
    assert FOUND_BY[cheat] in failed(copy)


def test_every_cheat_is_tried() -> None:
    assert {name for name in vars(Cheats) if not name.startswith("_")} == FOUND_BY.keys()
    assert len(FOUND_BY) >= 20


def test_the_seed_chooses_the_steps_within_the_price(honest: Path) -> None:
    the_past = past(honest)
    chosen = {tuple(plan(the_past, BEST, steps=2, seed=seed, most=5)[1]) for seed in range(20)}
    assert len(chosen) > 5
    assert {step for steps in chosen for step in steps} == set(range(1, STEPS + 1)), "no step is safe"
    for seed in range(20):
        routes, _ = plan(the_past, BEST, steps=2, seed=seed, most=5)
        assert sum(route.last - route.first for route in routes) <= 5
        assert any(route.last == BEST for route in routes), "the steps to the best checkpoint are always computed"


def test_an_interrupted_proof_goes_on_where_it_was(honest: Path) -> None:
    from seedfast.verify import entry

    def stopped(*_: object) -> Finding:
        raise KeyboardInterrupt

    first = [each for each in prove_run(past(honest), steps=3, seed=99) if each.name == "steps"]
    with mock.patch.object(entry, "_compared", stopped):  # nothing is computed again
        again = [each for each in prove_run(past(honest), steps=3, seed=99) if each.name == "steps"]
    noted = " (checked before)"
    assert [each.detail for each in again] == [f"{each.detail.removesuffix(noted)}{noted}" for each in first]


def test_the_commands_print_findings_and_exit_with_1_where_one_does_not_hold(
    honest: Path, tmp_path: Path, seedfast: Command
) -> None:
    status, out, _ = seedfast("verify", "run", honest, "--steps", 2, "--seed", 3)
    assert status == 0
    assert "all that was checked holds" in out
    assert seedfast("verify", "best", honest)[0] == 0
    copy = Path(shutil.copytree(honest, tmp_path / "run"))
    Cheats(copy, tmp_path).edited_best()
    status, out, _ = seedfast("verify", "best", copy, "--json")
    found = json.loads(out)
    assert (status, found["holds"]) == (1, False)
    assert {each["name"]: each["holds"] for each in found["findings"]}["best"] is False
    assert seedfast("verify", "run", honest, "--steps", 0)[0] == 2
    assert seedfast("verify", "run", tmp_path / "nothing")[0] == 2


def test_a_random_seed_is_printed_with_json(honest: Path, seedfast: Command) -> None:
    found = [json.loads(seedfast("verify", "run", honest, "--steps", 1, "--json")[1]) for _ in range(2)]
    assert found[0]["seed"] != found[1]["seed"]
