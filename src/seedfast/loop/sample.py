"""Samples: of any request, and of the family's showcase during training."""

import sys
from pathlib import Path

import torch
from torch import nn

from seedfast.families.family import Family, Request, Samples, State
from seedfast.keys import Draws
from seedfast.loop.distributed import Placement
from seedfast.loop.session import Session


def generate(
    family: Family, network: nn.Module, state: State, request: Request, *, seed: int, placement: Placement
) -> Samples:
    """Fulfil a request with a network, which is in evaluation mode meanwhile.

    Sample i is the same whatever else is sampled beside it, and no draw of the training moves.
    """
    positions_B = torch.arange(request.count, device=placement.device)
    draws = Draws(seed=seed, scope="sample", positions_B=positions_B, group=request.count)
    was_training = network.training
    network.eval()
    with placement.autocast():
        samples = family.sample(network, request, draws, state)
    network.train(was_training)
    return samples


def snapshot(session: Session) -> tuple[Samples, list[Path]]:
    """What the averaged weights can do at this step, as files in `samples/step-N/`. A repetition writes the same."""
    state = session.state
    sys.audit("seedfast.snapshot", state.step)
    network = state.average.network if state.average else state.network
    request = session.family.showcase(session.corpus.validation)
    samples = generate(
        session.family, network, state.family, request, seed=session.run.seed, placement=session.placement
    )
    folder = session.folder / "samples" / f"step-{state.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    return samples, samples.save(folder)
