"""Methods of training a decoupled network, one algorithm per file.

A new one is a file with a subclass of `MethodSettings` and one of `TrainingMethod`, and their entry
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from sedona_nni.methods.asynchronous import AsynchronousLearning, AsynchronousSettings
from sedona_nni.methods.delayed_gradients import DelayedGradients, DelayedGradientsSettings
from sedona_nni.methods.greedy import GreedyLearning, GreedySettings
from sedona_nni.methods.method import MethodSettings, TrainingMethod
from sedona_nni.methods.sequential import SequentialLearning, SequentialSettings
from sedona_nni.methods.synthetic_gradients import SyntheticGradients, SyntheticGradientsSettings

if TYPE_CHECKING:
    from sedona_nni.data import Splits
    from sedona_nni.decoupled import DecoupledNetwork
    from sedona_nni.training import TrainSettings

__all__ = ["METHODS", "AnyMethod", "MethodSettings", "TrainingMethod", "build_method"]

METHODS: dict[type[MethodSettings], type[TrainingMethod]] = {
    GreedySettings: GreedyLearning,
    SequentialSettings: SequentialLearning,
    AsynchronousSettings: AsynchronousLearning,
    SyntheticGradientsSettings: SyntheticGradients,
    DelayedGradientsSettings: DelayedGradients,
}


def _by_name(value: Any) -> Any:
    """Let a name stand for the method with its defaults."""
    return {"name": value} if isinstance(value, str) else value


AnyMethod = Annotated[
    Annotated[
        GreedySettings
        | SequentialSettings
        | AsynchronousSettings
        | SyntheticGradientsSettings
        | DelayedGradientsSettings,
        Field(discriminator="name"),
    ],
    BeforeValidator(_by_name),
]
"""The settings of any method: its name, or its name and options, as in ``{name: sequential}``."""


def build_method(
    network: DecoupledNetwork, settings: TrainSettings, splits: Splits, steps_per_epoch: int
) -> TrainingMethod:
    """Return the method that ``settings.method`` describes, ready for the first epoch.

    Raises:
        InputError: if the network cannot be trained so, see `MethodSettings.check`.
    """
    return METHODS[type(settings.method)](network, settings, splits, steps_per_epoch)
