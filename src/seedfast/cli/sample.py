"""`seedfast sample`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from seedfast.families.text import TextSamples


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Complete, infill or write text with the newest checkpoint of a run.

    With neither --prompt nor --infill the text is written from nothing. Given text is never altered.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A beginning to continue; may be said several times."""
    infill: str | None = None
    """A text with gaps, each written ⟨gap:20⟩ or <gap:20> for twenty tokens."""
    num: int = 1
    """Samples for each prompt."""
    tokens: int | None = None
    """Tokens to write (default: as many as the model's context has room for)."""
    temperature: float = 1.0
    """Below 1 likelier, above 1 more varied; 0 takes the likeliest token."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the likeliest tokens whose probability reaches p."""
    steps: int | None = None
    """Diffusion: parallel decoding steps (default: one for each token)."""
    order: Literal["random", "confidence", "ancestral"] | None = None
    """Diffusion: which positions are decided first (default: random)."""
    candidates: int | None = None
    """Autoregressive infill: fillings that are weighed against the text after the gap (default: 16)."""
    seed: int = 1
    """Sample i of a seed is always the same."""
    trace: bool = False
    """Show the text at every step."""
    weights: Literal["ema", "raw"] | None = None
    """Which weights to use (default: the averaged ones where there are some)."""
    at: int | None = None
    """Use the checkpoint of this step instead of the newest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def sample(words: list[str]) -> int:
    """Sample from a run; see `Sample` for the flags."""
    asked = tyro.cli(Sample, args=words, prog="seedfast sample")
    from seedfast import recipes
    from seedfast.evaluate import sampling, trained
    from seedfast.families.text import TextRequest

    request = TextRequest(
        prompts=asked.prompt,
        infill=asked.infill,
        num=asked.num,
        tokens=asked.tokens,
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        steps=asked.steps,
        order=asked.order,
        candidates=asked.candidates,
        trace=asked.trace,
    )
    checkpoint = trained.find(asked.run, at=asked.at)
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint, weights=asked.weights, device=asked.device)
    show_samples(sampling.sample(model, request, seed=asked.seed, count=request.count), Console())
    return 0


def show_samples(samples: "TextSamples", console: Console, *, copy_to: Path | None = None) -> None:
    """Print texts, what was written standing out from what was given; `copy_to` also gets them as a file."""
    for number, pieces in enumerate(samples.pieces):
        if number:
            console.rule(style="dim")
        if not console.is_terminal:  # exactly the text: a terminal's niceties would expand tabs and drop controls
            frames = samples.frames[number] if samples.frames else []
            console.file.writelines(f"step {step + 1}\n{frame}\n" for step, frame in enumerate(frames))
            console.file.write(samples.texts[number] + "\n")
            continue
        for step, frame in enumerate(samples.frames[number] if samples.frames else []):
            console.print(Text(f"step {step + 1}", style="dim"))
            console.print(Text(frame), soft_wrap=True)
        text = Text()
        for piece, given in pieces:
            text.append(piece, style="" if given else "bold green")
        console.print(text, soft_wrap=True)
    if copy_to:
        copy_to.write_text("\n\n--------\n\n".join(samples.texts) + "\n")
