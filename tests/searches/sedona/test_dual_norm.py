"""The adjoint of batch norm on dual numbers, against central differences, in float64."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from sedona_nni.searches.sedona.dual_modules import dual_modules

pytestmark = pytest.mark.usefixtures("kernels_or_none")

SHAPES = [(6, 3), (4, 3, 2, 2), (3, 2, 4, 4)]


def slope(inputs: list[Tensor], tangents: list[Tensor], cotangent: Tensor) -> Tensor:
    """The derivative of <softplus(batch norm), cotangent> along the tangents."""
    features = inputs[0]
    norm = (nn.BatchNorm1d if features.dim() == 2 else nn.BatchNorm2d)(features.shape[1]).double()
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, at the first dual number
        duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)]
        with dual_modules(norm):
            out = functional_call(norm, {"weight": duals[1], "bias": duals[2]}, (duals[0],))
        value, tangent = forward_ad.unpack_dual(out)
        return (torch.sigmoid(value) * tangent * cotangent).sum()


def draw(shape: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    torch.manual_seed(len(shape))
    channels = shape[1]
    shapes = [shape, (channels,), (channels,)]
    inputs = [torch.randn(s, dtype=torch.float64) for s in shapes]
    tangents = [torch.randn(s, dtype=torch.float64) for s in shapes]
    return inputs, tangents, torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_slope_is_the_directional_derivative(shape: tuple[int, ...]) -> None:
    inputs, tangents, cotangent = draw(shape)

    def objective(step: float) -> float:
        features, weight, bias = (
            value + step * tangent for value, tangent in zip(inputs, tangents, strict=True)
        )
        normalised = torch.batch_norm(
            features, weight, bias, None, None, True, 0.1, 1e-5, torch.backends.cudnn.enabled
        )
        return float((nn.functional.softplus(normalised) * cotangent).sum())

    step = 1e-5
    expected = (objective(step) - objective(-step)) / (2 * step)
    assert float(slope(inputs, tangents, cotangent)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint_of_the_slope(shape: tuple[int, ...]) -> None:
    inputs, tangents, cotangent = draw(shape)
    leaves = [value.clone().requires_grad_() for value in inputs]
    feature_tangent = tangents[0].clone().requires_grad_()
    got = torch.autograd.grad(
        slope(leaves, [feature_tangent, *tangents[1:]], cotangent), [*leaves, feature_tangent]
    )

    points = [*inputs, tangents[0]]
    for which, gradient in enumerate(got):
        direction = torch.randn_like(gradient)

        def at(step: float, which: int = which, direction: Tensor = direction) -> float:
            moved = [p + step * direction if i == which else p for i, p in enumerate(points)]
            return float(slope(moved[:3], [moved[3], *tangents[1:]], cotangent))

        step = 1e-5
        expected = (at(step) - at(-step)) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6)
