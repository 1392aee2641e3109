"""The relaxed network: every boundary is a little cut and a little open.

Notation (L layers, C auxiliary choices, B batch size):
    h_i      output of layer i
    alpha    (L-1, 2); a_i = softmax(alpha_i) = (a_i^loc, a_i^up)
    beta     (L-1, C); b_i = softmax(beta_i)
    l_i      CE(sum_c b_ic aux_ic(h_i), y), the local loss at boundary i
    G_i      a_i^loc l_i + a_i^up G_{i+1}, and G_{L-1} = CE(head(h_{L-1}), y)

Layer i learns from dG_i/dw_i, the auxiliary networks at boundary i from their own unscaled l_i.
With one-hot a_i this is a decoupled network: a_i^up = 0 is a cut, a_i^loc = 0 is none.

The forward pass needs no mixing of losses. The *values* that pass a boundary are untouched, and
only what is *learned* through it is scaled: by a_i^loc on the way to the auxiliary networks, by
a_i^up on the way to layer i+1. Such a place is a gradient valve. The sum of all local losses and
the final loss then has exactly the gradients above, with no product over boundaries to underflow.
Source: Pyeon et al., "SEDONA", ICLR 2021, section 3; the valves are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from sedona_nni.errors import InputError
from sedona_nni.models import Backbone
from sedona_nni.models.placement import lay_out
from sedona_nni.teachers.auxiliary import (
    AuxiliaryContext,
    AuxiliaryNetwork,
    ConvAuxiliary,
    LightNetworks,
    OnMaps,
    Teacher,
    auxiliary_context,
    build_auxiliary,
)

__all__ = [
    "MixedAuxiliary",
    "RelaxedNetwork",
    "Valve",
    "check_candidates",
    "gradient_valve",
    "slopes",
    "tangent_valve",
]

_TOGETHER = 2**14
"""Numbers of an image's maps, at most, that the candidates of several boundaries share."""

Valve = Callable[[Tensor, Tensor], Tensor]
"""(features, scale) -> features: values pass unchanged, what is learned through them is scaled."""


class _GradientValve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return features.view_as(features)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradient * scale, None


def gradient_valve(features: Tensor, scale: Tensor) -> Tensor:
    """Return ``features``; the gradient that comes back through them is multiplied by ``scale``.

    For first-order training. Differentiating the resulting gradients a second time would be wrong,
    and raises: the second reverse pass crosses the valve once more on its way to the features'
    *values*, which depend on the weights below with no scale at all. See `tangent_valve`.

    Args:
        features: Any shape.
        scale: Shape ().
    """
    result: Tensor = _GradientValve.apply(features, scale)
    return result


def tangent_valve(features: Tensor, scale: Tensor) -> Tensor:
    """Return dual ``features`` whose tangent is multiplied by ``scale``: the adjoint of the above.

    Inside ``torch.autograd.forward_ad.dual_level()``. The result is an ordinary differentiable
    function of the features' values, their tangents and the scale, so reverse mode through it is
    exact.
    """
    value, tangent = forward_ad.unpack_dual(features)
    return features if tangent is None else forward_ad.make_dual(value, tangent * scale)


def check_candidates(backbone: Backbone, aux_choices: Iterable[str]) -> None:
    """Check that auxiliary networks can stand at every boundary, and be mixed there.

    Args:
        backbone: Made under ``torch.device("meta")``.
        aux_choices: Their names.

    Raises:
        InputError: if one cannot.
    """
    for name in aux_choices:
        boundaries = range(backbone.num_layers - 1)
        for context in {auxiliary_context(backbone, i, name): None for i in boundaries}:
            with torch.device("meta"):
                network = build_auxiliary(name, context)
            _check_mixable(name, network.network if isinstance(network, OnMaps) else network)


def _check_mixable(name: str, network: AuxiliaryNetwork) -> None:
    has_own = type(network).local_loss is not AuxiliaryNetwork.local_loss
    if has_own or (isinstance(network, Teacher) and network.sees()):
        rule = "must learn from its logits alone to be mixed with others in a search"
        raise InputError.rule("aux", rule, name)


