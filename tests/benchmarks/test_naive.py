"""The plain form computes the same mathematics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from benchmark_sides import SMALL
from relaxed_reference import (
    Case,
    naive_network,
    named_statistics,
    named_weights,
    unrolled_meta_loss,
)

from benchmarks import naive
from benchmarks.search_steps import naively, ours
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.teachers.losses import LabelSmoothing


def vgg_case(inner_steps: int) -> Case:
    """A small VGG-11 with ReLUs and all light networks, in float64."""
    torch.manual_seed(3)
    backbone = build_backbone("vgg11", num_classes=3, width_multiplier=0.125)
    network = RelaxedNetwork(backbone, ["conv3", "conv1", "mlp-sr", "conv2", "conv4"]).double()
    with torch.no_grad():
        network.alpha.normal_()
        network.beta.normal_()
    problem = InnerProblem(network, Sgd(0.9, 0.01), LabelSmoothing(0.1))

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.randint(3, (6,))

    start, _ = problem.step(problem.state(), batch(), 0.05, seed=8)
    batches = [batch() for _ in range(inner_steps)]
    return Case(problem, start, batches, batch(), lrs=[0.05] * len(batches), seed=1)


class TestNaive:
    @pytest.mark.slow(reason="unrolled, on a VGG-11")
    def test_hypergradient_equals_ours(self) -> None:
        case = vgg_case(inner_steps=2)
        network = case.problem.network
        alpha, beta = (a.detach().clone().requires_grad_() for a in (network.alpha, network.beta))
        expected = torch.autograd.grad(unrolled_meta_loss(case, alpha, beta), [alpha, beta])
        got = hypergradient(
            case.problem,
            case.start,
            case.train_batches,
            case.validation_batch,
            lrs=case.lrs,
            seed=1,
        )
        # Another program with other kernels: rounding, magnified by a few steps of batch norms
        torch.testing.assert_close(got.alpha, expected[0], rtol=1e-7, atol=1e-10)
        torch.testing.assert_close(got.beta, expected[1], rtol=1e-7, atol=1e-10)
        assert float(got.alpha.abs().max()) > 1e-4

    @pytest.mark.slow(reason="steps of a VGG-11")
    def test_relaxed_step_equals_ours(self) -> None:
        case = vgg_case(inner_steps=2)
        problem, state = case.problem, replace(case.start, slots=0 * case.start.slots)
        network = naive_network(problem.network)
        parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
        with torch.no_grad():
            for name, value in named_weights(problem, state.weights).items():
                parameters[name].copy_(value)
        optimizer = torch.optim.SGD(parameters.values(), lr=0.05, momentum=0.9, weight_decay=0.01)
        alpha, beta = problem.network.alpha.detach(), problem.network.beta.detach()
        for seed, batch in enumerate(case.train_batches):
            torch.manual_seed(seed)
            naive.relaxed_step(network, optimizer, alpha, beta, batch, problem.criterion)
            state, _ = problem.step(state, batch, 0.05, seed)
        for name, value in named_weights(problem, state.weights).items():
            torch.testing.assert_close(parameters[name].detach(), value, rtol=1e-7, atol=1e-10)
        assert set(named_statistics(problem, state.statistics)) <= set(buffers)

    @pytest.mark.slow(reason="steps of a VGG-11")
    @pytest.mark.parametrize("step", ["meta-step", "relaxed-step"])
    def test_both_sides_can_be_prepared_and_repeated(self, step: str) -> None:
        setting = SMALL.model_copy(update={"step": step})
        for prepare in (ours, naively):
            computation = prepare(setting)
            computation()
            computation()
