"""The fault campaign: kills and damage, each followed by training to the end and a comparison of every bit.

    python bench/faults.py --out FOLDER [--kills 210] [--seed 1] [--families …] [--placements …] [--faults …]

A kill is SIGKILL to one process, or to all, in a phase of a training that is chosen by the seed; the run is continued,
killed again, and compared with one that nothing happened to. FOLDER/results.jsonl has a line for each part that is
done, so the same command continues a campaign that was stopped. Prints tables; exits with 1 if a run was lost or wrong.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the small runs of the tests

import torch
from tests.helpers.runs import FAMILIES

from common import parse, parser
from damage import FAULTS, Patient
from kills import PLACEMENTS, Cell, cells, run_cell
from seedfast.version import VERSION

Lines = list[dict[str, Any]]


def results(path: Path) -> Lines:
    """The parts that are done; an incomplete last line is not."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def every_cell(options: Any) -> list[Cell]:
    """The runs that are killed."""
    return cells(options.kills, options.steps, tuple(options.families), tuple(options.placements))


def campaign(out: Path, options: Any) -> Iterator[dict[str, Any]]:
    """Do the parts that are not done yet; yields a line for each."""
    done = {line["part"] for line in results(out / "results.jsonl")}
    story = out / "story.txt"
    if not story.exists():
        nouns, verbs = ["cat", "dog", "bird", "fox"], ["sees", "likes", "hears"]
        story.write_text(
            "".join(f"the {nouns[i % 4]} {verbs[i * 7 % 3]} the {nouns[i * 5 % 3]}.\n" for i in range(500))
        )
    for cell in every_cell(options) if options.kills else ():
        part = f"{cell.name} × {cell.kills}, seed {options.seed}"
        if part not in done:
            with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
                yield {"part": part, "kind": "kills", **asdict(run_cell(cell, story, Path(folder), options.seed))}
    faults = [name for name in options.faults if name not in done]
    if faults:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            patient = Patient(story, Path(folder))
            for name in faults:
                yield {"part": name, "kind": "damage", "cases": [asdict(case) for case in FAULTS[name](patient)]}


def kill_rows(lines: Lines, key: str) -> Iterator[Sequence[object]]:
    """Kills, of one process and of all, and their outcomes, by the phase or by the placement."""
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        cell = line["cell"]
        saving = "async" if cell["async_save"] else "sync"
        for kill in line["kills"]:
            row = f"{kill['phase']}, {saving} saving" if key == "phase" else f"{cell['family']}, {cell['placement']}"
            wrong = "lost" if line["lost"] else "wrong" if line["difference"] else "same"
            counts.setdefault(row, Counter()).update([kill["who"], wrong])
    for row, count in sorted(counts.items()):
        yield row, count["one"], count["all"], count["same"], count["lost"], count["wrong"]


def damage_rows(lines: Lines) -> Iterator[Sequence[object]]:
    """Faults and their outcomes, with the number of folders."""
    cases = Counter((case["fault"], case["outcome"], case["fine"]) for line in lines for case in line["cases"])
    for (fault, outcome, fine), count in cases.items():
        yield fault, count, outcome, "" if fine else "FAILED"


def table(head: Sequence[str], rows: Iterator[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def report(lines: Lines) -> tuple[str, bool]:
    """The tables, and whether all is well."""
    kills = [line for line in lines if line["kind"] == "kills"]
    damage = [line for line in lines if line["kind"] == "damage"]
    cases: list[Mapping[str, Any]] = [case for line in damage for case in line["cases"]]
    count = sum(len(line["kills"]) for line in kills)
    lost = sum(bool(line["lost"]) for line in kills)
    wrong = sum(bool(line["difference"]) for line in kills)
    failed = sum(not case["fine"] for case in cases)
    outcomes = ["one process", "all processes", "ended with the same bits", "lost", "wrong"]
    parts = [
        f"{count} kills in {len(kills)} runs: {lost} runs lost, {wrong} ended with other bits. "
        f"{len(cases)} damaged folders: {failed} lost or silently wrong.",
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, seedfast {VERSION}.",
    ]
    if kills:
        parts += [table(["killed in", *outcomes], kill_rows(kills, "phase"))]
        parts += [table(["family, placement", *outcomes], kill_rows(kills, "placement"))]
    if damage:
        parts += [table(["fault", "folders", "outcome", ""], damage_rows(damage))]
    for line in kills:
        if problem := line["lost"] or line["difference"]:
            parts.append(f"FAILED {line['part']}: {problem}")
    return "\n\n".join(parts), not (lost or wrong or failed)


def main() -> None:
    """Continue the campaign and print its tables."""
    made = parser(__doc__, threads=1)
    made.add_argument("--out", type=Path, required=True, help="the folder of the results")
    made.add_argument("--kills", type=int, default=210, help="SIGKILLs of the whole campaign (default 210)")
    made.add_argument("--steps", type=int, default=30, help="steps of each training that is killed (default 30)")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    made.add_argument("--placements", nargs="+", choices=list(PLACEMENTS), default=list(PLACEMENTS))
    made.add_argument("--faults", nargs="*", choices=list(FAULTS), default=list(FAULTS))
    made.add_argument("--minutes", type=float, default=1e9, help="begin no further part after so long")
    made.add_argument("--scratch", type=Path, help="where run folders are made (default: the temporary folder)")
    options = parse(made)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    path.touch()
    os.environ["SEEDFAST_CACHE"] = str(options.out.absolute() / "cache")
    end = time.monotonic() + 60 * options.minutes
    with path.open("a") as file:
        for line in campaign(options.out.absolute(), options):
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(line["part"], line.get("lost") or line.get("difference") or "", file=sys.stderr, flush=True)
            if time.monotonic() > end:
                break
    shutil.rmtree(options.out / "cache", ignore_errors=True)
    text, well = report(results(path))
    print(text)
    sys.exit(not well)


if __name__ == "__main__":
    main()
