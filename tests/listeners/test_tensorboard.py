"""The copy of the journal for TensorBoard: each step once, samples, settings, and few flushes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.helpers.runs import small_run, train_in, train_until

from seedfast.errors import UserError
from seedfast.listeners import base
from seedfast.listeners.tensorboard import TensorBoardListener
from seedfast.loop.open import open_session
from seedfast.run_folder import journal


def events(folder: Path) -> Any:
    """What TensorBoard reads in a run folder."""
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points (step, value) of each curve."""
    found = events(folder)
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_each_line_of_the_journal_is_copied_once_also_after_a_resume(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=10, save_every=4, eval_every=5, sample_every=5, tensorboard=True)
    with open_session(run, tmp_path / "run") as session:
        train_until(session, 7)
    # After a kill TensorBoard has steps that no checkpoint has.
    listener = TensorBoardListener(tmp_path / "run", {}, step=7)
    for step in (8, 9):
        listener.on_entry({"step": step, "loss": 99.0})  # type: ignore[typeddict-item]
    listener.close(finished=False)
    train_in(tmp_path / "run", run)
    lines = list(journal.read(tmp_path / "run"))
    copied = curves(tmp_path / "run")
    expected = {
        "training/loss": [(line["step"], line["loss"]) for line in lines if "loss" in line],
        **{
            f"training/lr/{name}": [(line["step"], line["lr"][name]) for line in lines if "loss" in line]
            for name in lines[0]["lr"]
        },
        **{
            f"validation/ema/{name}": [(e["step"], e["validation"]["ema"][name]) for e in lines if "validation" in e]
            for name in ("loss", "bits_per_byte")
        },
    }
    for tag, points in expected.items():
        assert [step for step, _ in copied[tag]] == [step for step, _ in points]
        assert [value for _, value in copied[tag]] == pytest.approx([value for _, value in points])
    assert "validation/raw/diagnostics/unmask_accuracy" in copied
    assert any("samples" in tag for tag in events(tmp_path / "run").Tags()["tensors"])


def test_pictures_of_samples_are_copied(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    Image.new("L", (5, 7), 128).save(tmp_path / "samples" / "grid.png")
    listener = TensorBoardListener(tmp_path, {"optimizer.lr": 0.1, "clip": None}, step=0)
    (tmp_path / "samples/grid.txt").write_text("2 × cat")
    listener.on_entry({"step": 3, "samples": ["samples/grid.png", "samples/grid.txt"]})
    listener.close(finished=True)
    copied = events(tmp_path)
    (image,) = copied.Images("samples/grid.png")
    assert (image.step, image.width, image.height) == (3, 5, 7)
    assert any("samples/grid.txt" in tag for tag in copied.Tags()["tensors"])
    assert "_hparams_/session_start_info" in copied.summary_metadata


def test_the_hparams_tab_has_the_settings_beside_the_validation_losses(story: Path, tmp_path: Path) -> None:
    """Read by the plugin of TensorBoard that fills the tab."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    train_in(tmp_path / "run", small_run("text-masked", story, steps=4, eval_every=2, tensorboard=True))
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path / "run"))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    context, reader = RequestContext(), backend_context.Context(TBContext(data_provider=provider))
    asked = api_pb2.ListSessionGroupsRequest(slice_size=9, allowed_statuses=[1, 2, 3])
    shown = list_session_groups.Handler(context, reader, "", asked).run()
    (group,) = shown.session_groups
    assert group.hparams["optimizer.lr"].number_value == pytest.approx(0.01)
    assert group.hparams["recipe"].string_value == "text-masked"
    found = {value.name.tag: value.value for value in group.metric_values}
    last = [entry["validation"] for entry in journal.read(tmp_path / "run") if "validation" in entry][-1]
    for kind in ("raw", "ema"):
        assert found[f"validation/{kind}/loss"] == pytest.approx(last[kind]["loss"])


def test_files_are_flushed_at_validations_and_samples_but_not_at_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = TensorBoardListener(tmp_path, {}, step=0)
    flushes: list[int] = []
    monkeypatch.setattr(listener._writer, "flush", lambda: flushes.append(1))
    entries: list[Any] = [
        *({"step": step, "loss": 1.0, "lr": {"adamw": 0.1, "muon": 0.2}} for step in range(1, 4)),
        {"step": 3, "validation": {"raw": {"loss": 2.0}}},
        {"step": 4, "loss": None},
        {"step": 4, "samples": []},
    ]
    counts = []
    for entry in entries:
        listener.on_entry(entry)
        counts.append(len(flushes))
    listener.close(finished=True)
    assert counts == [0, 0, 0, 1, 1, 2]
    assert curves(tmp_path)["training/lr/muon"] == [(step, pytest.approx(0.2)) for step in (1, 2, 3)]


def test_a_missing_package_is_an_error_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, story: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    run = small_run("text-masked", story, steps=2, tensorboard=True)
    with pytest.raises(UserError, match="seedfast\\[tensorboard\\]"):
        train_in(tmp_path / "run", run)
    assert not (tmp_path / "run").exists()
    train_in(tmp_path / "run", replace(run, tensorboard=False))
    assert json.loads((tmp_path / "run" / "latest.json").read_text())["step"] == 2
