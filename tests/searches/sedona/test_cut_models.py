"""SEDONA's search on models of torchvision's and timm's families, tiny and in float64.

The hypergradient against plain unrolling, where torch has all second derivatives, and against
central differences of the library's own meta loss.
"""

from __future__ import annotations

import pytest
import torch
from cut_backbones import NUM_CLASSES, TINY, tiny
from relaxed_reference import Case, unrolled_meta_loss
from torch.nn.attention import SDPBackend, sdpa_kernel

from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.layer_check import check_layers
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.teachers.losses import LabelSmoothing


def case(name: str) -> Case:
    torch.manual_seed(0)
    size = TINY[name][1]
    network = RelaxedNetwork(tiny(name), ["conv1", "mlp"]).double()
    with torch.no_grad():
        network.alpha.normal_()
        network.beta.normal_()

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.randn(5, 3, size, size, dtype=torch.float64)
        images = images.contiguous(memory_format=torch.channels_last)
        return images, torch.randint(NUM_CLASSES, (5,))

    problem = InnerProblem(network, Sgd(momentum=0.9, weight_decay=0.01), LabelSmoothing(0.1))
    return Case(problem, problem.state(), [batch(), batch()], batch(), lrs=[0.05, 0.05], seed=0)


@pytest.mark.parametrize("name", TINY)
def test_the_hypergradient(name: str) -> None:
    given = case(name)
    network = given.problem.network
    check_layers(given.problem)
    found = hypergradient(
        given.problem,
        given.start,
        given.train_batches,
        given.validation_batch,
        lrs=given.lrs,
        seed=given.seed,
    )

    if name != "mobilenet":  # torch has no second derivative of hardsigmoid
        alpha = network.alpha.detach().clone().requires_grad_()
        beta = network.beta.detach().clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            loss = unrolled_meta_loss(given, alpha, beta)
            expected = torch.autograd.grad(loss, [alpha, beta])
        assert float(found.meta_loss) == pytest.approx(float(loss.detach()), rel=1e-10)
        # Sums in other orders, many layers one after the other
        for got, wanted in zip((found.alpha, found.beta), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-12)

    centre = [network.alpha.detach().clone(), network.beta.detach().clone()]
    direction = [torch.randn_like(part) for part in centre]
    step, values = 1e-5, []  # short, as there are kinks
    for factor in (-2, -1, 1, 2):
        with torch.no_grad():
            network.alpha.copy_(centre[0] + factor * step * direction[0])
            network.beta.copy_(centre[1] + factor * step * direction[1])
        state = given.start
        for t, batch in enumerate(given.train_batches):
            state, _ = given.problem.step(state, batch, given.lrs[t], given.seed + t)
        values.append(float(given.problem.validation(state, given.validation_batch)[0]))
    difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    slope = (found.alpha * direction[0]).sum() + (found.beta * direction[1]).sum()
    assert abs(difference) > 1e-7
    assert float(slope) == pytest.approx(difference, rel=1e-4)
