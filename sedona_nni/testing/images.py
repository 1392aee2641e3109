"""Made-up images for suites: small, different in every part, and possible to learn."""

from __future__ import annotations

import numpy as np
import torch

from sedona_nni.data.batches import MemoryImages
from sedona_nni.data.sets import Splits

__all__ = ["made_up_splits"]


def made_up_splits(
    count: int = 48, *, size: int = 8, num_classes: int = 4, seed: int = 0
) -> Splits:
    """Return noise with a bright band, whose height tells the class; no two images are alike.

    So what is learned from training images can be told from what is learned from those that
    validate, and a search or training that takes the wrong ones does not go unnoticed.

    Args:
        count: Training images; half as many validate, and half as many test.
        size: Height and width, pixels.
        num_classes: Number of classes, at most ``size``.
        seed: Decides the noise.
    """
    rng = np.random.default_rng(seed)  # one for all parts, so that they differ
    height = size // num_classes

    def part(number: int) -> MemoryImages:
        labels = np.arange(number) % num_classes
        pixels = rng.integers(0, 160, (number, 3, size, size), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[:, label * height : (label + 1) * height] += 80
        return MemoryImages(torch.from_numpy(pixels), labels, (0.4,) * 3, (0.2,) * 3)

    return Splits(part(count), part(count // 2), part(count // 2), num_classes, size)
