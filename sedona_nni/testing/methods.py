"""What every method of training does, see `sedona_nni.training.methods.TrainingMethod`."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.testing.images import made_up_splits
from sedona_nni.training.loop import train
from sedona_nni.training.methods import TrainingMethod, build_method
from sedona_nni.training.settings import TrainSettings

__all__ = ["MethodConformance"]

_CUTS = [0, 2]
_SPLITS = made_up_splits()


class MethodConformance:
    """The suite for a method of training, on a network of four layers in three blocks.

    Attributes:
        method: It and its options, as ``method`` of `TrainSettings`.
        isolated: Whether a block learns the same whatever is above it. Greedy methods do; those
            that estimate or delay the gradient from above do not, and must not seem to.
        settings: What else the trainings of this suite are told, see `TrainSettings`.

    Examples:
        >>> from sedona_nni.testing.methods import MethodConformance
        >>> class TestGreedy(MethodConformance):
        ...     method = "greedy"
        >>> TestGreedy().test_a_block_learns_what_is_declared()
    """

    method: str | Mapping[str, Any]
    isolated: bool = True
    settings: Mapping[str, Any] = {}

    def train_settings(self, **changes: Any) -> TrainSettings:
        """Return the settings of a training, with changes."""
        given: dict[str, Any] = {"epochs": 3, "batch_size": 8, "optimizer": "adam", "lr": 0.005}
        given |= {"method": self.method, **self.settings, **changes}
        return TrainSettings.model_validate(given)

    def network(self, *, taught: bool | None = None) -> DecoupledNetwork:
        """Return a network in three blocks, always the same.

        Args:
            taught: Whether it has auxiliary networks; by default as the method needs them.
        """
        if taught is None:
            taught = self.train_settings().method.uses_auxiliary
        torch.manual_seed(3)
        backbone = build_backbone(
            "dgl-cnn4", num_classes=_SPLITS.num_classes, width_multiplier=0.0625, image_size=8
        )
        aux = ["mlp" if taught else NO_AUXILIARY] * len(_CUTS)
        return build_decoupled(backbone, Decoupling(backbone="dgl-cnn4", cuts=_CUTS, aux=aux))

    def start(self, network: DecoupledNetwork, **changes: Any) -> TrainingMethod:
        """Return the method, ready for the first step of its first epoch."""
        torch.manual_seed(5)
        method = build_method(network, self.train_settings(**changes), _SPLITS, 6)
        method.start_epoch(1)
        return method

    def test_its_settings_are_read_and_written(self) -> None:
        """As in an experiment's file and in a checkpoint."""
        settings = self.train_settings()
        assert TrainSettings.model_validate(json.loads(settings.model_dump_json())) == settings

    def test_cuts_must_be_taught_as_it_says(self) -> None:
        """With auxiliary networks if it uses them, and else without; the other is refused."""
        uses = self.train_settings().method.uses_auxiliary
        with pytest.raises(InputError, match="aux: must be"):
            self.start(self.network(taught=not uses))

    def test_a_step_tells_losses_and_leaves_no_gradients(self) -> None:
        """Losses of shape (), without a graph, by the index of the block."""
        network = self.network()
        method = self.start(network)
        for number, batch in enumerate(_batches(8)):
            losses = _step(method, number, *batch)
            assert set(losses) <= set(range(len(network.blocks)))
            for loss in losses.values():
                assert loss.shape == ()
                assert loss.grad_fn is None
                assert loss.isfinite()
            for name, weight in network.named_parameters():
                assert weight.grad is None or not weight.grad.any(), name

    def test_a_block_learns_what_is_declared(self) -> None:
        """With other weights above, the lowest block is the same to the bit, or else it is not."""
        found = []
        for changed in (False, True):
            network = self.network()
            if changed:
                with torch.no_grad():
                    for block in [*network.blocks][1:]:
                        for weight in block.parameters():
                            weight.add_(0.1 * torch.randn_like(weight))
            before = _weights(network.blocks[0])
            method = self.start(network)
            for number, batch in enumerate(_batches(12)):
                _step(method, number, *batch)
            found.append(_weights(network.blocks[0]))
            assert not torch.equal(found[-1], before)
        assert torch.equal(*found) == self.isolated

    def test_labels_may_be_shares_of_classes(self) -> None:
        """Those of whole images teach what their numbers do; and mixed images can be learned."""
        found = []
        for shares in (False, True):
            network = self.network()
            method = self.start(network)
            for number, (images, labels) in enumerate(_batches(4)):
                given = F.one_hot(labels, _SPLITS.num_classes).float() if shares else labels
                _step(method, number, images, given)
            found.append(_weights(network))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
        history = self._history(self.network(), mixup=1.0, cutmix=1.0)
        assert all(math.isfinite(numbers["loss"]) for numbers in history)

    def test_it_learns(self) -> None:
        """The loss falls, below that of a guess, and images are recognised."""
        history = self._history(self.network(), epochs=8)
        assert history[-1]["loss"] < history[0]["loss"]
        assert history[-1]["loss"] < math.log(_SPLITS.num_classes)
        assert history[-1]["default"] > 1.5 / _SPLITS.num_classes

    def test_what_an_epoch_reports(self) -> None:
        """Validation accuracy and loss, each classifier's accuracy that has learned, the rate."""
        network = self.network()
        history = self._history(network)
        for number, numbers in enumerate(history, start=1):
            assert numbers["epoch"] == number <= numbers["epochs"]
            assert {"default", "loss", "lr"} <= set(numbers)
            assert 0 <= numbers["default"] <= 1
            assert all(math.isfinite(value) for value in numbers.values() if value is not None)
        if self.train_settings().method.uses_auxiliary:
            names = [f"block_{index + 1}_accuracy" for index in range(len(network.blocks))]
            assert set(names) <= set(history[-1])
            assert history[-1]["default"] == history[-1][names[-1]]
        assert "train_loss" in history[-1]

    def test_the_same_seed_gives_the_same_training(self) -> None:
        """To the bit; and another seed another one."""
        trained = []
        for seed in (1, 1, 2):
            network = self.network()
            history = self._history(network, seed=seed)
            trained.append((history, _weights(network)))
        one, again, other = trained
        assert one[0] == again[0]
        assert torch.equal(one[1], again[1])
        assert not torch.equal(one[1], other[1])

    def test_an_interrupted_training_ends_with_the_same_bits(self, tmp_path: Path) -> None:
        """Killed after its first epoch, and again later, and continued from what it has saved."""
        network = self.network()
        expected = self._history(network)
        continued = self.network()
        for last in (1, len(expected) - 1):
            with pytest.raises(_Killed):
                self._history(continued, directory=tmp_path, killed_after=last)
            continued = self.network()  # nothing of it is left but its directory
        assert self._history(continued, directory=tmp_path) == expected
        assert torch.equal(_weights(continued), _weights(network))

    def test_its_state_is_plain(self) -> None:
        """It can be saved, and read where no code of a file is run."""
        method = self.start(self.network())
        for number, batch in enumerate(_batches(3)):
            _step(method, number, *batch)
        stored = BytesIO()
        torch.save(copy.deepcopy(method.state_dict()), stored)
        stored.seek(0)
        state = torch.load(stored, weights_only=True)
        self.start(self.network()).load_state_dict(state)

    def test_half_precision(self) -> None:
        """It can train in bf16."""
        history = self._history(self.network(), amp="bf16", epochs=1)
        assert math.isfinite(history[-1]["loss"])

    def test_extra_cost_is_counted(self) -> None:
        """Of what it trains beside the network; nothing, if that is nothing."""
        cost = self.start(self.network()).extra_cost()
        assert min(cost.parameters, cost.macs) >= 0

    def _history(
        self,
        network: DecoupledNetwork,
        *,
        directory: Path | None = None,
        killed_after: int | None = None,
        **changes: Any,
    ) -> list[dict[str, Any]]:
        """Train, and return what each epoch reported; of a continued one those before as well."""
        history: list[dict[str, Any]] = []

        def report(numbers: Mapping[str, Any]) -> None:
            history.append(dict(numbers))
            if len(history) == killed_after:
                raise _Killed

        train(network, _SPLITS, self.train_settings(**changes), report=report, directory=directory)
        return history


class _Killed(Exception):
    """A training is interrupted."""


def _step(method: TrainingMethod, number: int, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
    """Take a step as `sedona_nni.training.loop.train` does."""
    torch.manual_seed(number)
    with warnings.catch_warnings():  # where a block's first updates come later than its schedule's
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        return method.step(images, labels)


def _batches(number: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of 8 made-up images, always the same."""
    generator = torch.Generator().manual_seed(1)
    classes = _SPLITS.num_classes
    labels = [torch.randint(classes, (8,), generator=generator) for _ in range(number)]
    return [(torch.randn(8, 3, 8, 8, generator=generator), each) for each in labels]


def _weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten().float() for value in module.state_dict().values()])
