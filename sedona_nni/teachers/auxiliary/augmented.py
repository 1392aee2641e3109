"""AugLocal's auxiliary networks, of layers like those above: ``aug1``, ``aug2`` ...

Notation (L layers of the network, boundary i above layer i, 0 to L-2):
    d        the number in the name: layers of the lowest boundary's network
    d_i      max(1, round(d (1 - f/2) + f/2)), f = min(1, i / (L-2-d)): fewer with height, a pyramid
    n        L - 1 - i layers above the boundary
    j_1...   layers of the network: all above if d_i >= n, else round(i + m n / d_i), m = 1 ... d_i

Each layer is a new one of the form of layer j_m, with weights of its own; mean over space and a
linear classifier follow. So the last is always like the network's last layer. The layers left out
between two of them would have changed the width and the size of the map: where that is missing, a
pooling to the size, and a 1x1 convolution with batch norm, go before the layer. AugLocal's release
builds its residual blocks at the width and the stride that fit instead, and with d_i = 1 has a
batch norm before the classifier.

Source: Ma, Wu, Si and Tan, "Scaling Supervised Local Learning with Augmented Auxiliary Networks",
ICLR 2024, with the release's pyramid coefficient of its commands, 0.5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from sedona_nni.errors import InputError
from sedona_nni.models import FeatureShape, conv_unit
from sedona_nni.teachers.auxiliary.network import AUXILIARY, AuxiliaryContext, Teacher

__all__ = ["AugmentedAuxiliary", "like", "sampled_layers"]

_PYRAMID = 0.5


def sampled_layers(depth: int, boundary: int, num_layers: int) -> list[int]:
    """Return j_1, j_2 ..., indices of layers, from the lowest.

    Args:
        depth: d.
        boundary: i.
        num_layers: L.

    Examples:
        >>> from sedona_nni.teachers.auxiliary.augmented import sampled_layers
        >>> sampled_layers(3, 0, 16), sampled_layers(3, 7, 16), sampled_layers(3, 14, 16)
        ([5, 10, 15], [11, 15], [15])
    """
    height = _PYRAMID * min(1, boundary / max(1, num_layers - 2 - depth))
    own = max(1, round(depth * (1 - height) + height))
    above = num_layers - 1 - boundary
    if own >= above:
        return [*range(boundary + 1, num_layers)]
    return [round(boundary + number * above / own) for number in range(1, own + 1)]


class AugmentedAuxiliary(Teacher):
    """A shorter form of what is above, mean over space, linear classifier."""

    def __init__(self, context: AuxiliaryContext, depth: int) -> None:
        super().__init__()
        around = context.around
        assert around is not None
        crossing = context.shape
        layers: list[nn.Module] = []
        for index in sampled_layers(depth, around.boundary, len(around.shapes)):
            wanted = around.shapes[index - 1]
            if crossing != wanted and not crossing.layout == wanted.layout == "map":
                rule = (
                    f"must not stand at boundary {around.boundary}, where {_in_words(crossing)} "
                    f"crosses and layer {index} takes {_in_words(wanted)}"
                )
                raise InputError.rule("aux", rule, f"aug{depth}")
            layers += _adapters(crossing, wanted)
            layers.append(like(around.above[index - around.boundary - 1]))
            crossing = around.shapes[index]
        self.layers = nn.Sequential(*layers)
        self.shape = crossing
        self.classifier = nn.Linear(crossing.channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map what crosses the boundary to (B, num_classes)."""
        pooled = self.shape.as_maps(self.layers(features)).mean(dim=(2, 3))
        logits: Tensor = self.classifier(pooled)
        return logits


def like(layer: nn.Module) -> nn.Module:
    """Return a layer of the same form; what has a rule of its own to draw weights has drawn."""
    new = copy.deepcopy(layer)
    for part in new.modules():
        part.train()
        reset = getattr(part, "reset_parameters", None)
        if reset is not None and not any(p.is_meta for p in part.parameters(recurse=False)):
            reset()
        for parameter in part.parameters(recurse=False):
            parameter.requires_grad_()
    return new


def _in_words(shape: FeatureShape) -> str:
    return f"{shape.layout} {' x '.join(map(str, shape.of_batch(1)[1:]))}"


def _adapters(crossing: FeatureShape, wanted: FeatureShape) -> list[nn.Module]:
    """Return what makes maps of one shape those of another."""
    adapters: list[nn.Module] = []
    if crossing.size != wanted.size:  # first: the convolution then has less to do
        adapters.append(nn.AdaptiveAvgPool2d((wanted.height, wanted.width)))
    if crossing.channels != wanted.channels:
        adapters.append(conv_unit(crossing.channels, wanted.channels, 1))
    return adapters


def _of_depth(depth: int) -> Callable[[AuxiliaryContext], Teacher]:
    return partial(AugmentedAuxiliary, depth=depth)


AUXILIARY.add_family("aug", _of_depth, listed=range(1, 4), rest="a deeper augN")
