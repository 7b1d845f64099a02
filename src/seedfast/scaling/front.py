"""`seedfast.study`: a study as one call."""

import math
from collections.abc import Sequence
from pathlib import Path

from seedfast.data.text.named_source import located
from seedfast.errors import UserError
from seedfast.scaling.outcome import Study
from seedfast.scaling.outcome import study as run_study
from seedfast.scaling.request import FAMILIES, Request
from seedfast.user_code import named_by_user

_MINUTES, _SCALE = 15.0, 4.0


def study(
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    minutes: float | None = None,
    flops: float | None = None,
    families: Sequence[str] = (),
    check: bool = False,
    for_flops: float | None = None,
    scale: float | None = None,
    tokenizer: str = "bytes",
    context: int = 128,
    seed: int = 1,
    jobs: int | None = None,
) -> Study:
    """Which kind of model suits a text and a budget: runs of several families, a law for each, a recommendation.

    On a folder with a study, continue it, or judge it again. The outcome has `.recommended`, `.families`, `.runs` and
    `.record()`.

    data: paths or named sources, as in `seedfast train --data`. out: the folder of the study.
    minutes: time of the whole study on this machine (default 15, and more where its smallest runs need more), or flops:
    training FLOPs of all runs together.
    families: of "autoregressive", "masked", "block", "proofreading", "embedding" (default: all).
    check: train one more run of each family, with four times the FLOPs of any other, which checks the predictions.
    for_flops: training FLOPs of the run to recommend for, or scale: as many times those of the largest run (default 4).
    tokenizer, context, seed: of all runs. jobs: runs that are trained at a time, each by one thread (default: as many
    as PyTorch has threads, at most 8, and one on a GPU). Their number changes no bit.
    Raises UserError for a folder of something else, data that cannot be used, or too small a budget. Ctrl-C raises
    KeyboardInterrupt: the same call continues.
    """
    for names, one, other in (("minutes and flops", minutes, flops), ("for_flops and scale", for_flops, scale)):
        if one is not None and other is not None:
            raise UserError(f"{names} are two forms of one thing: give one of them.")
    for name, value in (("minutes", minutes), ("flops", flops), ("for_flops", for_flops), ("scale", scale)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} must be positive, not {value}.")
    if unknown := [each for each in families if each not in FAMILIES]:
        raise UserError(f"families has {unknown[0]!r}; a study knows {', '.join(FAMILIES)}.")
    if len(set(families)) < len(families):
        raise UserError(f"families ({' '.join(families)}) must name each family once.")
    if jobs is not None and jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}.")
    places = [str(each) for each in ([data] if isinstance(data, str | Path) else data)]
    if not places:
        raise UserError("Name the text to study: its path, or the name of a source.")
    named_by_user(*places)
    request = Request(
        data=tuple(map(located, places)),
        families=tuple(families) or FAMILIES,
        minutes=_MINUTES if minutes is None and flops is None else minutes,
        flops=flops,
        check=check,
        tokenizer=tokenizer,
        context=context,
        seed=seed,
    )
    is_usual = minutes is None and flops is None
    scale = _SCALE if scale is None else scale
    return run_study(request, Path(out), for_flops=for_flops, scale=scale, may_grow=is_usual, jobs=jobs)
