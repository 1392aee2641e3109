"""How a decoupled network is trained.

Source of the defaults: the public SEDONA release.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import Self

from sedona_nni.data.augmentation import Augmentation
from sedona_nni.seed import Seed
from sedona_nni.training.method_settings import AnyMethod

__all__ = ["Precision", "TrainSettings", "Vote"]

Precision = Annotated[
    Literal["no", "fp16", "bf16"],
    BeforeValidator(lambda value: "no" if value is False else value),  # `no` and `off` in YAML
]
Vote = Literal["log-probabilities", "logits", "probabilities"]


class TrainSettings(BaseModel):
    """How a decoupled network is trained; the defaults are the release's for CIFAR-10.

    Attributes:
        method: How the blocks learn, see `training.methods`: the name of a method, or its name
            and options.
        epochs: Passes over the training images (the release: 64,000 batches of 128, 182 passes),
            of each block where a method does not train all of them at once.
        batch_size: Images per step, or all where there are fewer.
        evaluation_batch_size: Images at a time when nothing is learned.
        optimizer: ``sgd``, ``adam``, or ``adamw``, whose weight decay is apart from its gradients;
            one per block.
        lr: Learning rate at the start.
        lr_min: Learning rate at the end of the cosine schedule, at most ``lr``.
        warmup_epochs: Epochs in which the rate first rises linearly from lr / 100 to lr; a cosine
            begins after them, milestones count from the start. The asynchronous and the sequential
            method warm each block up.
        momentum: Momentum of ``sgd``.
        nesterov: Let ``sgd`` look ahead along its momentum.
        weight_decay: Factor of the L2 penalty's gradient.
        schedule: ``cosine`` from lr to lr_min, step by step, or ``multistep``.
        milestones: Epochs after which ``multistep`` lowers the rate.
        lr_decay: Factor on the rate at each milestone.
        clip_norm: Longest that the gradient of a block may be, taken by itself, or of a
            synthesizer; a longer one is scaled down. By default any.
        ema_decay: Share d that moving averages keep at each update of a block, of its weights and
            its batch norms' statistics: d average + (1 - d) value. The network of averages is then
            what is validated, tested and kept. By default there are none.
        label_smoothing: eps of `sedona_nni.teachers.losses.LabelSmoothing`.
        augmentation: How training images are distorted: as the ``dataset`` says, see
            `data.sets`; ``none``; or so and further by ``randaugment``, ``trivialaugment`` or
            ``augmix``, see `sedona_nni.data.augmentation`.
        mixup: alpha of mixup, which adds up images in pairs, and their labels; 0 for none.
        cutmix: alpha of CutMix, which puts a part of one image into another; with both, one is
            drawn for each batch.
        validation_fraction: Share of the training images held out to pick the best epoch.
        classes_per_batch: Classes that a batch is made of, see `data.batches.BatchStream`; by
            default any (the release for PredSim: 40).
        class_limited_epochs: Epochs until batches may have any classes; by default they never may
            (the release for PredSim: those that begin in its first 15,000 steps).
        ensemble: Also test the last so many classifiers together (all, where there are fewer).
        ensemble_vote: What these add up: ``log-probabilities``; or ``logits`` or ``probabilities``,
            of which each classifier's count twice as much as those of the one below it (DGL).
        amp: Mixed precision: ``no``, ``fp16`` (with loss scaling) or ``bf16``.
        seed: Decides initial weights, order of the images, augmentation and dropout.

    Examples:
        >>> from sedona_nni import TrainSettings
        >>> settings = TrainSettings(epochs=3, lr=0.05, method="sequential")
        >>> settings.method.name, settings.optimizer
        ('sequential', 'sgd')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: AnyMethod = Field(default="greedy", validate_default=True)
    epochs: int = Field(default=182, ge=1)
    batch_size: int = Field(default=128, ge=2)  # batch norm cannot learn from a single image
    evaluation_batch_size: int = Field(default=1024, ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    lr_min: float = Field(default=0.001, ge=0)
    warmup_epochs: int = Field(default=0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["cosine", "multistep"] = "cosine"
    milestones: list[int] = Field(default_factory=list)
    lr_decay: float = Field(default=0.1, gt=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, le=0.5)
    augmentation: Augmentation = "dataset"
    mixup: float = Field(default=0, ge=0)
    cutmix: float = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    classes_per_batch: int | None = Field(default=None, ge=1)
    class_limited_epochs: int | None = Field(default=None, ge=1)
    ensemble: int = Field(default=1, ge=1)
    ensemble_vote: Vote = "log-probabilities"
    amp: Precision = "no"
    seed: Seed = 2021

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule == "cosine" and self.lr_min > self.lr:
            raise ValueError(f"lr_min must be at most lr, {self.lr}, but got {self.lr_min}")
        if (self.schedule == "multistep") != bool(self.milestones):
            raise ValueError(
                "milestones must be given for the multistep schedule and for no other, "
                f"but got {self.milestones} for {self.schedule}"
            )
        if self.class_limited_epochs is not None and self.classes_per_batch is None:
            raise ValueError(
                "class_limited_epochs must come with classes_per_batch, "
                f"but got {self.class_limited_epochs} alone"
            )
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError(
                "nesterov must come with sgd and a momentum above 0, "
                f"but got {self.optimizer} and {self.momentum}"
            )
        if self.warmup_epochs > min([self.epochs - 1, *self.milestones]):
            raise ValueError(
                f"warmup_epochs must be below epochs, {self.epochs}, and at most the first "
                f"milestone, but got {self.warmup_epochs}"
            )
        ends = [0, *self.milestones, self.epochs]
        if self.milestones and any(a >= b for a, b in pairwise(ends)):
            raise ValueError(
                f"milestones must rise from 1 to {self.epochs - 1}, but got {self.milestones}"
            )
        return self
