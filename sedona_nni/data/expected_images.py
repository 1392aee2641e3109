"""What a trained network takes and tells, for those who use it elsewhere."""

from __future__ import annotations

import json
from typing import Literal

from sedona_nni.data.sets import Splits
from sedona_nni.files import Document
from sedona_nni.image_size import height_and_width

__all__ = ["IMAGES_FILE", "ExpectedImages"]

IMAGES_FILE = "images.json"


class ExpectedImages(Document):
    """The images that a network was trained with, as ``images.json`` beside it.

    A pixel v of 0 to 255 becomes (v / 255 - mean) / std, by its channel; grey images have their one
    channel as often as there are channels.

    Attributes:
        format: Which one the file has.
        classes: Name of each output, in their order.
        in_channels: Channels of an image, red, green and blue if three.
        image_size: Height and width, pixels.
        mean: Of each channel, in units of white = 1.
        std: Likewise.
    """

    format: Literal["sedona-nni/images/1"] = "sedona-nni/images/1"
    classes: tuple[str, ...]
    in_channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, splits: Splits) -> ExpectedImages:
        """Return what the images of a training are."""
        contents, channels = splits.contents, splits.in_channels
        numbers = tuple(str(number) for number in range(splits.num_classes))
        return cls(
            classes=numbers if contents is None else contents.classes,
            in_channels=channels,
            image_size=height_and_width(splits.image_size),
            mean=splits.test.mean * (channels // len(splits.test.mean)),
            std=splits.test.std * (channels // len(splits.test.std)),
        )

    def as_metadata(self) -> dict[str, str]:
        """Return it as a file of weights says it: texts, each a JSON value."""
        described = self.model_dump(mode="json", exclude={"format"})
        return {name: json.dumps(value) for name, value in described.items()}
