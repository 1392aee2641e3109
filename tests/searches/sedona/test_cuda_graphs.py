"""Steps that are recorded and replayed, beside the same steps.

There is no GPU here. `Taped` stands for one: it notes every operation that torch's dispatcher sees
with the tensors themselves, and a replay does the same operations on the same tensors, as a CUDA
graph does with kernels and addresses. What Python would decide otherwise the next time, it misses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from dispatched import TorchDispatchMode, tensors_in
from relaxed_reference import Case, random_case
from torch import Tensor

from sedona_nni.searches.sedona.cuda_graphs import Graphs
from sedona_nni.searches.sedona.inner_step import InnerProblem, PulledBack
from sedona_nni.searches.sedona.mixed_losses import MixedLossesProblem
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings


class Tape(TorchDispatchMode):
    """Notes operations and what they made."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        assert str(func) != "aten._local_scalar_dense.default", "somebody looks at a number"
        if not func.is_view:
            self.done.append((func, args, kwargs or {}, [*tensors_in(out)]))
        return out

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, results in self.done:
                again = tensors_in(func(*args, **kwargs))
                for result, new in zip(results, again, strict=True):
                    if not result._is_zerotensor():
                        result.copy_(new)


class Taped(Graphs):
    """Graphs without a GPU."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.records = 0

    def record(
        self, work: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
        self.records += 1
        with torch.random.fork_rng([]):
            work()  # what is made once and kept is made now
        with torch.random.fork_rng([]), Tape() as tape:
            results = work()
        return results, tape.replay


def at(case: Case, problem: InnerProblem, number: int) -> list[Tensor]:
    """Return all that a step computes, at one of several moments, images, seeds, alpha and beta."""
    torch.manual_seed(number)
    with torch.no_grad():
        problem.network.alpha.normal_()
        problem.network.beta.normal_()
    weights = case.start.weights + 0.1 * torch.randn_like(case.start.weights)
    state = replace(case.start, weights=weights, slots=torch.rand_like(case.start.slots))
    images, labels = case.train_batches[0]
    batch = images + number, labels.roll(number)
    gradient, statistics, losses = problem.gradient(state, batch, number)
    after = PulledBack(
        torch.randn_like(state.weights),
        torch.randn_like(state.slots),
        torch.randn_like(state.statistics),
        torch.zeros_like(problem.network.alpha),
        torch.zeros_like(problem.network.beta),
    )
    found = [gradient, statistics, losses]
    for first in (False, True):
        pulled = problem.pull_back(state, gradient, batch, 0.1, number, after, first=first)
        found += [pulled.weights, pulled.slots, pulled.statistics, pulled.alpha, pulled.beta]
    found += problem.validation(state, case.validation_batch)
    return [each.clone() for each in found]


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize("kind", [InnerProblem, MixedLossesProblem])
@pytest.mark.parametrize("number", range(12))
@pytest.mark.usefixtures("torch_norms")
def test_replayed_is_computed(number: int, kind: type[InnerProblem]) -> None:
    """But for the order of sums, which torch's kernels choose by where their arguments lie."""
    case = random_case(number)
    given = case.problem
    problem = kind(given.network, given.optimizer, given.criterion)
    moments = range(1, 4)
    computed = [at(case, problem, moment) for moment in moments]
    graphs = Taped()
    problem.launch = graphs
    for moment, expected in zip(moments, computed, strict=True):
        for got, wanted in zip(at(case, problem, moment), expected, strict=True):
            assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)
    assert graphs.records == 4  # gradient, the way back from two steps, validation
    assert not torch.equal(computed[0][0], computed[1][0])


def test_another_shape_is_recorded_anew() -> None:
    graphs = Taped()

    def double(x: Tensor, factor: int) -> tuple[Tensor, ...]:
        return (factor * x,)

    for x, factor, records in ((1.0, 2, 1), (3.0, 2, 1), (3.0, 4, 2)):
        (got,) = graphs(double, torch.full((2,), x), factor)
        assert got.tolist() == [factor * x] * 2
        assert graphs.records == records
    kept, _ = graphs(double, torch.ones(3), 2)[0], graphs(double, torch.zeros(3), 2)
    assert kept.tolist() == [2.0] * 3, "a result is the caller's"
    assert graphs.records == 3


def test_a_look_at_a_number_is_seen() -> None:
    def looks(x: Tensor) -> tuple[Tensor, ...]:
        return (x * 2 if x.sum() > 0 else x,)

    with pytest.raises(AssertionError, match="looks at a number"):
        Taped()(looks, torch.ones(2))


def test_on_a_cpu_nothing_is_recorded() -> None:
    case = random_case(0)
    settings = SearchSettings(cuda_graphs=True)
    assert not isinstance(Search(case.problem.network, settings).problem.launch, Graphs)
