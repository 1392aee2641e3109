"""What every auxiliary network does, see `sedona_nni.teachers.auxiliary.AuxiliaryNetwork`."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sedona_nni.decouplings.cost import auxiliary_cost, count_parameters
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize
from sedona_nni.models import FeatureShape, build_backbone
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.teachers.auxiliary import (
    Around,
    AuxiliaryContext,
    AuxiliaryNetwork,
    Seen,
    Teacher,
    build_auxiliary,
    is_teacher,
    looks,
    taught,
)
from sedona_nni.teachers.losses import LabelSmoothing

__all__ = ["AuxiliaryNetworkConformance"]

_BATCH, _CLASSES = 4, 3
_CRITERION = LabelSmoothing(0.1)


class AuxiliaryNetworkConformance:
    """The suite for an auxiliary network, in float64 where numbers are compared.

    Attributes:
        name: What it is registered as.
        shapes: Of the features that it is tried on: channels, and height and width as in
            `sedona_nni.image_size`, of maps; or the form of what else crosses boundaries, which the
            network is given as maps. A pixel or two is what deep networks leave of small images, a
            row or a column what they leave of strips.

    Examples:
        >>> from sedona_nni.testing.auxiliary_networks import AuxiliaryNetworkConformance
        >>> class TestConv1(AuxiliaryNetworkConformance):
        ...     name = "conv1"
        >>> TestConv1().test_costs_are_counted()
    """

    name: str
    shapes: Sequence[tuple[int, ImageSize] | FeatureShape] = (
        (4, 1),
        (6, 2),
        (4, 3),
        (8, 4),
        (4, 8),
        (5, (1, 5)),
        (5, (3, 1)),
        (4, (3, 7)),
        FeatureShape(6, (2, 3), "channels-last"),
        FeatureShape(6, (4, 2), "tokens"),
        FeatureShape(6, (2, 4), "tokens", 1),
        FeatureShape(6, (9, 1), "tokens"),
        FeatureShape(8, 1, "vector"),
    )

    def context(self, channels: int = 8, size: ImageSize = 4) -> AuxiliaryContext:
        """Return a place for it, without kinks where it asks for the network's activation."""
        shape = FeatureShape(channels, size)
        return AuxiliaryContext(shape, num_classes=_CLASSES, activation=nn.Softplus)

    def _places(self) -> Iterator[AuxiliaryContext]:
        """Yield a place of each shape."""
        for given in self.shapes:
            if isinstance(given, FeatureShape):
                yield self._told(replace(self.context(given.channels, given.size), shape=given))
            else:
                yield self._told(self.context(*given))

    def _told(self, place: AuxiliaryContext) -> AuxiliaryContext:
        """Return a place with what is around it, where a `Teacher` will stand."""
        return replace(place, around=_around(place.shape)) if is_teacher(self.name) else place

    def build(self, context: AuxiliaryContext | None = None, *, seed: int = 0) -> AuxiliaryNetwork:
        """Return one in float64 and training mode."""
        torch.manual_seed(seed)
        place = context or self._told(self.context())
        return build_auxiliary(self.name, place).double().train()

    def loss(
        self,
        network: AuxiliaryNetwork,
        features: Tensor,
        labels: Tensor,
        place: AuxiliaryContext | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return what a block learns from, and the logits; a `Teacher` is shown noise."""
        around = (place or self._told(self.context())).around
        seen = None if around is None else _noise_seen(around, features)
        return taught(network, features, labels, _CRITERION, seen)

    def test_logits_have_a_row_for_each_image(self) -> None:
        """Whatever the shape of the features, in training and in evaluation."""
        for place in self._places():
            network = self.build(place)
            features, _ = _batch_of(place.shape)
            for mode in (True, False):
                logits = network.train(mode)(features)
                assert logits.shape == (_BATCH, _CLASSES), place.shape
                assert logits.isfinite().all(), place.shape

    def test_the_local_loss_is_a_number_beside_the_logits(self) -> None:
        """Of class numbers, and of shares of classes where images were mixed."""
        for place in self._places():
            network = self.build(place).eval()
            features, labels = _batch_of(place.shape)
            loss, logits = self.loss(network, features, labels, place)
            assert loss.shape == (), place.shape
            assert loss.isfinite(), place.shape
            torch.testing.assert_close(logits, network(features))
            shares = F.one_hot(labels, _CLASSES).double()
            torch.testing.assert_close(self.loss(network, features, shares, place)[0], loss)
            mixed = 0.7 * shares + 0.3 * shares.flip(0)
            assert self.loss(network, features, mixed, place)[0].isfinite()

    def test_gradients_are_derivatives(self) -> None:
        """Of the local loss, with respect to the features and to every weight.

        Of features of other shapes along one direction of all of these.
        """
        loss, inputs = self._loss_of(self._told(self.context()))
        assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
        for place in self._places():
            along = _along_a_line(*self._loss_of(place))
            start = torch.zeros((), dtype=torch.float64, requires_grad=True)
            assert torch.autograd.gradcheck(along, [start]), place.shape

    def _loss_of(self, place: AuxiliaryContext) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """Return the local loss as a function of features and weights, and these."""
        network = _LocalLoss(self, self.build(place), place)
        features, labels = _batch_of(place.shape)
        names, weights = zip(*network.named_parameters(), strict=True)

        def loss(features: Tensor, *values: Tensor) -> Tensor:
            torch.manual_seed(1)  # of dropout
            found: Tensor = functional_call(
                network, dict(zip(names, values, strict=True)), (features, labels)
            )
            return found

        return loss, [each.detach().requires_grad_() for each in (features, *weights)]

    def test_a_search_can_differentiate_through_its_steps(self) -> None:
        """The hypergradient of SEDONA's search is the slope of its meta loss.

        One with a loss of its own is refused there instead.
        """
        torch.manual_seed(0)
        backbone = build_backbone(
            "dgl-cnn4",
            num_classes=_CLASSES,
            width_multiplier=0.0625,
            image_size=8,
            activation=nn.Softplus,
        )
        has_own = type(self.build()).local_loss is not AuxiliaryNetwork.local_loss
        if has_own or looks(self.name):
            with pytest.raises(InputError, match="must learn from its logits alone"):
                RelaxedNetwork(backbone, [self.name])
            return
        network = RelaxedNetwork(backbone, [self.name]).double()
        problem = InnerProblem(network, Sgd(0.9, 1e-4), _CRITERION)
        start = problem.state()
        train, validation = [_batch(3, 8, seed) for seed in (1, 2)], _batch(3, 8, 3)
        found = hypergradient(problem, start, train, validation, lrs=[0.05] * len(train), seed=0)

        def meta_loss(alpha: Tensor) -> float:
            with torch.no_grad():
                network.alpha.copy_(alpha)
            state = start
            for step, batch in enumerate(train):
                state, _ = problem.step(state, batch, 0.05, step)
            return float(problem.validation(state, validation)[0])

        alpha = network.alpha.detach().clone()
        direction = torch.randn_like(alpha)
        slope = (meta_loss(alpha + 1e-3 * direction) - meta_loss(alpha - 1e-3 * direction)) / 2e-3
        expected = float((found.alpha * direction).sum())
        assert abs(slope - expected) <= 1e-4 * max(abs(expected), float(found.alpha.norm()))

    def test_features_and_weights_have_gradients(self) -> None:
        """The block below learns from it, and it learns itself."""
        network = self.build()
        features, labels = _batch(8, 4)
        loss, _ = self.loss(network, features.requires_grad_(), labels)
        loss.backward()
        assert features.grad is not None
        assert features.grad.abs().max() > 0
        for name, weight in network.named_parameters():
            assert (weight.grad is not None) == weight.requires_grad, name

    def test_features_are_left_as_they_are(self) -> None:
        """The block above reads them, too."""
        for place in self._places():
            features, labels = _batch_of(place.shape)
            before = features.clone()
            network = self.build(place)
            network(features)
            self.loss(network, features, labels, place)
            assert torch.equal(features, before), place.shape

    def test_nothing_passes_the_cut(self) -> None:
        """Its loss reaches the block below and itself; the loss above reaches neither."""
        network, images, labels = self._decoupled()
        lower, upper = network.blocks
        below, above = network.features(images)
        lower.local_loss(below, labels, _CRITERION, Seen(images, images))[0].backward()
        assert any(weight.grad is not None for weight in lower.layers.parameters())
        assert all(weight.grad is None for weight in upper.parameters())
        network.zero_grad()
        upper.local_loss(above, labels, _CRITERION)[0].backward()
        assert all(weight.grad is None for weight in lower.parameters())

    def _decoupled(self) -> tuple[DecoupledNetwork, Tensor, Tensor]:
        torch.manual_seed(0)
        backbone = build_backbone(
            "dgl-cnn4", num_classes=_CLASSES, width_multiplier=0.0625, image_size=8
        )
        decoupling = Decoupling(backbone="dgl-cnn4", cuts=[1], aux=[self.name])
        return build_decoupled(backbone, decoupling).double(), *_batch(3, 8)

    def test_weights_are_drawn_from_torchs_generator_alone(self) -> None:
        """So a seed decides them."""
        np_state, state = np.random.get_state(), random.getstate()
        one = self.build(seed=1)
        np.random.seed(1)
        random.seed(1)
        again, other = self.build(seed=1), self.build(seed=2)
        np.random.set_state(np_state)
        random.setstate(state)
        assert _same(one, again)
        assert not _same(one, other)

    def test_evaluation_takes_images_one_by_one(self) -> None:
        """Once it is trained, its logits for an image depend on nothing else, nor on chance."""
        for place in self._places():
            network = self.build(place)
            features, _ = _batch_of(place.shape)
            network(features)  # statistics that are not those at the start
            network.eval()
            expected = network(features)
            assert torch.equal(network(features), expected), place.shape
            for index in range(_BATCH):
                torch.testing.assert_close(network(features[index : index + 1])[0], expected[index])

    def test_a_copy_is_a_network_of_its_own(self) -> None:
        """By `copy.deepcopy`, and by its state, whatever the weights were that take it over."""
        network = self.build()
        features, labels = _batch(8, 4)
        expected = network.eval()(features)
        copied, loaded = copy.deepcopy(network), self.build(seed=5).eval()
        loaded.load_state_dict(network.state_dict())
        for other in (copied, loaded):
            assert torch.equal(other(features), expected)
            self._learn(other.train(), features, labels, steps=1)
            assert torch.equal(network(features), expected)

    def test_it_learns(self) -> None:
        """A batch, when it is shown again and again."""
        network = self.build()
        features, labels = _batch(8, 4)
        losses = self._learn(network, features, labels, steps=40)
        assert losses[-1] < 0.9 * losses[0]

    def test_half_precision(self) -> None:
        """It can be trained in bf16, as the network below is."""
        for place in self._places():
            network = self.build(place).float()
            features, labels = _batch_of(place.shape)
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = self.loss(network, features.float(), labels, place)
            loss.backward()
            assert loss.isfinite(), place.shape

    def test_costs_are_counted(self) -> None:
        """Without memory or arithmetic, and as many weights as there are; otherwise for a block
        that is given something else only where ``reads_inputs`` says so."""
        for place in self._places():
            cost, network = auxiliary_cost(self.name, place), self.build(place)
            assert cost.parameters == count_parameters(network), place.shape
            assert cost.macs >= 0, place.shape
            if isinstance(network, Teacher) and not network.reads_inputs:
                assert place.around is not None
                given = replace(place.around.inputs, channels=place.around.inputs.channels + 4)
                moved = replace(place, around=replace(place.around, inputs=given))
                assert auxiliary_cost(self.name, moved) == cost, place.shape

    def _learn(
        self, network: AuxiliaryNetwork, features: Tensor, labels: Tensor, *, steps: int
    ) -> list[float]:
        """Take steps by Adam; return the losses before each."""
        losses = []
        learning = [weight for weight in network.parameters() if weight.requires_grad]
        optimizer = torch.optim.Adam(learning, lr=0.02)
        for _ in range(steps):
            loss, _ = self.loss(network, features, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if isinstance(network, Teacher):
                network.after_step()
            losses.append(float(loss.detach()))
        return losses


class _LocalLoss(nn.Module):
    """The local loss as a function, whose weights can be given."""

    def __init__(
        self, suite: AuxiliaryNetworkConformance, network: AuxiliaryNetwork, place: AuxiliaryContext
    ) -> None:
        super().__init__()
        self.network = network
        self._of = functools.partial(suite.loss, place=place)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self._of(self.network, features, labels)[0]


class _Above(nn.Module):
    """A layer that leaves the shape of what crosses as it is."""

    def __init__(self, shape: FeatureShape) -> None:
        super().__init__()
        channels = shape.channels
        self.map = (
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
            if shape.layout == "map"
            else nn.Linear(channels, channels)
        )
        self.activation = nn.Softplus()

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.activation(self.map(features))
        return out


def _around(shape: FeatureShape) -> Around:
    """Return a place in a network of four layers, the second of which is below the boundary."""
    inputs = shape.resized(lambda side: 2 * side) if shape.layout == "map" else shape
    return Around(
        boundary=1,
        images=FeatureShape(3, (2 * shape.height, 2 * shape.width)),
        inputs=inputs,
        above=(_Above(shape), _Above(shape)),
        shapes=(inputs, shape, shape, shape),
    )


def _noise_seen(around: Around, features: Tensor) -> Seen:
    generator = torch.Generator().manual_seed(7)
    shapes = (around.images.of_batch(len(features)), around.inputs.of_batch(len(features)))
    shown = (torch.rand(each, dtype=torch.float64, generator=generator) for each in shapes)
    return Seen(*(each.to(features.dtype) for each in shown))


def _along_a_line(
    function: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return the function of how far all inputs are moved, each in a random direction."""
    directions = [torch.randn_like(each) for each in inputs]
    return lambda step: function(*(x + step * d for x, d in zip(inputs, directions, strict=True)))


def _batch(channels: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return maps or images in float64, (B, channels, size, size), and labels, (B,)."""
    return _batch_of(FeatureShape(channels, size), seed)


def _batch_of(shape: FeatureShape, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return features in float64 and labels, (B,)."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(shape.of_batch(_BATCH), dtype=torch.float64, generator=generator)
    return features, torch.arange(_BATCH) % _CLASSES


def _same(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )
