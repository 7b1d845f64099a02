"""The first picture of the README: a masked diffusion model of Python code fills a text, docs/denoising.gif.

    python scripts/denoising_gif.py [RUN]

RUN is the folder of a trained run (default: the default recipe is trained in runs/text-masked, minutes on two cores).
"""

import sys
from pathlib import Path

import seedfast
from seedfast.files import commit
from seedfast.report.animation.picture import animation

OUT = Path(__file__).parents[1] / "docs" / "denoising.gif"
PROMPT = "def read_lines(path):\n    "


def main(words: list[str]) -> None:
    """Train or load the run, and write the picture."""
    folder = Path(words[0] if words else "runs/text-masked")
    model = seedfast.load(folder) if words else seedfast.train(seedfast.recipe("text-masked"), folder)
    request = {"prompt": PROMPT, "tokens": 96, "steps": 48, "order": "confidence", "temperature": 0.8, "trace": True}
    samples = model.sample(**request, seed=1)
    commit(OUT, animation(samples.films))
    print(OUT)


if __name__ == "__main__":
    main(sys.argv[1:])
