"""Auxiliary networks: small local classifiers that give a block its own loss.

Notation:
    C, S    channels and size of the features at the boundary
    F       width that the light networks classify from, 512 at width multiplier 1
    e       expansion ratio of the light networks' inner blocks, a property of the backbone
    p       their working width, C // e
Register your own with `register_auxiliary`; its name can then be used wherever the names of this
project can.
Sources: Pyeon et al., ICLR 2021 (conv1, conv2, ..., mlp-sr); Belilovsky et al., ICML 2020 (mlp,
mlp-sr, cnn, cnn5x5); Nøkland and Eidnes, ICML 2019 (predsim); Sandler et al., CVPR 2018 (inverted
residuals).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.errors import InputError
from sedona_nni.models import (
    Activation,
    Backbone,
    FeatureShape,
    conv_unit,
    initialise,
    scaled_width,
)
from sedona_nni.models.placement import lay_out
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.teachers.light_convolution import DepthwiseConv2d, PointwiseConv2d
from sedona_nni.teachers.losses import class_shares
from sedona_nni.teachers.pooled_unit import pooled_unit

__all__ = [
    "AuxiliaryContext",
    "AuxiliaryNetwork",
    "ConvAuxiliary",
    "LightNetworks",
    "MlpAuxiliary",
    "PredSim",
    "WideCnnAuxiliary",
    "auxiliary_context",
    "auxiliary_names",
    "build_auxiliary",
    "check_auxiliary",
    "register_auxiliary",
    "similarity_matrix",
]

Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AuxiliaryContext:
    """Where an auxiliary network stands.

    Attributes:
        shape: Shape of the features at the boundary.
        num_classes: Number of classes.
        width_multiplier: The backbone's factor on every width.
        expansion: Expansion ratio e of the light networks, 1 or more.
        activation: Makes the non-linearity; not one that works in place.
    """

    shape: FeatureShape
    num_classes: int
    width_multiplier: float = 1.0
    expansion: int = 4
    activation: Activation = nn.ReLU


class AuxiliaryNetwork(nn.Module):
    """Base of all auxiliary networks: features, (B, C, S, S), to logits, (B, num_classes).

    A subclass defines `forward`, and `local_loss` too where its loss is not a function of the
    logits alone.

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
            features: Output of the layer below the boundary, (B, C, S, S).
            labels: Class numbers, (B,).
            criterion: Maps logits and labels to a mean loss, shape ().
        """
        logits: Tensor = self(features)
        return criterion(logits, labels), logits


Builder = Callable[[AuxiliaryContext], AuxiliaryNetwork]
_BUILDERS: dict[str, Builder] = {}
_CONV_NAME = re.compile(r"conv([1-9][0-9]*)")


def register_auxiliary(name: str) -> Callable[[Builder], Builder]:
    """Return a decorator that registers a class or function under ``name``.

    It is called with an `AuxiliaryContext` and returns an `AuxiliaryNetwork`, whose weights
    `build_auxiliary` then draws.

    Raises:
        InputError: if the name is taken.

    Examples:
        >>> from torch import Tensor, nn
        >>> from sedona_nni import AuxiliaryNetwork, Decoupling, register_auxiliary
        >>> @register_auxiliary("linear")
        ... class LinearAuxiliary(AuxiliaryNetwork):
        ...     def __init__(self, context):
        ...         super().__init__()
        ...         self.classifier = nn.Linear(context.shape.channels, context.num_classes)
        ...
        ...     def forward(self, features: Tensor) -> Tensor:
        ...         return self.classifier(features.mean(dim=(2, 3)))
        >>> decoupling = Decoupling(backbone="vgg11", cuts=[2], aux=["linear"])
    """
    if name in (*_BUILDERS, NO_AUXILIARY) or _CONV_NAME.fullmatch(name):
        raise InputError.rule("auxiliary network", "must have a name that is not taken", name)

    def register(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder

    return register


def auxiliary_names() -> list[str]:
    """Return the names of all auxiliary networks; deeper ``convN`` exist as well.

    Examples:
        >>> from sedona_nni import auxiliary_names
        >>> auxiliary_names()[:5]
        ['conv1', 'conv2', 'conv3', 'conv4', 'mlp-sr']
    """
    return [f"conv{depth}" for depth in range(1, 5)] + list(_BUILDERS)


def _builder(name: str) -> Builder:
    if name in _BUILDERS:
        return _BUILDERS[name]
    match = _CONV_NAME.fullmatch(name)
    if match is None:
        known = ", ".join(auxiliary_names())
        raise InputError.rule("aux", f"must be one of {known} (or a deeper convN)", name)
    return lambda context: ConvAuxiliary(context, depth=int(match[1]))


def check_auxiliary(name: str) -> None:
    """Check that an auxiliary network of this name exists.

    Raises:
        InputError: if the name is unknown.
    """
    _builder(name)


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

    Raises:
        InputError: if the name is unknown.
    """
    network = _builder(name)(context)
    initialise(network)
    return network


