"""Hyperparameters of K-block training: NNI's search-space format, tuned by Optuna."""

from __future__ import annotations

import itertools
import math
import operator
import re
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import URL

from sedona_nni.errors import InputError
from sedona_nni.garbage import nothing_collected
from sedona_nni.reporting.trial import SecondObjective
from sedona_nni.strategies.plan import Plan
from sedona_nni.strategies.settings.tuned import (
    TunedSettings,
    aux_of,
    fixed_for,
    train_settings,
)
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import check_pretrained_rate

__all__ = [
    "Study",
    "importance",
    "read_search_space",
    "read_search_spaces",
    "spanned_space",
    "study_url",
]


def read_search_spaces(
    search_space: Mapping[str, Any], settings: TunedSettings, plan: Plan
) -> dict[str, dict[str, BaseDistribution]]:
    """Return what is tuned for each contender of an experiment, by its name.

    A value of ``train_for`` is meant for that strategy, so it is not tuned for it; ``searchSpace``
    goes before ``train``.

    Args:
        search_space: See `read_search_space`.
        settings: Of the experiment.
        plan: What is trained.

    Raises:
        InputError: as `read_search_space` does, for any of the contenders.
    """
    found = {}
    for contender in plan.contenders:
        aux = aux_of(settings, plan, contender)

        def check(train: TrainSettings, aux: Sequence[str] = aux) -> None:
            train.check_aux(aux)
            check_pretrained_rate(settings.training.task, train)

        found[contender.name] = read_search_space(
            search_space,
            train_settings(settings, contender.strategy),
            fixed=fixed_for(settings, contender.strategy),
            whose=contender.name,
            check=check,
        )
    return found


def read_search_space(
    search_space: Mapping[str, Any],
    train: TrainSettings,
    *,
    fixed: Container[str] = (),
    whose: str = "",
    check: Callable[[TrainSettings], None] = lambda train: None,
) -> dict[str, BaseDistribution]:
    """Translate ``searchSpace`` of an experiment into Optuna's distributions.

    Of NNI's types there are ``choice``, ``randint`` (upper bound excluded), ``uniform``,
    ``quniform`` (low, low + q, ... up to high) and ``loguniform``. Every combination of what may
    be drawn has to be possible: the ends of all ranges are tried together, and a value within each.

    Args:
        search_space: ``{"lr": {"_type": "loguniform", "_value": [0.01, 1]}, ...}``; the names are
            fields of `TrainSettings`.
        train: The settings that hyperparameters are put into.
        fixed: Names that are not tuned.
        whose: What the errors call the strategy, if there are several.
        check: Raises an `InputError` of a training that is not possible for another reason.

    Raises:
        InputError: if a name or a type is unknown, or a combination is not possible.
    """
    space: dict[str, BaseDistribution] = {}
    examples: dict[str, list[Any]] = {}
    for name, entry in search_space.items():
        where = f"searchSpace.{name}"
        if name not in TrainSettings.model_fields:
            known = ", ".join(TrainSettings.model_fields)
            raise InputError(f"{where}: must be a setting of the training: {known}")
        distribution, ends = _distribution(where, entry)
        if name not in fixed:
            space[name], examples[name] = distribution, ends
    _check_combinations(examples, train, check, whose)
    usual = {name: values[0] for name, values in examples.items()}
    for name, values in examples.items():
        if isinstance(space[name], CategoricalDistribution):
            drawn = [_parsed(name, value, train, usual) for value in values]
            space[name] = CategoricalDistribution(drawn)
    return space


_FORMS = {
    "choice": "[one, another, ...]",
    "randint": "[low, one more than high], whole numbers",
    "uniform": "[low, high], numbers",
    "quniform": "[low, high, step], numbers",
    "loguniform": "[low, high], numbers above 0",
}


_WITHIN = 1 / math.pi  # of the way from one end of a range to the other


