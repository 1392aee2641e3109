"""What an auxiliary network is, and which there are.

Register your own with `register_auxiliary`; its name can then be used wherever the names of this
project can, if its module is loaded as a plug-in, see `sedona_nni.plugins`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor, nn

from sedona_nni.errors import InputError
from sedona_nni.models import Activation, Backbone, FeatureShape, initialise
from sedona_nni.registry import Registry
from sedona_nni.teachers import NO_AUXILIARY

__all__ = [
    "AUXILIARY",
    "AuxiliaryContext",
    "AuxiliaryNetwork",
    "Criterion",
    "OnMaps",
    "auxiliary_context",
    "auxiliary_names",
    "build_auxiliary",
    "check_auxiliary",
    "check_choices",
    "register_auxiliary",
]

Criterion = Callable[[Tensor, Tensor], Tensor]


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


class AuxiliaryNetwork(nn.Module):
    """Base of all auxiliary networks: features, (B, C, H, W), to logits, (B, num_classes).

    What crosses a boundary in another form, tokens for instance, comes to it as a map, see
    `sedona_nni.models.feature_shape`. A subclass defines `forward`, and `local_loss` too where its
    loss is not a function of the logits alone.

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
    `build_auxiliary` then draws.

    Raises:
        InputError: if the name is none or taken, or a class is registered that is no
            `AuxiliaryNetwork`.

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
    """Check that an auxiliary network of this name exists.

    Raises:
        InputError: if the name is unknown.
    """
    AUXILIARY[name]


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


def auxiliary_context(backbone: Backbone, boundary: int) -> AuxiliaryContext:
    """Return where an auxiliary network at ``boundary``, 0 to L-2, of ``backbone`` stands."""
    return AuxiliaryContext(
        shape=backbone.boundaries[boundary],
        num_classes=backbone.num_classes,
        width_multiplier=backbone.width_multiplier,
        expansion=backbone.auxiliary_expansion,
        activation=backbone.activation,
    )


def build_auxiliary(name: str, context: AuxiliaryContext) -> AuxiliaryNetwork:
    """Build an auxiliary network with freshly drawn weights, on torch's default device.

    Returns:
        The network; where no maps cross the boundary, in an `OnMaps`.

    Raises:
        InputError: if the name is unknown, or stands for something that makes no such network.
    """
    on_maps = replace(context, shape=context.shape.maps)
    network: object = AUXILIARY[name](on_maps)  # whatever a plug-in returns
    if not isinstance(network, AuxiliaryNetwork):
        rule = f"{name} must make an AuxiliaryNetwork"
        raise InputError.rule("aux", rule, type(network).__name__)
    initialise(network)
    return network if on_maps == context else OnMaps(network, context.shape)
