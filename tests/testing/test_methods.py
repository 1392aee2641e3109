"""The suite for methods: ours pass it, and what is wrong with one is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from sedona_nni.testing.methods import MethodConformance
from sedona_nni.training.method_settings import METHODS, MethodSettings
from sedona_nni.training.methods import GreedyLearning, register_method

NOT_ISOLATED = {"ddg", "dni", "cdni"}


@pytest.mark.slow(reason="a dozen trainings of each method")
class TestOurs(MethodConformance):
    @pytest.fixture(autouse=True, params=[*METHODS])
    def each(self, request: pytest.FixtureRequest) -> None:
        self.method = request.param
        self.isolated = request.param not in NOT_ISOLATED


class TestGreedy(MethodConformance):
    method = "greedy"


class Settings(MethodSettings):
    name: Literal["theirs"] = "theirs"


@pytest.fixture
def suite() -> Iterator[Any]:
    """Return a function that tries a class as an author's suite would."""

    def of(kind: type[GreedyLearning], settings: type[MethodSettings] = Settings) -> Any:
        register_method(settings)(kind)
        tried = MethodConformance()
        tried.method = "theirs"
        return tried

    yield of
    METHODS.remove("theirs")


class FromAbove(GreedyLearning):
    """The lowest block learns from the loss of the highest as well."""

    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        found = super().step(images, labels)
        features = images
        for block in self.network.blocks:
            features = block(features)
        loss, _ = self.network.blocks[-1].local_loss(features, labels, self.criterion)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return found


class LeavesGradients(GreedyLearning):
    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        found = super().step(images, labels)
        self.network(images).sum().backward()
        return found


class LossesWithGraphs(GreedyLearning):
    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        found = super().step(images, labels)
        return {index: loss + self.network(images).sum() * 0 for index, loss in found.items()}


class ClassNumbersOnly(GreedyLearning):
    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        return super().step(images, labels.long())


class Forgetful(GreedyLearning):
    """It counts its steps, and does not keep the count."""

    steps = 0

    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        self.steps += 1
        return super().step(images * (1 + 0.1 * self.steps), labels)


class Unseeded(GreedyLearning):
    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        torch.seed()
        return super().step(images + 0.1 * torch.randn_like(images), labels)


class Idle(GreedyLearning):
    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()  # without gradients
            schedule.step()
        return {0: torch.zeros(())}


class NoRate(GreedyLearning):
    def numbers(self) -> dict[str, float]:
        return {}


class StateWithCode(GreedyLearning):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "made_by": type(self)}


class Careless(Settings):
    """It takes whatever is at the cuts."""

    def check(self, aux: Any) -> None:
        pass


class Same(GreedyLearning):
    """An outside author's, which is greedy learning under another name."""


@pytest.mark.slow(reason="every check of a suite")
def test_an_authors_method_passes(suite: Any) -> None:
    tried = suite(Same)
    tried.test_a_block_learns_what_is_declared()
    tried.test_a_step_tells_losses_and_leaves_no_gradients()


@pytest.mark.slow(reason="every check of a suite")
@pytest.mark.parametrize(
    ("kind", "test", "error"),
    [
        (FromAbove, "a_block_learns_what_is_declared", AssertionError),
        (Idle, "a_block_learns_what_is_declared", AssertionError),
        (LeavesGradients, "a_step_tells_losses_and_leaves_no_gradients", AssertionError),
        (LossesWithGraphs, "a_step_tells_losses_and_leaves_no_gradients", AssertionError),
        (ClassNumbersOnly, "labels_may_be_shares_of_classes", RuntimeError),
        (Unseeded, "the_same_seed_gives_the_same_training", AssertionError),
        (Idle, "it_learns", AssertionError),
        (NoRate, "what_an_epoch_reports", AssertionError),
        (StateWithCode, "its_state_is_plain", UnpicklingError),
    ],
)
def test_what_is_wrong_is_found(
    kind: type[GreedyLearning], test: str, error: type[Exception], suite: Any
) -> None:
    tried = suite(kind)
    with pytest.raises(error):
        getattr(tried, f"test_{test}")()


@pytest.mark.slow(reason="every check of a suite")
def test_what_is_forgotten_is_found(suite: Any, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        suite(Forgetful).test_an_interrupted_training_ends_with_the_same_bits(tmp_path)


def test_a_check_that_checks_nothing_is_found(suite: Any) -> None:
    with pytest.raises(pytest.fail.Exception):
        suite(Same, Careless).test_cuts_must_be_taught_as_it_says()


def test_to_be_isolated_must_be_true(suite: Any) -> None:
    """Who says that a method is not isolated is wrong as well if it is."""
    tried = suite(Same)
    tried.isolated = False
    with pytest.raises(AssertionError):
        tried.test_a_block_learns_what_is_declared()
