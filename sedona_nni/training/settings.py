"""How a decoupled network is trained.

Source of the defaults: the public SEDONA release.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from sedona_nni.data.augmentation import Augmentation
from sedona_nni.errors import InputError
from sedona_nni.seed import Seed
from sedona_nni.teachers import NO_AUXILIARY, CutKind, cut_kind
from sedona_nni.teachers.auxiliary import follows, looks, views_for
from sedona_nni.training.method_settings import AnyMethod

__all__ = ["Checkpointing", "Parallel", "Precision", "TrainSettings", "Vote"]

Precision = Annotated[
    Literal["no", "fp16", "bf16"],
    BeforeValidator(lambda value: "no" if value is False else value),  # `no` and `off` in YAML
]
Checkpointing = Annotated[
    Literal["no", "layers"],
    BeforeValidator(lambda value: "no" if value is False else value),
]
Vote = Literal["log-probabilities", "logits", "probabilities"]


_Alpha = Annotated[float, Field(ge=0, le=1000)]


class Parallel(BaseModel):
    """How blocks are trained in processes of their own, see `sedona_nni.training.parallel`.

    Two are equal when they come to the same, however long their processes wait for each other.

    Attributes:
        name: ``blocks``: a process for each block.
        wire: What features travel in: ``float32``, exactly as they were computed, or ``bf16``,
            which halves what is sent. What was computed in half precision travels as it is.
        replicas: Processes of each block, which divide every batch among themselves; or a number
            for all blocks. Each batch norm then sees its process's part of the batch.
        start_s: Seconds after which all processes have to be there, until the others give up.
        patience_s: Seconds that a process may be without a sign of life before the others give up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["blocks"] = "blocks"
    wire: Literal["float32", "bf16"] = "float32"
    replicas: int | tuple[int, ...] = 1
    start_s: float = Field(default=300.0, ge=1)
    patience_s: float = Field(default=30.0, ge=2)

    @field_validator("replicas")
    @classmethod
    def _check_replicas(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if any(number < 1 for number in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"replicas must be 1 or more, but got {value}")
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parallel) and self._of_outcome == other._of_outcome

    def __hash__(self) -> int:
        return hash(self._of_outcome)

    @property
    def _of_outcome(self) -> tuple[Any, ...]:
        return self.name, self.wire, self.replicas

    def replicas_of(self, num_blocks: int) -> tuple[int, ...]:
        """Return the number of processes of each of K blocks.

        Raises:
            InputError: if there are numbers for another K.
        """
        if isinstance(self.replicas, int):
            return (self.replicas,) * num_blocks
        if len(self.replicas) != num_blocks:
            rule = f"must be a number for each of the {num_blocks} blocks"
            raise InputError.rule("parallel.replicas", rule, list(self.replicas))
        return self.replicas


def _as_parallel(value: Any) -> Any:
    """Let a word stand for what it means."""
    if value in (None, False, "no"):
        return None
    return {"name": value} if isinstance(value, str) else value


