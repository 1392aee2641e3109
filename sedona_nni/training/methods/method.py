"""What a method of training is: the interface between `training.loop` and the algorithms.

The loop over epochs, with validation, checkpoints and reports, is common to all and is in
`sedona_nni.training.loop`. A method says what becomes of one batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.cost import Cost
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.models.pretrained import freeze_pretrained, is_pretrained
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.teachers.auxiliary import AuxiliaryNetwork, OnMaps, Teacher
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.method_settings import METHODS, Method, MethodSettings
from sedona_nni.training.methods.block_step import Stepped, block_step
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage

__all__ = [
    "Stateful",
    "TrainingMethod",
    "build_average",
    "build_method",
    "build_optimizer",
    "build_schedule",
    "register_method",
    "rewind",
]

_WARMUP_START = 0.01  # of the learning rate
_Tensors = tuple[Tensor, ...] | list[Tensor]


class Stateful(Protocol):
    """What can be stopped and continued; its state is fit for ``torch.load(weights_only=True)``."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take over a state."""


def rewind(replica: int = 0) -> None:
    """Let torch's generators begin anew where they were last seeded.

    Every block of a step draws from the same start: so what it draws, for dropout, does not depend
    on what the blocks below have drawn, which may be in other processes.

    Args:
        replica: Which of the processes of a block this is, from 0; each draws something else.
    """
    torch.manual_seed(torch.initial_seed() + replica)


def build_optimizer(
    parameters: Iterable[nn.Parameter], settings: TrainSettings
) -> torch.optim.Optimizer:
    """Return the optimizer that the settings describe.

    With a rate of their own, weights from a file are a group after that of the others, if there are
    both; with a rate of 0 the others are the only one.

    An update is one kernel, but in fp16: there it would be scaled back within it, after hooks have
    seen the gradients.
    """
    fused = settings.amp != "fp16"
    groups: Any = parameters
    if settings.lr_pretrained != 1:
        groups = _by_origin(parameters, settings.lr * settings.lr_pretrained)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
            fused=fused,
        )
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, settings.lr, weight_decay=settings.weight_decay, fused=fused)


def _by_origin(parameters: Iterable[nn.Parameter], lr: float) -> list[dict[str, Any]]:
    kinds: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in parameters:
        kinds[is_pretrained(parameter)].append(parameter)
    fresh, pretrained = kinds
    if lr == 0 and fresh:
        return [{"params": fresh}]
    groups: list[dict[str, Any]] = [{"params": fresh}, {"params": pretrained, "lr": lr}]
    return [group for group in groups if group["params"]]


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, steps_per_epoch: int
) -> LRScheduler:
    """Return the learning rate's schedule over ``settings.epochs``; it goes step by step.

    Groups with a rate of their own keep its ratio to ``settings.lr``.
    """
    total = settings.epochs * steps_per_epoch
    milestones = [epoch * steps_per_epoch for epoch in settings.milestones]
    if settings.warmup_epochs or settings.lr_pretrained != 1:
        warmup = settings.warmup_epochs * steps_per_epoch

        def factor(step: int) -> float:
            if step < warmup:
                return _WARMUP_START + (1 - _WARMUP_START) * step / warmup
            if settings.schedule == "multistep":
                return float(settings.lr_decay ** sum(step >= place for place in milestones))
            lowest = settings.lr_min / settings.lr
            progress = (step - warmup) / (total - warmup)
            return lowest + (1 - lowest) * (0.5 + 0.5 * math.cos(math.pi * progress))

        return LambdaLR(optimizer, factor)
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=total, eta_min=settings.lr_min)
    return MultiStepLR(optimizer, milestones, gamma=settings.lr_decay)


