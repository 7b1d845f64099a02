"""Image diffusion: a network learns to remove Gaussian noise; sampling removes it step by step from pure noise.

Shapes: B batch, C channels, S height and width, K classes, N bins of the noise level.
"""

from copy import copy
from dataclasses import dataclass, field
from typing import Annotated, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.data.dataset import Batch
from seedfast.data.image.balance import BETA, Balance, check_manual_weights, class_weights
from seedfast.data.image.dataset import ImageAssets
from seedfast.diffusion.levels import add_noise, match_dims
from seedfast.diffusion.parameterisation import input_std, min_snr_weight, target
from seedfast.errors import UserError
from seedfast.families.family import Family, Objective, Task, Terms
from seedfast.families.generator import State
from seedfast.families.image.augment import Augment, augmented
from seedfast.families.image.conditioning import ClassConditioning, class_conditioning
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.sampling import ImageGenerator
from seedfast.families.measure import Curve, Measure
from seedfast.keys import Draws
from seedfast.models.config import ImageModel
from seedfast.options import AtLeast, Between, Example, Formerly, MoreThan, OnlyWith, check

BINS = 16
"""Number of bins of the noise level for which validation reports the error; they are equiprobable in training."""


@dataclass(frozen=True, kw_only=True)
class ImageDiffusion:
    """Gaussian diffusion of pixels."""

    process: NoiseProcess = field(default_factory=NoiseProcess)
    """The noise schedule and the prediction target."""
    min_snr: Annotated[float | None, MoreThan(0), Example(5.0)] = None
    """Min-SNR weighting: weight the squared error of x0 by min(SNR, this) instead of the prediction's by 1 (Hang et al.
    2023; 5 is usual)."""
    conditional: Annotated[bool | None, Example(False)] = None
    """Condition the network on each image's class (default: if there is more than one class)."""
    class_dropout_prob: Annotated[float | None, Between(0, 1, open_high=True), Formerly("label_drop"), Example(0.9)] = (
        None
    )
    """Probability of the null label in training, as classifier-free guidance needs it (default 0.1)."""
    class_balance: Balance | None = None
    """Class-balanced loss: weight the losses of classes by inverse frequency, effective number or manual weights."""
    class_balance_beta: Annotated[
        float, Between(0, 1, open_high=True), OnlyWith(class_balance="effective-number"), Formerly("beta")
    ] = BETA
    """β of the effective number (Cui et al. 2019)."""
    class_weights: Annotated[
        tuple[float, ...],
        MoreThan(0),
        OnlyWith(class_balance="manual"),
        Example((1.0, 9.0), class_balance="manual", class_weights=(1.0, 2.0)),
    ] = ()
    """Manual class weights, in the order of the classes' names."""
    augment: Augment = field(default_factory=Augment)
    """Augmentation of training images; validation images stay unchanged."""
    evaluation_draws: Annotated[int, AtLeast(1)] = 8
    """Noise levels at which each validation image is scored: always the same ones, spread evenly over all levels."""

    def __post_init__(self) -> None:
        check(self, "objective.")
        check_manual_weights("objective.class_weights", self.class_weights, "class_balance", self.class_balance)
        if self.min_snr is not None and self.process.zero_terminal_snr:
            raise UserError(
                "objective.min_snr gives weight 0 to the timestep without signal, at which sampling with zero terminal "
                "SNR starts, so that timestep would never be trained: leave out min_snr or zero_terminal_snr."
            )
        if self.min_snr is not None and self.process.prediction == "edm":
            raise UserError("The prediction edm has its own weighting: leave objective.min_snr out.")
        if self.class_dropout_prob is not None and self.conditional is False:
            raise UserError("objective.class_dropout_prob has no effect on an unconditional model: leave it out.")

    def build(self, assets: ImageAssets) -> Family:
        """The family, for images of this size and these classes."""
        conditioning = class_conditioning(assets, conditional=self.conditional, dropout_prob=self.class_dropout_prob)
        return Family(
            objective=ImageObjective(self, conditioning), generator=ImageGenerator(self.process, conditioning)
        )


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """Noised images.

    inputs_BCSS: the network's input, float32. targets_BCSS: its target. t_cond_B: its time input.
    labels_B: its label input, a class or the null label. scale_B: the weight of the squared error.
    bin_B: the index of the bin of the noise level.
    """

    inputs_BCSS: Tensor
    targets_BCSS: Tensor
    t_cond_B: Tensor
    labels_B: Tensor
    scale_B: Tensor
    bin_B: Tensor


