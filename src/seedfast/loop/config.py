"""The `Run`: a whole experiment as one frozen value, its YAML form, and what may change between two sessions of it."""

import math
import re
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from seedfast.errors import UserError
from seedfast.loop.distributed import Precision
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig

C = TypeVar("C")

_MAY_CHANGE = (
    "steps", "micro_batch", "eval_every", "save_every", "keep", "log_every", "workers", "device", "data.path",
    "on_nonfinite", "skip_budget", "sample_every", "tensorboard", "wandb", "hub",
    "patience",
)  # fmt: skip
"""Changes that keep the meaning of a run that is continued. All others have to be allowed by name."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A whole experiment. A recipe returns one, the command line edits it, and `run.yaml` rebuilds it exactly."""

    recipe: str
    """The recipe that this run started from."""
    objective: Any
    """The family and its options."""
    data: Any
    """Where the data comes from and how it is cut into examples."""
    model: Any
    """The network."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: Schedule = field(default_factory=Schedule)
    ema: EMA = field(default_factory=EMA)
    steps: int = 1000
    """Optimizer steps of the whole run."""
    batch_size: int = 32
    """Examples in one optimizer step, over all processes."""
    micro_batch: int | None = None
    """Examples in one forward pass of one process; the gradient is accumulated over as many as the step needs."""
    seed: int = 1
    """Every random number of the run is a function of this."""
    clip: float | None = 1.0
    """Largest norm of the whole gradient; None clips nothing."""
    precision: Precision = "fp32"
    """Arithmetic of the network. Weights and losses stay in float32; fp16 scales its gradients."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one."""
    eval_every: int = 500
    """Steps between validations (there is always one at the end); 0 validates at the end only."""
    patience: int | None = None
    """Stop early when so many validations in a row have not been the best so far; None trains all steps."""
    best_metric: str = "loss"
    """By which validation the best checkpoint is chosen: `loss`, or a diagnostic that the family names as a metric."""
    eval_examples: int | None = 512
    """Validation examples scored during training: a fixed keyed choice; None takes all."""
    sample_every: int = 0
    """Steps between samples of the family's showcase, written to `samples/`; 0 writes them at the end only."""
    save_every: int = 500
    """Steps between checkpoints; the first and last step and every new best are saved as well."""
    keep: int = 2
    """Newest checkpoints that are retained, besides the best."""
    log_every: int = 10
    """Steps between updates of the progress line; the journal has every step."""
    tensorboard: bool = False
    """Copy the journal and the samples to `tensorboard/` in the run folder."""
    wandb: str | None = None
    """Copy them to this project of Weights & Biases, with the login of `wandb login` (WANDB_MODE=offline: to `wandb/`
    in the run folder). A run that is continued goes on there too. What fails is warned of."""
    hub: str | None = None
    """Upload each new best checkpoint to this repository of the Hugging Face hub, USER/MODEL, with the login of `hf
    auth login`; it is private if it has to be made. What fails is warned of."""
    workers: int = 0
    """Threads that prepare the next batches; 0 prepares each when it is needed. Changes no bit."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when the loss or gradient is not finite: stop, or skip the update and count it."""
    skip_budget: int = 10
    """How many skipped updates a run may have before it stops after all (with `on_nonfinite: skip`)."""

    def __post_init__(self) -> None:
        for key, lowest in (
            ("steps", 1), ("batch_size", 1), ("eval_every", 0), ("eval_examples", 1), ("sample_every", 0),
            ("save_every", 1), ("keep", 1), ("log_every", 1), ("workers", 0), ("skip_budget", 0), ("micro_batch", 1),
            ("patience", 1),
        ):  # fmt: skip
            value = getattr(self, key)
            if value is not None and value < lowest:
                raise UserError(f"{key} must be at least {lowest}, not {value}.")
        if self.patience is not None and not self.eval_every:
            raise UserError(
                f"patience counts validations ({self.patience}), but eval_every is 0; set it to some steps."
            )
        for key, value in flatten(asdict(self)).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{key} must be a finite number, not {value}.")
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"clip must be a positive gradient norm or None, not {self.clip}.")

    def located(self) -> "Run":
        """The same run, complete in itself: with paths that hold from any folder, and what a network's path stands for.

        Raises UserError if that cannot be found.
        """
        model = self.model.located() if hasattr(self.model, "located") else self.model
        data = self.data.located() if hasattr(self.data, "located") else self.data
        # What "model" stands for in the data: for most models the tokenizer beside their weights.
        provided = getattr(model, "provides", {"tokenizer": getattr(model, "path", None)})
        named = {key: path for key, path in provided.items() if path and getattr(data, key, None) == "model"}
        data = replace(data, **named) if named else data
        return replace(self, data=data, model=model)


def to_yaml(run: Run) -> str:
    """The resolved run as YAML, which `from_mapping` takes back unchanged."""
    return yaml.safe_dump(_plain(asdict(run)), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError if there is none."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of a run's fields to values.")
    return content


def from_mapping(template: C, values: Mapping[str, Any], *, where: str, prefix: str = "") -> C:
    """`template`, a dataclass, with these fields replaced; nested mappings replace fields of nested dataclasses.

    Raises UserError for an unknown key or a value of the wrong type, naming the key.
    """
    hints = get_type_hints(type(template))
    known = {f.name for f in fields(template)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in known:
            raise UserError(f"{where} has the unknown key {name}; known are: {', '.join(sorted(known))}.")
        current = getattr(template, key)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: {name} must be a mapping of its fields, not {value!r}.")
            changes[key] = from_mapping(current, value, where=where, prefix=f"{name}.")
        else:
            changes[key] = _typed(value, hints[key], name, where)
    return replace(template, **changes)  # type: ignore[type-var]


def _typed(value: Any, hint: Any, name: str, where: str) -> Any:
    """`value` as the type `hint`, where YAML's own types allow it without loss."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _typed(value, option, name, where)
            except UserError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) == len(value):
            return tuple(_typed(item, kind, name, where) for item, kind in zip(value, inner, strict=True))
    elif hint is float and (type(value) in (int, float) or _is_scientific(value)):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)
    raise UserError(f"{where}: {name} must be of type {expected}, not {value!r} ({type(value).__name__}).")


def _is_scientific(value: Any) -> bool:
    """YAML 1.1 reads 1e-3 as text (it wants 1.0e-3); people mean the number."""
    return isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) is not None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def settings(run: Run) -> dict[str, Any]:
    """Every field of a run by its dotted name."""
    return flatten(_plain(asdict(run)))


def changes(stored: Run, wanted: Run) -> dict[str, tuple[Any, Any]]:
    """The fields in which two runs differ, as name → (stored, wanted)."""
    old, new = settings(stored), settings(wanted)
    return {
        key: (old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    }


def refuse_changes(run: Run, found: Mapping[str, tuple[Any, Any]], allowed: tuple[str, ...]) -> None:
    """Raise UserError if a continued run would silently mean something else than the stored one."""
    # Under the plateau schedule it is the validations that lower the rate; with patience, they that end the run.
    watched = run.schedule.shape == "plateau" or run.patience is not None
    harmless = set(_MAY_CHANGE) - ({"eval_every"} if watched else set())
    for key, (old, new) in found.items():
        if key not in harmless and key not in allowed:
            raise UserError(
                f"This folder's run has {key} = {old}, and now {new} is asked for, which would make it another run; "
                f"use another --out, or say --allow-change {key} to continue it all the same."
            )
