"""Losses mixed in place of logits."""

from __future__ import annotations

import copy
import random
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from relaxed_reference import Case, initially, random_backbone, random_case
from torch import Tensor, nn

from benchmarks.naive import NaiveNetwork, meta_loss
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.mixed_losses import MixedLossesProblem, mixed_losses
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.teachers.losses import LabelSmoothing


class _Apart(NaiveNetwork):
    """Returns each candidate's logits and b in place of mixed logits."""

    def local_logits(self, boundary: int, features: Tensor, b: Tensor) -> Any:
        candidates = cast(nn.ModuleList, self.auxiliaries[boundary])
        return [candidate(features) for candidate in candidates], b


def mixing(case: Case) -> Case:
    """Return the case with its losses mixed."""
    problem = case.problem
    network = copy.deepcopy(problem.network)
    mixed = MixedLossesProblem(network, problem.optimizer, problem.criterion)
    return Case(mixed, case.start, case.train_batches, case.validation_batch, case.lrs, case.seed)


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize("number", range(12))
def test_hypergradient_equals_plain_unrolling(number: int) -> None:
    case = mixing(random_case(number))
    problem = case.problem
    network = problem.network
    naive = _Apart(copy.deepcopy(network.backbone), network.aux_choices).double()

    def criterion(found: Any, labels: Tensor) -> Tensor:
        if isinstance(found, Tensor):
            return problem.criterion(found, labels)
        logits, b = found
        losses = [problem.criterion(each, labels) for each in logits]
        return (b * torch.stack(losses)).sum()

    alpha, beta = (part.detach().clone().requires_grad_() for part in (network.alpha, network.beta))
    loss = meta_loss(
        naive,
        *initially(case),
        alpha,
        beta,
        case.train_batches,
        case.validation_batch,
        criterion,
        problem.optimizer,
        lrs=case.lrs,
        seed=case.seed,
        step=case.start.step,
    )
    expected = torch.autograd.grad(loss, [alpha, beta], materialize_grads=True)
    found = hypergradient(
        problem, case.start, case.train_batches, case.validation_batch, lrs=case.lrs, seed=case.seed
    )
    # Validation goes piece by piece and in another layout here: sums in another order
    assert float(found.meta_loss) == pytest.approx(float(loss.detach()), rel=1e-10)
    got, wanted = (
        torch.cat([part.flatten() for part in parts])
        for parts in ((found.alpha, found.beta), expected)
    )
    assert float((got - wanted).norm() / wanted.norm()) < 1e-10


def test_one_candidate_is_nothing_to_mix() -> None:
    """With one candidate, and likewise at a one-hot b, the two relaxations are the same."""
    torch.manual_seed(0)
    network = RelaxedNetwork(random_backbone(random.Random(0), 3), ["conv1"]).double()
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    batch = (images.contiguous(memory_format=torch.channels_last), torch.randint(3, (5,)))
    gradients = []
    for kind in (InnerProblem, MixedLossesProblem):
        problem = kind(copy.deepcopy(network), Sgd(), LabelSmoothing(0.1))
        gradient, *_ = problem.gradient(problem.state(), batch, 0)
        gradients.append(gradient)
    # A sum over one candidate more or less, in other kernels
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_the_mixed_loss() -> None:
    sure, unsure = [[2.0, 0.0]], [[0.0, 0.0]]
    logits = torch.tensor([[sure, unsure], [unsure, unsure]])  # two candidates, two boundaries
    b = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    losses = mixed_losses(LabelSmoothing(0), logits, torch.tensor([0]), b)
    of_sure, of_unsure = torch.log1p(torch.tensor(-2.0).exp()), torch.log(torch.tensor(2.0))
    expected = torch.stack([0.75 * of_sure + 0.25 * of_unsure, of_unsure])
    torch.testing.assert_close(losses, expected)


def test_a_search_mixes_as_it_is_told() -> None:
    def search(**how: Any) -> Search:
        network = RelaxedNetwork(random_backbone(random.Random(0), 3), ["conv1", "conv2"])
        return Search(network, SearchSettings(**how))

    assert type(search().problem) is InnerProblem
    mixed = search(mix="losses")
    assert type(mixed.problem) is MixedLossesProblem
    assert mixed.result("digits").mixes_losses
    assert not search().result("digits").mixes_losses
    opened = search(start_a_loc=0.125)
    torch.testing.assert_close(opened.network.a[:, 0].detach(), torch.full((2,), 0.125))
    assert opened.network.beta.eq(0).all()
    with pytest.raises(ValidationError, match="mix must be logits in release mode"):
        SearchSettings(release_mode=True, mix="losses")