class ImageObjective(Objective[ImageTask]):
    """The weighted squared error of the network's prediction at keyed noise levels."""

    has_fixed_shapes = True

    def __init__(self, options: ImageDiffusion, conditioning: ClassConditioning) -> None:
        self.options, self.process, self.conditioning = options, options.process, conditioning
        self.augments = False
        self.weight_K = torch.tensor(
            class_weights(
                conditioning.assets.counts,
                options.class_balance,
                beta=options.class_balance_beta,
                manual=options.class_weights,
            )
        )
        self.bins = _bins(self.process)
        title = f"squared error of {self.process.prediction} at each noise level"
        self.measure = Measure(
            loss_unit="squared_error",
            weight_unit="images",
            draws=options.evaluation_draws,
            curves={title: Curve(axis="log SNR, from noise to image", points=self.bins)},
        )

    def for_step(self, step: int) -> Self:
        """The objective of training, which augments the images."""
        objective = copy(self)
        objective.augments = bool(self.options.augment)
        return objective

    def network(self, model: ImageModel) -> nn.Module:
        """A network from x, time and label to the prediction."""
        assets = self.conditioning.assets
        return model.build(size=assets.size, channels=assets.channels, classes=self.conditioning.network_classes)

    def task(self, batch: Batch, draws: Draws) -> ImageTask:
        """Noise each image to a level of its own; the levels are spread evenly over the global batch."""
        x0 = batch["pixels"].float() / 127.5 - 1
        if self.augments:
            x0 = augmented(x0, self.options.augment, draws)
        quantile_B = draws.stratified("time")
        level = self.process.level(quantile_B)
        eps = draws.normal("noise", *x0.shape[1:])
        prediction, std = self.process.prediction, self.process.scaling_std
        x = add_noise(x0, eps, level)
        labels_B = batch["labels"]
        if self.conditioning.conditional:
            labels_B = self.conditioning.dropped(labels_B, draws.uniform("label-drop", 1)[:, 0])
        weight_B = self.weight_K[batch["labels"]]
        clip = self.options.min_snr
        scale_B = torch.ones_like(level.a) if clip is None else min_snr_weight(prediction, level, clip)
        return ImageTask(
            weight_B=weight_B,
            inputs_BCSS=x / match_dims(input_std(level, std), x),
            targets_BCSS=target(prediction, x0, eps, level, std),
            t_cond_B=self.process.t_cond(level).float(),
            labels_B=labels_B,
            scale_B=scale_B.float() * weight_B,
            bin_B=(quantile_B * len(self.bins)).long(),
        )

    def loss(self, network: nn.Module, task: ImageTask, state: State) -> Terms:
        """The weighted squared error of each image, averaged over its pixels; in validation also that of each bin."""
        labels_B = self.conditioning.network_input(task.labels_B)
        outputs_BCSS = network(task.inputs_BCSS, task.t_cond_B, labels_B).float()
        error_B = (outputs_BCSS - task.targets_BCSS).square().mean(dim=(1, 2, 3))
        if network.training:
            return Terms(total_B=error_B * task.scale_B)
        in_bin_BN = F.one_hot(task.bin_B, len(self.bins)).to(error_B.dtype)
        sums_2N = torch.stack([error_B, torch.ones_like(error_B)]) @ in_bin_BN
        return Terms(total_B=error_B * task.scale_B, diagnostics=dict(zip(self.bins, sums_2N.unbind(1), strict=True)))


def _bins(process: NoiseProcess) -> dict[str, float]:
    """The log SNR at the centre of each bin of the noise level, by the name of the bin's diagnostic."""
    centres = process.bin_centres(BINS)
    names = [f"error_at_noise/{t_cond:.3f}" for t_cond in process.t_cond(centres).tolist()]
    log_snr = (-centres.gamma).clamp(-20, 20)  # it is infinite without signal, at zero terminal SNR
    return dict(zip(names, log_snr.tolist(), strict=True))
