"""Which placement a run has."""

import os

from seedfast.errors import UserError
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.placement.names import PlacementName
from seedfast.loop.placement.placement import Placement
from seedfast.loop.placement.replicated import Replicated


def choose(name: PlacementName, shard_degree: int | None, distributed: DistributedContext) -> Placement:
    """The placement of this name. `auto` is ddp for several processes, and plain for one, as is ddp.

    shard_degree: as in the run. Raises UserError for a shape that these processes cannot have.
    """
    world = distributed.world_size
    if name in ("auto", "ddp"):
        return Replicated(distributed) if world > 1 else Placement(distributed)
    from seedfast.loop.placement.sharded import Sharded, mesh_of  # imports a compiler

    if name == "fsdp":
        return Sharded(distributed, mesh_of(distributed, None))
    degree = int(os.environ.get("LOCAL_WORLD_SIZE", world)) if shard_degree is None else shard_degree
    if world % degree:
        raise UserError(
            f"placement is hsdp, but shard_degree ({degree}) does not divide the number of processes ({world}): each "
            "group of that many processes has one copy of the weights; pass another --shard-degree."
        )
    return Sharded(distributed, mesh_of(distributed, degree))
