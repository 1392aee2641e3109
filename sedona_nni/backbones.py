"""The networks that are decoupled: VGG and ResNet as L layers and a head.

A layer is the unit between two possible cuts: one convolution unit of a VGG, one residual block of
a ResNet (the stem belongs to the first). A max-pool belongs to the front of the next layer, so that
an auxiliary network sees the map before it is pooled. Convolutions have no bias.
At ``width_multiplier=1`` the networks have a quarter of the usual widths, as in the paper's
CIFAR-10 experiments; 4 gives the usual ones.
Sources: Pyeon et al., ICLR 2021 (widths, layers, stems); Simonyan and Zisserman, ICLR 2015 (VGG);
He et al., CVPR 2016 (ResNet); He et al., ICCV 2015 (initialisation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from sedona_nni.errors import InputError

__all__ = [
    "ACTIVATIONS",
    "BACKBONES",
    "Architecture",
    "Backbone",
    "BackboneContext",
    "FeatureShape",
    "Layer",
    "backbone_names",
    "build_backbone",
    "conv_unit",
    "initialise",
    "num_layers",
    "scaled_width",
]

Activation = Callable[[], nn.Module]

ACTIVATIONS: dict[str, Activation] = {"relu": nn.ReLU, "leakyrelu": nn.LeakyReLU}


@dataclass(frozen=True)
class FeatureShape:
    """A square feature map, (channels, size, size) per sample."""

    channels: int
    size: int


@dataclass(frozen=True)
class BackboneContext:
    """What a builder needs besides the architecture itself.

    Attributes:
        num_classes: Number of classes.
        in_channels: Channels of the images.
        image_size: Height and width of the images, pixels.
        width_multiplier: Factor on every width.
        activation: Makes the non-linearity; not one that works in place.
    """

    num_classes: int
    in_channels: int = 3
    image_size: int = 32
    width_multiplier: float = 1.0
    activation: Activation = nn.ReLU

    def width(self, base: int) -> int:
        """Return the width that is ``base`` at multiplier 1."""
        return scaled_width(base, self.width_multiplier)


@dataclass(frozen=True)
class Layer:
    """One layer as a builder makes it, with the shape of its output."""

    name: str
    module: nn.Module
    output: FeatureShape


class Backbone(nn.Module):
    """A network as ``layers``, an `nn.ModuleList`, followed by ``head``.

    Attributes:
        name: Its name in `BACKBONES`.
        layers: The L layers; each maps (B, c, s, s) to (B, c', s', s').
        head: Maps the output of the last layer to logits, (B, num_classes).
        layer_names: One readable name per layer.
        shapes: Shape of each layer's output, L of them.
        image_size: Height and width of the images, pixels.
        in_channels: Channels of the images.
        num_classes: Number of classes C.
        width_multiplier: Factor on every width.
        auxiliary_expansion: Expansion ratio of the light auxiliary networks for this family.
        activation: Makes the non-linearity, also that of the auxiliary networks.
    """

    def __init__(
        self,
        name: str,
        layers: Sequence[Layer],
        head: nn.Module,
        context: BackboneContext,
        auxiliary_expansion: int = 4,
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

    @property
    def num_layers(self) -> int:
        """L, the number of layers."""
        return len(self.layers)

    @property
    def boundaries(self) -> list[FeatureShape]:
        """Shape of the features at each boundary, the outputs of all layers but the last: L-1."""
        return self.shapes[:-1]

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (B, in_channels, image_size, image_size), to logits, (B, num_classes)."""
        features = images
        for layer in self.layers:
            features = layer(features)
        logits: Tensor = self.head(features)
        return logits


@dataclass(frozen=True)
class Architecture:
    """A registered backbone; put one into `BACKBONES` to add your own.

    Attributes:
        num_layers: L.
        build: Makes the L layers and the head, uninitialised.
        smallest_image: Smallest image size that leaves at least one pixel everywhere.
        auxiliary_expansion: Expansion ratio of the light auxiliary networks, 1 or more.
    """

    num_layers: int
    build: Callable[[BackboneContext], tuple[list[Layer], nn.Module]]
    smallest_image: int
    auxiliary_expansion: int = 4


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
            nn.init.kaiming_normal_(part.weight, a=slope, mode="fan_in")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.reset_parameters()


def _vgg(depths: Sequence[int], context: BackboneContext) -> tuple[list[Layer], nn.Module]:
    """Return a VGG with ``depths[s]`` convolution units in stage s."""
    widths = [context.width(base) for base in (16, 32, 64, 128, 128)]
    shape = FeatureShape(context.in_channels, context.image_size)
    layers: list[Layer] = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for index in range(depth):
            module = conv_unit(shape.channels, width, 3, activation=context.activation)
            shape = replace(shape, channels=width)
            if stage > 0 and index == 0:
                module.insert(0, nn.MaxPool2d(2))
                shape = replace(shape, size=shape.size // 2)
            layers.append(Layer(f"conv{stage + 1}_{index + 1}", module, shape))
    hidden = context.width(1024)
    head = nn.Sequential(
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(shape.channels * (shape.size // 2) ** 2, hidden),
        context.activation(),
        nn.Dropout(0.5),
        nn.Linear(hidden, hidden),
        context.activation(),
        nn.Dropout(0.5),
        nn.Linear(hidden, context.num_classes),
    )
    return layers, head


def _half(size: int) -> int:
    """Return the output size of a padded convolution or pooling with stride 2."""
    return (size + 1) // 2


def _resnet_stem(context: BackboneContext) -> tuple[nn.Sequential, FeatureShape]:
    """Return what precedes the residual blocks, by image size, and its output shape."""
    width, size = context.width(16), context.image_size
    kernel_size, stride = (3, 1) if size < 64 else (7, 2)
    stem = conv_unit(
        context.in_channels, width, kernel_size, stride=stride, activation=context.activation
    )
    if stride == 2:
        size = _half(size)
        if size > 32:
            stem.append(nn.MaxPool2d(3, stride=2, padding=1))
            size = _half(size)
    return stem, FeatureShape(width, size)


def _resnet(
    bottleneck: bool, depths: Sequence[int], context: BackboneContext
) -> tuple[list[Layer], nn.Module]:
    """Return a ResNet with ``depths[s]`` residual blocks in stage s."""
    # Imported here because it takes about a second and only ResNets need it
    from torchvision.models.resnet import BasicBlock, Bottleneck

    kind = Bottleneck if bottleneck else BasicBlock
    stem, shape = _resnet_stem(context)
    layers: list[Layer] = []
    for stage, (base, depth) in enumerate(zip((16, 32, 64, 128), depths, strict=True)):
        width = context.width(base)
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            out_channels = width * kind.expansion
            shortcut = None
            if stride > 1 or shape.channels != out_channels:
                shortcut = conv_unit(shape.channels, out_channels, 1, stride=stride)
            block = kind(shape.channels, width, stride, shortcut)
            block.relu = context.activation()  # torchvision's own works in place
            shape = FeatureShape(out_channels, _half(shape.size) if stride > 1 else shape.size)
            module = block if layers else stem.append(block)
            layers.append(Layer(f"stage{stage + 1}_{index + 1}", module, shape))
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape.channels, context.num_classes)
    )
    return layers, head


_VGG_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_BASIC_RESNET_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
_BOTTLENECK_RESNET_DEPTHS = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}

BACKBONES: dict[str, Architecture] = {
    **{
        name: Architecture(sum(depths), partial(_vgg, depths), smallest_image=32)
        for name, depths in _VGG_DEPTHS.items()
    },
    **{
        name: Architecture(
            sum(depths), partial(_resnet, False, depths), smallest_image=8, auxiliary_expansion=1
        )
        for name, depths in _BASIC_RESNET_DEPTHS.items()
    },
    **{
        name: Architecture(sum(depths), partial(_resnet, True, depths), smallest_image=8)
        for name, depths in _BOTTLENECK_RESNET_DEPTHS.items()
    },
}


def backbone_names() -> list[str]:
    """Return the names of all registered backbones."""
    return list(BACKBONES)


def _architecture(name: str) -> Architecture:
    if name not in BACKBONES:
        raise InputError.rule("backbone", f"must be one of {', '.join(BACKBONES)}", name)
    return BACKBONES[name]


def num_layers(name: str) -> int:
    """Return L of a backbone, without building it.

    Raises:
        InputError: if the name is unknown.
    """
    return _architecture(name).num_layers


def build_backbone(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    width_multiplier: float = 1.0,
    activation: Activation = nn.ReLU,
) -> Backbone:
    """Build a backbone with freshly drawn weights, on torch's default device.

    Args:
        name: Its name in `BACKBONES`.
        num_classes: Number of classes, at least 2.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images, pixels. ResNets from 64 up start with a 7x7
            convolution of stride 2, from 66 up also with a max-pool.
        width_multiplier: Factor on every width, above 0.
        activation: Makes the non-linearity; not one that works in place.

    Raises:
        InputError: if the name is unknown or a number breaks its rule.
    """
    architecture = _architecture(name)
    if num_classes < 2:
        raise InputError.rule("num_classes", "must be at least 2", num_classes)
    if in_channels < 1:
        raise InputError.rule("in_channels", "must be at least 1", in_channels)
    if image_size < architecture.smallest_image:
        rule = f"must be at least {architecture.smallest_image} for {name}"
        raise InputError.rule("image_size", rule, image_size)
    if not 0 < width_multiplier < float("inf"):
        raise InputError.rule(
            "width_multiplier", "must be a finite number above 0", width_multiplier
        )
    context = BackboneContext(num_classes, in_channels, image_size, width_multiplier, activation)
    layers, head = architecture.build(context)
    backbone = Backbone(name, layers, head, context, architecture.auxiliary_expansion)
    initialise(backbone)
    return backbone
