"""SEDONA's light convolutional networks, ``conv1``, ``conv2`` and so on, of any depth.

Notation:
    C, H, W channels, height and width of the features at the boundary
    F       width that the networks classify from, 512 at width multiplier 1
    e       expansion ratio of the inner blocks, a property of the backbone
    p       working width, C // e
Sources: Pyeon et al., ICLR 2021; Sandler et al., CVPR 2018 (inverted residuals).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.models import Activation, scaled_width
from sedona_nni.models.placement import lay_out
from sedona_nni.teachers.auxiliary.network import AUXILIARY, AuxiliaryContext, AuxiliaryNetwork
from sedona_nni.teachers.light_convolution import DepthwiseConv2d, PointwiseConv2d
from sedona_nni.teachers.pooled_unit import pooled_unit

__all__ = ["ConvAuxiliary", "LightNetworks"]


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


class _FromEach(PointwiseConv2d):
    """1x1 convolutions of the features at each of several boundaries, a list, to their networks.

    Channels that come out are ordered by network, then by boundary.
    """

    def __init__(self, in_channels: int, width: int, networks: int, boundaries: int) -> None:
        super().__init__(in_channels, networks * boundaries * width)
        self.form = (networks, boundaries, width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """Map (B, C, H, W) each to (B, networks * boundaries * width, H, W)."""
        if len(features) == 1:
            return super().forward(features[0])
        networks, _, width = self.form
        of_boundary = self.weight.view(*self.form, -1).unbind(1)
        pixels = [
            F.linear(each.permute(0, 2, 3, 1), weight.flatten(0, 1)).unflatten(
                -1, (networks, width)
            )
            for each, weight in zip(features, of_boundary, strict=True)
        ]
        return torch.stack(pixels, -2).flatten(-3).permute(0, 3, 1, 2)


class LightNetworks(nn.Module):
    """SEDONA's light convolutional networks of several depths at boundaries of one shape.

    Each has a stem (1x1 convolution C to p, depthwise 3x3 of stride 2), depth - 1 inverted residual
    blocks, a 1x1 convolution to F, mean over space and a linear classifier. Every second block
    halves the map once more, if it has 2 pixels or more in height or width, and widens it by p // 2
    (by p if e = 1).
    The paper's release keeps ReLU inside the blocks whatever the activation; here all follow it,
    in release mode, too.

    What the networks have in common in structure is computed together, by grouped convolutions on
    the networks' channels one after the other, and batch norms over all of them. No value of one
    depends on another, so it is the same as one after the other in a fraction of the time. The
    deepest come first, so that those which go on are always the first channels; those of a depth
    are in the order of their boundaries.

    Attributes:
        depths: Depth of the networks of each boundary, from the deepest to the shallowest, each 1
            or more.
        boundaries: At how many boundaries they stand.
    """

    def __init__(
        self, context: AuxiliaryContext, depths: Sequence[int], boundaries: int = 1
    ) -> None:
        super().__init__()
        self.depths = tuple(sorted(depths, reverse=True))
        self.boundaries = boundaries
        e, act = context.expansion, context.activation
        p = max(1, context.shape.channels // e)
        stem = _FromEach(context.shape.channels, p, len(depths), boundaries)
        self.stem = nn.Sequential(
            _unit(stem, act), _unit(DepthwiseConv2d(stem.out_channels, stride=2), act)
        )
        widths = [p]
        size = max(context.shape.height, context.shape.width) // 2
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
            _unit(
                PointwiseConv2d(boundaries * widths[depth - 1], boundaries * final, boundaries), act
            )
            for depth in self.depths
        )
        self.classifiers = nn.ModuleList(
            nn.Linear(final, context.num_classes) for _ in range(len(self.depths) * boundaries)
        )

    def _deeper_than(self, depth: int) -> int:
        return self.boundaries * sum(own > depth for own in self.depths)

    def forward(self, features: Sequence[Tensor]) -> list[list[Tensor]]:
        """Map (B, C, H, W) of each boundary to logits, (B, classes).

        Returns:
            Of each depth, in the order of ``depths``, those at each boundary.
        """
        # Depthwise convolutions and narrow batch norms are several times faster in this layout
        x = self.stem([lay_out(each) for each in features])
        logits: list[list[Tensor]] = []
        for depth in range(1, self.depths[0] + 1):
            width = self.boundaries * x.shape[1] // self._deeper_than(depth - 1)
            going_on = self._deeper_than(depth) // self.boundaries
            # The shallow ones come first
            for position, part in reversed([*enumerate(x.split(width, dim=1))][going_on:]):
                pooled = pooled_unit(cast(nn.Sequential, self.tails[position]), part)
                first = position * self.boundaries
                logits.append(
                    [
                        self.classifiers[first + at](each)
                        for at, each in enumerate(pooled.chunk(self.boundaries, dim=1))
                    ]
                )
            if going_on:
                x = self.blocks[depth - 1](x[:, : going_on * width])
        return logits[::-1]

    def of_one(
        self, tensors: Mapping[str, Tensor], position: int, boundary: int = 0
    ) -> dict[str, Tensor]:
        """Return what belongs to one of the networks, named as if it stood alone.

        Args:
            tensors: By their names in this module: parameters, buffers, gradients ...
            position: Of which depth, as in ``depths``.
            boundary: At which of the boundaries.

        Returns:
            Views of the tensors.
        """
        own = {}
        network = position * self.boundaries + boundary
        for name, tensor in tensors.items():
            part, index, *rest = name.split(".")
            networks, which = self._deeper_than(0), network
            if part == "classifiers":
                if int(index) == network:
                    own[".".join([part, "0", *rest])] = tensor
                continue
            if part == "tails":
                if int(index) != position:
                    continue
                networks, which = self.boundaries, boundary
                name = ".".join([part, "0", *rest])
            elif part == "blocks":
                networks = self._deeper_than(int(index) + 1)
            if which < networks:
                shared = tensor.dim() == 0  # number of batches seen
                own[name] = tensor if shared else tensor.chunk(networks)[which]
        return own


class ConvAuxiliary(AuxiliaryNetwork):
    """One light convolutional network of depth d >= 1 (``conv1``, ``conv2``, ...)."""

    def __init__(self, context: AuxiliaryContext, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.light = LightNetworks(context, [depth])

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, num_classes)."""
        ((logits,),) = self.light([features])
        return cast(Tensor, logits)


def _of_depth(depth: int) -> Callable[[AuxiliaryContext], AuxiliaryNetwork]:
    return partial(ConvAuxiliary, depth=depth)


AUXILIARY.add_family("conv", _of_depth, listed=range(1, 5), rest="a deeper convN")
