"""The `Run`: a whole experiment as one frozen value, its YAML form, and what may change between two sessions of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from seedfast.data.dataset import DataConfig
from seedfast.errors import UserError
from seedfast.families.family import FamilyConfig
from seedfast.loop.compilation import Compile
from seedfast.loop.distributed import Precision
from seedfast.loop.left_out import StepRange
from seedfast.loop.placement.names import PlacementName
from seedfast.loop.plain_config import flatten, plain
from seedfast.loop.sampling import Sampling
from seedfast.models.config import ModelConfig
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.options import (
    SET,
    Affects,
    AtLeast,
    Example,
    Interval,
    MayChange,
    MoreThan,
    OnlyWith,
    check,
    may_change,
)

AUTO = "auto"
"""As the micro-batch of a run: the largest that fits."""
VALIDATION = "validation"
"""As an interval: with each validation."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A whole experiment. A recipe returns one, the command line edits it, and `run.yaml` rebuilds it exactly."""

    recipe: Annotated[str, Affects("identity"), Example("text-masked")]
    """The recipe that this run started from."""
    objective: FamilyConfig
    """The family and its options."""
    data: DataConfig
    """Where the data comes from and how it is cut into examples."""
    model: ModelConfig
    """The network."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: Schedule = field(default_factory=Schedule)
    ema: EMA = field(default_factory=EMA)
    steps: Annotated[int, AtLeast(1), MayChange()] = 1000
    """Optimizer steps of the whole run."""
    epochs: Annotated[float | None, MoreThan(0), MayChange(), Example(0.1)] = None
    """Instead of `steps`: passes over the training examples. The run is stored with the steps that they come to."""
    minutes: Annotated[float | None, MoreThan(0), MayChange(), Example(1e-6)] = None
    """Instead of `steps`: a time budget. A few steps and a validation are timed before the run begins, and the run is
    stored with the steps that fit: the schedule ends with them, and --steps with their number gives the same bits."""
    batch_size: Annotated[int, AtLeast(1)] = 32
    """Examples in one optimizer step, over all processes."""
    micro_batch: Annotated[int | Literal["auto"] | None, AtLeast(1, AUTO), MayChange(), Example(2)] = None
    """Examples in one forward pass of one process; gradients are accumulated until the batch is complete. auto: the
    most that fit into memory, found by a few steps before the run begins and stored in it as a number; where they do
    not fit after all, half of them, with the same numbers up to rounding. With `exact_sums` it is a limit only."""
    exact_sums: bool = False
    """Whether the run has the same bits for every micro-batch and number of processes: gradients are computed in
    forward passes of `exact_chunk` examples, on a CPU by one thread of each process, and their sums are exact."""
    exact_chunk: Annotated[int, AtLeast(1), OnlyWith(exact_sums=True), Example(2, exact_sums=True)] = 1
    """Examples in each forward pass of a run with `exact_sums`. More are faster; they must divide the examples of each
    process, so the largest number of processes is batch_size / exact_chunk."""
    seed: int = 1
    """Seed of every random number of the run."""
    skip: Annotated[tuple[str, ...], StepRange(), MayChange(), Example(("2",))] = ()
    """Steps whose examples are left out, as in 120-140, by the numbers that they have in a run without this option. The
    stream goes on after them, and the other examples keep their order and their noise."""
    without: Annotated[tuple[int, ...], AtLeast(0), MayChange(), Example(tuple(range(400)))] = ()
    """Ids of training examples that are left out (seedfast replay RUN --step N --rows shows them). Their places have
    weight zero; order, noise and the other examples stay the same to the last bit."""
    clip: Annotated[float | None, MoreThan(0), Example(1e-3)] = 1.0
    """Largest norm of the whole gradient; None disables clipping."""
    precision: Precision = "fp32"
    """Arithmetic of the network. Weights and losses stay in float32; fp16 uses a gradient scaler."""
    compile: Annotated[Compile, Affects("device"), Example("step")] = "auto"
    """What is compiled of the training step: the `blocks` of the network and its loss, by torch.compile, or the whole
    `step` as one CUDA graph of them, for small networks. `auto` is blocks on a GPU and `off` on a CPU. Compiled code
    rounds differently, so a resumed run keeps its choice."""
    logits_at_once: Annotated[int | None, AtLeast(1), MayChange(), Example(8, recipe="text-masked")] = None
    """Largest number of logits that a cross-entropy holds in memory (default 2²⁴ on a CPU, 2³⁰ on a GPU: 4 GiB in
    float32, and its gradient needs as much again). More are computed in parts, and again in the backward pass."""
    device: Annotated[Literal["auto", "cpu", "cuda"], MayChange(), Affects("device"), Example("cuda")] = "auto"
    """`auto` uses CUDA where it is available."""
    placement: Annotated[PlacementName, MayChange(), Example("fsdp")] = "auto"
    """Where the weights are when several processes train (torchrun). `ddp`, which `auto` stands for: all in each.
    `fsdp`: each process holds a part of weights, gradients, optimizer and average. `hsdp`: the same within groups of
    processes, and each group has all. A run continues under any other."""
    shard_degree: Annotated[
        int | None,
        AtLeast(1),
        OnlyWith(placement="hsdp"),
        MayChange(),
        Affects("device"),
        Example(2, placement="hsdp"),
    ] = None
    """Processes of a group that share one copy of the weights (default: those of one machine)."""
    rank_timeout: Annotated[float, MoreThan(0), MayChange(), Affects("waiting")] = 30.0
    """Minutes that a process waits for the others, for the samples and the data of rank 0 too. Then all end with a
    sentence that names those that did not arrive."""
    eval_every: Annotated[int | str, Interval(0), MayChange()] = 500
    """Steps between validations, or epochs (0.5epoch); the end is always validated, and 0 validates only there."""
    patience: Annotated[
        int | None,
        AtLeast(1),
        OnlyWith(eval_every=SET),
        MayChange(),
        Example(1, **{"optimizer.lr": 0.5, "eval_every": 1, "steps": 9}),
    ] = None
    """Early stopping: stop after this many validations without improvement; None disables it."""
    best_metric: Annotated[str, Affects("checkpoints"), Example("cider", recipe="image-caption")] = "loss"
    """What the best checkpoint is chosen by: `loss` (of the validation), `perplexity`, or a metric of the family."""
    eval_examples: Annotated[int | None, AtLeast(1)] = 512
    """Validation examples scored during training, a fixed keyed choice; None scores all."""
    sampling: Sampling = field(default_factory=Sampling)
    """The samples of the training."""
    sample_every: Annotated[int | str, Interval(0, VALIDATION), MayChange(), Example(2)] = VALIDATION
    """Steps between samples, or epochs, written to `samples/`: by default each validation has some, and 0 writes them
    at the end only. A set takes about the time of ten training steps, and changes no bit of the training."""
    save_every: Annotated[int | str, Interval(1), MayChange(), Affects("checkpoints"), Example(1, keep=9)] = 500
    """Steps between checkpoints, or epochs; the first and last step and every new best are saved as well."""
    async_save: Annotated[bool, MayChange(), Affects("threads")] = False
    """Write checkpoints while the training goes on: it stands still only for a copy of the state in the host's memory,
    as large as a checkpoint. Changes no bit."""
    keep: Annotated[int, AtLeast(1), MayChange(), Affects("checkpoints"), Example(1, save_every=1)] = 2
    """Newest checkpoints that are retained, besides the best."""
    log_every: Annotated[int, AtLeast(1), MayChange(), Affects("progress"), Example(2)] = 10
    """Steps between updates of the progress line; the journal has every step."""
    peak_tflops: Annotated[float | None, MoreThan(0), MayChange(), Affects("costs"), Example(1.0)] = None
    """Peak of one device in the precision of the run, TFLOP/s without sparsity: what the share of the peak (MFU) that
    a run achieves is a share of. Most GPUs are known by their name; without a peak no share is shown."""
    tensorboard: Annotated[bool, MayChange(), Affects("files")] = False
    """Copy the journal and the samples to `tensorboard/` in the run folder."""
    wandb: Annotated[str | None, MayChange(), Affects("background"), Example("project")] = None
    """Copy them to this project of Weights & Biases, with the login of `wandb login` (WANDB_MODE=offline: to `wandb/`
    in the run folder). Resumed runs append to the same W&B run. Failures are warnings and never stop training."""
    trackio: Annotated[str | None, MayChange(), Affects("background"), Example("project")] = None
    """Copy them to this project of trackio, on this machine and without a login (`trackio show` is its dashboard).
    Resumed runs append to the same run. Failures are warnings."""
    hub: Annotated[str | None, MayChange(), Affects("background"), Example("user/model")] = None
    """Upload each new best checkpoint to this repository of the Hugging Face hub, USER/MODEL, with the login of `hf
    auth login`; created as a private repository if it does not exist. Failures are warnings."""
    workers: Annotated[int | None, AtLeast(0), MayChange(), Affects("threads"), Example(1)] = None
    """Threads that prepare the next batches (default 4 on a GPU, none on a CPU); 0 prepares each when it is needed.
    Changes no bit."""
    on_nonfinite: Annotated[Literal["stop", "skip"], MayChange(), Example("skip", **{"optimizer.lr": 1e30})] = "stop"
    """What to do when the loss or gradient is not finite: stop, or skip the update and count it."""
    skip_budget: Annotated[
        int, AtLeast(0), MayChange(), Example(1, **{"on_nonfinite": "skip", "optimizer.lr": 1e30})
    ] = 10
    """Skipped updates after which the run stops after all (with `on_nonfinite: skip`)."""

    def __post_init__(self) -> None:
        check(self)
        if self.epochs is not None and self.minutes is not None:
            raise UserError(f"epochs ({self.epochs:g}) and minutes ({self.minutes:g}) both set the length: give one.")
        self._check_exact_sums()
        for key, value in flatten(asdict(self)).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{key} must be a finite number, not {value}.")

    @property
    def forward_examples(self) -> int:
        """The most examples in one forward pass of one process."""
        if self.exact_sums:
            return self.exact_chunk
        return self.micro_batch if isinstance(self.micro_batch, int) else self.batch_size

    def _check_exact_sums(self) -> None:
        """Raise UserError for a batch that forward passes of `exact_chunk` examples do not make up."""
        if not self.exact_sums:
            return
        if self.micro_batch == AUTO:
            raise UserError(
                "micro_batch auto has no effect with exact_sums, whose forward passes have exact_chunk examples: leave "
                "it out."
            )
        if isinstance(self.micro_batch, int) and self.micro_batch < self.exact_chunk:
            raise UserError(
                f"exact_chunk ({self.exact_chunk}) is more than the {self.micro_batch} examples that micro_batch "
                "allows in a forward pass: lower the one or raise the other."
            )
        if self.batch_size % self.exact_chunk:
            raise UserError(f"exact_chunk ({self.exact_chunk}) must divide batch_size ({self.batch_size}).")

    def migrated(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields to replace; another way to give the length of the run replaces the one that this run has.

        Raises UserError for two lengths.
        """
        lengths = [key for key in LENGTHS if values.get(key) is not None]
        refuse_two_lengths(lengths)
        return {**dict.fromkeys(LENGTHS[1:]), **values} if lengths else values

    def located(self) -> "Run":
        """The same run, complete in itself: absolute paths, and pretrained parts resolved.

        Raises UserError if a pretrained part cannot be found.
        """
        model = self.model.located()
        return replace(self, model=model, data=self.data.located().with_pretrained(model.pretrained_parts()))


