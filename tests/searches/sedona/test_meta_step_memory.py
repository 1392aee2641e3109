"""The memory of a meta-step does not depend on T."""

from __future__ import annotations

import pytest
import torch

from sedona_nni.decouplings.cost import peak_memory_mib
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.teachers.losses import LabelSmoothing


@pytest.mark.slow(reason="meta-steps under a profiler of memory")
def test_peak_memory_does_not_grow_with_inner_steps() -> None:
    """Beyond a gradient vector per step and one state more, T = 10 needs what T = 2 needs."""
    torch.manual_seed(0)
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.125)
    problem = InnerProblem(RelaxedNetwork(backbone, ["conv1", "conv2"]), Sgd(), LabelSmoothing(0.1))
    start = problem.state()
    batch = (torch.randn(128, 3, 32, 32), torch.randint(10, (128,)))

    def peak(inner_steps: int) -> float:
        return peak_memory_mib(
            lambda: hypergradient(
                problem, start, [batch] * inner_steps, batch, lrs=[0.1] * inner_steps, seed=0
            ),
            torch.device("cpu"),
        )

    peak(1)  # torch's one-time allocations
    few, many = peak(2), peak(10)
    vectors = 8 + 2  # gradients; weights and momentum while they are computed again
    assert many - few <= vectors * 4 * len(start.weights) / 2**20 + 0.1
    assert many < 1.1 * few
