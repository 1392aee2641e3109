"""The suite for auxiliary networks: ours pass it, and what is wrong with one is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from sedona_nni.errors import InputError
from sedona_nni.teachers.auxiliary import (
    AUXILIARY,
    AuxiliaryContext,
    AuxiliaryNetwork,
    Criterion,
    auxiliary_names,
    register_auxiliary,
)
from sedona_nni.testing.auxiliary_networks import AuxiliaryNetworkConformance


class TestOurs(AuxiliaryNetworkConformance):
    @pytest.fixture(autouse=True, params=auxiliary_names())
    def each(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param


class Linear(AuxiliaryNetwork):
    """An outside author's: all there is to it."""

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        self.classifier = nn.Linear(context.shape.channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


@pytest.fixture
def suite() -> Iterator[Any]:
    """Return a function that tries a class as an author's suite would."""

    def of(kind: type[AuxiliaryNetwork]) -> AuxiliaryNetworkConformance:
        register_auxiliary("theirs")(kind)
        tried = AuxiliaryNetworkConformance()
        tried.name = "theirs"
        return tried

    yield of
    AUXILIARY.remove("theirs")


class TooFewRows(Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).mean(0, keepdim=True)


class NoSmallMaps(Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(nn.functional.avg_pool2d(features, 2))


class SquaresOnly(Linear):
    """It takes the size for one number, which it is of squares alone."""

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__(context)
        self.pixels = context.shape.size * context.shape.size  # type: ignore[operator]

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.reshape(*features.shape[:2], self.pixels, 1))


class LossOfEachImage(Linear):
    def local_loss(
        self, features: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        logits = self(features)
        return nn.functional.cross_entropy(logits, labels, reduction="none"), logits


class OtherLogits(Linear):
    def local_loss(
        self, features: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        loss, logits = super().local_loss(features, labels, criterion)
        return loss, logits.softmax(1)


class ClassNumbersOnly(Linear):
    def local_loss(
        self, features: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        logits = self(features)
        return logits[torch.arange(len(labels)), labels].mean(), logits


class Doubled(torch.autograd.Function):
    """The identity, whose gradient is twice what it should be."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]


class WrongGradient(Linear):
    def forward(self, features: Tensor) -> Tensor:
        doubled: Tensor = Doubled.apply(features)
        return super().forward(doubled)


class Detached(Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.detach())


class WrongGradientOfRows(Linear):
    def forward(self, features: Tensor) -> Tensor:
        doubled: Tensor = Doubled.apply(features) if features.shape[2] == 1 else features
        return super().forward(doubled)


class Unused(Linear):
    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__(context)
        self.second = nn.Linear(2, 2)


class InPlace(Linear):
    def forward(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            features.clamp_(min=0)
        return super().forward(features)


class NumpyDraws(Linear):
    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__(context)
        self.register_buffer("mask", torch.from_numpy(np.random.rand(context.num_classes)))


class BatchWise(Linear):
    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits - logits.mean(0)


class NoisyEvaluation(Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(features, 0.5, training=True))


class HiddenState(Linear):
    """Its logits depend on what no state dict has."""

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__(context)
        self.shift = float(torch.rand((), device="cpu"))

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) + self.shift * features.mean()


class Frozen(Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).detach() + 0 * self.classifier.bias


class Overflowing(Linear):
    def forward(self, features: Tensor) -> Tensor:
        return (
            super().forward(features)
            if features.dtype is torch.float64
            else features.new_full((len(features), 3), float("nan"), requires_grad=True)
        )


class Uncountable(Linear):
    """It looks at values, of which there are none when costs are counted."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * float(features.abs().max() >= 0)


def test_an_authors_network_passes(suite: Any) -> None:
    tried = suite(Linear)
    tests = [name for name in dir(tried) if name.startswith("test_")]
    assert len(tests) > 12
    for name in tests:
        getattr(tried, name)()


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    ("kind", "test", "error"),
    [
        (TooFewRows, "logits_have_a_row_for_each_image", AssertionError),
        (NoSmallMaps, "logits_have_a_row_for_each_image", RuntimeError),
        (SquaresOnly, "logits_have_a_row_for_each_image", TypeError),
        (LossOfEachImage, "the_local_loss_is_a_number_beside_the_logits", AssertionError),
        (OtherLogits, "the_local_loss_is_a_number_beside_the_logits", AssertionError),
        (ClassNumbersOnly, "the_local_loss_is_a_number_beside_the_logits", IndexError),
        (WrongGradient, "gradients_are_derivatives", GradcheckError),
        (WrongGradientOfRows, "gradients_are_derivatives", GradcheckError),
        (WrongGradient, "a_search_can_differentiate_through_its_steps", Exception),
        (Detached, "features_and_weights_have_gradients", AssertionError),
        (Detached, "nothing_passes_the_cut", AssertionError),
        (Unused, "features_and_weights_have_gradients", AssertionError),
        (InPlace, "features_are_left_as_they_are", AssertionError),
        (NumpyDraws, "weights_are_drawn_from_torchs_generator_alone", AssertionError),
        (BatchWise, "evaluation_takes_images_one_by_one", AssertionError),
        (NoisyEvaluation, "evaluation_takes_images_one_by_one", AssertionError),
        (HiddenState, "a_copy_is_a_network_of_its_own", AssertionError),
        (Frozen, "it_learns", AssertionError),
        (Overflowing, "half_precision", AssertionError),
        (Uncountable, "costs_are_counted", InputError),
    ],
)
def test_what_is_wrong_is_found(
    kind: type[AuxiliaryNetwork], test: str, error: type[Exception], suite: Any
) -> None:
    tried = suite(kind)
    with pytest.raises(error):
        getattr(tried, f"test_{test}")()
