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
PROMPT = "class TestCase(unittest.TestCase):\n    def test_"


def main(words: list[str]) -> None:
    """Train or load the run, and write the picture."""
    folder = Path(words[0] if words else "runs/text-masked")
    model = seedfast.load(folder) if words else seedfast.train(seedfast.recipe("text-masked"), folder)
    samples = model.sample(prompt=PROMPT, tokens=80, steps=64, temperature=0.6, trace=True, seed=2)
    commit(OUT, animation(list(samples.films)))
    print(OUT)


if __name__ == "__main__":
    main(sys.argv[1:])
