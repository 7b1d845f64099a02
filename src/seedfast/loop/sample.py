"""Samples: of any request, and the showcase of the family during training."""

import sys
from dataclasses import fields, replace
from functools import partial
from typing import Any, get_type_hints

import torch
from torch import nn

from seedfast import phases
from seedfast.errors import UserError
from seedfast.families.generator import Generator, Request, RequestT, Samples, State
from seedfast.keys import Draws
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.plain_config import typed
from seedfast.loop.sampling import Sampling
from seedfast.loop.session import Session, Showcase
from seedfast.models.network import Network
from seedfast.optim.shards import total_norm
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
            "The weights are not finite, because the training has diverged: nothing can be generated with them.",
            command="Name an earlier checkpoint with --at.",
        )
    positions_B = torch.arange(request.count, device=distributed.device)
    draws = Draws(seed=seed, scope="sample", positions_B=positions_B, group=request.count)
    was_training = network.training
    network.eval()
    with distributed.autocast():
        compute = partial(generator.generate, network, request, draws, state)
        samples = network.inside(compute) if isinstance(network, Network) else compute()
    network.train(was_training)
    return samples


def has_diverged(network: nn.Module) -> bool:
    """Whether weights are not finite, or so large that what is computed with them overflows."""
    weights = [parameter for parameter in network.parameters() if parameter.is_floating_point()]
    return not bool(torch.isfinite(total_norm(weights)))


def showcase_request(session: Session) -> Request:
    """The request for the samples of a training: the family's showcase with the options that the run sets.

    Raises UserError for an option that this kind of model does not have, or a value that it does not take.
    """
    generator, corpus = session.family.generator, session.corpus
    assert generator is not None
    request: Any = generator.demo(corpus.validation if len(corpus.validation) else corpus.train)
    given = session.run.sampling.given
    hints = get_type_hints(type(request)) if given else {}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in hints:
            known = [f.name for f in fields(Sampling) if f.name in hints]
            raise UserError(
                f"sampling.{name} ({value}) has no effect, because a model of {session.run.recipe} is sampled without "
                f"it: leave it out. It has {', '.join(known) or 'no options'}."
            )
        values[name] = typed(value, hints[name], f"sampling.{name}", "the run")
    request = replace(request, **values) if values else request
    generator.decoding(request)  # refuses what does not fit the model
    found: Request = request
    return found


def showcase(session: Session) -> tuple[Samples, str]:
    """The samples of a training by the averaged weights, and how they were decoded. Only with a generator."""
    state, generator = session.state, session.family.generator
    assert generator is not None
    network = state.average.network if state.average else state.network
    request = showcase_request(session)
    samples = generate(
        generator, network, state.family, request, seed=session.run.seed, distributed=session.distributed
    )
    return samples, generator.decoding(request)


def save_showcase(session: Session) -> Showcase:
    """The samples of a training at this step, as files in `samples/step-N/`.

    Repeating it writes the same files; at a step whose samples are at hand they are returned. Only with a generator.
    """
    step = session.state.step
    if session.showcase is None or session.showcase.step != step:
        sys.audit(phases.SAMPLE, step)
        samples, decoding = showcase(session)
        place = session.folder / "samples" / step_name(step)
        files = samples.save(place, replace=True) if session.distributed.is_main else []
        session.showcase = Showcase(step, samples, tuple(files), decoding)
    return session.showcase
