"""Batch norm in parts: that it is batch norm, and that in float32 it loses nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sedona_nni.kernels import batch_norm as compiled
from sedona_nni.models import batch_norm

pytestmark = pytest.mark.usefixtures("kernels_or_none")

# More numbers per channel, M, than are added up at once; of the last but one, M is prime
SHAPES = [(4, 3, 16, 16), (5, 2, 12, 18), (257, 3, 1, 1), (640, 3)]


def problem(shape: tuple[int, ...]) -> tuple[nn.BatchNorm1d | nn.BatchNorm2d, Tensor, Tensor]:
    torch.manual_seed(len(shape) + shape[0])
    norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1]).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = 2 + torch.randn(shape, dtype=torch.float64)
    if len(shape) == 4:
        features = features.contiguous(memory_format=torch.channels_last)
    return norm, features.requires_grad_(), torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_statistics_are_those_of_torch(shape: tuple[int, ...]) -> None:
    def run(*, ours: bool) -> list[Tensor]:
        norm, features, cotangent = problem(shape)
        out = batch_norm.batch_norm(norm, features) if ours else norm(features)
        kind = "Compiled" if compiled.fits(features, norm.weight) else "Blocked"
        assert (kind in out.grad_fn.name()) == ours
        gradients = torch.autograd.grad((out * cotangent).sum(), [features, norm.weight, norm.bias])
        return [out.detach(), *gradients, *norm.buffers()]

    for got, expected in zip(run(ours=True), run(ours=False), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_normalised_is_that_of_torch() -> None:
    _, features, _ = problem(SHAPES[0])
    z, s = batch_norm.normalise(features.detach(), 1e-5)
    expected, _, expected_s = torch.native_batch_norm(
        features.detach(), None, None, None, None, True, 0.0, 1e-5
    )
    torch.testing.assert_close(z, expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(s, expected_s, rtol=1e-11, atol=1e-13)
    assert z.is_contiguous(memory_format=torch.channels_last)


def statistics_error(mean: float) -> float:
    """How far z is from that of float64, in standard deviations, on average.

    Its float32 rounding, about 1e-8, is a part of it.
    """
    torch.manual_seed(0)
    features = (mean + torch.randn(64, 8, 32, 32)).contiguous(memory_format=torch.channels_last)
    expected, expected_s = batch_norm.normalise(features.double(), 1e-5)
    z, s = batch_norm.normalise(features, 1e-5)
    scale = float((s.double() / expected_s - 1).abs().max())
    shift = float((z.double() - expected).mean((0, 2, 3)).abs().max())
    return max(scale, shift)


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_float32_statistics_are_as_exact_as_the_features(mean: float) -> None:
    """65,536 numbers per channel. Rounding them to float32 moves each by up to 6e-8 (1 + mean);
    several times that is for the kernels. Torch's sums in this layout leave 5e-6 and 2e-4."""
    assert statistics_error(mean) < 4e-7 * (1 + mean / 3)


def test_float32_gradients_of_weight_and_bias() -> None:
    """Sums of 65,536 numbers of either sign, against float64, by the size of what is summed up.

    Parts leave 5e-8 to 8e-8, torch's kernel in this layout 5e-6."""

    def error() -> float:
        torch.manual_seed(0)
        shape = (64, 8, 32, 32)
        features, cotangent = (
            torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2)
        )
        results = []
        for dtype in (torch.float32, torch.float64):
            norm = nn.BatchNorm2d(8, dtype=dtype)
            out = batch_norm.batch_norm(norm, features.to(dtype))
            total = (out * (cotangent.to(dtype) + 1)).sum()
            results.append(torch.autograd.grad(total, [norm.weight, norm.bias]))
        count = features.numel() / 8
        return max(
            float((a.double() - b).abs().max()) / count for a, b in zip(*results, strict=True)
        )

    assert error() < 4e-7
