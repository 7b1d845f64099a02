"""`seedfast verify`: proofs that run on the user's own machine."""

import argparse
import json
import secrets
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from seedfast.cli.arguments import parse
from seedfast.cli.past import OfOneRun
from seedfast.errors import UserError

if TYPE_CHECKING:
    from seedfast.verify.finding import Finding


@dataclass(frozen=True, kw_only=True)
class ResumeProof:
    """Train a recipe without interruption and again with kills (SIGKILL), and compare every tensor and the journal.

    The kills fall inside steps, evaluations, and the writing and renaming of checkpoints. All further flags are
    those of `seedfast train RECIPE`.
    """

    recipe: tyro.conf.Positional[str]
    """The recipe to train."""
    kills: int = 3
    """Number of kills of the second training."""
    kill_seed: int = 1
    """Seed of the instants."""
    folder: Path | None = None
    """Keep both run folders here (default: a temporary folder)."""


@dataclass(frozen=True, kw_only=True)
class IdentitiesProof:
    """Check the mathematics on the installed code: closed forms, each beside a broken twin that must fail."""


@dataclass(frozen=True, kw_only=True)
class CheckpointProof:
    """Hash every file of every committed checkpoint again and compare with its manifest."""

    run: tyro.conf.Positional[Path]
    """The run folder."""


@dataclass(frozen=True, kw_only=True)
class BestProof(OfOneRun):
    """Give best.json again by a scan of the validations, and validate the best checkpoints again."""

    run: tyro.conf.Positional[Path]
    """The run folder."""


@dataclass(frozen=True, kw_only=True)
class RunProof(OfOneRun):
    """Check a whole run for a fraction of its price: every record, random steps computed again, and one evaluation.

    Steps are computed from the checkpoint before them, and compared with the journal; where they lead to the next
    checkpoint, its tensors are compared too. What this can prove, and what not, is in docs/replay.md.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    steps: int = 10
    """Random steps to check."""
    most: int | None = None
    """The most steps to compute for it (default: 2 % of the run, or --steps if that is more)."""
    seed: int | None = None
    """Chooses the steps (default: a new one each time, which is printed: nobody can know it beforehand)."""


CHOICES: dict[str, tuple[str, Any]] = {
    "resume": ("train with and without kills and compare every bit", ResumeProof),
    "identities": ("check the mathematics on the installed code", IdentitiesProof),
    "checkpoint": ("hash every file of a run's checkpoints again", CheckpointProof),
    "best": ("find the best checkpoint again, and validate it again", BestProof),
    "run": ("check a run that somebody else has trained", RunProof),
}


def verify(words: list[str]) -> int:
    """Run a proof; exits with 1 if it fails."""
    if not words or words[0].startswith("-"):
        print("usage: seedfast verify PROOF …      (seedfast verify PROOF --help)\n")
        print("\n".join(f"  {name:<11} {what}" for name, (what, _) in CHOICES.items()))
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    name, rest = words[0], words[1:]
    if name not in CHOICES:
        raise UserError(f"There is no proof called {name}; there are {', '.join(CHOICES)}.")
    proofs = {"resume": _resume, "identities": _identities, "checkpoint": _checkpoint, "best": _best, "run": _run}
    return proofs[name](rest)


def _resume(words: list[str]) -> int:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--kills")
    own.add_argument("--kill-seed")
    own.add_argument("--folder")
    known, training = own.parse_known_args(words)
    if not training or {"-h", "--help"} & set(training):
        parse(ResumeProof, ["--help"], prog="seedfast verify resume")
    flags = [w for k, v in vars(known).items() if v is not None for w in (f"--{k.replace('_', '-')}", v)]
    asked = parse(ResumeProof, [training[0], *flags], prog="seedfast verify resume")
    from seedfast.cli.train import parse_run
    from seedfast.verify.resume import prove_resume

    if asked.kills < 1:
        raise UserError(f"A proof of resumption needs at least 1 kill, not {asked.kills}.")
    with tempfile.TemporaryDirectory(prefix="seedfast-verify-") as temporary:
        folder = asked.folder or Path(temporary)
        # A wrong flag is refused here, once.
        run = parse_run(asked.recipe, [*training[1:], "--out", str(folder / "killed")]).run
        if run.minutes is not None:
            raise UserError("A proof trains twice to the same step: give --steps or --epochs instead of --minutes.")
        certificate = prove_resume(training, kills=asked.kills, folder=folder, seed=asked.kill_seed)
    if certificate.difference:
        print(f"NOT identical: {certificate.difference}.")
        return 1
    kills, compared = len(certificate.kills), ", ".join(certificate.compared)
    print(f"identical after {kills} kills over {certificate.steps} steps: {compared}")
    print(f"digest {certificate.digest}")
    return 0


def _identities(words: list[str]) -> int:
    parse(IdentitiesProof, words, prog="seedfast verify identities")
    from seedfast.verify.identities import check_all

    failed = 0
    for check in check_all():
        failed += not check.holds
        print(f"{'ok  ' if check.holds else 'FAIL'} {check}")
    print(f"{failed} failed" if failed else "all hold")
    return 1 if failed else 0


def _checkpoint(words: list[str]) -> int:
    asked = parse(CheckpointProof, words, prog="seedfast verify checkpoint")
    from seedfast.run_folder.checkpoints import Checkpoints

    committed = Checkpoints(asked.run).committed()
    if not committed:
        raise UserError(f"{asked.run} has no checkpoints.")
    damaged = 0
    for checkpoint in committed:
        problems = checkpoint.problems()
        damaged += bool(problems)
        print(
            f"{'DAMAGED' if problems else 'intact '} {checkpoint.folder.name}" + "".join(f"\n  {p}" for p in problems)
        )
    return 1 if damaged else 0


def _best(words: list[str]) -> int:
    asked: BestProof = parse(BestProof, words, prog="seedfast verify best")
    from seedfast import api
    from seedfast.verify.best import prove_best

    past = api.past(asked.run, data=asked.data, device=asked.device, trust=asked.trust)
    return _report(prove_best(past), as_json=asked.json)


def _run(words: list[str]) -> int:
    asked: RunProof = parse(RunProof, words, prog="seedfast verify run")
    if asked.steps < 1 or (asked.most is not None and asked.most < 1):
        raise UserError("A proof computes at least 1 step: give --steps and --most of 1 or more.")
    from seedfast import api
    from seedfast.verify.entry import prove_run

    past = api.past(asked.run, data=asked.data, device=asked.device, trust=asked.trust)
    seed = secrets.randbits(32) if asked.seed is None else asked.seed
    findings = prove_run(past, steps=asked.steps, seed=seed, most=asked.most)
    return _report(findings, as_json=asked.json, seed=seed)


def _report(findings: Iterable["Finding"], *, as_json: bool, **facts: Any) -> int:
    """Print findings as they come; returns the exit status."""
    found = []
    for each in findings:
        found.append(each)
        if not as_json:
            print(each, flush=True)
    failed = sum(each.holds is False for each in found)
    if as_json:
        print(json.dumps({**facts, "holds": not failed, "findings": [asdict(each) for each in found]}))
    else:
        print(f"{failed} of {len(found)} do not hold" if failed else "all that was checked holds")
    return 1 if failed else 0
