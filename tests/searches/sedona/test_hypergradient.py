"""The hypergradient against central differences and plain unrolling, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from relaxed_reference import (
    Case,
    formula_gradient,
    leaves,
    naive_network,
    named_statistics,
    named_weights,
    random_case,
    unrolled_meta_loss,
)

from benchmarks.naive import relaxed_gradient
from sedona_nni.searches.sedona.hypergradient import Hypergradient, hypergradient, look_ahead
from sedona_nni.searches.sedona.inner_step import PulledBack, Sgd

CASES = range(54)


def of(case: Case) -> Hypergradient:
    return hypergradient(
        case.problem,
        case.start,
        case.train_batches,
        case.validation_batch,
        lrs=case.lrs,
        seed=case.seed,
    )


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.fast_cases(6)
@pytest.mark.parametrize("number", CASES)
def test_hypergradient_equals_plain_unrolling(number: int) -> None:
    case = random_case(number)
    alpha = case.problem.network.alpha.detach().clone().requires_grad_()
    beta = case.problem.network.beta.detach().clone().requires_grad_()
    expected_loss = unrolled_meta_loss(case, alpha, beta)
    to_alpha, to_beta = torch.autograd.grad(expected_loss, [alpha, beta], materialize_grads=True)

    result = of(case)

    # Validation goes piece by piece and in another layout here: sums in another order
    assert float(result.meta_loss) == pytest.approx(float(expected_loss.detach()), rel=1e-10)
    got = torch.cat([result.alpha.flatten(), result.beta.flatten()])
    assert relative_error(got, torch.cat([to_alpha.flatten(), to_beta.flatten()])) < 1e-10


@pytest.mark.fast_cases(6)
@pytest.mark.parametrize("number", CASES)
def test_hypergradient_equals_central_differences(number: int) -> None:
    """Five-point differences of the library's own meta_loss along two random directions."""
    case = random_case(number)
    result = of(case)
    network = case.problem.network
    centre = [network.alpha.detach().clone(), network.beta.detach().clone()]
    torch.manual_seed(number)
    for _ in range(2):
        direction = [torch.randn_like(part) for part in centre]
        slope = (result.alpha * direction[0]).sum() + (result.beta * direction[1]).sum()
        step, values = 2.5e-4, []  # at 1e-3 the differences themselves err by 2e-5 in one case
        for factor in (-2, -1, 1, 2):
            with torch.no_grad():
                network.alpha.copy_(centre[0] + factor * step * direction[0])
                network.beta.copy_(centre[1] + factor * step * direction[1])
            values.append(float(meta_loss_after_training(case)))
        expected = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        scale = float(torch.cat([result.alpha.flatten(), result.beta.flatten()]).norm())
        assert abs(float(slope) - expected) <= 1e-6 * max(abs(expected), scale)


