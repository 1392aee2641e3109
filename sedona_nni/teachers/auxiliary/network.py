"""What an auxiliary network is, and which there are.

Register your own with `register_auxiliary`; its name can then be used wherever the names of this
project can, if its module is loaded as a plug-in, see `sedona_nni.plugins`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sedona_nni.errors import InputError
from sedona_nni.models import Activation, Backbone, FeatureShape, initialise
from sedona_nni.registry import Registry
from sedona_nni.teachers import CUT_KINDS, NO_AUXILIARY, cut_kind, network_at

__all__ = [
    "AUXILIARY",
    "Around",
    "AuxiliaryContext",
    "AuxiliaryNetwork",
    "Criterion",
    "OnMaps",
    "Seen",
    "Teacher",
    "auxiliary_context",
    "auxiliary_names",
    "build_auxiliary",
    "check_auxiliary",
    "check_choices",
    "check_plain",
    "follows",
    "is_teacher",
    "looks",
    "places",
    "register_auxiliary",
    "taught",
    "views_for",
]

Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Around:
    """What is around a boundary, for a `Teacher` there.

    Attributes:
        boundary: Its index i, 0 to L-2.
        images: Shape of the images.
        inputs: Shape of what the block below the boundary is given.
        above: The layers above the boundary, lowest first, L-1-i of them. They are the network's
            own, which others train: to be copied or read, not to be changed.
        shapes: What each layer of the network returns, L of them.
    """

    boundary: int
    images: FeatureShape
    inputs: FeatureShape
    above: tuple[nn.Module, ...]
    shapes: tuple[FeatureShape, ...]

    @property
    def height(self) -> float:
        """How high the boundary is among all, i / (L-2), from 0 to 1; 0 of the only one."""
        return self.boundary / max(1, len(self.shapes) - 2)

    def seen(self, batch_size: int, *, device: torch.device | str, dtype: torch.dtype) -> Seen:
        """Return what a `Teacher` would be shown, without values."""
        images, inputs = (
            shape.laid_out(torch.empty(shape.of_batch(batch_size), device=device, dtype=dtype))
            for shape in (self.images, self.inputs)
        )
        return Seen(images, inputs)


class Seen(NamedTuple):
    """What a `Teacher` is shown at each step, beside features and labels; without graphs.

    Attributes:
        images: The batch's images, (B, C, H, W), normalised as the network is given them.
        inputs: What the block is given: the features below it, or the images.
    """

    images: Tensor
    inputs: Tensor


@dataclass(frozen=True)
class AuxiliaryContext:
    """Where an auxiliary network stands.

    Attributes:
        shape: Shape of the features at the boundary; a map, whatever crosses it, when a network is
            made, as it is given maps.
        num_classes: Number of classes.
        width_multiplier: The backbone's factor on every width.
        expansion: Expansion ratio e of the light networks, 1 or more.
        activation: Makes the non-linearity; not one that works in place.
        around: What is around it, for a `Teacher`; None for others.

    Examples:
        >>> from sedona_nni import AuxiliaryContext, FeatureShape
        >>> AuxiliaryContext(FeatureShape(channels=64, size=8), num_classes=10).shape.channels
        64
    """

    shape: FeatureShape
    num_classes: int
    width_multiplier: float = 1.0
    expansion: int = 4
    activation: Activation = nn.ReLU
    around: Around | None = None


class AuxiliaryNetwork(nn.Module):
    """Base of all auxiliary networks: features, (B, C, H, W), to logits, (B, num_classes).

    What crosses a boundary in another form, tokens for instance, comes to it as a map, see
    `sedona_nni.models.feature_shape`. A subclass defines `forward`, and `local_loss` too where its
    loss is not a function of the logits alone.

    Attributes:
        views: How often each image has to be in a batch, see `TrainSettings.views`.

    Examples:
        >>> import torch
        >>> from sedona_nni import AuxiliaryNetwork, Decoupling, build_backbone, build_decoupled
        >>> backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
        >>> decoupling = Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"])
        >>> lower, upper = build_decoupled(backbone, decoupling).blocks
        >>> isinstance(lower.classifier, AuxiliaryNetwork)
        True
        >>> lower.classifier(lower(torch.zeros(2, 3, 32, 32))).shape
        torch.Size([2, 10])
    """

    views: ClassVar[int] = 1

    def local_loss(
        self, features: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        """Return the loss that the block below learns from, shape (), and the logits.

        Args:
            features: Output of the layer below the boundary, (B, C, H, W).
            labels: Class numbers, (B,).
            criterion: Maps logits and labels to a mean loss, shape ().
        """
        logits: Tensor = self(features)
        return criterion(logits, labels), logits


class Teacher(AuxiliaryNetwork):
    """An auxiliary network that knows more than the features at its boundary.

    When it is made, its context has ``around``: where it is in the network, and the layers above.
    At each step it is shown the images and what its block was given. What crosses the boundary
    comes to it as it is, which ``shape`` of the context can turn into maps. A subclass that looks
    at what it is shown defines `teach`; `forward` has to return logits all the same, by which
    blocks are validated.

    Methods of training that cannot show it that, and trainings in parallel, refuse a teacher that
    `sees`. A teacher never learns from, or changes, what belongs to others.

    Attributes:
        reads_inputs: Whether what it computes depends on the shape of what its block is given, so
            that it costs otherwise where the block below its boundary begins elsewhere.

    Examples:
        >>> from sedona_nni import Decoupling, Teacher, build_backbone, build_decoupled
        >>> backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
        >>> decoupling = Decoupling(backbone="vgg11", cuts=[2], aux=["infopro"])
        >>> teacher = build_decoupled(backbone, decoupling).blocks[0].classifier
        >>> isinstance(teacher, Teacher), teacher.sees(), round(teacher.keep, 2)
        (True, True, 3.5)
    """

    reads_inputs: ClassVar[bool] = False

    def teach(
        self, features: Tensor, labels: Tensor, criterion: Criterion, seen: Seen
    ) -> tuple[Tensor, Tensor]:
        """Return the loss that the block below learns from, shape (), and the logits.

        Args:
            features: What crosses the boundary.
            labels: Class numbers, (B,), or the share of each class, (B, classes).
            criterion: Maps logits and labels to a mean loss, shape ().
            seen: See there.
        """
        return self.local_loss(features, labels, criterion)

    def drawn(self) -> None:
        """Put right what is not to be drawn anew, as all weights have just been; by default
        nothing."""

    def after_step(self) -> None:
        """Follow an update of the block's weights and its own; by default nothing."""

    @classmethod
    def sees(cls) -> bool:
        """Return whether it looks beyond its boundary at each step: what it is taught with or what
        it does after an update is its own."""
        return cls.teach is not Teacher.teach or cls.follows()

    @classmethod
    def follows(cls) -> bool:
        """Return whether it follows what others learn meanwhile: it does something after an
        update."""
        return cls.after_step is not Teacher.after_step