def _unit(convolution: nn.Conv2d, activation: Activation | None = None) -> nn.Sequential:
    unit = nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))
    if activation is not None:
        unit.append(activation())
    return unit


class _InvertedResidual(nn.Module):
    """1x1 convolution to e times the width, depthwise 3x3, 1x1 to the output width.

    Batch norm after each, activation after the first two; without the first if e = 1. The input is
    added where the shape stays. ``networks`` of them stand side by side, each with its own
    channels; widths are those of one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        expansion: int,
        activation: Activation,
        networks: int,
    ) -> None:
        super().__init__()
        outside, inside = networks * in_channels, networks * in_channels * expansion
        self.units = nn.Sequential()
        if expansion > 1:
            self.units.append(_unit(PointwiseConv2d(outside, inside, networks), activation))
        self.units.append(_unit(DepthwiseConv2d(inside, stride), activation))
        self.units.append(_unit(PointwiseConv2d(inside, networks * out_channels, networks)))
        self.keeps_shape = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, networks * in_channels, s, s) to (B, networks * out_channels, s', s')."""
        out: Tensor = self.units(features)
        return features + out if self.keeps_shape else out


class LightNetworks(nn.Module):
    """SEDONA's light convolutional networks of several depths at one boundary, side by side.

    Each has a stem (1x1 convolution C to p, depthwise 3x3 of stride 2), depth - 1 inverted residual
    blocks, a 1x1 convolution to F, mean over space and a linear classifier. Every second block
    halves the map once more, if it has 2 pixels or more, and widens it by p // 2 (by p if e = 1).
    The paper's release keeps ReLU inside the blocks whatever the activation; here all follow it,
    in release mode, too.

    What the networks have in common in structure is computed together, by grouped convolutions on
    the networks' channels one after the other, and batch norms over all of them. No value of one
    depends on another, so it is the same as one after the other in a fraction of the time. The
    deepest comes first, so that those which go on are always the first channels.

    Attributes:
        depths: Depth of each network, from the deepest to the shallowest, each 1 or more.
    """

    def __init__(self, context: AuxiliaryContext, depths: Sequence[int]) -> None:
        super().__init__()
        self.depths = tuple(sorted(depths, reverse=True))
        e, act = context.expansion, context.activation
        p = max(1, context.shape.channels // e)
        inner = len(depths) * p
        self.stem = nn.Sequential(
            _unit(PointwiseConv2d(context.shape.channels, inner), act),
            _unit(DepthwiseConv2d(inner, stride=2), act),
        )
        widths, size = [p], context.shape.size // 2
        self.blocks = nn.Sequential()
        for index in range(self.depths[0] - 1):
            halves = index % 2 == 1 and size >= 2
            widths.append(widths[-1] + ((p // 2 if e > 1 else p) if halves else 0))
            self.blocks.append(
                _InvertedResidual(
                    *widths[-2:],
                    stride=2 if halves else 1,
                    expansion=e,
                    activation=act,
                    networks=self._deeper_than(index + 1),
                )
            )
            size = size // 2 if halves else size
        final = scaled_width(512, context.width_multiplier)
        self.tails = nn.ModuleList(
            _unit(PointwiseConv2d(widths[depth - 1], final), act) for depth in self.depths
        )
        self.classifiers = nn.ModuleList(nn.Linear(final, context.num_classes) for _ in self.depths)

    def _deeper_than(self, depth: int) -> int:
        return sum(own > depth for own in self.depths)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map (B, C, S, S) to the logits of each network, in the order of ``depths``."""
        # Depthwise convolutions and narrow batch norms are several times faster in this layout
        x = self.stem(lay_out(features))
        logits: list[Tensor] = []
        for depth in range(1, self.depths[0] + 1):
            parts = x.chunk(self._deeper_than(depth - 1), dim=1)
            going_on = self._deeper_than(depth)
            for position in range(going_on, len(parts)):
                tail = cast(nn.Sequential, self.tails[position])
                pooled = pooled_unit(tail, parts[position])  # (B, F)
                logits.append(self.classifiers[position](pooled))
            if going_on:
                x = self.blocks[depth - 1](x[:, : going_on * parts[0].shape[1]])
        # The shallow ones have come first
        order = sorted(range(len(self.depths)), key=lambda position: self.depths[position])
        return [logits[order.index(position)] for position in range(len(self.depths))]

    def of_one(self, tensors: Mapping[str, Tensor], position: int) -> dict[str, Tensor]:
        """Return what belongs to one of the networks, named as if it stood alone.

        Args:
            tensors: By their names in this module: parameters, buffers, gradients ...
            position: Which network, as in ``depths``.

        Returns:
            Views of the tensors.
        """
        own = {}
        for name, tensor in tensors.items():
            part, index, *rest = name.split(".")
            if part in ("tails", "classifiers"):
                if int(index) == position:
                    own[".".join([part, "0", *rest])] = tensor
                continue
            networks = len(self.depths) if part == "stem" else self._deeper_than(int(index) + 1)
            if position < networks:
                shared = tensor.dim() == 0  # number of batches seen
                own[name] = tensor if shared else tensor.chunk(networks)[position]
        return own


class ConvAuxiliary(AuxiliaryNetwork):
    """One light convolutional network of depth d >= 1 (``conv1``, ``conv2``, ...)."""

    def __init__(self, context: AuxiliaryContext, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.light = LightNetworks(context, [depth])

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, S, S) to (B, num_classes)."""
        (logits,) = self.light(features)
        return cast(Tensor, logits)


def _quarter(size: int) -> int:
    return (size + 3) // 4


class MlpAuxiliary(AuxiliaryNetwork):
    """Pool to ceil(S/4), ``num_convs`` 1x1 convolutions, pool to q x q, a perceptron of 3 layers.

    Every convolution and hidden layer keeps its width and is followed by batch norm and activation.
    """

    def __init__(self, context: AuxiliaryContext, *, num_convs: int, pooled_size: int) -> None:
        super().__init__()
        channels, act = context.shape.channels, context.activation
        self.features = nn.Sequential(
            nn.AdaptiveAvgPool2d(_quarter(context.shape.size)),
            *(conv_unit(channels, channels, 1, activation=act) for _ in range(num_convs)),
            nn.AdaptiveAvgPool2d(pooled_size),
            nn.Flatten(),
        )
        width = channels * pooled_size**2
        self.hidden = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), act())
                for _ in range(3)
            )
        )
        self.classifier = nn.Linear(width, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, S, S) to (B, num_classes)."""
        logits: Tensor = self.classifier(self.hidden(self.features(features)))
        return logits


@register_auxiliary("mlp-sr")
def _mlp_sr(context: AuxiliaryContext) -> AuxiliaryNetwork:
    """The spatially reduced MLP as SEDONA re-implements it: its last pool is to 1 from S <= 4 on,
    where the original always pools to 2."""
    pooled = min(_quarter(context.shape.size), 2)
    return MlpAuxiliary(context, num_convs=3, pooled_size=pooled)


@register_auxiliary("mlp")
def _mlp(context: AuxiliaryContext) -> AuxiliaryNetwork:
    return MlpAuxiliary(context, num_convs=0, pooled_size=2)


@register_auxiliary("cnn")
class CnnAuxiliary(AuxiliaryNetwork):
    """Two 3x3 convolutions C to C, pool to 2 x 2, batch norm, linear classifier."""

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        channels, act = context.shape.channels, context.activation
        self.features = nn.Sequential(
            conv_unit(channels, channels, 3, activation=act),
            conv_unit(channels, channels, 3, activation=act),
            nn.AdaptiveAvgPool2d(2),
            nn.BatchNorm2d(channels),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(4 * channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, S, S) to (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(features))
        return logits


@register_auxiliary("cnn5x5")
class WideCnnAuxiliary(AuxiliaryNetwork):
    """Three 5x5 convolutions C to C, mean over space, linear classifier.

    Batch norm and activation follow all convolutions but the last. DGL's counterpart of DNI's
    synthesizers on the CNN of their paper, there with zeros for the last convolution.
    """

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        channels, act = context.shape.channels, context.activation
        self.features = nn.Sequential(
            conv_unit(channels, channels, 5, activation=act, bias=True),
            conv_unit(channels, channels, 5, activation=act, bias=True),
            nn.Conv2d(channels, channels, 5, padding=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, S, S) to (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(features))
        return logits


def _root(x: Tensor) -> Tensor:
    """Return the square root, with zero instead of infinite derivatives of any order at zero.

    Features that are zero for a whole sample are common behind a ReLU.
    """
    positive = x > 0
    return torch.where(positive, x, 1).sqrt() * positive


def similarity_matrix(features: Tensor, *, of_std: bool = True) -> Tensor:
    """Return how alike the samples of a batch are: cosine similarities, (B, B), in [-1, 1].

    Maps, (B, C, H, W), with C > 3 and H > 1 are reduced to the standard deviation over space of
    each channel (unbiased) if ``of_std``; all else is flattened, to x, (B, n). With z = x - mean(x)
    per sample: R_ij = z_i . z_j / ((|z_i| + 1e-8) (|z_j| + 1e-8)).
    """
    if of_std and features.dim() == 4 and features.shape[1] > 3 and features.shape[2] > 1:
        features = _root(features.flatten(2).var(dim=2))
    x = features.flatten(1)
    z = x - x.mean(dim=1, keepdim=True)
    z = z / (_root(z.square().sum(dim=1, keepdim=True)) + 1e-8)
    return (z @ z.T).clamp(-1, 1)


@register_auxiliary("predsim")
class PredSim(AuxiliaryNetwork):
    """Prediction and similarity matching, with a loss of its own.

    The logits come from a linear classifier on pooled features. The loss is

        0.01 CE(logits, y) + 0.99 mean((R(conv(h)) - R(onehot(y)))^2)

    with R of `similarity_matrix` and a 3x3 convolution C to C. It takes no criterion: the published
    loss has no label smoothing.
    """

    similarity_weight = 0.99

    def __init__(self, context: AuxiliaryContext, *, of_std: bool = True) -> None:
        super().__init__()
        self.of_std = of_std
        channels, size = context.shape.channels, context.shape.size
        self.num_classes = context.num_classes
        kernel, pooled = _pool_to(scaled_width(512, context.width_multiplier), context.shape)
        pad = [(k * (out - size // k)) // 2 for k, out in zip(kernel, pooled, strict=True)]
        self.pool = nn.AvgPool2d(kernel, padding=(pad[0], pad[1]))
        self.classifier = nn.Linear(channels * pooled[0] * pooled[1], context.num_classes)
        self.similarity = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, S, S) to (B, num_classes)."""
        logits: Tensor = self.classifier(self.pool(features).flatten(1))
        return logits

    def local_loss(
        self, features: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of prediction and similarity, shape (), and the logits."""
        logits: Tensor = self(features)
        targets = class_shares(labels, self.num_classes).to(features.dtype)
        alike = similarity_matrix(self.similarity(features), of_std=self.of_std)
        difference = alike - similarity_matrix(targets)
        mismatch = difference.square().mean()  # F.mse_loss lacks forward over reverse mode
        weight = self.similarity_weight
        return (1 - weight) * F.cross_entropy(logits, labels) + weight * mismatch, logits


@register_auxiliary("predsim-flat")
def _predsim_flat(context: AuxiliaryContext) -> AuxiliaryNetwork:
    """PredSim whose similarities are of whole maps, not of their standard deviations."""
    return PredSim(context, of_std=False)


def _pool_to(target: int, shape: FeatureShape) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the kernel and the output size that leave at most ``target`` features, if possible.

    Height and width are halved in turn, height first.
    """
    kernel, out = [1, 1], [shape.size, shape.size]
    axis = 0
    while shape.channels * out[0] * out[1] > target and kernel[axis] < shape.size:
        kernel[axis] *= 2
        out[axis] = -(-shape.size // kernel[axis])
        axis = 1 - axis
    return (kernel[0], kernel[1]), (out[0], out[1])
