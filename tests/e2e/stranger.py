"""A plug-in as a stranger would write it: all that this project chooses by name, once."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sedona_nni import (
    AuxiliaryContext,
    AuxiliaryNetwork,
    BackboneContext,
    FeatureShape,
    ImageParts,
    Layer,
    MemoryImages,
    Task,
    register_auxiliary,
    register_backbone,
    register_dataset,
    register_method,
)
from sedona_nni.training.methods import GreedyLearning, GreedySettings

if os.environ.get("STRANGER_FAILS_IN") == ("trial" if "NNI_TRIAL_JOB_ID" in os.environ else "?"):
    raise RuntimeError("not in a trial")


@register_dataset("strange-stripes", about="stripes", size=8, num_classes=2)
def stripes(task: Task, size: int) -> ImageParts:
    """Return stripes of random greys that lie or stand."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    lying = np.repeat(rng.integers(256, size=(200, 1, size, 1)), size, axis=3)
    images = np.where(labels[:, None, None, None], lying.swapaxes(2, 3), lying)
    return ImageParts(
        MemoryImages(torch.from_numpy(images).byte(), labels, (0.5,), (0.29,)),
        classes=("lying", "standing"),
    )


@register_backbone("strange-net", num_layers=2, smallest_image=4)
def net(context: BackboneContext) -> tuple[list[Layer], nn.Module]:
    """Return two convolutions and a classifier."""
    layers = [
        Layer(
            f"conv{number}",
            nn.Sequential(nn.Conv2d(width, 8, 3, padding=1), context.activation()),
            FeatureShape(8, context.image_size),
        )
        for number, width in enumerate((context.in_channels, 8))
    ]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return layers, nn.Sequential(pool, nn.Linear(8, context.num_classes))


@register_auxiliary("strange-linear")
class LinearAuxiliary(AuxiliaryNetwork):
    """A linear classifier of mean features."""

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        self.classifier = nn.Linear(context.shape.channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, S, S) to (B, num_classes)."""
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


class StrangeSettings(GreedySettings):
    """Greedy learning under another name."""

    name: Literal["strange"] = "strange"  # type: ignore[assignment]


@register_method(StrangeSettings)
class StrangeLearning(GreedyLearning):
    """As greedy learning."""
