"""What is written under ``tuner.classArgs`` of an experiment's YAML file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sedona_nni.auxiliary import check_auxiliary
from sedona_nni.backbones import num_layers
from sedona_nni.decoupling import Decoupling, check_num_blocks
from sedona_nni.errors import InputError
from sedona_nni.search import SearchSettings
from sedona_nni.task import Task
from sedona_nni.training import TrainSettings

__all__ = [
    "BridgeSettings",
    "CommonSettings",
    "ExperimentSettings",
    "TuningSettings",
    "read_settings",
]

SettingsT = TypeVar("SettingsT", bound="CommonSettings")


class CommonSettings(BaseModel, ABC):
    """What all experiments have: a task, K-block trainings of it, and a machine to run on.

    Attributes:
        task: Backbone and data set.
        aux: The auxiliary networks to choose from.
        train: Settings of every training; tuned hyperparameters replace some of them. The n-th
            trial of each strategy trains with ``train.seed + n``.
        device: ``"auto"`` takes a GPU if there is one. Each trial has a GPU of its own.
        threads: CPU threads per trial; by default PyTorch decides.
        seed: Of what the tuner draws: random decouplings and hyperparameters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    aux: tuple[str, ...] = Field(default=("conv1", "conv2", "conv3", "conv4"), min_length=1)
    train: TrainSettings = TrainSettings()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    seed: int = Field(default=2021, ge=0)

    @property
    @abstractmethod
    def num_trials(self) -> int:
        """How many trials the experiment has."""

    def check(self, folder: Path) -> None:
        """Check what goes beyond the form of single fields.

        Args:
            folder: What relative paths in the settings are relative to: ``trialCodeDirectory``.

        Raises:
            InputError: if a name is unknown or numbers do not fit the backbone.
        """
        num_layers(self.task.backbone)
        for name in self.aux:
            check_auxiliary(name)


class _TunedSettings(CommonSettings):
    """Settings of a tuner that trains several decouplings, each with tuned hyperparameters.

    Attributes:
        compare: Decouplings to train on the same budget: ``"uniform"`` cuts with the same
            auxiliary network at each (DGL), a ``"random"`` decoupling, and ``"backprop"``.
        uniform_aux: The auxiliary network of ``"uniform"``.
        trials_per_strategy: Trainings of each decoupling. Failed ones count, too.
        sampler: Optuna's sampler of hyperparameters.
    """

    compare: tuple[Literal["uniform", "random", "backprop"], ...] = ()
    uniform_aux: str = "mlp-sr"
    trials_per_strategy: int = Field(default=1, ge=1)
    sampler: Literal["tpe", "random"] = "tpe"

    @property
    def num_trials(self) -> int:
        """See `CommonSettings.num_trials`."""
        return (1 + len(self.compare)) * self.trials_per_strategy

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        super().check(folder)
        check_auxiliary(self.uniform_aux)
        if len(set(self.compare)) < len(self.compare):
            raise InputError.rule("compare", "must name each strategy once", list(self.compare))


class ExperimentSettings(_TunedSettings):
    """Settings of `strategies.tuner.SedonaTuner`.

    Attributes:
        num_blocks: K, the number of blocks that the backbone is cut into.
        search: Settings of the search.
    """

    num_blocks: int = Field(ge=1)
    search: SearchSettings = SearchSettings()

    @property
    def num_trials(self) -> int:
        """See `CommonSettings.num_trials`."""
        return 1 + super().num_trials

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        super().check(folder)
        check_num_blocks(self.num_blocks, num_layers(self.task.backbone))


class TuningSettings(_TunedSettings):
    """Settings of `strategies.tuner.OptunaTuner`.

    Attributes:
        decoupling: The decoupling to tune the training of: its JSON, or the path of a file.
    """

    decoupling: Decoupling | str

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        super().check(folder)
        decoupling = self.load_decoupling(folder)
        if decoupling.backbone != self.task.backbone:
            rule = f"must be one of the task's backbone, {self.task.backbone}"
            raise InputError.rule("decoupling", rule, decoupling.backbone)
        decoupling.blocks(num_layers(self.task.backbone))
        for name in decoupling.aux:
            check_auxiliary(name)

    def load_decoupling(self, folder: Path) -> Decoupling:
        """Return the decoupling, from its file if there is one.

        Raises:
            InputError: if the file cannot be read.
        """
        if isinstance(self.decoupling, Decoupling):
            return self.decoupling
        return Decoupling.load(folder / self.decoupling)


class BridgeSettings(CommonSettings):
    """Settings of `strategies.bridge.BridgeTuner`.

    Attributes:
        strategy: Which of NNI's own strategies explores the space.
        strategy_args: Keyword arguments of its class, e.g. ``population_size``.
        num_blocks: K, the number of blocks that the backbone is cut into.
        max_trials: How many decouplings to train. Failed trainings count, too.
    """

    strategy: Literal["random", "regularized_evolution", "tpe"]
    strategy_args: dict[str, Any] = Field(default_factory=dict)
    num_blocks: int = Field(ge=1)
    max_trials: int = Field(ge=1)

    @property
    def num_trials(self) -> int:
        """See `CommonSettings.num_trials`."""
        return self.max_trials

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        super().check(folder)
        check_num_blocks(self.num_blocks, num_layers(self.task.backbone))


def read_settings(model: type[SettingsT], class_args: Mapping[str, Any], folder: Path) -> SettingsT:
    """Read ``tuner.classArgs``.

    Args:
        model: The settings of the tuner in question.
        class_args: What the YAML file has.
        folder: See `CommonSettings.check`.

    Raises:
        InputError: if a field is misspelt or missing, or its value breaks a rule.
    """
    try:
        settings = model.model_validate(dict(class_args))
    except ValidationError as error:
        raise InputError.from_validation(error, "tuner.classArgs") from None
    settings.check(folder)
    return settings
