"""Samples: of any request, and the demo of the family during training."""

import sys
from pathlib import Path

import torch
from torch import nn

from seedfast import phases
from seedfast.errors import UserError
from seedfast.families.generator import Generator, RequestT, Samples, State
from seedfast.keys import Draws
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.session import Session
from seedfast.run_folder.checkpoint import step_name


def generate(
    generator: Generator[RequestT],
    network: nn.Module,
    state: State,
    request: RequestT,
    *,
    seed: int,
    distributed: DistributedContext,
) -> Samples:
    """Samples of a network, which is in evaluation mode meanwhile.

    Sample i does not depend on the number of samples, and sampling leaves the randomness of training alone.
    Raises UserError for a network whose training has diverged.
    """
    if has_diverged(network):
        raise UserError(
            "The weights are not finite, because the training has diverged: nothing can be generated with them; "
            "name an earlier checkpoint with --at."
        )
    positions_B = torch.arange(request.count, device=distributed.device)
    draws = Draws(seed=seed, scope="sample", positions_B=positions_B, group=request.count)
    was_training = network.training
    network.eval()
    with distributed.autocast():
        samples = generator.generate(network, request, draws, state)
    network.train(was_training)
    return samples


def has_diverged(network: nn.Module) -> bool:
    """Whether weights are not finite, or so large that what is computed with them overflows."""
    weights = [parameter for parameter in network.parameters() if parameter.is_floating_point()]
    return not bool(torch.isfinite(torch.nn.utils.get_total_norm(weights)))


def save_demo(session: Session) -> tuple[Samples | None, list[Path]]:
    """The family's demo by the averaged weights at this step, as files in `samples/step-N/`.

    Repeating it writes the same files. A family without a generator has no samples.
    """
    state, generator = session.state, session.family.generator
    sys.audit(phases.SAMPLE, state.step)
    if generator is None:
        return None, []
    network = state.average.network if state.average else state.network
    corpus = session.corpus
    request = generator.demo(corpus.validation if len(corpus.validation) else corpus.train)
    samples = generate(
        generator, network, state.family, request, seed=session.run.seed, distributed=session.distributed
    )
    folder = session.folder / "samples" / step_name(state.step)
    folder.mkdir(parents=True, exist_ok=True)
    return samples, samples.save(folder, replace=True)
