"""Hyperparameters of K-block training: NNI's search-space format, tuned by Optuna."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from pydantic import ValidationError

from sedona_nni.errors import InputError
from sedona_nni.training import TrainSettings

__all__ = ["Study", "importance", "read_search_space"]


def read_search_space(
    search_space: Mapping[str, Any], train: TrainSettings
) -> dict[str, BaseDistribution]:
    """Translate ``searchSpace`` of an experiment into Optuna's distributions.

    Of NNI's types there are ``choice``, ``randint`` (upper bound excluded), ``uniform``,
    ``quniform`` (low, low + q, ... up to high) and ``loguniform``.

    Args:
        search_space: ``{"lr": {"_type": "loguniform", "_value": [0.01, 1]}, ...}``; the names are
            fields of `TrainSettings`.
        train: The settings that hyperparameters are put into.

    Raises:
        InputError: if a name or a type is unknown, or a value at the end of a range is not allowed.
    """
    space = {}
    for name, entry in search_space.items():
        where = f"searchSpace.{name}"
        if name not in TrainSettings.model_fields:
            known = ", ".join(TrainSettings.model_fields)
            raise InputError(f"{where}: must be a setting of the training: {known}")
        try:
            distribution, examples = _translate(entry["_type"], entry["_value"])
        except (TypeError, KeyError, ValueError) as error:
            raise InputError.rule(
                where, f"must be of a type of NNI, with its values ({error})", entry
            ) from None
        for example in examples:
            try:
                TrainSettings.model_validate({**train.model_dump(), name: example})
            except ValidationError as error:
                raise InputError.from_validation(error, where) from None
        space[name] = distribution
    return space


def _translate(kind: str, values: list[Any]) -> tuple[BaseDistribution, list[Any]]:
    """Return a distribution and the values to try for being allowed."""
    if kind == "choice":
        return CategoricalDistribution(values), values
    if kind == "randint":
        low, high = values
        return IntDistribution(low, high - 1), [low, high - 1]
    if kind == "uniform":
        low, high = values
        return FloatDistribution(low, high), [low, high]
    if kind == "quniform":
        low, high, step = values
        high = low + step * math.floor((high - low) / step + 1e-9)
        return FloatDistribution(low, high, step=step), [low, high]
    if kind == "loguniform":
        low, high = values
        return FloatDistribution(low, high, log=True), [low, high]
    raise ValueError("choice, randint, uniform, quniform or loguniform")


class Study:
    """Optuna's study of one strategy's hyperparameters; kept in a file, where dashboards find it.

    Args:
        name: Of the study.
        storage: The file, an SQLite data base that several studies may share.
        space: What to draw from.
        sampler: ``"tpe"`` or ``"random"``.
        seed: Of the sampler; the n-th draw depends on the seed, on n, and on the results so far,
            and not on whether the experiment was resumed meanwhile.
    """

    def __init__(
        self,
        name: str,
        storage: optuna.storages.BaseStorage,
        space: Mapping[str, BaseDistribution],
        sampler: str,
        seed: int,
    ) -> None:
        self._space = dict(space)
        self._sampler = {
            "tpe": optuna.samplers.TPESampler,
            "random": optuna.samplers.RandomSampler,
        }[sampler]
        self._seed = seed
        self._study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Draw hyperparameters; return the trial's number, from 0, and them."""
        drawn = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._sampler(seed=1000 * self._seed + drawn)
        trial = self._study.ask(self._space)
        return trial.number, trial.params

    def tell(self, number: int, accuracy: float | None) -> None:
        """Enter the validation accuracy of a trial, None if it failed; the first entry stays."""
        state = TrialState.FAIL if accuracy is None else None
        self._study.tell(number, accuracy, state, skip_if_finished=True)

    def forget_others(self, numbers: set[int]) -> None:
        """Count trials as failed that were drawn but never handed out, unlike ``numbers``."""
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished() and trial.number not in numbers:
                self.tell(trial.number, None)


def importance(trials: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    """Return how much each hyperparameter matters for being among the best tenth of trials.

    By PED-ANOVA (Watanabe et al., IJCAI 2023), shares that add up to 1. The space is taken to be
    what the trials span, on a log scale where that is a decade or more, so that their results are
    all that is needed.

    Args:
        trials: Hyperparameters and validation accuracy of each.

    Returns:
        Shares by name, the largest first; empty if nothing varies.
    """
    names = {name for parameters, _ in trials for name in parameters}
    space = {name: _span([p[name] for p, _ in trials if name in p]) for name in sorted(names)}
    if not any(space.values()) or len({accuracy for _, accuracy in trials}) < 2:
        return {}
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize")
    for parameters, accuracy in trials:
        kinds = {name: kind for name in parameters if (kind := space[name]) is not None}
        drawn = {
            name: repr(parameters[name])  # a list, for instance, could not be one of the choices
            if isinstance(kind, CategoricalDistribution)
            else parameters[name]
            for name, kind in kinds.items()
        }
        study.add_trial(
            optuna.trial.create_trial(params=drawn, distributions=kinds, value=accuracy)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # experimental in Optuna 4; many equal values
        shares = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    return {name: float(share) for name, share in shares.items()}


def _span(values: Sequence[Any]) -> BaseDistribution | None:
    """Return the smallest space that holds the values, None if they are all the same."""
    if len({repr(value) for value in values}) < 2:
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return CategoricalDistribution(sorted({repr(value) for value in values}))
    low, high = min(values), max(values)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=0 < 10 * low <= high)
