"""DGL's perceptrons: ``mlp`` and, on features of fewer pixels, ``mlp-sr``.

Notation:
    H, W    height and width of the features at the boundary
    q       that of those which the perceptron sees
Sources: Belilovsky et al., ICML 2020; Pyeon et al., ICLR 2021 (mlp-sr as re-implemented there).
"""

from __future__ import annotations

from torch import Tensor, nn

from sedona_nni.models import conv_unit
from sedona_nni.teachers.auxiliary.network import (
    AuxiliaryContext,
    AuxiliaryNetwork,
    register_auxiliary,
)

__all__ = ["MlpAuxiliary"]


def _quarter(size: int) -> int:
    return (size + 3) // 4


class MlpAuxiliary(AuxiliaryNetwork):
    """Pool to ceil(H/4) x ceil(W/4), ``num_convs`` 1x1 convolutions, pool to q x q, a perceptron.

    That has 3 hidden layers. Every convolution and hidden layer keeps its width and is followed by
    batch norm and activation.
    """

    def __init__(self, context: AuxiliaryContext, *, num_convs: int, pooled_size: int) -> None:
        super().__init__()
        channels, act = context.shape.channels, context.activation
        self.features = nn.Sequential(
            nn.AdaptiveAvgPool2d((_quarter(context.shape.height), _quarter(context.shape.width))),
            *(conv_unit(channels, channels, 1, activation=act) for _ in range(num_convs)),
            nn.AdaptiveAvgPool2d(pooled_size),
            nn.Flatten(),
        )
        width = channels * pooled_size**2
        self.hidden = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), act())
                for _ in range(3)
            )
        )
        self.classifier = nn.Linear(width, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, num_classes)."""
        logits: Tensor = self.classifier(self.hidden(self.features(features)))
        return logits


@register_auxiliary("mlp-sr")
def _mlp_sr(context: AuxiliaryContext) -> AuxiliaryNetwork:
    """The spatially reduced MLP as SEDONA re-implements it: its last pool is to 1 from S <= 4 on,
    where the original always pools to 2."""
    pooled = min(_quarter(max(context.shape.height, context.shape.width)), 2)
    return MlpAuxiliary(context, num_convs=3, pooled_size=pooled)


@register_auxiliary("mlp")
def _mlp(context: AuxiliaryContext) -> AuxiliaryNetwork:
    return MlpAuxiliary(context, num_convs=0, pooled_size=2)
