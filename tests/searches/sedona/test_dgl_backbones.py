"""SEDONA's search on DGL's and DNI's networks: the hypergradient against central differences.

Unlike VGG and ResNet they have biases, batch norm in the head and mean pools between layers.
"""

from __future__ import annotations

import pytest
import torch
from relaxed_reference import NUM_CLASSES, Case, unrolled_meta_loss
from torch import nn

from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.teachers.losses import LabelSmoothing


def case(name: str, image_size: int) -> Case:
    torch.manual_seed(0)
    backbone = build_backbone(
        name,
        num_classes=NUM_CLASSES,
        image_size=image_size,
        width_multiplier=0.04,
        activation=nn.Softplus,
    )
    network = RelaxedNetwork(backbone, ["conv1", "mlp", "cnn5x5"]).double()
    with torch.no_grad():
        network.alpha.normal_()
        network.beta.normal_()

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.randn(5, 3, image_size, image_size, dtype=torch.float64)
        return images, torch.randint(NUM_CLASSES, (5,))

    problem = InnerProblem(network, Sgd(momentum=0.9, weight_decay=0.01), LabelSmoothing(0.1))
    return Case(problem, problem.state(), [batch(), batch()], batch(), lrs=[0.02, 0.02], seed=0)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(("name", "image_size"), [("dgl-cnn4", 8), ("dni-cnn", 27)])
def test_hypergradient_equals_central_differences(name: str, image_size: int) -> None:
    """Five-point differences along a random direction; meta_loss itself against the formulas."""
    given = case(name, image_size)
    network = given.problem.network
    found = hypergradient(
        given.problem,
        given.start,
        given.train_batches,
        given.validation_batch,
        lrs=given.lrs,
        seed=given.seed,
    )
    unrolled = unrolled_meta_loss(given, network.alpha.detach(), network.beta.detach())
    # Not to the bit: other layouts and pieces of the batch are other orders of sums
    assert float(found.meta_loss) == pytest.approx(float(unrolled.detach()), rel=1e-10)

    centre = [network.alpha.detach().clone(), network.beta.detach().clone()]
    direction = [torch.randn_like(part) for part in centre]
    step, values = 1e-3, []
    for factor in (-2, -1, 1, 2):
        with torch.no_grad():
            network.alpha.copy_(centre[0] + factor * step * direction[0])
            network.beta.copy_(centre[1] + factor * step * direction[1])
        state = given.start
        for t, batch in enumerate(given.train_batches):
            state, _ = given.problem.step(state, batch, given.lrs[t], given.seed + t)
        values.append(float(given.problem.validation(state, given.validation_batch)[0]))
    expected = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    slope = (found.alpha * direction[0]).sum() + (found.beta * direction[1]).sum()
    assert abs(expected) > 1e-5
    assert float(slope) == pytest.approx(expected, rel=1e-6)