class MixedAuxiliary(nn.Module):
    """All C auxiliary candidates at some boundaries of one shape: sum_c b_c aux_c(h) at each.

    The light convolutional networks among them are computed together, see
    `auxiliary.LightNetworks`.

    Args:
        contexts: Where the candidates stand, by their names.
        boundaries: The boundaries' numbers, one after another.

    Raises:
        InputError: if one of them has a loss of its own, of which its logits are only a part.
    """

    def __init__(self, contexts: Mapping[str, AuxiliaryContext], boundaries: range) -> None:
        super().__init__()
        self.aux_choices = aux_choices = tuple(contexts)
        self.contexts = dict(contexts)
        self.boundaries = boundaries
        # A `Teacher` takes features as they cross, others are given them as maps
        self.shape = next(iter(contexts.values())).shape
        on_maps = replace(next(iter(contexts.values())), shape=self.shape.maps, around=None)
        drawn = [
            {
                name: build_auxiliary(name, on_maps if context.around is None else context)
                for name, context in contexts.items()
            }
            for _ in boundaries
        ]
        for name, network in drawn[0].items():
            _check_mixable(name, network)
        depths = {
            name: network.depth
            for name, network in drawn[0].items()
            if isinstance(network, ConvAuxiliary)
        }
        self.light_choices = sorted(depths, key=lambda name: depths[name], reverse=True)
        self.others = nn.ModuleList(
            nn.ModuleDict({name: each[name] for name in aux_choices if name not in depths})
            for each in drawn
        )
        self.light: LightNetworks | None = None
        if depths:
            with torch.random.fork_rng([]):  # these weights are not used
                self.light = LightNetworks(on_maps, list(depths.values()), len(boundaries))
        for boundary, networks in zip(boundaries, drawn, strict=True):
            for name in depths:
                weights = networks[name].state_dict()
                for key, own in self.of_candidate(self.state_dict(), boundary, name).items():
                    own.copy_(weights[key])

    def forward(self, features: Sequence[Tensor], b: Tensor) -> Tensor:
        """Return the mixed logits at each boundary, (boundaries, B, classes).

        Args:
            features: What crosses each of the boundaries.
            b: Shape (boundaries, C).
        """
        return torch.einsum("gc,cgnk->gnk", b, self.each(features))

    def each(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits of every candidate at each boundary, (C, boundaries, B, classes)."""
        maps = [self.shape.as_maps(each) for each in features]
        logits: dict[str, list[Tensor]] = {}
        for one, crossing, networks in zip(maps, features, self.others, strict=True):
            for name, network in cast(nn.ModuleDict, networks).items():
                given = one if self.contexts[name].around is None else crossing
                logits.setdefault(name, []).append(network(given))
        if self.light is not None:
            logits |= zip(self.light_choices, self.light(maps), strict=True)
        return torch.stack([torch.stack(logits[c]) for c in self.aux_choices])

    def behind(self, valve: Valve, features: Sequence[Tensor], a: Tensor) -> list[Tensor]:
        """Return what crosses the boundaries behind a valve each, with a^loc of a, (L-1, 2)."""
        return [valve(each, a[i, 0]) for i, each in zip(self.boundaries, features, strict=True)]

    def own(self, rows: Tensor) -> Tensor:
        """Return those of the rows, one per boundary of the network, that are the boundaries'."""
        return rows[self.boundaries.start : self.boundaries.stop]

    def of_candidate(
        self, tensors: Mapping[str, Tensor], boundary: int, name: str
    ) -> dict[str, Tensor]:
        """Return what belongs to one candidate, named as in the candidate alone.

        Args:
            tensors: By their names in this module: parameters, buffers, gradients ...
            boundary: One of ``boundaries``.
            name: The candidate's name, one of ``aux_choices``.

        Returns:
            The tensors, or views of them.
        """
        at = self.boundaries.index(boundary)
        prefix = "light." if name in self.light_choices else f"others.{at}.{name}."
        inside = {
            key.removeprefix(prefix): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        if self.light is None or name not in self.light_choices:
            return inside
        own = self.light.of_one(inside, self.light_choices.index(name), at)
        return {f"light.{key}": tensor for key, tensor in own.items()}

    def candidate(self, boundary: int, name: str) -> AuxiliaryNetwork:
        """Return a copy of one candidate, with its present weights."""
        with torch.random.fork_rng([]):
            network = build_auxiliary(name, self.contexts[name]).to(next(self.parameters()))
        inner = network.network if isinstance(network, OnMaps) else network
        inner.load_state_dict(self.of_candidate(self.state_dict(), boundary, name))
        return network


class RelaxedNetwork(nn.Module):
    """A backbone with every auxiliary candidate at every boundary, and the logits (alpha, beta).

    Attributes:
        backbone: The backbone; it is trained, too.
        aux_choices: Names of the C auxiliary candidates.
        auxiliaries: The candidates, of boundaries of equal shape in one module; boundaries are in
            their order. Small maps only are computed together: what is gained are calls.
        alpha: Shape (L-1, 2), starts at 0 (column 0: local loss, i.e. cut; column 1: upstream).
        beta: Shape (L-1, C), starts at 0.

    Examples:
        >>> import torch
        >>> from sedona_nni import RelaxedNetwork, build_backbone
        >>> backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
        >>> network = RelaxedNetwork(backbone, ["conv1", "mlp"])
        >>> network.a[0].tolist(), network.b.shape
        ([0.5, 0.5], torch.Size([7, 2]))
    """

    def __init__(self, backbone: Backbone, aux_choices: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.aux_choices = tuple(aux_choices)
        self.auxiliaries = nn.ModuleList(
            MixedAuxiliary(_contexts(backbone, boundaries[0], aux_choices), boundaries)
            for boundaries in _of_one_shape(backbone, aux_choices)
        )
        self.alpha = nn.Parameter(torch.zeros(backbone.num_layers - 1, 2))
        self.beta = nn.Parameter(torch.zeros(backbone.num_layers - 1, len(aux_choices)))

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what inner steps train: all parameters with gradients but alpha and beta."""
        for name, parameter in self.named_parameters():
            if parameter is self.alpha or parameter is self.beta:
                continue
            if parameter.requires_grad:
                yield name, parameter

    @property
    def mixed(self) -> list[MixedAuxiliary]:
        """The modules of ``auxiliaries``."""
        return [cast(MixedAuxiliary, each) for each in self.auxiliaries]

    def candidate(self, boundary: int, name: str) -> AuxiliaryNetwork:
        """Return a copy of one candidate at a boundary, with its present weights."""
        (mixed,) = (each for each in self.mixed if boundary in each.boundaries)
        return mixed.candidate(boundary, name)

    @property
    def a(self) -> Tensor:
        """The weights of the losses, softmax(alpha), (L-1, 2)."""
        return self.alpha.softmax(1)

    @property
    def b(self) -> Tensor:
        """The weights of the candidates, softmax(beta), (L-1, C)."""
        return self.beta.softmax(1)

    def forward(
        self, images: Tensor, a: Tensor, valve: Valve = gradient_valve
    ) -> tuple[list[Tensor], Tensor]:
        """Send images (B, channels, size, size) up the backbone, through a valve per boundary.

        Args:
            images: Shape (B, channels, size, size).
            a: The valves' scales, as `a` has them, (L-1, 2).
            valve: What stands at the boundaries.

        Returns:
            The features at each boundary, L-1 maps, and the final logits, (B, classes). The local
            logits are the auxiliaries' of ``valve(features[i], a[i, 0])`` at b[i].
        """
        features, at_boundaries = lay_out(images), []
        for layer, to_next in zip(self.backbone.layers, a[:, 1], strict=False):
            features = layer(features)
            at_boundaries.append(features)
            features = valve(features, to_next)
        return at_boundaries, self.backbone.head(self.backbone.layers[-1](features))


def _contexts(
    backbone: Backbone, boundary: int, aux_choices: Sequence[str]
) -> dict[str, AuxiliaryContext]:
    return {name: auxiliary_context(backbone, boundary, name) for name in aux_choices}


def _of_one_shape(backbone: Backbone, aux_choices: Sequence[str]) -> Iterator[range]:
    """Yield boundaries that follow each other and have candidates of one shape."""
    contexts = [_contexts(backbone, i, aux_choices) for i in range(backbone.num_layers - 1)]
    start = 0
    for alike, group in itertools.groupby(contexts):
        end = start + len(list(group))
        maps = next(iter(alike.values())).shape.maps
        most = max(1, _TOGETHER // (maps.channels * maps.height * maps.width))
        for first in range(start, end, most):
            yield range(first, min(first + most, end))
        start = end


def slopes(alpha: Tensor, beta: Tensor, to_alpha: Tensor, to_beta: Tensor) -> Tensor:
    """Return by how much each cut lowers a loss, per share of it and to first order.

    With z_jc = a_j^loc b_jc that is s_jc = - dL/dz_jc, where z_jc grows at the cost of a_j^up:
    a_j^loc by dz and b_j by (e_c - b_j) dz / a_j^loc, so that with g the derivatives by logits

        s_jc = - g_j^alpha / (a_j^loc a_j^up) - g_jc^beta / (a_j^loc b_jc)

    Args:
        alpha: The logits, shape (L-1, 2).
        beta: Likewise, shape (L-1, C).
        to_alpha: dL/d alpha, shape (L-1, 2).
        to_beta: dL/d beta, shape (L-1, C).

    Returns:
        s, in units of the loss, shape (L-1, C), float64.
    """
    a, b = alpha.detach().double().softmax(1), beta.detach().double().softmax(1)
    of_boundary = to_alpha[:, :1].double() / (a[:, :1] * a[:, 1:])
    return -of_boundary - to_beta.double() / (a[:, :1] * b)
