"""Layers that a search cannot differentiate through are named; odd ones that it can are right."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from relaxed_reference import NUM_CLASSES
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, BackboneContext, FeatureShape, Layer
from sedona_nni.searches.sedona import layer_check
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.layer_check import check_layers
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.teachers.losses import LabelSmoothing


def network(*odd: nn.Module) -> RelaxedNetwork:
    """Three layers; the second is made of odd parts that keep (B, 4, 6, 6)."""
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus()),
        nn.Sequential(nn.Conv2d(4, 4, 1), *odd),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus()),
    ]
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, NUM_CLASSES))
    context = BackboneContext(
        NUM_CLASSES, image_size=6, width_multiplier=0.01, activation=nn.Softplus
    )
    shape = FeatureShape(4, 6)
    named = [Layer(f"layer {i}", layer, shape) for i, layer in enumerate(layers)]
    return RelaxedNetwork(Backbone("odd", named, head, context), ["conv1", "mlp"])


def problem(*odd: nn.Module) -> InnerProblem:
    return InnerProblem(network(*odd), Sgd(0.9, 0.01), LabelSmoothing(0.1))


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features)


def warped(x: Tensor) -> Tensor:
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), [*x.shape], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


class Elsewhere(nn.Conv2d):
    """Keeps its weight in a list, too, and reads it there."""

    def __init__(self) -> None:
        super().__init__(4, 4, 1)
        self.kept = [self.weight]

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.kept[0], self.bias)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        rows, _ = self.rnn(features.flatten(2).mT)
        out: Tensor = rows.mT.reshape(features.shape)
        return out


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.seen += len(features)
        return features * 1


class Alternating(nn.Module):
    """Counts in Python, where nobody sees it."""

    calls = 0

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        return features * (1 + self.calls % 2)


class _Cube(torch.autograd.Function):
    """With no forward derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * 3 * x**2


class _WrongCube(_Cube):
    """With a wrong one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_forward(x)
        return _Cube.forward(ctx, x)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return tangent * x**2


def unsettled(module: nn.Module) -> nn.Module:
    """Let a power iteration begin anew: some weights have it end, to the bit, before it is used."""
    for buffer in module.buffers():
        buffer.copy_(torch.eye(len(buffer))[0])
    return module


REFUSED: dict[str, tuple[Callable[[], list[nn.Module]], str]] = {
    "no forward derivative": (
        lambda: [nn.Sequential(nn.ReLU(), Lambda(warped))],
        r"layers\.1\.1\.1 \(Lambda: grid_sampler_2d has no forward derivative\)",
    ),
    "no second derivative": (
        lambda: [Lambda(lambda x: F.gumbel_softmax(x, dim=1))],
        r"layers\.1\.1 \(Lambda: .* modified by an inplace operation",
    ),
    "weights that are not read where they are registered": (
        lambda: [nn.Sequential(Elsewhere())],
        r"layers\.1\.1\.0 \(Elsewhere: its forward derivative is not that of its backward pass\)",
    ),
    "a function of the user's without forward derivative": (
        lambda: [Lambda(lambda x: _Cube.apply(x))],
        r"layers\.1\.1 \(Lambda: .*jvp",
    ),
    "a function of the user's with a wrong one": (
        lambda: [Lambda(lambda x: _WrongCube.apply(x))],
        r"layers\.1\.1 \(Lambda: its forward derivative is not that of its backward pass\)",
    ),
    "something else each time": (
        lambda: [Alternating()],
        r"layers\.1\.1 \(Alternating: with dual numbers it computes something else\)",
    ),
    "a counter": (
        lambda: [Counter()],
        r"layers\.1\.1\.seen \(a buffer that training changes, and no statistic",
    ),
    "spectral norm": (
        lambda: [unsettled(parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)))],
        r"layers\.1\.1\.parametrizations\.weight\.0\._u \(a buffer that training changes",
    ),
    "an instance norm with statistics": (
        lambda: [nn.InstanceNorm2d(4, track_running_stats=True)],
        r"layers\.1\.1\.running_mean \(a buffer that training changes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_differentiated_is_named(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(InputError) as raised:
        check_layers(problem(*build()))
    text = str(raised.value)
    assert text.startswith("backbone: sedona cannot differentiate through the training of ")
    assert text.endswith("; probe and the other searches need not")
    assert "\n" not in text
    assert re.search(message, text), text


def test_a_layer_that_writes_into_what_it_is_given() -> None:
    broken = network()
    broken.backbone.layers[1] = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
    broken.backbone.layers[0].append(nn.BatchNorm2d(4))  # else nothing is below zero
    given = InnerProblem(broken, Sgd(), LabelSmoothing())
    with pytest.raises(InputError, match=r"layers\.1 \(it writes into what it is given\)"):
        check_layers(given)


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.BatchNorm2d(4, momentum=None), "layers.1.1: batch norms must have a momentum"),
        (
            nn.BatchNorm2d(4, track_running_stats=False),
            "layers.1.1: batch norms must keep running statistics",
        ),
    ],
)
def test_a_norm_whose_statistics_are_no_moving_averages(norm: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        problem(norm)


def test_weights_of_another_type() -> None:
    with pytest.raises(InputError, match=r"layers\.1\.1\.weight: weights must be of torch.float32"):
        problem(nn.Conv2d(4, 4, 1).double())


def test_a_search_is_refused_before_its_first_step() -> None:
    settings = SearchSettings(pretrain_steps=1, meta_steps=1, memory_size=1)
    search = Search(network(Lambda(warped)), settings)
    with pytest.raises(InputError, match="grid_sampler_2d"):
        search.advance(iter([]), iter([]))  # no batch is asked for
    assert search.step == 0


def test_nothing_is_changed() -> None:
    given = problem(nn.BatchNorm2d(4), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in given.network.state_dict().items()}
    generator = torch.get_rng_state()
    check_layers(given)
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in given.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(weight.requires_grad for weight in given.weights.tensors.values())


def test_a_derivative_that_is_differentiated_wrongly_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch's own of layer norm is."""
    given = problem(nn.Sequential(nn.Softplus(), nn.LayerNorm(6)))
    check_layers(given)
    monkeypatch.setattr(layer_check, "DualOperators", nullcontext)
    with pytest.raises(InputError, match=r"1\.1\.1 \(LayerNorm: .* is differentiated wrongly\)"):
        check_layers(given)


