"""Light networks side by side, and their convolutions, against plain ones, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from sedona_nni.models import FeatureShape
from sedona_nni.searches.sedona.relaxation import MixedAuxiliary
from sedona_nni.teachers.auxiliary import AuxiliaryContext, LightNetworks, build_auxiliary
from sedona_nni.teachers.light_convolution import DepthwiseConv2d, PointwiseConv2d

CHOICES = ("conv2", "conv4", "mlp", "conv1")


@pytest.mark.parametrize("boundaries", [range(1), range(3, 6)])
@pytest.mark.parametrize("expansion", [1, 4])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_candidates_together_are_each_alone(size: int, expansion: int, boundaries: range) -> None:
    """Logits, gradients of features and weights, and running statistics."""
    torch.manual_seed(size)
    shape = FeatureShape(8, size)
    context = AuxiliaryContext(shape, 3, width_multiplier=0.05, expansion=expansion)
    mixed = MixedAuxiliary(dict.fromkeys(CHOICES, context), boundaries).double()
    number = len(boundaries)
    alone = [[mixed.candidate(i, name) for name in CHOICES] for i in boundaries]
    b = torch.rand(number, len(CHOICES), dtype=torch.float64)
    features = torch.randn(number, 5, 8, size, size, dtype=torch.float64)
    together, apart = (features.clone().requires_grad_() for _ in range(2))
    cotangent = torch.randn(number, 5, 3, dtype=torch.float64)

    got = mixed(list(together), b)
    expected = torch.stack(
        [
            sum(share * network(one) for share, network in zip(shares, networks, strict=True))
            for one, shares, networks in zip(apart, b, alone, strict=True)
        ]
    )
    # Grouped kernels and single ones add up in different orders, and each processor in its own
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)

    (got * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    torch.testing.assert_close(together.grad, apart.grad, rtol=1e-7, atol=1e-10)
    gradients = {name: p.grad for name, p in mixed.named_parameters() if p.grad is not None}
    for i, networks in zip(boundaries, alone, strict=True):
        for name, network in zip(CHOICES, networks, strict=True):
            own = mixed.of_candidate(gradients, i, name)
            for key, parameter in network.named_parameters():
                torch.testing.assert_close(own[key], parameter.grad, rtol=1e-7, atol=1e-10)
            statistics = mixed.of_candidate(dict(mixed.named_buffers()), i, name)
            for key, buffer in network.named_buffers():
                torch.testing.assert_close(statistics[key], buffer, rtol=1e-8, atol=1e-10)


def test_drawing_many_draws_as_one_by_one() -> None:
    context = AuxiliaryContext(FeatureShape(8, 4), 3, width_multiplier=0.05)
    torch.manual_seed(0)
    mixed = MixedAuxiliary(dict.fromkeys(CHOICES, context), range(2))
    after = torch.rand(1)
    torch.manual_seed(0)
    for i, name in itertools.product(range(2), CHOICES):
        expected = build_auxiliary(name, context).state_dict()
        got = mixed.candidate(i, name).state_dict()
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert torch.equal(torch.rand(1), after)


def test_the_deepest_comes_first() -> None:
    networks = LightNetworks(AuxiliaryContext(FeatureShape(8, 4), 3), [1, 3, 2])
    assert networks.depths == (3, 2, 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_depthwise_convolution(size: int, stride: int) -> None:
    torch.manual_seed(size)
    fast = DepthwiseConv2d(3, stride).double()
    check(fast, nn.Conv2d(3, 3, 3, stride, padding=1, groups=3, bias=False).double(), size)


def test_depthwise_convolution_is_trained_after_it_was_judged() -> None:
    """What it keeps of its first call must not be a tensor that only inference may use."""
    bf16 = torch.bfloat16  # which no other test has asked for before
    convolution, features = DepthwiseConv2d(3).to(bf16), torch.randn(2, 3, 2, 2, dtype=bf16)
    with torch.inference_mode():
        convolution(features)
    convolution(features).sum().backward()
    assert convolution.weight.grad is not None


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_pointwise_convolution(size: int, groups: int) -> None:
    torch.manual_seed(size)
    fast = PointwiseConv2d(4, 6, groups).double()
    check(fast, nn.Conv2d(4, 6, 1, groups=groups, bias=False).double(), size)


def check(fast: nn.Conv2d, plain: nn.Conv2d, size: int) -> None:
    plain.load_state_dict(fast.state_dict())
    features = torch.randn(2, fast.in_channels, size, size, dtype=torch.float64)
    results = []
    for convolution in (fast, plain):
        leaf = features.clone().requires_grad_()
        out = convolution(leaf)
        out.sin().sum().backward()
        results.append((out, leaf.grad, convolution.weight.grad))
    for got, expected in zip(*results, strict=True):
        # A product of matrices, or sums written out, against torch's kernels
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
