"""The base class of networks."""

from torch import nn


class Network(nn.Module):
    """A network that the configuration of a model builds."""

    @property
    def output_layer(self) -> nn.Module | None:
        """The layer that computes the outputs; None if no single layer does.

        Its weight is no hidden matrix: an optimizer of hidden matrices (Muon) leaves it to AdamW.
        """
        return None

    @property
    def label_embedding(self) -> nn.Embedding | None:
        """The embedding of class labels, the null label's last; None if the network receives no labels."""
        return None
