"""What crosses a boundary of a network, and how it is seen as a feature map.

    map             (B, C, H, W)
    channels-last   (B, H, W, C)
    tokens          (B, T + H W, C): a grid row by row, and T tokens before it that stand for the
                    whole image (of classes, registers); H by 1 where no grid is known
    vector          (B, C)

Auxiliary networks know maps alone. A token of the whole image is one of every place: the mean of
the T tokens is added to each of the grid's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize, height_and_width
from sedona_nni.models.placement import lay_out

__all__ = ["FeatureShape", "Layout", "shape_of_features"]

Layout = Literal["map", "channels-last", "tokens", "vector"]

_MOST_EXTRA = 8  # tokens of the whole image: one of the class, one of a teacher, four registers


@dataclass(frozen=True)
class FeatureShape:
    """The form of what crosses a boundary, for one sample.

    Attributes:
        channels: C.
        size: Height and width, see `sedona_nni.image_size`.
        layout: See above.
        extra: T, of tokens.

    Examples:
        >>> from sedona_nni import FeatureShape
        >>> shape = FeatureShape(channels=64, size=(4, 8), layout="tokens", extra=1)
        >>> shape.height, shape.width, shape.of_batch(2), shape.maps.of_batch(2)
        (4, 8, (2, 33, 64), (2, 64, 4, 8))
    """

    channels: int
    size: ImageSize
    layout: Layout = "map"
    extra: int = 0

    def __post_init__(self) -> None:
        if self.height == self.width:
            object.__setattr__(self, "size", self.height)

    @property
    def height(self) -> int:
        """H."""
        return height_and_width(self.size)[0]

    @property
    def width(self) -> int:
        """W."""
        return height_and_width(self.size)[1]

    @property
    def maps(self) -> FeatureShape:
        """The same as a map, as auxiliary networks see it."""
        return FeatureShape(self.channels, self.size)

    @property
    def numbers(self) -> int:
        """How many numbers a sample has."""
        return math.prod(self.of_batch(1))

    def of_batch(self, batch_size: int) -> tuple[int, ...]:
        """Return the shape of a batch's features."""
        shapes: dict[Layout, tuple[int, ...]] = {
            "map": (self.channels, self.height, self.width),
            "channels-last": (self.height, self.width, self.channels),
            "tokens": (self.extra + self.height * self.width, self.channels),
            "vector": (self.channels,),
        }
        return (batch_size, *shapes[self.layout])

    def resized(self, change: Callable[[int], int], channels: int | None = None) -> FeatureShape:
        """Return the shape with another height and width, each changed alike, and channels."""
        size = (change(self.height), change(self.width))
        return replace(self, size=size, channels=self.channels if channels is None else channels)

    def as_maps(self, features: Tensor) -> Tensor:
        """Return features of this shape as maps, (B, C, H, W)."""
        if self.layout == "map":
            return features
        if self.layout == "vector":
            return features[:, :, None, None]
        if self.layout == "channels-last":
            return features.permute(0, 3, 1, 2)
        grid = features[:, self.extra :]
        if self.extra:
            grid = grid + features[:, : self.extra].mean(1, keepdim=True)
        return grid.transpose(1, 2).unflatten(2, (self.height, self.width))

    def from_maps(self, maps: Tensor) -> Tensor:
        """Return maps, (B, C, H, W), as features of this shape; tokens of the whole image are 0.

        Examples:
            >>> import torch
            >>> from sedona_nni import FeatureShape
            >>> shape = FeatureShape(channels=3, size=2, layout="tokens", extra=1)
            >>> shape.from_maps(torch.ones(1, 3, 2, 2)).sum(2).tolist()
            [[0.0, 3.0, 3.0, 3.0, 3.0]]
        """
        if self.layout == "map":
            return maps
        if self.layout == "vector":
            return maps.flatten(1)
        if self.layout == "channels-last":
            return maps.permute(0, 2, 3, 1)
        return F.pad(maps.flatten(2).transpose(1, 2), (0, 0, self.extra, 0))

    def laid_out(self, features: Tensor) -> Tensor:
        """Return features of this shape in the memory layout that trainings have."""
        return lay_out(features) if self.layout == "map" else features


def shape_of_features(shape: Sequence[int], image_size: ImageSize) -> FeatureShape:
    """Recognise what crosses a boundary.

    Of three numbers, channels come last if the first two rather than the last two are to each other
    as height and width of the image are. Tokens are a grid if the image can be cut into as many
    equal squares, with at most 8 tokens to spare.

    Args:
        shape: Of one sample.
        image_size: Of the image.

    Raises:
        InputError: if it has none of the forms above.

    Examples:
        >>> from sedona_nni.models.feature_shape import shape_of_features
        >>> shape_of_features((197, 192), 224)
        FeatureShape(channels=192, size=14, layout='tokens', extra=1)
        >>> shape_of_features((7, 14, 768), (224, 448)).layout
        'channels-last'
    """
    height, width = height_and_width(image_size)
    if len(shape) == 1:
        return FeatureShape(shape[0], 1, "vector")
    if len(shape) == 2:
        tokens, channels = shape
        for patch in range(1, min(height, width) + 1):
            extra = tokens - (height // patch) * (width // patch)
            if height % patch == 0 and width % patch == 0 and 0 <= extra <= _MOST_EXTRA:
                return FeatureShape(channels, (height // patch, width // patch), "tokens", extra)
        return FeatureShape(channels, (tokens, 1), "tokens")
    if len(shape) != 3:
        rule = "must let maps, tokens or vectors cross where it is cut"
        raise InputError.rule("model", rule, tuple(shape))
    skew_of_last = abs(math.log(shape[1] * width / (shape[2] * height)))
    skew_of_first = abs(math.log(shape[0] * width / (shape[1] * height)))
    if skew_of_first < skew_of_last:
        return FeatureShape(shape[2], (shape[0], shape[1]), "channels-last")
    return FeatureShape(shape[0], (shape[1], shape[2]))
