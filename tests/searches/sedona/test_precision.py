"""What the search computes in float32, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sedona_nni.data.batches import Batch
from sedona_nni.models import Activation, build_backbone
from sedona_nni.searches.sedona.hypergradient import Hypergradient, hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.release_mode import ReleaseProblem, release_hypergradient
from sedona_nni.teachers.losses import LabelSmoothing

Problem = tuple[InnerProblem, list[Batch]]


def problem(
    backbone: str,
    dtype: torch.dtype,
    *,
    kind: type[InnerProblem] = InnerProblem,
    activation: Activation = nn.ReLU,
    width: float = 0.1,
    batch_size: int = 16,
) -> Problem:
    torch.manual_seed(0)
    built = build_backbone(backbone, num_classes=10, width_multiplier=width, activation=activation)
    for part in built.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # masks are other ones in another precision
    network = RelaxedNetwork(built, ["conv1"])
    batches = [
        (torch.randn(batch_size, 3, 32, 32).to(dtype), torch.randint(10, (batch_size,)))
        for _ in range(3)
    ]
    return kind(network.to(dtype), Sgd(0.9, 1e-4), LabelSmoothing(0.1)), batches


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def relaxed_step_error() -> float:
    single, double = (
        problem("dgl-cnn4", dtype, batch_size=64, width=0.25)
        for dtype in (torch.float32, torch.float64)
    )
    got, expected = (
        p.gradient(p.state(), batches[0], seed=0)[1] for p, batches in (single, double)
    )
    return float(((got - expected).abs() / expected.abs().clamp(min=1)).max())


def test_running_statistics_of_a_relaxed_step() -> None:
    """65,536 numbers per channel at the bottom, of whose statistics a tenth is taken in: rounding
    leaves 3e-7, three times that is for other kernels. Torch's sums leave 3e-6."""
    assert relaxed_step_error() < 8e-7


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("mode", ["default", "release"])
@pytest.mark.parametrize("backbone", ["vgg11", "resnet18"])
@pytest.mark.parametrize(
    ("activation", "bound"),
    [
        # Without kinks only rounding is left: 1e-6 to 3e-5, and other kernels round otherwise
        pytest.param(nn.Softplus, 5e-4, id="smooth"),
        # Of a few thousand ReLUs one or the other changes its sign, and each is a jump, the larger
        # the fewer there are
        pytest.param(nn.ReLU, 1e-1, id="relu"),
    ],
)
def test_hypergradient(backbone: str, activation: Activation, bound: float, mode: str) -> None:
    def compute(dtype: torch.dtype) -> Tensor:
        kind = ReleaseProblem if mode == "release" else InnerProblem
        p, (*train, validation) = problem(backbone, dtype, kind=kind, activation=activation)
        function = release_hypergradient if mode == "release" else hypergradient
        found: Hypergradient = function(
            p, p.state(), train, validation, lrs=[0.01] * len(train), seed=0
        )
        return torch.cat([found.alpha, found.beta], dim=1)

    assert error(compute(torch.float32), compute(torch.float64)) < bound
