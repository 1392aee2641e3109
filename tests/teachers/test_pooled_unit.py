"""The wide end of light networks, made in pieces, against the plain modules, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from sedona_nni.models import initialise
from sedona_nni.searches.sedona import inner_step
from sedona_nni.searches.sedona.dual_modules import dual_modules
from sedona_nni.teachers import pooled_unit

SHAPES = [  # B, G p, H, W, G F, G
    *[(5, 3, 4, 4, 7, 1), (3, 2, 8, 8, 16, 1), (4, 4, 2, 2, 6, 1)],
    (5, 2, 32, 32, 96, 1),  # in pieces of 2, 2 and 1
    (3, 2, 64, 64, 80, 1),  # of 1 each
    *[(5, 6, 4, 4, 10, 2), (4, 15, 2, 2, 6, 3)],  # the last by its maps
]

Mean = Callable[[nn.Sequential, Tensor], Tensor]


def plain(unit: nn.Sequential, features: Tensor) -> Tensor:
    return unit(features).mean(dim=(2, 3))


def problem(shape: tuple[int, ...]) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(sum(shape))
    batch, channels, height, width, wide, groups = shape
    convolution = nn.Conv2d(channels, wide, 1, groups=groups, bias=False)
    unit = nn.Sequential(convolution, nn.BatchNorm2d(wide), nn.ReLU()).double()
    initialise(unit)
    nn.init.normal_(unit[1].weight)
    nn.init.normal_(unit[1].bias)
    features = 2 + torch.randn(batch, channels, height, width, dtype=torch.float64)
    return unit, features, torch.randn(batch, wide, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_statistics(shape: tuple[int, ...]) -> None:
    def run(mean: Mean) -> list[Tensor]:
        unit, features, cotangent = problem(shape)
        features.requires_grad_()
        pooled = mean(unit, features)
        (pooled * cotangent).sum().backward()
        gradients = [parameter.grad for parameter in unit.parameters()]
        return [pooled.detach(), features.grad, *gradients, *unit.buffers()]

    for got, expected in zip(run(pooled_unit.pooled_unit), run(plain), strict=True):
        # Pieces are added up one after another, whole maps at once
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_slopes_and_their_adjoints(shape: tuple[int, ...]) -> None:
    """With dual numbers: the value, its tangent, and all gradients of a function of both."""
    inner_step.quiet_forward_ad()

    def run(mean: Mean) -> list[Tensor]:
        unit, features, cotangent = problem(shape)
        named = {name: p.detach().requires_grad_() for name, p in unit.named_parameters()}
        tangents = {name: torch.randn_like(p) for name, p in named.items()}
        value = features.requires_grad_()
        tangent = torch.randn_like(features).requires_grad_()

        class Mean(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.unit = copy.deepcopy(unit)

            def forward(self, features: Tensor) -> Tensor:
                return mean(self.unit, features)

        module = Mean()
        with dual_modules(module), forward_ad.dual_level():
            duals = {
                f"unit.{name}": forward_ad.make_dual(p, tangents[name]) for name, p in named.items()
            }
            pooled = functional_call(module, duals, (forward_ad.make_dual(value, tangent),))
            pooled, slope = forward_ad.unpack_dual(pooled)
        total = (torch.sin(pooled) * slope * cotangent).sum()
        gradients = torch.autograd.grad(total, [value, tangent, *named.values()])
        return [pooled.detach(), slope.detach(), *gradients]

    torch.manual_seed(0)
    for got, expected in zip(run(pooled_unit.pooled_unit), run(plain), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


def test_evaluation_uses_the_running_statistics() -> None:
    unit, features, _ = problem(SHAPES[0])
    pooled_unit.pooled_unit(unit, features)  # moves them
    unit.eval()
    torch.testing.assert_close(pooled_unit.pooled_unit(unit, features), plain(unit, features))
