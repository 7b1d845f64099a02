"""Checkpoints: whole or absent, verified before use, read in parts, retained while anything needs them."""

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.processes import python
from tests.helpers.runs import small_run, train_in

from seedfast import sealed_folder
from seedfast.cli import main
from seedfast.errors import UserError
from seedfast.files import FileDigest, file_digest, to_json
from seedfast.run_folder import tensors
from seedfast.run_folder.checkpoint import Checkpoint, step_name
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.records import BestRecord
from seedfast.run_folder.tensors import save_shared, save_tensors
from seedfast.run_folder.train_state import read_tensors


def state(step: int, best: Mapping[str, int] | None = None, **more: Any) -> dict[str, Any]:
    """The contents of a `state.json`, with the best step of each kind of weights."""
    records = {
        weights: {"step": at, "loss": 2.0, "standard_error": None, "examples": 8, "draws": 1}
        for weights, at in (best or {}).items()
    }
    return {"step": step, "skipped": 0, "plateau": {}, "best": records, "scaler": {}} | more


def save(store: Checkpoints, step: int, content: bytes = b"abc", best: Mapping[str, int] | None = None) -> None:
    """Commit a small checkpoint without tensors."""

    def write(folder: Path) -> None:
        (folder / "a.bin").write_bytes(content)
        (folder / "assets").mkdir()
        (folder / "assets/b.txt").write_text("b")
        (folder / "state.json").write_text(to_json(state(step, best)))

    store.save(step, write, {"validation": None})


def save_with_tensors(store: Checkpoints, step: int) -> None:
    """Commit a checkpoint with every group of tensors, and frozen weights in a shared file."""

    def write(folder: Path) -> dict[str, FileDigest]:
        shared = dict([save_shared({"frozen": torch.full((2,), 9.0)}, folder.parent)])
        for value, group in enumerate(("model", "ema", "optimizer", "family")):
            save_tensors({"x": torch.full((2,), float(value))}, folder / f"{group}.safetensors")
        (folder / "state.json").write_text(to_json(state(step, shared=shared)))
        return shared

    store.save(step, write, {})


DAMAGED = ["", "{", "[]", '{"best": []}', to_json(state(1) | {"best": {"raw": 5}}), to_json(state(1) | {"best": 3}),
           to_json(state(1, {"raw": 1})).replace('"step": 1', '"step": [1]')]  # fmt: skip
"""Contents of a `state.json` that is not one."""


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The number of times each file of a checkpoint is verified against its hash, by name."""
    counts: Counter[str] = Counter()
    sha256 = sealed_folder.sha256

    def counting(path: Path) -> str:
        counts[path.name] += "checkpoints" in path.parts  # and not in the cache of prepared data
        return sha256(path)

    monkeypatch.setattr(sealed_folder, "sha256", counting)
    return counts


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The number of times each file of tensors is loaded, by name."""
    counts: Counter[str] = Counter()

    load = tensors._load

    def counting(path: Path) -> dict[str, tuple[int, torch.Tensor]]:
        counts[path.name] += 1
        return load(path)

    monkeypatch.setattr(tensors, "_load", counting)
    return counts