def taught(
    network: AuxiliaryNetwork,
    features: Tensor,
    labels: Tensor,
    criterion: Criterion,
    seen: Seen | None,
) -> tuple[Tensor, Tensor]:
    """Return the loss that a block learns from, shape (), and the logits, of any network.

    Args:
        network: Its teacher.
        features: What crosses the boundary.
        labels: Class numbers, (B,), or shares of classes.
        criterion: Mean loss of logits and labels.
        seen: What a `Teacher` that looks at it is shown.
    """
    if isinstance(network, Teacher) and network.sees():
        assert seen is not None, "methods that do not show images refuse such a teacher"
        return network.teach(features, labels, criterion, seen)
    return network.local_loss(features, labels, criterion)


class OnMaps(AuxiliaryNetwork):
    """An auxiliary network where no maps cross the boundary: it is given them as such.

    Attributes:
        network: It.
        shape: Of what crosses.
    """

    def __init__(self, network: AuxiliaryNetwork, shape: FeatureShape) -> None:
        super().__init__()
        self.network = network
        self.shape = shape

    def forward(self, features: Tensor) -> Tensor:
        """Map features as they cross to (B, num_classes)."""
        logits: Tensor = self.network(self.shape.as_maps(features))
        return logits

    def local_loss(
        self, features: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        """Return what the network returns."""
        return self.network.local_loss(self.shape.as_maps(features), labels, criterion)


Builder = Callable[[AuxiliaryContext], AuxiliaryNetwork]
BuilderT = TypeVar("BuilderT", bound=Builder)

AUXILIARY: Registry[Builder] = Registry("aux", reserved=(NO_AUXILIARY,))
"""The auxiliary networks by name; `register_auxiliary` adds one."""


def register_auxiliary(name: str) -> Callable[[BuilderT], BuilderT]:
    """Return a decorator that registers a class or function under ``name``.

    It is called with an `AuxiliaryContext` and returns an `AuxiliaryNetwork`, whose weights
    `build_auxiliary` then draws. A `Teacher`, and what needs several views of an image, has to be
    registered as a class, or a `functools.partial` of one: what it needs is asked beforehand.

    Raises:
        InputError: if the name is none or taken or ends like a kind of cut, or a class is
            registered that is no `AuxiliaryNetwork`.

    Examples:
        >>> from torch import Tensor, nn
        >>> from sedona_nni import AuxiliaryNetwork, Decoupling, register_auxiliary
        >>> @register_auxiliary("mean")
        ... class MeanAuxiliary(AuxiliaryNetwork):
        ...     def __init__(self, context):
        ...         super().__init__()
        ...         self.classifier = nn.Linear(context.shape.channels, context.num_classes)
        ...
        ...     def forward(self, features: Tensor) -> Tensor:
        ...         return self.classifier(features.mean(dim=(2, 3)))
        >>> decoupling = Decoupling(backbone="vgg11", cuts=[2], aux=["mean"])
    """

    if not isinstance(name, str):
        raise InputError.rule("register_auxiliary", "must be given a name", name)

    def register(builder: BuilderT) -> BuilderT:
        if cut_kind(name) is not None:
            raise InputError.rule("aux", "must not end like a kind of cut", name)
        if isinstance(builder, type) and not issubclass(builder, AuxiliaryNetwork):
            rule = f"{name} must be a subclass of AuxiliaryNetwork, or a function that makes one"
            raise InputError.rule("aux", rule, builder.__name__)
        AUXILIARY.add(name, builder)
        return builder

    return register


def auxiliary_names() -> list[str]:
    """Return the names of all auxiliary networks; deeper ``convN`` exist as well.

    Examples:
        >>> from sedona_nni import auxiliary_names
        >>> auxiliary_names()[:5]
        ['conv1', 'conv2', 'conv3', 'conv4', 'mlp-sr']
    """
    return [*AUXILIARY]


def check_auxiliary(name: str) -> None:
    """Check that there is an auxiliary network for a cut of this name.

    Raises:
        InputError: if the name is unknown.
    """
    _builder(name)


def _builder(name: str) -> Builder:
    network = network_at(name)
    if "+" in name and network not in AUXILIARY:
        kinds = ", ".join(f"+{kind}" for kind in CUT_KINDS)
        raise InputError.rule(
            "aux", f"{AUXILIARY.rule}, and behind it at most one of {kinds}", name
        )
    return AUXILIARY[network]


def looks(name: str) -> bool:
    """Return whether a cut of this name needs more, at each step of training, than the features
    there: its auxiliary network, or the block above.

    Raises:
        InputError: if the name is unknown.
    """
    teacher = _teacher(name)
    return (teacher is not None and teacher.sees()) or cut_kind(name) is not None


def follows(name: str) -> bool:
    """Return whether this is the name of a `Teacher` that `Teacher.follows` what others learn.

    Raises:
        InputError: if the name is unknown.
    """
    teacher = _teacher(name)
    return teacher is not None and teacher.follows()


def views_for(name: str) -> int:
    """Return how often an auxiliary network needs each image in a batch.

    Raises:
        InputError: if the name is unknown.
    """
    made = _made_by(_builder(name))
    told = isinstance(made, type) and issubclass(made, AuxiliaryNetwork)
    return made.views if told else 1  # type: ignore[attr-defined]


def check_choices(names: Sequence[str]) -> None:
    """Check names of auxiliary networks that there are to choose from.

    Raises:
        InputError: if there are none, one is unknown, or one is named twice.
    """
    if not names:
        raise InputError.rule("aux", f"must name some of {', '.join(AUXILIARY)}", [])
    for name in names:
        check_auxiliary(name)
    if len(set(names)) < len(names):
        raise InputError.rule("aux", "must name each choice once", list(names))


def check_plain(names: Iterable[str], where: str) -> None:
    """Check that cuts give the blocks above nothing but features.

    Args:
        names: Of the cuts.
        where: Why they have to, in words, e.g. ``"in a search"``.

    Raises:
        InputError: if one does.
    """
    for name in names:
        if cut_kind(name) is not None:
            raise InputError.rule("aux", f"must be plain cuts {where}", name)


def auxiliary_context(
    backbone: Backbone, boundary: int, name: str | None = None, first: int = 0
) -> AuxiliaryContext:
    """Return where an auxiliary network at ``boundary``, 0 to L-2, of ``backbone`` stands.

    Args:
        backbone: The network.
        boundary: After which layer.
        name: Of what will stand there; for a `Teacher` the context has ``around``.
        first: The layer with which the block below begins.

    Raises:
        InputError: if the name is unknown.
    """
    context = AuxiliaryContext(
        shape=backbone.boundaries[boundary],
        num_classes=backbone.num_classes,
        width_multiplier=backbone.width_multiplier,
        expansion=backbone.auxiliary_expansion,
        activation=backbone.activation,
    )
    if name is None or not is_teacher(name):
        return context
    around = Around(
        boundary=boundary,
        images=backbone.images,
        inputs=backbone.shapes[first - 1] if first else backbone.images,
        above=tuple(backbone.layers[boundary + 1 :]),
        shapes=tuple(backbone.shapes),
    )
    return replace(context, around=around)


def places(backbone: Backbone, boundary: int, name: str) -> list[AuxiliaryContext]:
    """Return the contexts in which an auxiliary network can cost differently at a boundary.

    Returns:
        One; of a `Teacher` that `reads_inputs` one for each first layer of the block, 0 to
        ``boundary``.

    Raises:
        InputError: if the name is unknown.
    """
    teacher = _teacher(name)
    firsts = range(boundary + 1) if teacher is not None and teacher.reads_inputs else [0]
    return [auxiliary_context(backbone, boundary, name, first) for first in firsts]


def is_teacher(name: str) -> bool:
    """Return whether a `Teacher` has this name: a subclass, or a `functools.partial` of one.

    Raises:
        InputError: if the name is unknown.
    """
    return _teacher(name) is not None


def _teacher(name: str) -> type[Teacher] | None:
    made = _made_by(_builder(name))
    return made if isinstance(made, type) and issubclass(made, Teacher) else None


def _made_by(builder: Builder) -> object:
    return builder.func if isinstance(builder, partial) else builder


def build_auxiliary(name: str, context: AuxiliaryContext) -> AuxiliaryNetwork:
    """Build an auxiliary network with freshly drawn weights, on torch's default device.

    Returns:
        The network; where no maps cross the boundary, in an `OnMaps`, but for a `Teacher`.

    Raises:
        InputError: if the name is unknown, stands for something that makes no such network, or for
            a teacher that cannot stand there.
    """
    on_maps = context if is_teacher(name) else replace(context, shape=context.shape.maps)
    network: object = _builder(name)(on_maps)  # whatever a plug-in returns
    if not isinstance(network, AuxiliaryNetwork):
        rule = f"{name} must make an AuxiliaryNetwork"
        raise InputError.rule("aux", rule, type(network).__name__)
    if isinstance(network, Teacher) != is_teacher(name) or network.views != views_for(name):
        rule = f"{name} must be registered as a class, as what it makes needs more than features"
        raise InputError.rule("aux", rule, type(network).__name__)
    initialise(network)
    if isinstance(network, Teacher):
        network.drawn()
    return network if on_maps == context else OnMaps(network, context.shape)