class TrainSettings(BaseModel):
    """How a decoupled network is trained; the defaults are the release's for CIFAR-10.

    Attributes:
        method: How the blocks learn, see `training.methods`: the name of a method, or its name
            and options.
        epochs: Passes over the training images (the release: 64,000 batches of 128, 182 passes),
            of each block where a method does not train all of them at once.
        batch_size: Images per step, or all where there are fewer.
        accumulate: In how many parts a batch is taken, one after the other: the blocks learn from
            the sum of their gradients, and need memory for the activations of one part. Batch norms
            see a part as their batch.
        checkpoint: ``layers`` keeps only the layers' inputs for the backward pass, which computes
            the rest again: for a third more time, less memory. Gradients are the same.
        parallel: ``blocks`` trains each block in a process of its own, see
            `sedona_nni.training.parallel`; or a mapping with `Parallel`'s options. ``no`` trains
            all in one.
        evaluation_batch_size: Images at a time when nothing is learned; by default as many as are
            learned from, so that no more memory is needed than for that.
        optimizer: ``sgd``, ``adam``, or ``adamw``, whose weight decay is apart from its gradients;
            one per block.
        lr: Learning rate at the start.
        lr_min: Learning rate at the end of the cosine schedule, at most ``lr``.
        lr_pretrained: Factor on the learning rate, throughout its schedule, of weights that the
            task's ``weights`` have brought; what was drawn, auxiliary networks and a classifier for
            other classes, has the whole rate. With 0 those weights are frozen, while batch norms'
            statistics follow the images. Other than 1 only with ``weights``.
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
        transport: t; t/2 times the squared distance by which a block's layers move what they are
            given, where they keep its shape, is added to its loss, see
            `sedona_nni.decouplings.decoupled.Passed`.
        label_smoothing: eps of `sedona_nni.teachers.losses.LabelSmoothing`.
        augmentation: How training images are distorted: as the ``dataset`` says, see
            `data.sets`; ``none``; or so and further by ``randaugment``, ``trivialaugment`` or
            ``augmix``, see `sedona_nni.data.augmentation`.
        views: How often each image is in a batch, distorted each time in its own way, of whose
            ``batch_size`` all count; for a teacher that compares them.
        mixup: alpha of mixup, which adds up images in pairs, and their labels; 0, or below 0.01,
            for none.
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

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: AnyMethod = Field(default="greedy", validate_default=True)
    epochs: int = Field(default=182, ge=1, le=1_000_000)
    batch_size: int = Field(default=128, ge=2)  # batch norm cannot learn from a single image
    accumulate: int = Field(default=1, ge=1)
    checkpoint: Checkpointing = "no"
    parallel: Annotated[Parallel | None, BeforeValidator(_as_parallel)] = None
    evaluation_batch_size: int | None = Field(default=None, ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    lr_min: float = Field(default=0.001, ge=0)
    lr_pretrained: float = Field(default=1, ge=0)
    warmup_epochs: int = Field(default=0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["cosine", "multistep"] = "cosine"
    milestones: list[int] = Field(default_factory=list)
    lr_decay: float = Field(default=0.1, gt=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    transport: float = Field(default=0, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, le=0.5)
    augmentation: Augmentation = "dataset"
    views: int = Field(default=1, ge=1)
    mixup: _Alpha = 0
    cutmix: _Alpha = 0
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
        if self.accumulate > 1 and not self.method.takes_block_steps:
            raise ValueError(
                f"accumulate must be 1 for the method {self.method.name}, which needs the whole "
                f"batch at once, but got {self.accumulate}"
            )
        if self.views == 1 and self.batch_size < self.least_batch:
            raise ValueError(
                f"accumulate must be at most {self.batch_size // 2}, half of batch_size, as batch "
                f"norm cannot learn from a single image, but got {self.accumulate}"
            )
        few = self.views > 1 and self.batch_size == self.together
        if few or self.batch_size % self.together:
            raise ValueError(
                f"batch_size must be a multiple of views times accumulate, {self.together}, and "
                f"more than that, but got {self.batch_size}"
            )
        if self.views > 1 and (self.mixup or self.cutmix):
            raise ValueError(
                "views must be 1 where images are mixed, by mixup or cutmix, which would make "
                f"different ones of an image, but got {self.views}"
            )
        if self.transport and not self.method.takes_block_steps:
            raise ValueError(
                f"transport must be 0 for the method {self.method.name}, whose blocks do not learn "
                f"from losses of their own alone, but got {self.transport}"
            )
        if self.transport and self.has_replicas:
            raise ValueError(f"transport must be 0 with replicas, but got {self.transport}")
        if self.checkpoint != "no" and self.method.name == "ddg":
            raise ValueError(
                "checkpoint must be no for the method ddg, whose backward passes come after its "
                f"weights have changed, but got {self.checkpoint}"
            )
        if self.parallel is not None and self.method.not_parallel is not None:
            raise ValueError(
                f"parallel must be no for the method {self.method.name}, as "
                f"{self.method.not_parallel}, but got {self.parallel.name}"
            )
        if self.has_replicas and not self.method.has_replicas:
            assert self.parallel is not None
            raise ValueError(
                f"parallel.replicas must be 1 for the method {self.method.name}, "
                f"but got {self.parallel.replicas}"
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

    def of(self, images: int) -> Self:
        """Return the settings for so many training images: batches are at most all of them.

        Raises:
            InputError: if so small batches cannot be parted as is wanted.
        """
        most = images * self.views
        if self.batch_size <= most:
            return self
        try:
            return self.model_validate({**self.model_dump(), "batch_size": most})
        except ValidationError as error:
            complaint = InputError.from_validation(error, "train")
            raise InputError(f"{complaint}; there are {images} training images") from None

    @property
    def together(self) -> int:
        """How many images of a batch cannot be parted: with several views of each image every part
        of a batch has whole images, and as many."""
        return 1 if self.views == 1 else self.views * self.accumulate

    @property
    def least_batch(self) -> int:
        """How many images a process needs of a batch, so that each part has two different ones."""
        return 2 * self.views * self.accumulate

    @property
    def has_replicas(self) -> bool:
        """Whether several processes share a block."""
        replicas = 1 if self.parallel is None else self.parallel.replicas
        return set(replicas if isinstance(replicas, tuple) else [replicas]) != {1}

    def check_aux(self, aux: Sequence[str]) -> None:
        """Check that blocks with such teachers can be trained so.

        Args:
            aux: The auxiliary network at each cut, by name, or all that may come to stand there;
                `NO_AUXILIARY` where there is none.

        Raises:
            InputError: if a name is unknown, `MethodSettings.check` refuses them, or one looks at
                more than it would be shown.
        """
        self.method.check(aux)
        for name in dict.fromkeys(aux):
            if name == NO_AUXILIARY:
                continue
            if (kind := cut_kind(name)) is not None:
                self.check_kind(kind, name)
            if looks(name):
                self.check_looking(name, here=self.parallel is None, following=follows(name))
            if (views := views_for(name)) not in (1, self.views):
                raise InputError.rule("views", f"must be {views} for {name}", self.views)
            if views > 1 and self.augmentation == "none":
                rule = f"must not be none for {name}, which compares views of an image"
                raise InputError.rule("augmentation", rule, self.augmentation)

    def check_kind(self, kind: CutKind, name: str) -> None:
        """Check that a cut of a further kind can be.

        Args:
            kind: Of the cut.
            name: Of the cut, as messages call it.

        Raises:
            InputError: if it cannot.
        """
        if not self.method.takes_every_cut:
            rule = f"must be a plain cut for the method {self.method.name}"
            raise InputError.rule("aux", rule, name)
        if kind == "overlap" and self.amp == "fp16":
            rule = "must not overlap with amp fp16, which scales the gradients of two blocks apart"
            raise InputError.rule("aux", rule, name)

    def check_looking(self, name: str, *, here: bool, following: bool) -> None:
        """Check that a teacher that looks beyond its boundary can.

        Args:
            name: Of the teacher.
            here: Whether all blocks are in one process.
            following: Whether it follows what the block above learns.

        Raises:
            InputError: if it cannot.
        """
        if not self.method.shows_images:
            rule = f"must not look beyond its boundary for the method {self.method.name}"
            raise InputError.rule("aux", rule, name)
        if following and not self.method.trains_above:
            rule = (
                f"must not follow the layer above for the method {self.method.name}, where that "
                "does not learn meanwhile"
            )
            raise InputError.rule("aux", rule, name)
        if not here:
            rule = "must not look beyond its boundary where blocks are trained in parallel"
            raise InputError.rule("aux", rule, name)