def _distribution(where: str, entry: Any) -> tuple[BaseDistribution, list[Any]]:
    """Return a distribution and the values to try for being allowed.

    Raises:
        InputError: if the entry is not as NNI wants it.
    """
    kind = entry.get("_type") if isinstance(entry, Mapping) else None
    if kind not in list(_FORMS):
        rule = f"must have a _type of {', '.join(_FORMS)}, and its _value"
        raise InputError.rule(where, rule, entry)
    values = entry.get("_value")
    try:
        if not isinstance(values, list | tuple):
            raise TypeError
        return _translate(kind, values)
    except (TypeError, ValueError, ArithmeticError):
        raise InputError.rule(where, f"must be {_FORMS[kind]}, for {kind}", values) from None


def _translate(kind: str, values: Sequence[Any]) -> tuple[BaseDistribution, list[Any]]:
    if kind == "choice":
        return CategoricalDistribution(values), list(values)
    if kind == "randint":
        first, end = (operator.index(value) for value in values)
        return IntDistribution(first, end - 1), [first, end - 1, min(first + 1, end - 1)]
    low, high, *steps = map(_number, values)
    if kind == "quniform":
        (step,) = steps
        high = low + step * math.floor((high - low) / step + 1e-9)
        return FloatDistribution(low, high, step=step), [low, high, min(low + step, high)]
    if steps:
        raise ValueError
    # No whole number, where those are at the ends: a setting that has to be one is refused
    if kind == "loguniform":
        return FloatDistribution(low, high, log=True), [low, high, low * (high / low) ** _WITHIN]
    return FloatDistribution(low, high), [low, high, low + _WITHIN * (high - low)]


def _number(value: Any) -> float:
    """Return a number; to YAML 1.1, which NNI reads, ``1e-3`` is a text."""
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _parsed(name: str, value: Any, train: TrainSettings, usual: Mapping[str, Any]) -> Any:
    """Return a choice as the settings take it, where YAML makes it something else: ``1e-3`` a text,
    ``no`` a boolean."""
    if not isinstance(value, str | bool):
        return value
    drawn = TrainSettings.model_validate({**train.model_dump(), **usual, name: value})
    parsed = getattr(drawn, name)
    return parsed if isinstance(parsed, str | int | float) else value


def _check_combinations(
    examples: Mapping[str, list[Any]],
    train: TrainSettings,
    check: Callable[[TrainSettings], None],
    whose: str,
) -> None:
    """Check the values at the ends of the ranges, and one within each, in every combination.

    No rule is about more than three settings, so three at a time are varied.
    """
    usual = {name: values[0] for name, values in examples.items()}
    given = train.model_dump()

    def try_(drawn: Mapping[str, Any]) -> ValidationError | InputError | None:
        try:
            check(TrainSettings.model_validate({**given, **drawn}))
        except (ValidationError, InputError) as error:
            return error
        return None

    for names in itertools.combinations(examples, min(3, len(examples))):
        for values in itertools.product(*(examples[name] for name in names)):
            drawn = {**usual, **dict(zip(names, values, strict=True))}
            error = try_(drawn)
            if error is not None:
                if isinstance(error, ValidationError) and error.errors()[0]["loc"]:
                    raise InputError.from_validation(error, "searchSpace")
                said = _as_line(error)
                involved = [
                    name
                    for name, others in examples.items()
                    if re.search(rf"\b{name}\b", said)
                    or any(try_({**drawn, name: other}) is None for other in others)
                ]
                fields = ", ".join(f"searchSpace.{name}" for name in involved or examples)
                mend = (
                    "; every combination of their values must be possible, please narrow them"
                    if len(involved) > 1
                    else ""
                )
                for_whom = f" (for {whose})" if whose else ""
                raise InputError(f"{fields}: {said}{mend}{for_whom}")


def _as_line(error: ValidationError | InputError) -> str:
    if isinstance(error, InputError):
        return str(error)
    return str(InputError.from_validation(error, "")).removeprefix(": ")


def study_url(path: Path) -> str:
    """Return how Optuna and its dashboards call the file of a study; any character may be in it."""
    return str(URL.create("sqlite", database=str(path)))


Direction = Literal["minimize", "maximize"]
_DIRECTIONS: dict[SecondObjective, Direction] = {
    "memory": "minimize",
    "speed-up": "maximize",
}


