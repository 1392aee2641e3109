"""Slopes: the derivative of a training against retraining, leg by leg; what is read of it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from relaxed_reference import Case, random_case
from torch import Tensor

from sedona_nni.data.batches import Batch
from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.choice import discretise
from sedona_nni.errors import InputError
from sedona_nni.searches.kind import SEARCHES, SearchSetup
from sedona_nni.searches.sedona import hypergradient
from sedona_nni.searches.sedona.hypergradient import look_ahead
from sedona_nni.searches.sedona.inner_step import PulledBack
from sedona_nni.searches.sedona.relaxation import slopes
from sedona_nni.searches.slopes.kind import SlopeSettings, inner_optimizer
from sedona_nni.searches.slopes.result import SlopeResult
from sedona_nni.searches.slopes.slopes import end_of_training, way_back
from sedona_nni.task import Task
from sedona_nni.training.methods.method import build_optimizer
from sedona_nni.training.settings import TrainSettings


class Memory(dict[str, Any]):
    """Keeps tensors."""

    def load(self, name: str) -> dict[str, Tensor] | None:
        return self.get(name)

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        self[name] = tensors


class Interrupted(Exception):
    pass


STEPS = 5


def batches_of(case: Case) -> list[Batch]:
    return [*itertools.islice(itertools.cycle(case.train_batches), STEPS)]


def rates_of(case: Case) -> list[float]:
    return [case.lrs[0] * (1 - t / 10) for t in range(STEPS)]


def found_by_legs(case: Case, keep: Memory, report: Any = lambda numbers: None) -> Tensor:
    problem, batches = case.problem, batches_of(case)
    of = lambda leg: batches[leg.start : leg.stop]  # noqa: E731
    how = {"keep": keep, "report": report}
    moments = end_of_training(problem, of, rates_of(case), case.seed, **how)
    _, _, to_weights, to_statistics = problem.validation(moments[-1], case.validation_batch)
    at_end = PulledBack(
        to_weights,
        torch.zeros_like(moments[-1].slots),
        to_statistics,
        torch.zeros_like(problem.network.alpha),
        torch.zeros_like(problem.network.beta),
    )
    pulled = way_back(problem, moments, at_end, of, rates_of(case), case.seed, **how)
    return slopes(problem.network.alpha, problem.network.beta, pulled.alpha, pulled.beta)


def loss_at(case: Case, z: Tensor) -> float:
    """Return the validation loss after the training with shares z, shape (L-1, C)."""
    network = case.problem.network
    a = z.sum(1)
    with torch.no_grad():
        network.alpha.copy_(torch.stack([a.log(), (1 - a).log()], dim=1))
        network.beta.copy_((z / a[:, None]).log())
    ahead = look_ahead(
        case.problem, case.problem.state(), batches_of(case), lrs=rates_of(case), seed=case.seed
    )
    loss, *_ = case.problem.validation(ahead.state, case.validation_batch)
    return float(loss)


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("number", range(6))
def test_slopes_equal_central_differences(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share more or less of each cut in turn, and a whole training each time, in float64."""
    monkeypatch.setattr(hypergradient, "SHORTEST_LEG", 2)
    case = random_case(number)
    network, start = case.problem.network, case.problem.state()
    z = network.a[:, :1].detach() * network.b.detach()
    found = found_by_legs(case, Memory())
    for j, c in np.ndindex(*z.shape):
        case.problem.load(start)
        step = torch.zeros_like(z)
        step[j, c] = 1e-5 * float(z[j, c])
        higher = loss_at(case, z + step)
        case.problem.load(start)
        lower = loss_at(case, z - step)
        expected = -(higher - lower) / (2 * float(step[j, c]))
        # Rounding of the losses, 1e-16, over a step of 1e-6; and the third derivative
        assert float(found[j, c]) == pytest.approx(expected, rel=2e-4, abs=1e-8)