def test_a_commit_holds_every_file_with_its_hash(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    save(store, 3)
    checkpoint = store.newest()
    assert checkpoint is not None
    assert checkpoint.step == checkpoint.manifest.step == 3
    assert set(checkpoint.manifest.files) == {"a.bin", "assets/b.txt", "state.json"}
    store.update_pointers(3, {})
    assert json.loads((tmp_path / "latest.json").read_text()) == {"checkpoint": "step-00000003", "step": 3}


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_every_kind_of_damage_is_named_and_the_older_checkpoint_is_used(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Checkpoints(tmp_path)
    save(store, 1)
    save(store, 2)
    victim = tmp_path / "checkpoints/step-00000002" / ("manifest.json" if damage == "manifest" else "a.bin")
    match damage:
        case "flip":
            victim.write_bytes(b"abd")
        case "cut":
            victim.write_bytes(b"ab")
        case "remove":
            victim.unlink()
        case "manifest":
            victim.write_text("{")
    newest = store.newest()
    assert newest is not None
    assert newest.step == 1
    assert victim.name in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", '{"files": [1]}', '{"files": {}}', "{"])
def test_a_manifest_that_is_not_the_committed_one_is_damage(content: str, tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    save(store, 1)
    (tmp_path / "checkpoints/step-00000001/manifest.json").write_text(content)
    assert store.committed()[0].problems()


def test_a_sealed_manifest_with_other_contents_is_damage(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, lambda _: None, {"topology": "x"})
    checkpoint = Checkpoints(tmp_path).at(1)
    assert checkpoint is not None
    (problem,) = checkpoint.problems()
    assert "manifest.json cannot be read (no manifest of a checkpoint: topology is 'x')" in problem


def test_an_error_names_the_steps_that_exist(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    assert store.newest() is None
    assert store.newest(at=None) is None
    save(store, 3)
    with pytest.raises(
        UserError, match=r"no checkpoint at step 4; intact are those of the steps 3\. Name .* --at\."
    ) as found:
        store.newest(at=4)
    assert found.value.reason.endswith("intact are those of the steps 3.")
    assert store.at(4) is None
    assert store.at(3) == store.newest()


def test_a_step_that_is_damaged_is_named_with_the_reason_and_the_state_of_the_others(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        save(store, step)
    for step in (2, 3):
        (tmp_path / f"checkpoints/step-0000000{step}/a.bin").write_bytes(b"ab")
    message = (
        r"step-00000003 is damaged: .*a\.bin has 2 bytes .*; intact are those of the steps 1, and that of step 2 is"
    )
    with pytest.raises(UserError, match=message):
        store.newest(at=3)


def test_a_failed_write_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    save(store, 1)

    def full(folder: Path) -> None:
        (folder / "part.bin").write_bytes(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        store.save(2, full, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


class TestRetention:
    def test_it_counts_committed_checkpoints_and_spares_the_best(self, tmp_path: Path) -> None:
        store = Checkpoints(tmp_path, keep=2)
        for step in (1, 2, 3, 4):
            save(store, step)
            store.update_pointers(step, {"raw": {"step": 1}})
        assert [c.step for c in store.committed()] == [1, 3, 4]
        assert len(list((tmp_path / "checkpoints").iterdir())) == 3

    def test_what_cannot_be_removed_is_named_once_and_stops_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = Checkpoints(tmp_path, keep=1)

        def refuse(path: str, **_: object) -> None:
            raise PermissionError(1, "Operation not permitted", path)

        save(store, 1)
        with monkeypatch.context() as patch:
            patch.setattr("os.unlink", refuse)
            for step in (2, 3):
                save(store, step)
                store.update_pointers(step, {})
        assert [c.step for c in store.committed()] == [3]
        assert capsys.readouterr().err.count("cannot be removed (Operation not permitted)") == 1
        store.update_pointers(3, {})
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"], "removed later"

    def test_a_name_is_no_proof_that_a_file_is_unneeded(self, tmp_path: Path) -> None:
        store = Checkpoints(tmp_path, keep=1)
        save(store, 1)
        for mine in ("notes.tmp-1", "checkpoints/notes.tmp-1", "checkpoints/step-00000009.tmp-1", "a.trash-2"):
            (tmp_path / mine).mkdir()
            (tmp_path / mine / "notes").write_text("the user's")
        save(store, 2)
        store.update_pointers(2, {})
        assert len(list(tmp_path.rglob("notes"))) == 4

    @pytest.mark.parametrize("left", ["step-00000009.tmp-1/model.safetensors", "step-00000001.trash-7/state.json",
                                      "frozen.safetensors.tmp-5"])  # fmt: skip
    def test_what_a_killed_process_of_version_0_1_left_is_removed(self, left: str, tmp_path: Path) -> None:
        path = tmp_path / "checkpoints" / left
        path.parent.mkdir(parents=True)
        path.write_bytes(b"part")
        save(Checkpoints(tmp_path), 2)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]

    def test_it_spares_the_best_ones_that_a_retained_checkpoint_refers_to(self, tmp_path: Path) -> None:
        store = Checkpoints(tmp_path, keep=2)
        for step, best in ((1, {}), (2, {}), (3, {"raw": 1, "ema": 2}), (4, {})):
            save(store, step, best=best)
        store.update_pointers(4, {"raw": {"step": 4}})
        assert [c.step for c in store.committed()] == [1, 2, 3, 4], "a run that is resumed at 3 needs 1 and 2"
        save(store, 5)
        store.update_pointers(5, {"raw": {"step": 4}})
        assert [c.step for c in store.committed()] == [4, 5]

    @pytest.mark.parametrize("content", [*DAMAGED, None])
    def test_a_damaged_state_protects_nothing_and_stops_nothing(self, content: str | None, tmp_path: Path) -> None:
        store = Checkpoints(tmp_path, keep=1)
        for step in (1, 2):
            save(store, step)
        state_file = tmp_path / "checkpoints/step-00000002/state.json"
        state_file.unlink() if content is None else state_file.write_text(content)
        store.update_pointers(2, {})
        assert [c.step for c in store.committed()] == [2]

    def test_a_checkpoint_that_is_being_read_is_not_removed(self, tmp_path: Path) -> None:
        store = Checkpoints(tmp_path, keep=1)
        save(store, 1)
        reader = python(
            "import pathlib, sys, time\nfrom seedfast.run_folder.checkpoints import Checkpoints\n"
            "Checkpoints(pathlib.Path(sys.argv[1])).newest()\nprint('open', flush=True)\ntime.sleep(600)",
            tmp_path,
        )
        reader.wait_for(lambda: reader.stdout.exists() and reader.stdout.read_text() == "open\n")
        save(store, 2)
        store.update_pointers(2, {})
        assert [c.step for c in store.committed()] == [1, 2]
        reader.process.kill()
        reader.finish()
        store.update_pointers(2, {})
        assert [c.step for c in store.committed()] == [2]


class TestVerification:
    def test_each_file_is_hashed_once_however_often_the_checkpoint_is_opened(
        self, tmp_path: Path, hashed: Counter[str]
    ) -> None:
        save_with_tensors(Checkpoints(tmp_path), 1)
        for _ in range(3):
            checkpoint = Checkpoints(tmp_path).newest()
            assert checkpoint is not None
        names = {Path(name).name for name in checkpoint.manifest.files}
        assert +hashed == dict.fromkeys(names, 1), "the shared file too"

    @pytest.mark.parametrize("harm", ["write", "replace", "remove"])
    def test_a_file_that_changes_while_the_checkpoint_is_open_is_found(self, harm: str, tmp_path: Path) -> None:
        store = Checkpoints(tmp_path)
        save(store, 1)
        assert store.newest() is not None
        victim = tmp_path / "checkpoints/step-00000001/a.bin"
        match harm:
            case "write":
                victim.write_bytes(b"abd")
            case "replace":
                (tmp_path / "other").write_bytes(b"abd")
                (tmp_path / "other").replace(victim)
            case "remove":
                victim.unlink()
        with pytest.raises(UserError, match="None of the 1 checkpoints"):
            store.newest()

    def test_a_released_checkpoint_is_hashed_again(self, tmp_path: Path, hashed: Counter[str]) -> None:
        store = Checkpoints(tmp_path)
        save(store, 1)
        for _ in range(2):
            checkpoint = store.newest()
            assert checkpoint is not None
            checkpoint.release()
        assert hashed["a.bin"] == 2

    def test_a_checkpoint_of_the_same_step_in_a_retrained_run_is_hashed(
        self, tmp_path: Path, hashed: Counter[str]
    ) -> None:
        store = Checkpoints(tmp_path)
        save(store, 0)
        save(store, 1)
        assert store.newest() is not None
        store.quarantine_after(0)
        save(store, 1, b"xyz")
        newest = store.newest()
        assert newest is not None
        assert (newest.folder / "a.bin").read_bytes() == b"xyz"
        assert hashed["a.bin"] == 2

    def test_problems_are_those_of_the_files_as_they_are_now(self, tmp_path: Path, hashed: Counter[str]) -> None:
        store = Checkpoints(tmp_path)
        save(store, 1)
        checkpoint = store.newest()
        assert checkpoint is not None
        assert checkpoint.problems() == []
        assert hashed["a.bin"] == 2, "`seedfast verify checkpoint` always hashes"


class TestContents:
    def test_single_groups_of_tensors_are_loaded(self, tmp_path: Path, loaded: Counter[str]) -> None:
        store = Checkpoints(tmp_path)
        save_with_tensors(store, 1)
        checkpoint = store.at(1)
        assert checkpoint is not None
        assert checkpoint.groups == {"model", "ema", "optimizer", "family", "frozen"}
        assert {group: list(named) for group, named in checkpoint.tensors("ema", "family").items()} == {
            "ema": ["x"],
            "family": ["x"],
        }
        assert loaded == {"ema.safetensors": 1, "family.safetensors": 1}
        assert checkpoint.tensors("ema")["ema"]["x"].tolist() == [1.0, 1.0]
        assert checkpoint.tensors("unknown") == {}
        assert set(checkpoint.tensors()) == checkpoint.groups
        assert set(read_tensors(checkpoint.folder)) == checkpoint.groups
        assert set(read_tensors(checkpoint.folder, {"model"})) == {"model"}

    @pytest.mark.parametrize(("weights", "value"), [("raw", 0.0), ("ema", 1.0)])
    def test_a_network_has_the_weights_of_a_kind_and_the_frozen_ones(
        self, weights: str, value: float, tmp_path: Path
    ) -> None:
        store = Checkpoints(tmp_path)
        save_with_tensors(store, 1)
        named = Checkpoint(tmp_path / "checkpoints" / step_name(1), 1).network_tensors(weights)
        assert {name: tensor.tolist() for name, tensor in named.items()} == {"x": [value] * 2, "frozen": [9.0] * 2}

    def test_sampling_hashes_each_file_once_and_never_loads_the_optimizer(
        self, story: Path, tmp_path: Path, hashed: Counter[str], loaded: Counter[str]
    ) -> None:
        train_in(tmp_path, small_run("text-masked", story, steps=2))
        with pytest.raises(SystemExit) as ended:
            main(["sample", str(tmp_path), "--num", "1", "--tokens", "4", "--beside", "raw"])
        assert not ended.value.code
        names = {path.name for path in (tmp_path / "checkpoints/step-00000002").rglob("*") if path.is_file()}
        assert +hashed == dict.fromkeys(names - {"manifest.json"}, 1)
        assert loaded == {"ema.safetensors": 1, "model.safetensors": 1}


class TestVersion01:
    """Checkpoints of version 0.1 have other names for some keys."""

    def test_files_beside_a_checkpoint_were_called_kept(self, tmp_path: Path) -> None:
        def write(folder: Path) -> dict[str, FileDigest]:
            shared = dict([save_shared({"base": torch.ones(1)}, folder.parent)])
            (folder / "state.json").write_text(to_json(state(1, kept=shared)))
            return shared

        Checkpoints(tmp_path).save(1, write, {})
        checkpoint = Checkpoints(tmp_path).newest()
        assert checkpoint is not None
        assert checkpoint.groups == {"frozen"}
        assert checkpoint.tensors()["frozen"]["base"].tolist() == [1.0]

    def test_a_best_record_had_no_metric_but_the_loss(self, tmp_path: Path) -> None:
        save(Checkpoints(tmp_path), 4, best={"raw": 3})
        checkpoint = Checkpoints(tmp_path).at(4)
        assert checkpoint is not None
        assert checkpoint.best == {"raw": BestRecord(3, 2.0, None, 8, 1, metric="loss", value=2.0)}

    @pytest.mark.parametrize(
        ("key", "units"), [("family", ("counts", "units")), ("measure", ("weight_unit", "conversions"))]
    )
    def test_the_measure_was_called_family(self, key: str, units: tuple[str, str], tmp_path: Path) -> None:
        measure = {units[0]: "images", units[1]: {"bits": 2.0}, "is_bound": True}
        Checkpoints(tmp_path).save(1, lambda _: None, {key: measure, "journal": 7, "unknown": "ignored"})
        checkpoint = Checkpoints(tmp_path).at(1)
        assert checkpoint is not None
        manifest = checkpoint.manifest
        assert (manifest.measure.weight_unit, manifest.measure.conversions) == ("images", {"bits": 2.0})
        assert manifest.measure.is_bound
        assert manifest.journal == 7


@pytest.mark.parametrize("read", [lambda c: c.manifest, lambda c: c.state], ids=["manifest", "state"])
@pytest.mark.parametrize("content", ["[]", "{}", "{"])
def test_an_unreadable_file_is_a_value_error(content: str, read: Callable[[Checkpoint], Any], tmp_path: Path) -> None:
    for name in ("manifest.json", "state.json"):
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError):
        read(Checkpoint(tmp_path, 1))


def test_quarantined_checkpoints_have_new_numbers(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for expected in ("step-00000002.aside-1", "step-00000002.aside-2"):
        save(store, 1)
        save(store, 2)
        assert [path.name for path in store.quarantine_after(1)] == [expected]
    assert [c.step for c in store.committed()] == [1]
    store.update_pointers(1, {})
    assert len(list((tmp_path / "checkpoints").glob("*.aside-*"))) == 2, "never removed"


class TestStrangers:
    """Checkpoints whose hashes are right and whose names are not."""

    @pytest.mark.parametrize("place", ["checkpoints", "checkpoints/step-00000001", "checkpoints/step-00000001/a.bin"])
    def test_a_link_out_of_the_run_folder_is_refused(self, place: str, tmp_path: Path) -> None:
        run = tmp_path / "run"
        save(Checkpoints(run), 1)
        (run / place).rename(tmp_path / "elsewhere")
        (run / place).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=r"link|intact"):
            Checkpoints(run).newest()

    def test_a_run_folder_may_itself_be_a_link(self, tmp_path: Path) -> None:
        save(Checkpoints(tmp_path / "run"), 1)
        (tmp_path / "link").symlink_to("run")
        newest = Checkpoints(tmp_path / "link").newest()
        assert newest is not None

    def test_files_of_tensors_that_the_manifest_does_not_list_are_not_read(self, tmp_path: Path) -> None:
        save_with_tensors(Checkpoints(tmp_path), 1)
        checkpoint = Checkpoints(tmp_path).at(1)
        assert checkpoint is not None
        save_tensors({"x": torch.ones(1)}, checkpoint.folder / "more.safetensors")
        assert set(checkpoint.tensors()) == {"model", "ema", "optimizer", "family", "frozen"}

    @pytest.mark.parametrize("content", [b"", b"no tensors", (1 << 40).to_bytes(8, "little") + b"{}"])
    def test_a_file_that_holds_no_tensors_is_a_value_error(self, content: bytes, tmp_path: Path) -> None:
        def write(folder: Path) -> None:
            (folder / "model.safetensors").write_bytes(content)
            (folder / "state.json").write_text(to_json(state(1)))

        Checkpoints(tmp_path).save(1, write, {})
        checkpoint = Checkpoints(tmp_path).newest()
        assert checkpoint is not None
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            checkpoint.tensors()

    def test_only_shared_weights_lie_beside_a_checkpoint(self, tmp_path: Path) -> None:
        def write(folder: Path) -> dict[str, FileDigest]:
            (folder.parent / "frozen-of-another.safetensors").write_bytes(b"abc")
            return {"frozen-of-another.safetensors": file_digest(folder.parent / "frozen-of-another.safetensors")}

        Checkpoints(tmp_path).save(1, write, {})
        with pytest.raises(UserError, match="intact"):
            Checkpoints(tmp_path).newest()
