"""How much the gradient of a masked diffusion model deviates by the number of tokens that are masked.

For k masked tokens of n, each at random, the mean square of the gradient of one window's estimate n/k · CE / n of its
NELBO per token, over windows of the training text, and of their mean gradient (without its bias). What is drawn with
the probability q(k) and weighted by 1 / (n q(k)) has the mean square Σ E|g_k|² / (n² q(k)); the last lines give it for
each law of the number of masks, and for the best one, q(k) ∝ √E|g_k|², as a part of that of uniform k. Numbers of
tokens between those that are measured are interpolated, as powers of k.

    python bench/gradient_noise.py RUN [--windows 150]
"""

import math
from typing import get_args

import numpy as np
import torch
from torch import Tensor

import seedfast
from common import parse, parser
from seedfast.data.dataset import Batch
from seedfast.evaluate.trained import Trained
from seedfast.families.text.mask_counts import CountLaw, counts
from seedfast.families.text.masked import MaskedObjective, MaskedTask
from seedfast.keys import Draws


def masked(objective: MaskedObjective, batch: Batch, k: int, draws: Draws) -> MaskedTask:
    """The task of one window in which k random tokens are masked."""
    targets_BL = batch["tokens"][:, 1:]
    length = targets_BL.shape[1]
    masked_BL = draws.permutation("masks", length) < k
    return MaskedTask.of(
        weight_B=torch.tensor([length]),
        inputs_BL=targets_BL.masked_fill(masked_BL, objective.mask),
        targets_BL=targets_BL,
        masked_BL=masked_BL,
        scale_BL=torch.full(targets_BL.shape, 1 / k),
    )


def gradients(model: Trained, k: int, windows: int) -> tuple[float, float]:
    """The mean square of a window's gradient, and the square of the mean gradient."""
    objective, weights = model.family.objective, list(model.network.parameters())
    assert isinstance(objective, MaskedObjective)
    total, square, text = None, 0.0, model.corpus.train
    for index in range(windows):
        draws = Draws(seed=0, scope="gradient noise", positions_B=torch.tensor([index]))
        batch = text.batch([index * (len(text) // windows)])
        terms = objective.loss(model.network, masked(objective, batch, k, draws), model.state)
        found = torch.autograd.grad(terms.total_B.sum(), weights, allow_unused=True)
        gradient = torch.cat([each.flatten() for each in found if each is not None])
        square += float(gradient.square().sum()) / windows
        total = gradient if total is None else total + gradient
    assert total is not None
    mean_square = float((total / windows).square().sum())
    return square, (windows * mean_square - square) / (windows - 1)


def probabilities(law: CountLaw, length: int) -> Tensor:
    """q(k) of k = 1 … n."""
    u_U = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    k_U, factor_U = counts(law, u_U, torch.full(u_U.shape, length))
    q_K = torch.zeros(length, dtype=torch.float64)
    q_K[k_U - 1] = 1 / (k_U * factor_U)
    return q_K


def main() -> None:
    """Print the table."""
    made = parser(__doc__, threads=1)
    made.add_argument("run")
    made.add_argument("--windows", type=int, default=150)
    asked = parse(made)
    model = seedfast.load(asked.run)
    objective = model.family.objective
    if not isinstance(objective, MaskedObjective) or objective.block is not None or objective.options.document_mask:
        raise SystemExit("The run must be of masked diffusion over whole windows, without document masks.")
    if asked.windows < 2:
        raise SystemExit("At least two windows are needed.")
    model.network.requires_grad_()
    length = model.assets.context  # type: ignore[attr-defined]
    measured = sorted({min(length, 2**i) for i in range(length.bit_length() + 1)} | {3 * length // 8, 3 * length // 4})
    squares = []
    print("masked   E|g|²  |E g|²  √(k E|g|²)")
    for k in measured:
        square, mean_square = gradients(model, k, asked.windows)
        squares.append(square)
        print(f"{k:6} {square:7.3f} {mean_square:7.3f} {math.sqrt(k * square):11.2f}", flush=True)
    ks = np.arange(1, length + 1)
    square_K = torch.from_numpy(np.exp(np.interp(np.log(ks), np.log(measured), np.log(squares))))
    laws = {law: probabilities(law, length) for law in get_args(CountLaw)} | {
        "best": square_K.sqrt() / square_K.sqrt().sum()
    }
    uniform = float(square_K.mean())
    for law, q_K in laws.items():
        print(f"{law:8} {float((square_K / (length**2 * q_K)).sum()) / uniform:.3f} of the mean square of uniform k")


if __name__ == "__main__":
    main()