def meta_loss_after_training(case: Case) -> torch.Tensor:
    state = case.start
    for t, batch in enumerate(case.train_batches):
        state, _ = case.problem.step(state, batch, case.lrs[t], case.seed + t)
    return case.problem.validation(state, case.validation_batch)[0]


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_many_steps_in_legs_are_the_same_to_the_bit(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = of(random_case(number, inner_steps=5))
    monkeypatch.setattr("sedona_nni.searches.sedona.hypergradient.SHORTEST_LEG", 2)
    case = random_case(number, inner_steps=5)
    steps = []
    gradient = case.problem.gradient

    def counted(*args: Any) -> Any:
        steps.append(args[2] - case.seed)
        return gradient(*args)

    monkeypatch.setattr(case.problem, "gradient", counted)
    in_legs = of(case)
    assert steps == [0, 1, 2, 3, 4, 2, 3, 0, 1]  # all but the last leg's again
    for name in ("alpha", "beta", "meta_loss", "inner_losses"):
        assert torch.equal(getattr(in_legs, name), getattr(whole, name))


def test_a_whole_training_needs_memory_of_its_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many gradient vectors exist as a leg has steps."""
    monkeypatch.setattr("sedona_nni.searches.sedona.hypergradient.SHORTEST_LEG", 1)
    case = random_case(0, inner_steps=36)
    ahead = look_ahead(case.problem, case.start, case.train_batches, lrs=case.lrs, seed=case.seed)
    assert len(ahead.moments) == len(ahead.gradients) == 6
    assert ahead.losses.shape[0] == 36


@pytest.mark.fast_cases(6)
@pytest.mark.parametrize("number", range(20))
def test_relaxed_gradient_is_the_formula(number: int) -> None:
    """Every weight of the valve network learns from G_i or l_i as `relaxation` states."""
    case = random_case(number)
    problem = case.problem
    got, statistics, _ = problem.gradient(case.start, case.train_batches[0], case.seed)

    network = problem.network
    weights = leaves(named_weights(problem, case.start.weights))
    expected, expected_statistics = formula_gradient(case, weights, network.alpha, network.beta)
    # Each of the three adds up in an order of its own, which depends on the processor's kernels
    for name, value in named_weights(problem, got).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-12)
    for name, value in named_statistics(problem, statistics).items():
        torch.testing.assert_close(
            value, expected_statistics[name].detach(), rtol=1e-10, atol=1e-12
        )

    plain_network = naive_network(network)
    plain_statistics = named_statistics(problem, case.start.statistics)
    torch.manual_seed(case.seed)
    plain, _ = relaxed_gradient(
        plain_network,
        weights,
        plain_statistics,
        network.alpha,
        network.beta,
        case.train_batches[0],
        problem.criterion,
    )
    for name, value in expected.items():
        torch.testing.assert_close(plain[name].detach(), value, rtol=1e-7, atol=1e-12)


def test_the_way_back_is_the_transpose_and_that_matters() -> None:
    """dg/dw is no Hessian: its product with a vector is not that of its transpose."""
    case = random_case(1)
    problem, start, batch = case.problem, case.start, case.train_batches[0]
    lr = 0.1
    problem.optimizer = Sgd(momentum=0.0)  # w' = w - lr g(w)
    start = replace(start, slots=torch.zeros_like(start.weights)[None])
    torch.manual_seed(0)
    p, q = torch.randn(2, len(start.weights), dtype=torch.float64)

    def transposed(vector: torch.Tensor) -> torch.Tensor:
        gradient, *_ = problem.gradient(start, batch, 5)
        nothing = torch.zeros_like
        after = PulledBack(
            vector.clone(),
            nothing(start.slots),
            nothing(start.statistics),
            nothing(problem.network.alpha),
            nothing(problem.network.beta),
        )
        before = problem.pull_back(start, gradient, batch, lr, 5, after)
        return (vector - before.weights) / lr

    def forwards(vector: torch.Tensor) -> torch.Tensor:
        step = 1e-5
        there, back = (
            problem.gradient(replace(start, weights=start.weights + s * vector), batch, 5)[0]
            for s in (step, -step)
        )
        return (there - back) / (2 * step)

    product = forwards(p)
    assert float(q @ product) == pytest.approx(float(transposed(q) @ p), rel=1e-5)  # differences
    assert relative_error(transposed(p), product) > 0.1


@pytest.mark.slow(reason="searches")
def test_threads_change_nothing_but_rounding() -> None:
    """Boundaries are worked on side by side; each still adds up in its own order."""
    results, threads = [], torch.get_num_threads()
    for number in (1, 2, 2, 3):
        torch.set_num_threads(number)
        case = random_case(4, inner_steps=2)
        results.append(of(case))
        assert torch.get_num_threads() == number
    torch.set_num_threads(threads)
    one, two, two_again, three = (torch.cat([r.alpha, r.beta], dim=1) for r in results)
    assert torch.equal(two, two_again)
    torch.testing.assert_close(two, one, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(three, one, rtol=1e-7, atol=1e-12)
