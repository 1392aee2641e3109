"""When a training is hopeless: rules that compare it with its strategy's others, epoch by epoch.

They are Optuna's. What is compared is the validation accuracy after an epoch. A training that is
stopped stays in the study, as pruned, and counts as one of ``trials_per_strategy``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    import optuna

__all__ = ["AnyPruner", "HalvingSettings", "MedianSettings", "build_pruner"]


class MedianSettings(BaseModel):
    """Stop a training whose best accuracy so far is below the median of what the trainings that
    went to their end had after as many epochs.

    Attributes:
        name: ``median``.
        min_epochs: Epochs until the first decision.
        startup_trials: Trainings that have to have gone to their end before one is stopped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["median"] = "median"
    min_epochs: int = Field(default=1, ge=1)
    startup_trials: int = Field(default=4, ge=1)


class HalvingSettings(BaseModel):
    """Stop all but the best 1/``reduction`` of those that have come as far, at ever later epochs.

    Asynchronous successive halving (Li et al., MLSys 2020): the epochs are ``min_epochs``, and
    ``reduction`` times the one before.

    Attributes:
        name: ``halving``.
        min_epochs: Epochs until the first decision.
        reduction: One in so many goes on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["halving"] = "halving"
    min_epochs: int = Field(default=1, ge=1)
    reduction: int = Field(default=4, ge=2)


def _by_name(value: Any) -> Any:
    """Let a name stand for the rule with its defaults, and ``none`` for no rule."""
    if value in ("none", False):  # YAML takes `no` and `off` for a boolean
        return None
    return {"name": value} if isinstance(value, str) else value


AnyPruner = Annotated[
    Annotated[MedianSettings | HalvingSettings, Field(discriminator="name")] | None,
    BeforeValidator(_by_name),
]
"""The settings of a rule: its name, or its name and options, as in ``{name: halving, ...}``."""


def build_pruner(settings: MedianSettings | HalvingSettings | None) -> optuna.pruners.BasePruner:
    """Return Optuna's object; of None one that stops nothing."""
    import optuna

    if isinstance(settings, MedianSettings):
        return optuna.pruners.MedianPruner(
            n_startup_trials=settings.startup_trials, n_warmup_steps=settings.min_epochs
        )
    if isinstance(settings, HalvingSettings):
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=settings.min_epochs, reduction_factor=settings.reduction
        )
    return optuna.pruners.NopPruner()
