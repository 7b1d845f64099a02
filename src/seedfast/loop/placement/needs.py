"""What a placement needs: memory, traffic and checkpoints of a model on many processes, by arithmetic.

`python -m seedfast.loop.placement.needs` prints the table of docs/scale.md. Counted is what grows with the weights:
activations, which depend on batch and context, come on top.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from seedfast.loop.placement.names import PlacementName

_FLOAT = 4  # bytes of float32: weights, gradients, moments and average
_PRODUCT = 2  # bytes of bfloat16, in which the weights of products are gathered
_STATE = 5  # float32 numbers of a weight: itself, its gradient, two moments of AdamW, its average
_STORED = 4  # the same without the gradient
_MACHINE = 8  # GPUs of a machine, and of a group under hsdp


@dataclass(frozen=True)
class Model:
    """The sizes of a transformer. blocks: their number. rest: weights outside of them (embeddings, head)."""

    name: str
    weights: float
    blocks: int
    rest: float

    @property
    def block(self) -> float:
        """Weights of a block."""
        return (self.weights - self.rest) / self.blocks


MODELS = (Model("1 B", 1e9, 24, 0.1e9), Model("70 B", 70e9, 80, 0.5e9))
PROCESSES = (8, 64, 1024)


@dataclass(frozen=True)
class Needs:
    """Bytes of one process: held between steps with gradients; gathered meanwhile at most; sent in a step of one
    micro-batch; written of a checkpoint at most. checkpoint: bytes of all processes."""

    held: float
    gathered: float
    sent: float
    written: float
    checkpoint: float


def needs(model: Model, processes: int, placement: PlacementName) -> Needs:
    """The needs of AdamW with an average of the weights, in bf16 (`--precision bf16`).

    ddp: a ring sends 2 (n - 1) / n of what it adds up (Patarasuk & Yuan 2009). fsdp: every block is gathered for the
    forward and again for the backward pass, the rest once, and gradients are reduced and scattered in float32 (ZeRO
    stage 3, Rajbhandari et al. 2020, section 7). hsdp: the same within a machine; between machines, the ring adds up
    each process's part of the gradients.
    """
    checkpoint = _STORED * _FLOAT * model.weights
    if placement in ("auto", "ddp"):
        sent = 2 * _others(processes) * _FLOAT * model.weights
        return Needs(_STATE * _FLOAT * model.weights, 0.0, sent, checkpoint, checkpoint)
    degree = min(processes, _MACHINE) if placement == "hsdp" else processes
    in_blocks = model.weights - model.rest
    gathers = _others(degree) * (2 * _PRODUCT * in_blocks + _FLOAT * model.rest)
    scatters = _others(degree) * _FLOAT * model.weights
    between = 2 * _others(processes // degree) * _FLOAT * model.weights / degree
    # Two blocks (one is computed while the next one arrives) and the gradient of one; the rest and its gradient.
    gathered = 3 * _PRODUCT * model.block + 2 * _FLOAT * model.rest
    return Needs(
        _STATE * _FLOAT * model.weights / degree,
        gathered,
        gathers + scatters + between,
        checkpoint / processes,  # DCP deals the copies of a part among the processes that have one
        checkpoint,
    )


def _others(processes: int) -> float:
    return (processes - 1) / processes


def table() -> Iterator[str]:
    """The rows of a Markdown table."""
    yield "| weights | GPUs | placement | held | gathered | sent in a step | checkpoint | of it, written by one |"
    yield "|---|---|---|---|---|---|---|---|"
    placements: tuple[PlacementName, ...] = ("ddp", "fsdp", "hsdp")
    for model in MODELS:
        for processes in PROCESSES:
            for placement in placements:
                if placement == "hsdp" and processes <= _MACHINE:
                    continue  # one machine: the same as fsdp
                found = needs(model, processes, placement)
                sizes = (found.held, found.gathered, found.sent, found.checkpoint, found.written)
                shown = " | ".join(_gigabytes(size) for size in sizes)
                yield f"| {model.name} | {processes} | {placement} | {shown} |"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.0f} GB" if size >= 1e11 else f"{size / 1e9:.2g} GB"


if __name__ == "__main__":
    print("\n".join(table()))