LENGTHS = ("steps", "epochs", "minutes")
"""The fields that give the length of a run, of which one may be given."""


def refuse_two_lengths(given: Sequence[str], prefix: str = "") -> None:
    """Raise UserError if more than one length of a run is given."""
    if len(given) > 1:
        named = " and ".join(f"{prefix}{key}" for key in given)
        raise UserError(f"{named} both set the length of the run: give one of them.")


def settings(run: Run) -> dict[str, Any]:
    """Every field of a run by its dotted name."""
    return flatten(plain(run))


def changes(stored: Run, new: Run) -> dict[str, tuple[Any, Any]]:
    """The fields in which two runs differ, as name → (stored, new)."""
    before, after = settings(stored), settings(new)
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def refuse_changes(run: Run, found: Mapping[str, tuple[Any, Any]], allowed: tuple[str, ...]) -> None:
    """Raise UserError for a change that would silently give the continued run another meaning."""
    # Under the plateau schedule validations lower the learning rate; with patience they end the run.
    watched = run.schedule.shape == "plateau" or run.patience is not None
    harmless = may_change(run) - ({"eval_every"} if watched else set())
    for key, (old, new) in found.items():
        if key not in harmless and key not in allowed:
            raise UserError(
                f"This folder's run has {key} = {old}, and the new value is {new}, which would make it another run; "
                f"use another --out, or pass --allow-change {key} to continue it with the new value."
            )
