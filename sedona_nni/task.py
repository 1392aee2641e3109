"""What is learned: a backbone and a data set."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sedona_nni.image_size import ImageSizeField
from sedona_nni.seed import Seed

__all__ = ["Task"]


class Task(BaseModel):
    """A backbone and the images that it has to tell apart.

    Attributes:
        backbone: Name of a backbone, see `sedona_nni.models`.
        width_multiplier: Factor on every width of the backbone (the paper: 1 on CIFAR-10, else 4).
        activation: The non-linearity everywhere: ``relu``, or ``leakyrelu`` of slope 0.01 (the
            release: in VGG's convolutions, and in stems and tails of light networks alone).
        stem: What a ResNet begins with: ``published`` for SEDONA, which up to 64 pixels has no
            max-pool, and below 64 a 3x3 convolution; or ``torchvision``, as there at every size.
        dataset: Name of a data set, see `sedona_nni.data.sets`.
        data_dir: Folder that holds the data set; not needed for ``digits``.
        image_size: What images are brought to, pixels: one number, or height and width as in
            ``[48, 64]``; by default the data set's.
        on_bad_image: What becomes of picture files that are damaged or of a kind that is refused:
            ``fail``, the first one that is met ends the run and is named; or ``skip``, all files
            are read once, before anything is learned, and those are left out and told.
        train_limit: Use only this many images of the training part (stratified), all by default.
        split_seed: Seed of the split into training and validation part.

    Examples:
        >>> from sedona_nni import Task
        >>> task = Task(backbone="resnet18", width_multiplier=0.5, image_size=16)
        >>> task.dataset, task.stem
        ('digits', 'published')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = "vgg11"
    width_multiplier: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    activation: Literal["relu", "leakyrelu"] = "relu"
    stem: Literal["published", "torchvision"] = "published"
    dataset: str = "digits"
    data_dir: str | None = None
    image_size: ImageSizeField | None = None
    on_bad_image: Literal["fail", "skip"] = "fail"
    train_limit: int | None = Field(default=None, ge=1)
    split_seed: Seed = 2021