def build_average(block: Block, settings: TrainSettings) -> AveragedModel:
    """Return a copy of a block that can follow it, see `TrainSettings.ema_decay`.

    Counters and tables, which are whole numbers, are the block's own: torch would average them and
    cut off what is behind the point, and with 0.9 a 3 that stays a 3 becomes a 2 then.
    """
    assert settings.ema_decay is not None
    average = get_ema_multi_avg_fn(settings.ema_decay)

    def follow(followers: _Tensors, followed: _Tensors, count: Tensor | int) -> None:
        # of one dtype, as torch sorts them
        if followers[0].is_floating_point() or followers[0].is_complex():
            average(followers, followed, count)
        else:
            for own, other in zip(followers, followed, strict=True):
                own.copy_(other)

    return AveragedModel(block, multi_avg_fn=follow, use_buffers=True)


class TrainingMethod(ABC):
    """How one batch after the other changes a decoupled network, and what is kept for that.

    A subclass calls `optimize` in its constructor, which may draw weights from torch's global
    generator: `training.loop.train` seeds it. It seeds it again before every step.

    Attributes:
        network: What is trained, on its device; of several processes, what each has of it.
        stage: Which blocks of the whole these are, and the way to the others.
        settings: How.
        steps_per_epoch: Batches in a pass over the training images.
        device: Where the network is.
        criterion: Mean loss of logits and labels.
        scalers: One per block, which scales its gradients against underflow in half precision.
        optimizers: One per block.
        schedules: One per optimizer.
        averages: One per block, moving averages of its weights and statistics; none by default.
        parts: What has a state that must outlive an interruption, beside the network.

    Examples:
        >>> from sedona_nni import TrainingMethod
        >>> from sedona_nni.training.methods import GreedyLearning
        >>> issubclass(GreedyLearning, TrainingMethod)
        True
    """

    def __init__(
        self,
        network: DecoupledNetwork,
        settings: TrainSettings,
        splits: Splits,
        steps_per_epoch: int,
        stage: Stage | None = None,
    ) -> None:
        """Prepare a training.

        Args:
            network: What to train; it is on its device already.
            settings: How; ``settings.method`` has the method's own options.
            splits: Says how images look and how many classes there are.
            steps_per_epoch: Batches in a pass over the training images.
            stage: Which blocks of the whole ``network`` has; by default all.

        Raises:
            InputError: if the network cannot be trained so, see `MethodSettings.check`.
        """
        self.stage = Stage(len(network.blocks)) if stage is None else stage
        lower = network.blocks[: self.stage.num_blocks - 1 - self.stage.first]
        settings.method.check(
            [NO_AUXILIARY if b.classifier is None else type(b.classifier).__name__ for b in lower]
        )
        for block in network.blocks:
            teacher = block.classifier
            if isinstance(teacher, OnMaps):
                teacher = teacher.network
            if block.kind is not None:
                settings.check_kind(block.kind, f"+{block.kind}")
            if block.looks:
                settings.check_looking(
                    f"+{block.kind}" if block.kind else type(teacher).__name__,
                    here=len(network.blocks) == self.stage.num_blocks,
                    following=isinstance(teacher, Teacher) and teacher.follows(),
                )
            if isinstance(teacher, AuxiliaryNetwork) and teacher.views not in (1, settings.views):
                rule = f"must be {teacher.views} for {type(teacher).__name__}"
                raise InputError.rule("views", rule, settings.views)
        for block in network.blocks:
            block.checkpointed = settings.checkpoint == "layers"
            if settings.lr_pretrained == 0:
                freeze_pretrained(block)
                if block.classifier is not None and not any(
                    parameter.requires_grad for parameter in block.parameters()
                ):
                    rule = "must be above 0 where all weights of a block come from a file"
                    raise InputError.rule("lr_pretrained", rule, 0)
        self._learners: list[Block] = []
        self.network = network
        self.settings = settings
        self.steps_per_epoch = steps_per_epoch
        self.device = next(network.parameters()).device
        self.criterion = LabelSmoothing(settings.label_smoothing)
        self.scalers = [
            torch.amp.GradScaler(self.device.type, enabled=settings.amp == "fp16")
            for _ in network.blocks
        ]
        self.optimizers: list[torch.optim.Optimizer] = []
        self.schedules: list[LRScheduler] = []
        self.averages: list[AveragedModel] = []
        self.parts: list[Stateful] = [*self.scalers]

    def optimize(self, modules: Iterable[nn.Module]) -> None:
        """Make an optimizer and a schedule for each module, one module per block.

        Around each of their updates gradients are clipped and averages follow, if so wanted. A
        module may be an `nn.ModuleList`, of which each member's gradients are clipped by their own
        norm. A layer that two blocks share is updated, and followed, with the upper one.
        """
        late: list[Callable[..., None]] = []
        for place, (module, block) in enumerate(zip(modules, self.network.blocks, strict=True)):
            learned = self._learned(place, module)
            optimizer = build_optimizer(learned, self.settings)
            # An optimizer's hooks see gradients that are unscaled, and only updates that are done
            if self.settings.clip_norm is not None:
                members = [learned]
                if isinstance(module, nn.ModuleList):
                    members = [[*each.parameters()] for each in module]
                optimizer.register_step_pre_hook(self._clipping(members))
            if isinstance(block.classifier, Teacher):
                optimizer.register_step_post_hook(self._told(block.classifier))
            for follow in late:
                optimizer.register_step_post_hook(follow)
            late = []
            if self.settings.ema_decay is not None:
                average = build_average(block, self.settings)
                follow = self._following(average, block)
                if self.network.lends(place):
                    late = [follow]
                else:
                    optimizer.register_step_post_hook(follow)
                self.averages.append(average)
            self.optimizers.append(optimizer)
        self.schedules = [
            build_schedule(optimizer, self.settings, self.steps_per_epoch)
            for optimizer in self.optimizers
        ]
        self.parts += [*self.optimizers, *self.schedules, *self.averages]
        # After what is frozen is: replicas wait for the gradients of all that was not by then
        self._learners = [self.stage.shared(block) for block in self.network.blocks]

    def _learned(self, place: int, module: nn.Module) -> list[nn.Parameter]:
        """Return what is updated with a block: of the layers that are shared, the one below."""
        shared = [*self._shared_below(place).parameters()]
        lent = self._shared_below(place + 1) if self.network.lends(place) else nn.Identity()
        later = {id(parameter) for parameter in lent.parameters()}
        return shared + [each for each in module.parameters() if id(each) not in later]

    def _shared_below(self, place: int) -> nn.Module:
        """Return the layer that a block shares with the one below; one without weights if none."""
        if place == 0 or not self.network.lends(place - 1):
            return nn.Identity()
        return self.network.blocks[place - 1].layers[-1]

    def _clipping(self, members: list[list[nn.Parameter]]) -> Callable[..., None]:
        assert self.settings.clip_norm is not None
        longest = self.settings.clip_norm

        def clip(*unused: Any) -> None:
            for own in members:
                clip_grad_norm_(own, longest)

        return clip

    def _told(self, teacher: Teacher) -> Callable[..., None]:
        def tell(*unused: Any) -> None:
            teacher.after_step()

        return tell

    def _following(self, average: AveragedModel, block: Block) -> Callable[..., None]:
        def follow(*unused: Any) -> None:
            average.update_parameters(block)

        return follow

    @property
    def result(self) -> DecoupledNetwork:
        """What training has come to: the averages of the blocks if there are any, or the blocks."""
        if not self.averages:
            return self.network
        return DecoupledNetwork([cast(Block, average.module) for average in self.averages])

    @property
    def num_epochs(self) -> int:
        """Passes over the training images until the end, as far as that is known beforehand."""
        return self.settings.epochs

    @property
    def num_validated(self) -> int:
        """How many blocks, from the lowest up, have learned; the last of them is validated."""
        return self.stage.num_blocks

    def finished(self, epochs: int) -> bool:
        """Return whether training ends after so many epochs."""
        return epochs >= self.num_epochs

    def start_epoch(self, epoch: int) -> None:
        """Get ready for an epoch, counted from 1; the network was in evaluation mode."""
        self.network.train()

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        """Learn from one more batch; schedules go on, and no gradient is left behind.

        Args:
            images: Shape (B, C, S, S).
            labels: Class numbers, (B,), or the share of each class where images are mixed,
                (B, classes).

        Returns:
            The losses before the updates, each of shape () and without a graph, by the index of
            the block in the whole network, from 0: only of blocks that were updated from a loss of
            their own; the mean
            where one was updated more than once.
        """

    def block_step(
        self,
        place: int,
        features: Tensor,
        labels: Tensor,
        images: Tensor | None = None,
        below: Tensor | None = None,
        lent: Tensor | None = None,
    ) -> Stepped:
        """Let a block learn from its own loss, see `sedona_nni.training.methods.block_step`.

        Args:
            place: Its place among the blocks here, from 0.
            features: What the block below returned, (B, C, S, S), or the images.
            labels: As for `step`.
            images: Likewise, for a block or a teacher that looks at them; from methods that show
                them.
            below: What the block below was given; from methods that take every kind of cut.
            lent: What the last layer of the block below was given, if the two share it; likewise.
        """
        shared = None if lent is None else (self._shared_below(place), lent)
        return block_step(
            self._learners[place],
            self.optimizers[place],
            features,
            labels,
            self.criterion,
            self.scalers[place],
            self.settings.amp,
            self.settings.accumulate,
            images if self.network.blocks[place].looks else None,
            self.settings.transport,
            below,
            shared,
            self.network.lends(place),
        )

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        """Take steps until no later one needs more memory; for its measurement.

        Two by default, as the first leaves the optimizers' state that later ones carry.
        """
        self.start_epoch(1)
        for _ in range(2):
            self.step(images, labels)

    def extra_cost(self) -> Cost:
        """Return the cost of what is trained beside the network, by default nothing."""
        return Cost(0, 0)

    def numbers(self) -> dict[str, float]:
        """Return what the report of an epoch tells of the method: at least ``lr``.

        Of several processes each tells what it knows.
        """
        return {"lr": float(self.schedules[-1].get_last_lr()[0])}

    def state_dict(self) -> dict[str, Any]:
        """Return all that a continued training needs beside the network's weights."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over the state of a training with the same settings."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


LearningT = TypeVar("LearningT", bound=TrainingMethod)


def register_method(settings: type[MethodSettings]) -> Callable[[type[LearningT]], type[LearningT]]:
    """Return a decorator that registers a subclass of `TrainingMethod`.

    Args:
        settings: Its options; the type of their ``name``, a ``Literal``, says what it is called.

    Raises:
        InputError: if a name is taken.

    Examples:
        >>> from typing import Literal
        >>> from sedona_nni import TrainSettings, register_method
        >>> from sedona_nni.training.method_settings import MethodSettings
        >>> from sedona_nni.training.methods import GreedyLearning
        >>> class MySettings(MethodSettings):
        ...     name: Literal["mine"] = "mine"
        >>> @register_method(MySettings)
        ... class MyLearning(GreedyLearning):
        ...     pass
        >>> TrainSettings(method="mine").method
        MySettings(name='mine')
    """

    def register(learning: type[LearningT]) -> type[LearningT]:
        for name in get_args(settings.model_fields["name"].annotation):
            METHODS.add(name, Method(settings, learning))
        return learning

    return register


def build_method(
    network: DecoupledNetwork,
    settings: TrainSettings,
    splits: Splits,
    steps_per_epoch: int,
    stage: Stage | None = None,
) -> TrainingMethod:
    """Return the method that ``settings.method`` describes, ready for the first epoch.

    Args:
        network: See `TrainingMethod`; like the other arguments.
        settings: See there.
        splits: See there.
        steps_per_epoch: See there.
        stage: See there; only methods that can be parallel are asked to take one.

    Raises:
        InputError: if the network cannot be trained so, see `MethodSettings.check`.
    """
    learning = METHODS[settings.method.name].learning
    elsewhere = {} if stage is None else {"stage": stage}
    method: TrainingMethod = learning(network, settings, splits, steps_per_epoch, **elsewhere)
    return method