def test_legs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process computes the same in one leg and in three."""
    case = random_case(1)
    start = case.problem.state()
    whole = found_by_legs(case, Memory())
    monkeypatch.setattr(hypergradient, "SHORTEST_LEG", 2)
    case.problem.load(start)
    assert torch.equal(found_by_legs(case, Memory()), whole)


@pytest.mark.parametrize("stop", range(1, 7))
def test_it_goes_on_from_each_leg(stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three legs forwards, three back; each is computed once, whenever it is interrupted."""
    monkeypatch.setattr(hypergradient, "SHORTEST_LEG", 2)
    case = random_case(2)
    start = case.problem.state()
    whole, keep = found_by_legs(case, Memory()), Memory()
    seen: list[dict[str, float]] = []

    def interrupt(numbers: dict[str, float]) -> None:
        seen.append(numbers)
        if len(seen) == stop:
            raise Interrupted

    case.problem.load(start)
    with pytest.raises(Interrupted):
        found_by_legs(case, keep, interrupt)
    case.problem.load(start)
    assert torch.equal(found_by_legs(case, keep, seen.append), whole)
    assert [numbers["step"] for numbers in seen] == [2, 4, 5, 6, 8, 10]
    assert {numbers["steps"] for numbers in seen} == {2 * STEPS}


TRAIN = TrainSettings(epochs=4, batch_size=10, lr=0.4, lr_min=0.0, warmup_epochs=1)


def test_rates_are_those_of_the_trainings() -> None:
    rates = SlopeSettings().rates(TRAIN, steps_per_epoch=5)
    assert len(rates) == 20
    assert rates[0] == pytest.approx(0.004)  # warm-up from a hundredth
    assert rates[5] == pytest.approx(0.4)
    assert rates[5 + 5] == pytest.approx(0.4 * (0.5 + 0.5 * math.cos(math.pi / 3)))
    short = SlopeSettings(steps=4).rates(TRAIN, steps_per_epoch=5)
    assert short == pytest.approx([0.4 * (0.5 + 0.5 * math.cos(math.pi * t / 4)) for t in range(4)])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_it_differentiates_the_optimizer_of_the_trainings(name: str) -> None:
    train = TrainSettings(optimizer=name, lr=0.1, weight_decay=0.2, momentum=0.5)
    ours = inner_optimizer(train)
    torch.manual_seed(0)
    weights, gradients = torch.randn(4).double(), torch.randn(3, 4).double()
    weight = torch.nn.Parameter(weights.clone())
    theirs = build_optimizer([weight], train)
    slots = torch.zeros(ours.num_slots, 4).double()
    for step, gradient in enumerate(gradients):
        weights, slots = ours.update(weights, gradient, slots, 0.1, step)
        weight.grad = gradient
        theirs.step()
    # torch's kernels for many weights at once round in another order
    torch.testing.assert_close(weights, weight.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"nesterov": True}, "nesterov: must be false"),
        ({"clip_norm": 1.0}, "clip_norm: must be null"),
        ({"mixup": 0.2}, "mixup: must be 0"),
        ({"cutmix": 1.0}, "cutmix: must be 0"),
        ({"transport": 0.1}, "transport: must be 0"),
        ({"lr_pretrained": 0.1}, "lr_pretrained: must be 1"),
    ],
)
def test_what_slopes_do_not_go_through_is_refused(given: dict[str, Any], rule: str) -> None:
    task = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=60)
    train = TrainSettings.model_validate(given)
    setup = SearchSetup(task, load_splits(task, 0.2), aux=("conv1",), train=train)
    with pytest.raises(InputError, match=rf"^train\.{rule} for slopes"):
        SEARCHES["slopes"].check(setup, SlopeSettings())


def test_evidence_by_hand() -> None:
    found = SlopeResult(
        backbone="mine",
        dataset="digits",
        aux_choices=["conv1", "mlp"],
        slopes=[[-0.2, -0.1], [0.1, 0.3], [-0.1, -0.3]],
    )
    assert found.num_layers == 4
    assert found.evidence()[0].tolist() == found.evidence()[2].tolist() == found.slopes
    assert found.ranked_aux(2) == ["conv1", "mlp"]
    assert discretise(found, 4).aux == ["mlp", "mlp", "conv1"]
    assert "positive at 1 of 3" in found.in_words()


def test_a_ragged_result_is_refused() -> None:
    with pytest.raises(ValidationError, match="one entry per auxiliary choice in each row, 2"):
        SlopeResult(backbone="m", dataset="d", aux_choices=["a", "b"], slopes=[[0.0]])
