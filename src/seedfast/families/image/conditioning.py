"""Class conditioning: the label that an image network receives."""

from dataclasses import dataclass

from torch import Tensor

from seedfast.data.image.dataset import ImageAssets
from seedfast.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ClassConditioning:
    """The classes of the data as labels of the network.

    conditional: whether the network receives labels at all.
    dropout_prob: probability of the null label in training, which is the baseline of classifier-free guidance.
    """

    assets: ImageAssets
    conditional: bool
    dropout_prob: float

    @property
    def null_label(self) -> int:
        """The label that stands for any class: the id after the last class."""
        return len(self.assets.classes)

    @property
    def network_classes(self) -> int:
        """The number of classes of the network: 1 if it receives no labels."""
        return len(self.assets.classes) if self.conditional else 1

    def dropped(self, labels_B: Tensor, uniform_B: Tensor) -> Tensor:
        """Training labels, of which those with a uniform number below the dropout probability are the null label."""
        return labels_B.masked_fill(uniform_B < self.dropout_prob, self.null_label)

    def network_input(self, labels_B: Tensor) -> Tensor | None:
        """The label input of the network, [B] or None."""
        return labels_B if self.conditional else None


def class_conditioning(
    assets: ImageAssets, *, conditional: bool | None, dropout_prob: float | None
) -> ClassConditioning:
    """The conditioning for these classes: by default with a dropout of 0.1, if there is more than one class.

    Raises UserError for options that need more classes than there are.
    """
    has_classes = len(assets.classes) > 1
    if conditional and not has_classes:
        raise UserError("objective.conditional needs images of more than one class: leave it out.")
    conditional = has_classes if conditional is None else conditional
    if dropout_prob is not None and not conditional:
        raise UserError("objective.class_dropout_prob has no effect on images of one class: leave it out.")
    return ClassConditioning(
        assets=assets, conditional=conditional, dropout_prob=0.1 if dropout_prob is None else dropout_prob
    )