class Study:
    """Optuna's study of one strategy's hyperparameters; kept in a file, where dashboards find it.

    Args:
        name: Of the study.
        storage: The file, an SQLite data base that several studies may share.
        space: What to draw from.
        sampler: ``"tpe"`` or ``"random"``.
        pruner: Says which trainings are hopeless.
        second: What counts beside the accuracy.
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
        pruner: optuna.pruners.BasePruner | None = None,
        second: SecondObjective | None = None,
    ) -> None:
        self._space = dict(space)
        self._sampler = {
            "tpe": optuna.samplers.TPESampler,
            "random": optuna.samplers.RandomSampler,
        }[sampler]
        self._seed = seed
        self._storage = storage
        self._left: list[int] = []
        directions: list[Direction] = ["maximize"]
        if second is not None:
            directions.append(_DIRECTIONS[second])
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            pruner=pruner or optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        with nothing_collected():
            self._study.get_trials(deepcopy=False)  # read once, and known from here on

    def ask(self, attributes: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Draw hyperparameters; return the trial's number, from 0, and them.

        Args:
            attributes: What is shown beside them in dashboards.
        """
        if self._left:
            number = self._left.pop(0)
            parameters = self._study.get_trials(deepcopy=False)[number].params
        else:
            drawn = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = self._sampler(seed=_sampler_seed(self._seed, drawn))
            trial = self._study.ask(self._space)
            number, parameters = trial.number, trial.params
        for name, value in (attributes or {}).items():
            self._storage.set_trial_user_attr(self._trial_id(number), name, value)
        return number, parameters

    def judge(self, number: int, epoch: int, accuracy: float) -> bool:
        """Enter the validation accuracy after an epoch; return whether the trial is hopeless.

        A hopeless one has ended with that. With two objectives Optuna keeps no such values.
        """
        if len(self._study.directions) > 1:
            return False
        trial = self._study.get_trials(deepcopy=False)[number]
        if trial.state.is_finished():
            return trial.state is TrialState.PRUNED
        self._storage.set_trial_intermediate_value(self._trial_id(number), epoch, accuracy)
        trial = self._study.get_trials(deepcopy=False)[number]
        if not self._study.pruner.prune(self._study, trial):
            return False
        self._study.tell(number, state=TrialState.PRUNED)
        return True

    def tell(self, number: int, *values: float | None) -> None:
        """Enter the values of a trial, a None if it failed; the first entry stays.

        Args:
            number: Of the trial.
            values: The validation accuracy and, with a second objective, that.
        """
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            self._study.tell(number, known, skip_if_finished=True)
        else:
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def take_up(self, numbers: set[int]) -> None:
        """Let trials that were drawn but never handed out, unlike ``numbers``, be handed out first.

        One of which not everything was drawn counts as failed. Where there is nothing to draw, one
        that is missing is drawn now.

        Raises:
            InputError: if one of ``numbers`` was never drawn.
        """
        drawn = {trial.number for trial in self._study.get_trials(deepcopy=False)}
        while not self._space and numbers - drawn:
            drawn.add(self._study.ask().number)
        if strange := sorted(numbers - drawn):
            name = self._study.study_name
            raise InputError(f"study {name}: must have trial {strange[0]}, as the ledger has")
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished() and trial.number not in numbers:
                if trial.params.keys() == self._space.keys():
                    self._left.append(trial.number)
                else:
                    self.tell(trial.number, None)

    def _trial_id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)


def _sampler_seed(seed: int, drawn: int) -> int:
    """Return a seed of 32 bits, as samplers want: the sum as long as it fits, else a mixture."""
    plain = 1000 * seed + drawn
    if plain < 2**32:
        return plain
    return int(np.random.SeedSequence((seed, drawn)).generate_state(1)[0])


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
    space = {
        name: spanned_space([drawn[name] for drawn, _ in trials if name in drawn])
        for name in sorted(names)
    }
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


def spanned_space(values: Sequence[Any]) -> BaseDistribution | None:
    """Return the smallest space that holds the values, None if they are all the same."""
    if len({repr(value) for value in values}) < 2:
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return CategoricalDistribution(sorted({repr(value) for value in values}))
    low, high = min(values), max(values)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=0 < 10 * low <= high)
