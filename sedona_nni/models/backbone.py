"""What every backbone is made of: layers with known shapes, a head, and how weights are drawn.

Source of the initialisation: He et al., ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from sedona_nni.image_size import ImageSize
from sedona_nni.models.feature_shape import FeatureShape

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Architecture",
    "Backbone",
    "BackboneContext",
    "Layer",
    "Parts",
    "Stem",
    "conv_unit",
    "halved",
    "initialise",
    "scaled_width",
]

Activation = Callable[[], nn.Module]
Stem = Literal["published", "torchvision"]

ACTIVATIONS: dict[str, Activation] = {"relu": nn.ReLU, "leakyrelu": nn.LeakyReLU}


@dataclass(frozen=True)
class BackboneContext:
    """What a builder needs besides the architecture itself.

    Attributes:
        num_classes: Number of classes.
        in_channels: Channels of the images.
        image_size: Height and width of the images, see `sedona_nni.image_size`.
        width_multiplier: Factor on every width.
        activation: Makes the non-linearity; not one that works in place.
        stem: Whose stem, where there is a choice.

    Examples:
        >>> from sedona_nni import BackboneContext
        >>> BackboneContext(num_classes=10, width_multiplier=0.25).width(64)
        16
    """

    num_classes: int
    in_channels: int = 3
    image_size: ImageSize = 32
    width_multiplier: float = 1.0
    activation: Activation = nn.ReLU
    stem: Stem = "published"

    @property
    def images(self) -> FeatureShape:
        """Shape of the images."""
        return FeatureShape(self.in_channels, self.image_size)

    def width(self, base: int) -> int:
        """Return the width that is ``base`` at multiplier 1."""
        return scaled_width(base, self.width_multiplier)


@dataclass(frozen=True)
class Layer:
    """One layer as a builder makes it, with the shape of its output.

    Examples:
        >>> from torch import nn
        >>> from sedona_nni import FeatureShape, Layer
        >>> Layer("stem", nn.Conv2d(3, 64, 3, padding=1), FeatureShape(64, 32)).name
        'stem'
    """

    name: str
    module: nn.Module
    output: FeatureShape


class Backbone(nn.Module):
    """A network as ``layers``, an `nn.ModuleList`, followed by ``head``.

    Attributes:
        name: Its name in `BACKBONES`.
        layers: The L layers; each maps what crosses the boundary below it to what crosses that
            above, `FeatureShape.of_batch`.
        head: Maps the output of the last layer to logits, (B, num_classes).
        layer_names: One readable name per layer.
        shapes: Shape of each layer's output, L of them.
        image_size: Height and width of the images, see `sedona_nni.image_size`.
        in_channels: Channels of the images.
        num_classes: Number of classes C.
        width_multiplier: Factor on every width.
        auxiliary_expansion: Expansion ratio of the light auxiliary networks for this family.
        activation: Makes the non-linearity, also that of the auxiliary networks.
        stem: Whose stem it has, see `Architecture.stems`.
        fresh: Entries of its classifier that were drawn anew, where a file gave the other weights.

    Examples:
        >>> from sedona_nni import build_backbone
        >>> backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
        >>> backbone.num_layers, len(backbone.boundaries)
        (8, 7)
        >>> backbone.layer_names[:2], backbone.boundaries[0].size
        (['conv1_1', 'conv2_1'], 32)
    """

    def __init__(
        self,
        name: str,
        layers: Sequence[Layer],
        head: nn.Module,
        context: BackboneContext,
        auxiliary_expansion: int = 4,
        original: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.layers = nn.ModuleList(layer.module for layer in layers)
        self.head = head
        self.layer_names = [layer.name for layer in layers]
        self.shapes = [layer.output for layer in layers]
        self.image_size = context.image_size
        self.in_channels = context.in_channels
        self.num_classes = context.num_classes
        self.width_multiplier = context.width_multiplier
        self.auxiliary_expansion = auxiliary_expansion
        self.activation = context.activation
        self.stem = context.stem
        self.fresh: tuple[str, ...] = ()
        self._original = (original,)  # in a tuple it is no submodule

    @property
    def plain(self) -> nn.Module:
        """The network as its own code has it: the model that was cut, whose modules are those of
        the layers, or this backbone."""
        return self._original[0] or self

    @property
    def num_layers(self) -> int:
        """L, the number of layers."""
        return len(self.layers)

    @property
    def images(self) -> FeatureShape:
        """Shape of the images."""
        return FeatureShape(self.in_channels, self.image_size)

    @property
    def boundaries(self) -> list[FeatureShape]:
        """Shape of the features at each boundary, the outputs of all layers but the last: L-1."""
        return self.shapes[:-1]

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (B, in_channels, height, width), to logits, (B, num_classes)."""
        features = images
        for layer in self.layers:
            features = layer(features)
        logits: Tensor = self.head(features)
        return logits


Parts = tuple[list[Layer], nn.Module]  # the layers and the head


@dataclass(frozen=True)
class Architecture:
    """A registered backbone, see `sedona_nni.models.register_backbone`.

    Attributes:
        num_layers: L.
        build: Makes the L layers and the head.
        smallest_image: Smallest image size that leaves at least one pixel everywhere.
        auxiliary_expansion: Expansion ratio of the light auxiliary networks, 1 or more.
        stems: The stems that it can have, the default first.
        draws_weights: Whether all weights are drawn anew, as `initialise` does; else they stay what
            ``build`` made them, e.g. pretrained.
    """

    num_layers: int
    build: Callable[[BackboneContext], Parts]
    smallest_image: int
    auxiliary_expansion: int = 4
    stems: tuple[Stem, ...] = ("published",)
    draws_weights: bool = True


def scaled_width(base: int, multiplier: float) -> int:
    """Return ``base`` times ``multiplier``, rounded, at least 1."""
    return max(1, round(base * multiplier))


def conv_unit(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    activation: Activation | None = None,
) -> nn.Sequential:
    """Return convolution (padding k//2), batch norm and, where given, the activation."""
    unit = nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=bias,
        ),
        nn.BatchNorm2d(out_channels),
    )
    if activation is not None:
        unit.append(activation())
    return unit


def initialise(module: nn.Module) -> None:
    """Draw all weights anew, from torch's global generator.

    Convolutions and linear layers: N(0, 2 / ((1 + a^2) fan_in)) with a the slope of leaky ReLUs, 0
    where there are none; biases 0. Batch norms: weight 1, bias 0.
    """
    slopes = [part.negative_slope for part in module.modules() if isinstance(part, nn.LeakyReLU)]
    slope = slopes[0] if slopes else 0.0
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            if not part.weight.is_meta:  # there torch would draw nothing, and import its compiler
                nn.init.kaiming_normal_(part.weight, a=slope, mode="fan_in")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.reset_parameters()


def halved(size: int) -> int:
    """Return the output size of a padded convolution or pooling with stride 2."""
    return (size + 1) // 2
