"""The release's hypergradient: by hand on a chain of numbers, and against plain unrolling."""

from __future__ import annotations

import pytest
import torch
from relaxed_reference import random_case, unrolled_last_loss
from torch import Tensor, nn

from sedona_nni.models import Backbone, BackboneContext, FeatureShape, Layer
from sedona_nni.searches.sedona.inner_step import Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.release_mode import ReleaseProblem, release_hypergradient
from sedona_nni.teachers.auxiliary import AUXILIARY, AuxiliaryNetwork


class _OneNumber(AuxiliaryNetwork):
    def __init__(self, context: object) -> None:
        super().__init__()
        self.v = nn.Linear(1, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.v(features.flatten(1))


def chain(w: float, v: float, u: float) -> RelaxedNetwork:
    """h = w x; the auxiliary network says v h, the head u h (layer 1 is the identity)."""
    shape = FeatureShape(1, 1)
    layers = [
        Layer("w", nn.Conv2d(1, 1, 1, bias=False), shape),
        Layer("identity", nn.Identity(), shape),
    ]
    head = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    context = BackboneContext(num_classes=2, image_size=8)
    network = RelaxedNetwork(Backbone("chain", layers, head, context), ["one number"]).double()
    for parameter, value in zip(
        [layers[0].module.weight, next(network.auxiliaries.parameters()), head[1].weight],
        [w, v, u],
        strict=True,
    ):
        nn.init.constant_(parameter, value)
    return network


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return 0.5 * ((logits[:, 0] - labels) ** 2).mean()


def test_by_hand(request: pytest.FixtureRequest) -> None:
    """T = 2, x = 1, y = 0, plain SGD of rate 1/10, alpha = 0, so a_loc = a_up = 1/2.

    At w = 2, v = 1, u = 3:  l_0 = (v w)^2 / 2 = 2,  l_1 = (u w)^2 / 2 = 18
        g_w = (v^2 w + u^2 w) / 2 = 10,  g_v = v w^2 / 2 = 2,  g_u = u w^2 = 12
        (v learns from a_loc l_0, u from l_1 alone: the division takes a_up away)
    After one step: w = 1, v = 0.8, u = 1.8.
        R_0 = (l_0 + l_1) / 2 with l_0 = 0.64 / 2 = 0.32 and l_1 = 3.24 / 2 = 1.62
    d a_loc / d alpha_0 = 1/4 = -d a_up / d alpha_0.
        explicit:  (l_0 - l_1) / 4 = -0.325
        through the step: dR_0/dw = (0.64 + 3.24) / 2 = 1.94, dR_0/dv = 0.8 / 2 = 0.4
            d w_1 / d alpha_0 = -0.1 (v^2 w - u^2 w) / 4 = -0.1 (2 - 18) / 4 = 0.4
            d v_1 / d alpha_0 = -0.1 (v w^2) / 4 = -0.1
            d u_1 / d alpha_0 = 0
        sum: -0.325 + 1.94 * 0.4 - 0.4 * 0.1 = 0.411
    In alpha_1 the same with the other sign. s = 1 / (1/2 + 1e-5) cancels in a linear network.
    """
    AUXILIARY.add("one number", _OneNumber)
    request.addfinalizer(lambda: AUXILIARY.remove("one number"))
    network = chain(2.0, 1.0, 3.0)
    problem = ReleaseProblem(network, Sgd(momentum=0.0), squared_error)
    batch = (torch.ones(1, 1, 1, 1).double(), torch.zeros(1).double())
    result = release_hypergradient(
        problem, problem.state(), [batch, batch], batch, lrs=[0.1] * 2, seed=0
    )
    assert result.alpha.tolist() == [[pytest.approx(0.411), pytest.approx(-0.411)]]
    assert result.inner_losses.tolist() == [
        [pytest.approx(2.0), pytest.approx(18.0)],
        [pytest.approx(0.32), pytest.approx(1.62)],
    ]


@pytest.mark.fast_cases(5)
@pytest.mark.parametrize("number", range(16))
def test_equals_plain_unrolling_of_the_division(number: int) -> None:
    case = random_case(number)
    network = case.problem.network
    problem = ReleaseProblem(network, case.problem.optimizer, case.problem.criterion)
    alpha = network.alpha.detach().clone().requires_grad_()
    beta = network.beta.detach().clone().requires_grad_()

    expected = torch.autograd.grad(
        unrolled_last_loss(case, alpha, beta),
        [alpha, beta],
        materialize_grads=True,
    )
    result = release_hypergradient(
        problem,
        case.start,
        case.train_batches,
        case.validation_batch,
        lrs=case.lrs,
        seed=case.seed,
    )
    got, want = (
        torch.cat([part.flatten() for part in pair])
        for pair in ((result.alpha, result.beta), expected)
    )
    assert float((got - want).norm() / want.norm()) < 1e-10
