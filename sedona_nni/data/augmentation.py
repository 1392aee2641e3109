"""What a training adds to the distortions that a data set brings: recipes of torchvision.

``randaugment``, ``trivialaugment`` and ``augmix`` are those of ``torchvision.transforms.v2`` with
its defaults. They distort each image by itself, as bytes, after the set's own crops and mirroring;
on a CPU that takes milliseconds for each image.
Sources: Cubuk et al., 2020 (RandAugment); Müller and Hutter, 2021 (TrivialAugment); Hendrycks et
al., 2020 (AugMix).

Mixing comes last and joins the images of a batch in pairs, and their labels in proportion: *mixup*
adds them up, *cutmix* puts a rectangle of one into the other. How much of each comes from the
distribution Beta(alpha, alpha).
Sources: Zhang et al., 2018 (mixup); Yun et al., 2019 (CutMix).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Augmentation", "ImageByImage", "build_mixing", "build_recipe"]

Augmentation = Literal["dataset", "none", "randaugment", "trivialaugment", "augmix"]
"""The set's own distortions, none at all, or the set's own and then a recipe."""

_RECIPES = {
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugmentWide",
    "augmix": "AugMix",
}


def build_recipe(name: str) -> Callable[[Any], Any]:
    """Return a recipe, which maps the bytes of an image, (C, H, W), to others of that shape."""
    from torchvision.transforms import v2

    recipe: Callable[[Any], Any] = getattr(v2, _RECIPES[name])()
    return recipe


@dataclass(frozen=True)
class ImageByImage:
    """A recipe for each image of a batch, after another distortion of the whole batch.

    Attributes:
        first: The other distortion; None for none.
        recipe: See `build_recipe`.
    """

    first: Callable[[Tensor, np.random.Generator], Tensor] | None
    recipe: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Distort images of shape (B, C, H, W); all that is random comes from ``rng``."""
        if self.first is not None:
            images = self.first(images, rng)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            return torch.stack([self.recipe(image) for image in images])


_LEAST_ALPHA = 0.01


def build_mixing(
    mixup: float, cutmix: float, num_classes: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what mixes a batch; it draws from torch's global generator.

    Args:
        mixup: Its alpha; below 0.01 there is none, as nearly all images would stay whole, and torch
            draws such shares wrongly. With both, one of them is drawn for each batch.
        cutmix: Likewise.
        num_classes: How many classes there are.

    Returns:
        A function of images (B, C, H, W) and class numbers (B,), which returns images of that shape
        and the share of each class in them, (B, num_classes); or the batch as it is.
    """
    mixup, cutmix = (alpha if alpha >= _LEAST_ALPHA else 0 for alpha in (mixup, cutmix))
    if not mixup and not cutmix:
        return lambda images, labels: (images, labels)
    from torchvision.transforms import v2

    kinds: list[Any] = []
    if mixup:
        kinds.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
    if cutmix:
        kinds.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
    mixing: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = v2.RandomChoice(kinds)
    return mixing