class FrozenNorm(nn.BatchNorm2d):
    """Stays in evaluation mode, as in fine-tuning."""

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(False)
        return self


class NormAndActivation(nn.BatchNorm2d):
    """A norm with more in its forward pass, as timm's are."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        normalised = F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return F.softplus(normalised) * 2


class Tied(nn.Module):
    """One weight in two modules, and once more by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.other.weight = self.one.weight

    def forward(self, features: Tensor) -> Tensor:
        hidden = torch.tanh(self.one(features))
        out: Tensor = self.other(hidden) + F.conv2d(features, self.other.weight)
        return out


class Counted(nn.Module):
    """A weight that is no number to be trained, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.tensor([2, 0, 3, 1]), requires_grad=False)
        self.scale = nn.Parameter(torch.rand(4, 1, 1), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return features[:, self.order] * self.scale


ODD: dict[str, Callable[[], nn.Module]] = {
    "norm without affine": lambda: nn.BatchNorm2d(4, affine=False),
    "frozen norm": lambda: FrozenNorm(4),
    "norm and activation": lambda: NormAndActivation(4),
    "tied weights": Tied,
    "frozen weights": Counted,
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
    "in place": lambda: nn.Sequential(
        nn.BatchNorm2d(4), nn.SiLU(inplace=True), nn.Dropout(0.2, inplace=True)
    ),
    "attention": lambda: Attention(),
    "a recurrent net": Recurrent,
}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu")

    def forward(self, features: Tensor) -> Tensor:
        tokens: Tensor = self.layer(features.flatten(2).mT)
        return tokens.mT.reshape(features.shape)


@pytest.mark.parametrize("name", ODD)
def test_the_hypergradient_through_an_odd_layer(name: str) -> None:
    """Against five-point differences of the library's own meta loss, in float64."""
    torch.manual_seed(0)
    given = network(ODD[name](), nn.Softplus()).double()
    with torch.no_grad():
        given.alpha.normal_()
        given.beta.normal_()
    inner = InnerProblem(given, Sgd(0.9, 0.01), LabelSmoothing(0.1))
    check_layers(inner)
    start = inner.state()

    def batch() -> tuple[Tensor, Tensor]:
        return torch.randn(5, 3, 6, 6, dtype=torch.float64), torch.randint(NUM_CLASSES, (5,))

    train, validation = [batch(), batch()], batch()
    found = hypergradient(inner, start, train, validation, lrs=[0.05] * len(train), seed=0)
    centre = [given.alpha.detach().clone(), given.beta.detach().clone()]
    direction = [torch.randn_like(part) for part in centre]
    step, values = 1e-3, []
    for factor in (-2, -1, 1, 2):
        with torch.no_grad():
            given.alpha.copy_(centre[0] + factor * step * direction[0])
            given.beta.copy_(centre[1] + factor * step * direction[1])
        state = start
        for t, images in enumerate(train):
            state, _ = inner.step(state, images, 0.05, t)
        values.append(float(inner.validation(state, validation)[0]))
    difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    slope = (found.alpha * direction[0]).sum() + (found.beta * direction[1]).sum()
    assert abs(difference) > 1e-6
    assert float(slope) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("name", ["norm without affine", "frozen norm", "norm and activation"])
def test_steps_and_validation_compute_what_the_network_does(name: str) -> None:
    inner = problem(ODD[name]())
    backbone, state = inner.network.backbone, inner.state()
    images, labels = torch.randn(5, 3, 6, 6), torch.zeros(5, dtype=torch.long)
    after, losses = inner.step(state, (images, labels), 0.1, 0)
    # Sums are in another order here than there
    loss, *_ = inner.validation(after, (images, labels))
    torch.testing.assert_close(loss, inner.criterion(backbone.eval()(images), labels).detach())
    inner.load(state)
    torch.testing.assert_close(
        losses[-1], inner.criterion(backbone.train()(images), labels).detach()
    )
    followed = any(each.startswith("backbone.layers.1.") for each in inner.statistics.names)
    assert followed == (name != "frozen norm")


def test_frozen_weights_stay_as_they_are() -> None:
    inner = problem(Counted())
    frozen = inner.network.backbone.layers[1][1]
    order, scale = frozen.order.clone(), frozen.scale.clone()
    images, labels = torch.randn(5, 3, 6, 6), torch.zeros(5, dtype=torch.long)
    state, _ = inner.step(inner.state(), (images, labels), 0.1, 0)
    inner.load(state)
    assert torch.equal(frozen.order, order)
    assert torch.equal(frozen.scale, scale)
    assert not frozen.scale.requires_grad
