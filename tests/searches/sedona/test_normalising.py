"""Norm and activation as one step of a sequence: which are, which are not, and what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sedona_nni.models.batch_norm import BatchNorm, batch_norm
from sedona_nni.searches.sedona.normalising import normalising, replaced_forwards


def run(module: nn.Module, features: Tensor) -> tuple[Tensor, list[float]]:
    """Return what a module computes, and the slopes that its norms were asked for."""
    slopes: list[float] = []

    def watched(norm: BatchNorm, x: Tensor, slope: float = 1.0) -> Tensor:
        slopes.append(slope)
        return batch_norm(norm, x, slope)

    norms = [part for part in module.modules() if isinstance(part, BatchNorm)]
    with replaced_forwards(normalising(module, norms, watched)):
        out: Tensor = module(features)
    return out, slopes


def unit(*then: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *then).double()


@pytest.mark.parametrize(
    ("module", "slopes"),
    [
        (unit(nn.ReLU()), [0.0]),
        (unit(nn.LeakyReLU(0.2), nn.MaxPool2d(2)), [0.2]),
        (unit(), [1.0]),
        (unit(nn.GELU()), [1.0]),
        (unit(nn.Dropout(0.0), nn.ReLU()), [1.0]),
        (nn.Sequential(unit(nn.ReLU()), unit(nn.ReLU())[1:]), [0.0, 0.0]),
        (nn.Sequential(unit(), nn.ReLU()), [1.0]),
    ],
)
@pytest.mark.usefixtures("kernels_or_none")
def test_what_is_one_step(module: nn.Module, slopes: list[float]) -> None:
    features = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    expected = module(features)
    out, asked = run(module, features)
    assert asked == slopes
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)


def test_norms_that_are_not_asked_for_are_left_alone() -> None:
    module = unit(nn.ReLU()).eval()
    features = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    with replaced_forwards(normalising(module, [], batch_norm)):
        assert torch.equal(module(features), module(features))


@pytest.mark.parametrize("which", [1, 2])
def test_who_listens_to_a_norm_or_activation_hears_it(which: int) -> None:
    module = unit(nn.ReLU())
    heard: list[Any] = []
    module[which].register_forward_hook(lambda *_: heard.append(which))
    _, asked = run(module, torch.randn(5, 3, 9, 9, dtype=torch.float64))
    assert (heard, asked) == ([which], [1.0])


def test_norms_of_a_kind_of_their_own_are_not_joined() -> None:
    class Shifted(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) - 1

    module = nn.Sequential(Shifted(3).double(), nn.ReLU())
    features = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    expected = module(features)
    out, asked = run(module, features)
    assert asked == [1.0]
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)
