"""The bound of images: at least the entropy of the data, and close to it for the best denoiser."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.helpers.cli import Run
from tests.helpers.runs import small_run, train_in
from torch import Tensor

from seedfast.diffusion.levels import NoiseLevel, match_dims
from seedfast.evaluate.bits_per_dimension import chain, pixel_nats, prior_nats, step_nats
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.keys import Draws

IMAGES, DRAWS = 64, 64
PROCESSES = {
    "cosine": NoiseProcess(),
    "few steps": NoiseProcess(timesteps=200),
    "zero terminal": NoiseProcess(zero_terminal_snr=True),
    "flow": NoiseProcess(schedule="flow", prediction="flow"),
    "edm": NoiseProcess(schedule="edm", prediction="edm"),
}


def best_denoiser(x: Tensor, level: NoiseLevel) -> Tensor:
    """E[x0 | x] for pixels that are black or white with probability one half: tanh(a x / s²)."""
    a, s = match_dims(level.a, x.double()), match_dims(level.s, x.double())
    return torch.tanh(a * x / s.square())


def bits(
    process: NoiseProcess, denoise: Callable[[Tensor, NoiseLevel], Tensor], *, twin: bool = False
) -> tuple[float, float]:
    """The bound of images of 4 × 4 black and white pixels in bits per dimension, and its standard error."""
    levels = chain(process)
    positions_B = torch.arange(IMAGES * DRAWS)
    draws = Draws(seed=1, scope="test", positions_B=positions_B, group=DRAWS)
    x0 = (2 * draws.randint("pixels of the data", 1, 4, 4, high=2) - 1).double()
    steps = step_nats(denoise, x0, levels, draws)
    nats_B = steps * (0.5 if twin else 1) + prior_nats(x0, levels) + pixel_nats(denoise, x0, levels, draws)
    bits_I = nats_B.view(IMAGES, DRAWS).mean(dim=1) / math.log(2) / 16
    return float(bits_I.mean()), float(bits_I.std()) / math.sqrt(IMAGES)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_bound_is_the_entropy_for_the_best_denoiser(process: NoiseProcess) -> None:
    found, error = bits(process, best_denoiser)
    assert error < 0.04
    assert 1 - 3 * error < found < 1.1 + 3 * error, "one bit for each pixel, and a little for the steps between levels"
    worse, _ = bits(process, lambda x, level: best_denoiser(x, level) * 0.9)
    assert worse > found + 0.02
    twin, _ = bits(process, best_denoiser, twin=True)
    assert twin < 1 - 3 * error, "half of the error of each step is no bound"


def test_the_least_noisy_level_comes_first() -> None:
    for process in PROCESSES.values():
        snr = chain(process).snr
        assert bool((snr[1:] < snr[:-1]).all())


def test_a_run_of_images_has_bits_per_dimension(story: Path, tmp_path: Path, seedfast: Run) -> None:
    train_in(tmp_path / "run", small_run("image-diffusion", story, steps=3, eval_every=0))
    record = json.loads(seedfast("evaluate", tmp_path / "run", "--only", "bits_per_dimension", "--json")[1])
    found = record["bits_per_dimension"]
    assert found["upper"] > 0
    assert found["upper_standard_error"] > 0
    more = json.loads(
        seedfast("evaluate", tmp_path / "run", "--only", "bits_per_dimension", "--draws", "16", "--json")[1]
    )["bits_per_dimension"]
    assert more["draws"] == 16
    assert more["upper"] == pytest.approx(found["upper"], rel=0.5)
