"""What is learned: a backbone and a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSizeField
from sedona_nni.model_name import ModelName, is_model_name
from sedona_nni.seed import Seed

__all__ = ["Task"]


class Task(BaseModel):
    """A backbone and the images that it has to tell apart.

    Attributes:
        backbone: Name of a backbone, see `sedona_nni.models`; or of a model from elsewhere, e.g.
            ``torchvision:resnet50``, see `sedona_nni.models.sources`. It may as well be written
            ``model``. Of a model from elsewhere ``model_args`` beside it are what its function is
            given, and ``boundaries`` say where its layers end: at its ``units`` (residual blocks,
            encoder layers ...), the default; at ``all`` places where one tensor crosses; so many
            that a number says, of about equal compute; or at places by name. They become part of
            the name, see `sedona_nni.model_name`.
        width_multiplier: Factor on every width of the backbone (the paper: 1 on CIFAR-10, else 4).
        activation: The non-linearity everywhere, with a model from elsewhere in auxiliary networks:
            ``relu``, or ``leakyrelu`` of slope 0.01 (the release: in VGG's convolutions, and in
            stems and tails of light networks alone).
        stem: What a ResNet begins with: ``published`` for SEDONA, which up to 64 pixels has no
            max-pool, and below 64 a 3x3 convolution; or ``torchvision``, as there at every size.
        weights: File of weights to begin with, e.g. pretrained: ``.safetensors``, or ``.pt`` or
            ``.pth`` with a state dict, see `sedona_nni.models.pretrained`. Names in it are those of
            the model from elsewhere, or of the backbone as ``sedona-nni export`` writes them. What
            it has for other classes is drawn anew, all else has to fit.
        reset_classifier: Draw the classifier anew although the file's is of as many classes: of
            others.
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
        >>> Task.model_validate({"model": "torchvision:resnet18", "boundaries": 4}).backbone
        'torchvision:resnet18 {"boundaries": 4}'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: str = "vgg11"
    width_multiplier: float = Field(default=1.0, gt=0, le=1000)
    activation: Literal["relu", "leakyrelu"] = "relu"
    stem: Literal["published", "torchvision"] = "published"
    weights: str | None = None
    reset_classifier: bool = False
    dataset: str = "digits"
    data_dir: str | None = None
    image_size: ImageSizeField | None = None
    on_bad_image: Literal["fail", "skip"] = "fail"
    train_limit: int | None = Field(default=None, ge=1)
    split_seed: Seed = 2021

    @model_validator(mode="before")
    @classmethod
    def _name_model(cls, written: Any) -> Any:
        """Make one name of what is written of a model."""
        if not isinstance(written, Mapping):
            return written
        fields = dict(written)
        if "model" in fields:
            if "backbone" in fields:
                raise InputError.rule("model", "must not be given beside backbone", fields["model"])
            fields["backbone"] = fields.pop("model")
        args, boundaries = fields.pop("model_args", None), fields.pop("boundaries", None)
        name = fields.get("backbone")
        if not isinstance(name, str) or not is_model_name(name):
            for field, value in (("model_args", args), ("boundaries", boundaries)):
                if value is not None:
                    rule = "must be given with a model from elsewhere, like torchvision:resnet50"
                    raise InputError.rule(field, rule, value)
            return fields
        fields["backbone"] = str(ModelName.parse(name).given(args=args, boundaries=boundaries))
        return fields

    @model_validator(mode="after")
    def _reset_what_there_is(self) -> Task:
        if self.reset_classifier and self.weights is None:
            raise InputError.rule("reset_classifier", "must be false without weights", True)
        return self
