"""The golden run folders: how they are made, and the results of resuming, evaluating and sampling one.

`PYTHONPATH=src:. .venv/bin/python -m tests.run_folder.golden` makes them in tests/golden. The only reason to do so is a
new format beside the old ones.
"""

import io
import json
import os
import random
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden"
MADE_IN = Path("/tmp/golden")
"""The folder in which they are made: a run holds the absolute path of its data, and this one exists anywhere."""
TRAINED, RESUMED = 12, 16
"""The last step of a golden run, and its last step after it was resumed."""

_RUN = (
    "--batch-size 6 --micro-batch 4 --eval-every 4 --eval-examples 8 --save-every 12 --keep 1 --ema.half-life 5 "
    f"--schedule.warmup 3 --steps {TRAINED}"
)
_TEXT = "--data.tokenizer characters --data.context 16 --model.layers 1 --model.heads 2 --model.width 8"


@dataclass(frozen=True)
class Golden:
    """A golden run: its recipe, the data in tests/golden/data, its training flags, and the flags of its samples."""

    recipe: str
    data: str
    flags: str
    request: str


RUNS = {
    "text-masked": Golden("text-masked", "story.txt", _TEXT, "--prompt the --tokens 8 --num 2"),
    "text-autoregressive": Golden(
        "text-autoregressive", "story.txt", f"{_TEXT} --model.dropout 0.1", "--prompt the --tokens 8 --num 2"
    ),
    "text-proofreading": Golden(
        "text-proofreading",
        "story.txt",
        f"{_TEXT} --objective.version mask --objective.bias.kind unmask-rate",
        "--steps 4 --passes 2 --num 2",
    ),
    "image-diffusion": Golden(
        "image-diffusion",
        "images",
        "--data.size 8 --data.channels 1 --data.validation 0.25 --data.balance inverse-frequency "
        "--objective.evaluation-draws 2 --objective.augment.flip True --model.width 4 --model.multipliers 1 "
        "--model.blocks 1 --model.attention False --model.groups 2 --model.patch 2",
        "--label few --guidance 2 --num 2 --sampler ddim --steps 6",
    ),
    "image-caption": Golden(
        "image-caption",
        "captions.json",
        "--data.tokenizer bytes --data.context 24 --data.size 8 --data.channels 1 "
        "--data.validation 0.25 --model.vit.patch 4 --model.vit.layers 1 --model.vit.heads 2 --model.vit.width 8 "
        "--model.decoder.layers 1 --model.decoder.heads 2 --model.decoder.width 8 --model.decoder.tied True",
        "--image {data}/few/00.png {data}/many/01.png --decoding greedy",
    ),
}


def seedfast(*words: str | Path) -> str:
    """What a command prints, in this process; it has to succeed."""
    from seedfast.cli import main

    printed = io.StringIO()
    with redirect_stdout(printed):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
    assert not ended.value.code, f"seedfast {' '.join(map(str, words))}: exit status {ended.value.code}"
    return printed.getvalue()


def seen(name: str, folder: Path, work: Path) -> dict[str, Any]:
    """What comes of the golden run in `folder`: its losses once it is resumed, its evaluation, its samples."""
    golden = RUNS[name]
    data = GOLDEN / "data"
    before = len((folder / "journal.jsonl").read_text().splitlines())
    words = ["--out", folder, "--data", data / golden.data, "--steps", str(RESUMED), "--no-report"]
    seedfast("train", golden.recipe, *words)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()[before:]]
    evaluation = json.loads(seedfast("evaluate", folder, "--data", data / golden.data, "--json", "--only", "loss"))
    request = golden.request.format(data=data / "images").split()
    seedfast("sample", folder, *request, "--out", work / "samples")
    if golden.recipe == "image-diffusion":
        with Image.open(work / "samples" / "grid.png") as picture:
            sample: Any = list(picture.convert("L").tobytes())
    elif golden.recipe == "image-caption":
        sample = [each["captions"][0]["text"] for each in json.loads((work / "samples/captions.json").read_text())]
    else:
        sample = (work / "samples/samples.txt").read_text()
    return {
        "steps": [[line["step"], line["loss"]] for line in lines if "validation" not in line],
        "validation": [[line["step"], line["validation"]["ema"]["loss"]] for line in lines if "validation" in line],
        "evaluation": {key: value for key, value in evaluation.items() if isinstance(value, int | float)},
        "sample": sample,
    }


def write_data(folder: Path) -> None:
    """A story, sixteen pictures in two classes, and their captions."""
    draw = random.Random(1)
    nouns, verbs = ("cat", "dog", "bird", "fox"), ("sees", "likes", "hears")
    said = [f"the {draw.choice(nouns)} {draw.choice(verbs)} a {draw.choice(nouns)}" for _ in range(150)]
    folder.mkdir(parents=True)
    (folder / "story.txt").write_text("".join(f"{line}.\n" for line in said))
    captions = {}
    for number in range(16):
        name = f"{'many' if number % 3 else 'few'}/{number:02}.png"
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (8, 8), draw.randbytes(64)).save(folder / "images" / name)
        captions[name] = said[number : number + 1 + number % 2]
    (folder / "captions.json").write_text(json.dumps(captions, indent=1) + "\n")


def make() -> None:
    """All golden folders, their data, and expected.json."""
    shutil.rmtree(MADE_IN, ignore_errors=True)
    os.environ["SEEDFAST_CACHE"] = str(MADE_IN / "cache")
    write_data(MADE_IN / "data")
    for name in ("data", *RUNS):
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
    shutil.copytree(MADE_IN / "data", GOLDEN / "data")
    expected = {}
    for name, golden in RUNS.items():
        run = MADE_IN / name
        data = MADE_IN / "data" / golden.data
        seedfast("train", golden.recipe, "--out", run, "--data", data, *f"{golden.flags} {_RUN}".split())
        shutil.copytree(run, GOLDEN / name, ignore=shutil.ignore_patterns("lock", "report*", "samples"))
        expected[name] = seen(name, run, MADE_IN / "work" / name)
    (GOLDEN / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    make()
