"""A session without its past: data, network, optimizer and state of a run, on the device."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from seedfast import keys
from seedfast.data.mixture import is_mixture
from seedfast.errors import UserError
from seedfast.families.family import Objective
from seedfast.loop.agreement import check_same
from seedfast.loop.captured import CapturedStep
from seedfast.loop.compilation import compile_parts, compiled
from seedfast.loop.config import Run
from seedfast.loop.left_out import refuse_unknown
from seedfast.loop.placement.placement import Placement
from seedfast.loop.plan import Plan, with_steps
from seedfast.loop.session import Session, data_of
from seedfast.loop.summation import summation
from seedfast.models.token_network import TokenNetwork
from seedfast.optim.ema import Average, copy_of
from seedfast.options import refuse_unused
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.journal import Journal
from seedfast.run_folder.train_state import NoLargerThan, TrainState


def build(
    run: Run,
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
    placement: Placement,
    initialise: Callable[[Any], None] | None,
) -> Session:
    """A session of a run, with new weights or those that the checkpoint's are going to overwrite.

    initialise: as in `open_session`. Raises UserError for options that do not fit the data, the network or the device.
    """
    distributed = placement.distributed
    data = data_of(run, checkpoint)
    if is_mixture(data.path) and not data.takes_mixtures:
        raise UserError(f"{data.path} is a mixture, and only texts are mixed: name one source for {run.recipe}.")
    corpus = data.load() if distributed.is_main else None
    distributed.barrier()  # rank 0 has filled the cache that the other ranks now read
    corpus = corpus or data.load()
    check_same({"fingerprint of the data": corpus.fingerprint.digest}, distributed)
    run = with_steps(run, len(corpus.train))
    refuse_unknown(run.without, len(corpus.train))
    family = run.objective.build(corpus.assets)
    units = family.objective.measure
    if run.best_metric not in (known := ("loss", *(("perplexity",) if units.has_perplexity else ()), *units.metrics)):
        raise UserError(f"best_metric must be one of {', '.join(known)} for this family, not {run.best_metric}.")
    with torch.random.fork_rng():
        keys.seed_torch(run.seed, "init")
        with NoLargerThan(checkpoint) if checkpoint else nullcontext():
            network = family.objective.network(run.model)
        if not checkpoint:
            (initialise or run.model.initialise)(network)
    if not placement.is_sharded:  # that moves one block after the other, so that no device holds all
        network.to(distributed.device)
    _limit_logits(run, network, family.objective)
    uncut = copy.deepcopy(network).to("meta") if placement.is_sharded else network
    copied = copy_of(network) if run.ema.half_life else None
    for each in (network, copied):
        if each is not None:
            placement.shard(each)
    state = TrainState(
        network=network,
        optimizer=run.optimizer.build(network),
        average=Average(network, copied) if copied is not None else None,
        scaler=torch.amp.GradScaler(distributed.device.type, enabled=run.precision == "fp16"),
        family={name: tensor.to(distributed.device, copy=True) for name, tensor in family.initial_state().items()},
    )
    summed = summation(run, placement)
    what = compiled(run.compile, network, family.objective, placement)
    if what != "off":
        compile_parts(network, by_block=placement.is_sharded)
    return Session(
        run=run,
        folder=checkpoints.run_folder,
        distributed=distributed,
        placement=placement,
        corpus=corpus,
        family=family,
        network=summed.wrap(network),
        summation=summed,
        state=state,
        uncut=uncut,
        plan=Plan.of(run, len(corpus.train)),
        order=corpus.order(seed=run.seed, batch_size=run.batch_size),
        checkpoints=checkpoints,
        journal=Journal(checkpoints.run_folder) if distributed.is_main else None,
        compiled=what,
        captured=CapturedStep() if what == "step" else None,
    )


def _limit_logits(run: Run, network: nn.Module, objective: Objective[Any]) -> None:
    """Tell the networks over tokens how many logits they may hold. Raises UserError if none would heed it."""
    over_tokens = [part for part in network.modules() if isinstance(part, TokenNetwork)]
    if not over_tokens:
        refuse_unused(run, "logits_at_once", "the outputs of this network are no logits")
    if objective.holds_all_logits:
        refuse_unused(run, "logits_at_once", "this kind of model takes all logits of a batch at once")
    for part in over_tokens:
        part.logits_at_once = run.logits_at_once
