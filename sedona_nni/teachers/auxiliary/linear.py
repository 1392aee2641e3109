"""The smallest auxiliary network, ``linear``: what a linear probe sees.

Source: Alain and Bengio, 2016 (linear classifier probes).
"""

from __future__ import annotations

from torch import Tensor, nn

from sedona_nni.teachers.auxiliary.network import (
    AuxiliaryContext,
    AuxiliaryNetwork,
    register_auxiliary,
)

__all__ = ["LinearAuxiliary"]


@register_auxiliary("linear")
class LinearAuxiliary(AuxiliaryNetwork):
    """Mean over space, batch norm, linear classifier."""

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        channels = context.shape.channels
        self.features = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(channels)
        )
        self.classifier = nn.Linear(channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(features))
        return logits
