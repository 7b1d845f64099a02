"""Placements: weights cut over processes train, save and continue as whole ones do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers.cli import Run as Command
from tests.helpers.placements import Trainer, same_training
from tests.helpers.processes import ranks
from tests.helpers.runs import FAMILIES, FINETUNE, flags, small_run, train_in

from seedfast.errors import UserError
from seedfast.loop.open import open_session
from seedfast.loop.placement import needs
from seedfast.loop.placement.needs import MODELS
from seedfast.optim.muon import orthogonalise
from seedfast.optim.shards import heights
from seedfast.run_folder.choice import find
from seedfast.run_folder.tensors import stored
from seedfast.run_folder.train_state import digest, read_tensors


@pytest.fixture(scope="module")
def trainer(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(story, tmp_path_factory.mktemp("placements"))


@pytest.fixture(scope="module")
def sharded(trainer: Trainer) -> Path:
    """A run by two processes that share the weights."""
    return trainer.train("image-diffusion", "fsdp", 2)


def test_processes_that_share_the_weights_train_as_one(trainer: Trainer, sharded: Path) -> None:
    """Other families are in a slow test."""
    same_training(trainer.train("image-diffusion", "auto", 1), sharded)


def test_each_process_writes_its_rows_and_none_is_pickled(sharded: Path) -> None:
    folder = find(sharded, at="newest").folder
    sizes = [path.stat().st_size for path in sorted((folder / "optimizer").iterdir())]
    assert len(sizes) == 2
    assert max(sizes) < 1.3 * min(sizes)
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".yaml"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["topology"]["placement"] == "fsdp"
    assert {str(path.relative_to(folder)) for path in folder.rglob("shard-*")} <= manifest["files"].keys()


def test_every_command_reads_the_shards_in_one_process(seedfast: Command, sharded: Path, tmp_path: Path) -> None:
    def printed(*words: str | Path) -> str:
        status, out, err = seedfast(*words)
        assert status == 0, err
        return out

    assert "intact" in printed("verify", "checkpoint", sharded)
    assert len(printed("digest", sharded).strip()) == 64
    printed("sample", sharded, "--num", "1", "--steps", "2", "--out", tmp_path / "samples")
    printed("evaluate", sharded, "--only", "loss")
    printed("export", sharded, "--out", tmp_path / "exported")
    assert (tmp_path / "exported").is_dir()


def test_a_flipped_byte_of_a_shard_is_found(seedfast: Command, sharded: Path) -> None:
    folder = find(sharded, at="newest").folder
    shard = next((folder / "model").glob("shard-00002-*"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    before = shard.read_bytes()
    shard.write_bytes(content)
    try:
        status, out, err = seedfast("verify", "checkpoint", sharded)
        assert "DAMAGED" in out + err
        assert status
    finally:
        shard.write_bytes(before)


def test_a_run_continues_under_other_placements_and_numbers_of_processes(trainer: Trainer) -> None:
    whole = trainer.train("text-masked", "auto", 1, out="whole", steps=3)
    trainer.train("text-masked", "hsdp", 2, "--steps", "1", out="moved", steps=3)
    trainer.train("text-masked", "auto", 1, "--steps", "2", out="moved", steps=3)
    moved = trainer.train("text-masked", "fsdp", 2, out="moved", steps=3)
    weights, others = (read_tensors(find(place, at="newest").folder) for place in (whole, moved))
    for group, tensors in weights.items():
        for name, tensor in tensors.items():
            assert torch.allclose(tensor, others[group][name], rtol=1e-3, atol=1e-4), f"{group}/{name}"


def test_one_process_has_the_same_bits_with_and_without_shards(story: Path, tmp_path: Path) -> None:
    digests = []
    for placement in ("auto", "fsdp"):
        run = small_run("text-masked", story, steps=3, placement=placement)
        train_in(tmp_path / placement, run)
        digests.append(digest(read_tensors(find(tmp_path / placement, at="newest").folder)))
    assert digests[0] == digests[1]


def test_the_bits_of_an_orthogonalised_matrix_do_not_depend_on_its_neighbours() -> None:
    stack = torch.randn(7, 12, 20, generator=torch.Generator().manual_seed(1))
    options = {"coefficients": (3.4445, -4.7750, 2.0315), "steps": 5, "eps": 1e-7}
    together = orthogonalise(stack, **options)  # type: ignore[arg-type]
    for process in range(3):
        assert torch.equal(together[process::3], orthogonalise(stack[process::3], **options))  # type: ignore[arg-type]
    assert not torch.equal(together[:, :6], orthogonalise(stack[:, :6], **options)), "the twin: a part of each matrix"  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "processes"), [(7, 2), (8, 4), (3, 4), (5, 4), (1, 1)])
def test_rows_are_cut_as_torch_cuts_them(rows: int, processes: int) -> None:
    chunks = [len(part) for part in torch.zeros(rows).chunk(processes)]
    assert heights(rows, processes) == chunks + [0] * (processes - len(chunks))


def write_shard(path: Path, first: int, rows: int) -> Path:
    places = json.dumps({"weight": {"saved_offsets": [first, 0]}})
    save_file({"weight": torch.arange(first, first + rows)[:, None].float()}, path, {"DCP_SHARDING_INFO": places})
    return path


def test_shards_are_joined_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / f"{first}.safetensors", first, 2) for first in (2, 0, 4)]
    assert torch.equal(stored(paths)["weight"].whole(), torch.arange(6.0)[:, None])
    with pytest.raises(ValueError, match="lacks rows"):
        stored([paths[0], paths[2]])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--placement", "hsdp", "--shard-degree", "3"), "shard_degree (3) does not divide the number of"),
        (("--placement", "fsdp", "--compile", "step"), "gathers the weights of each block in each step"),
    ],
)
def test_a_placement_that_a_run_cannot_have_is_one_sentence(
    words: tuple[str, ...], sentence: str, story: Path, tmp_path: Path
) -> None:
    run = flags(small_run("text-masked", story))
    done = ranks(2, "train", "text-masked", *run, *words, "--out", tmp_path / "run")
    assert all(each.returncode for each in done)
    assert sentence in done[0].stderr
    assert len(done[0].stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_weights_of_several_types_are_not_cut(story: Path, tmp_path: Path) -> None:
    run = small_run("finetune", story, placement="fsdp")
    adapter = type(run.model.adapter)(kind="lora", base_precision="bf16")  # type: ignore[attr-defined]
    run = small_run(
        "finetune", story, placement="fsdp", model=type(run.model)(**{**vars(run.model), "adapter": adapter})
    )
    with pytest.raises(UserError, match="several types"), open_session(run, tmp_path / "run"):
        pass


def test_the_page_of_scale_has_the_table_that_is_computed() -> None:
    page = (Path(__file__).parents[2] / "docs/scale.md").read_text()
    assert "\n".join(needs.table()) in page


def test_the_needs_are_those_of_the_papers() -> None:
    """Rajbhandari et al. 2020, section 7: three times the weights are sent instead of two, if all in one type."""
    model = MODELS[0]
    whole, cut = needs.needs(model, 1024, "ddp"), needs.needs(model, 1024, "fsdp")
    assert whole.held == 1024 * cut.held
    assert whole.sent == pytest.approx(2 * 4 * model.weights, rel=1e-2)
    in_half_types = 4 * (model.weights - model.rest) + 4 * model.rest + 4 * model.weights
    assert cut.sent == pytest.approx(in_half_types, rel=1e-2)
    assert needs.needs(model, 8, "hsdp") == needs.needs(model, 8, "fsdp")


EVERY = (*FAMILIES, "image-transformer", "image-diffusers", FINETUNE, "dpo")
"""The families, and the networks of each that are cut in another way."""


TOPOLOGIES = [("ddp", 2), ("ddp", 4), ("fsdp", 1), ("fsdp", 2), ("fsdp", 4), ("hsdp", 4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "steps", "most"), [("seedfast", 20, 1e-6), ("tests.helpers.double_precision", 200, 1e-9)]
)
@pytest.mark.parametrize("recipe", EVERY)
def test_every_family_trains_the_same_in_every_topology(
    recipe: str, module: str, steps: int, most: float, story: Path, tmp_path: Path
) -> None:
    """The same samples, and losses that differ by rounding only. Training makes it grow by about a factor of ten in 40
    steps, so runs of 200 steps are computed with more digits."""
    trainer = Trainer(story, tmp_path, module)
    how: dict[str, Any] = {"micro_batch": 2, "steps": steps, "eval_every": steps // 2}
    one = trainer.train(recipe, "auto", 1, **how)
    for placement, processes in TOPOLOGIES:
        words = ("--shard-degree", "2") if placement == "hsdp" else ()
        other = trainer.train(recipe, placement, processes, *words, **how)
        same_training(one, other, loss=most)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["ddp", "fsdp"])
@pytest.mark.parametrize("recipe", EVERY)
def test_a_run_moves_from_four_processes_to_two_to_one_to_four(
    recipe: str, placement: str, story: Path, tmp_path: Path
) -> None:
    trainer = Trainer(story, tmp_path)
    one = trainer.train(recipe, "auto", 1, steps=20)
    for steps, processes in ((5, 4), (10, 2), (15, 1), (20, 4)):
        moved = trainer.train(recipe, placement, processes, "--steps", str(steps), out="moved", steps=20)
    same_training(one, moved, norm=1e-3)


@pytest.mark.slow
def test_torchrun_starts_a_sharded_training(story: Path, tmp_path: Path) -> None:
    words = ["train", "text-masked", *flags(small_run("text-masked", story, steps=3)), "--placement", "fsdp"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "seedfast"]
    subprocess.run([*launch, *words, "--out", str(tmp_path / "run")], check=True, capture_output=True, timeout=300)
    assert find(tmp_path / "run", at="newest").step == 3
