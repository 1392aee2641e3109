"""Searches, and Optuna, which tunes the training of what they find; or Optuna alone.

PyTorch and Optuna are imported when it is configured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sedona_nni.errors import InputError
from sedona_nni.files import check_room, reading
from sedona_nni.strategies.checkpoint import COMPUTE_FILE, STUDY_FILE
from sedona_nni.strategies.sources.ledger import LedgerSource
from sedona_nni.strategies.sources.source import ExperimentFailedError, Parameters

if TYPE_CHECKING:
    from sedona_nni.decouplings.outcome import SearchOutcome
    from sedona_nni.reporting.trial import (
        AnyResult,
        AnyTrial,
        SearchTrial,
        SearchTrialResult,
        TrainTrial,
    )
    from sedona_nni.strategies.hyperparameters import Study
    from sedona_nni.strategies.plan import NextTraining, Outcomes

__all__ = ["TuningSource"]

_REMEDY = "start the experiment anew"


class TuningSource(LedgerSource):
    """Searches, if there is something to search, and trainings of each contender.

    Each contender has a study of its own, the same number of trials, and the same sampler with the
    same seed. What is trained next is said by `strategies.plan.next_step`. Settings:
    `sedona_nni.strategies.settings.tuned`.
    """

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `TrialSource.configure`."""
        import optuna

        from sedona_nni.strategies.hyperparameters import Study, read_search_spaces, study_url
        from sedona_nni.strategies.measuring import run_bound, run_costs
        from sedona_nni.strategies.pruners import build_pruner
        from sedona_nni.strategies.settings.tuned import plan_of

        super().configure(search_space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # or it writes to users' terminals
        kept = self.host.checkpoint / COMPUTE_FILE
        self._costs = run_costs(self.settings, self.folder, kept)
        bound = run_bound(self.settings, self.folder, self._costs)
        self._plan = plan = replace(plan_of(self.settings, self.folder), bound=bound)
        spaces = read_search_spaces(search_space, self.settings, plan)
        tuning = self.settings.tuning
        names = [each.name for each in plan.contenders]
        with reading(self.ledger.path, _REMEDY):
            trained = {name: {_number(key) for key in self._trained(name)} for name in names}
            self._found = self._known_outcomes()
            self._check_ledger(names)
        self._studies: dict[str, Study] = {}
        with self._reading_study():
            storage = optuna.storages.RDBStorage(study_url(self.host.checkpoint / STUDY_FILE))
            for name in names:
                study = Study(
                    name,
                    storage,
                    spaces[name],
                    tuning.sampler,
                    plan.seed,
                    build_pruner(tuning.pruner),
                    tuning.second_objective,
                )
                study.take_up(trained[name])
                self._studies[name] = study

    def _reading_study(self) -> AbstractContextManager[None]:
        """Turn what a damaged study stumbles over into one line."""
        return reading(self.host.checkpoint / STUDY_FILE, _REMEDY)

    def _check_ledger(self, names: Collection[str]) -> None:
        """Check that each training in the ledger is of a strategy that there is."""
        for record in self.ledger:
            if not record.is_search and record.strategy not in names:
                rule = f"must be of one of {', '.join(names)}"
                raise InputError.rule(f"{self.ledger.path}: {record.key}", rule, record.strategy)

    def _known_outcomes(self) -> dict[str, SearchOutcome]:
        """Return what searches have found, by strategy."""
        return {
            record.strategy: _found(record.result)
            for record in self.ledger
            if record.result is not None and record.result.kind == "search"
        }

    def _outcomes(self) -> Outcomes:
        """Return what has come of the plan, as the ledger has it."""
        from sedona_nni.strategies.plan import Outcomes

        searches = [record for record in self.ledger if record.is_search]
        return Outcomes(
            found=self._found,
            # One that failed did so in an earlier session, and comes again
            searching=[record.strategy for record in searches if record.status != "failed"],
            handed_out=Counter(r.strategy for r in self.ledger if not r.is_search),
        )

    def _trained(self, name: str) -> list[str]:
        return [r.key for r in self.ledger if r.strategy == name and not r.is_search]

    def new_trial(self) -> AnyTrial | None:
        """Return what the plan says is next."""
        from sedona_nni.strategies.plan import NextSearch, next_step

        step = next_step(self._plan, self._outcomes())
        if step is None:
            return None
        return self._search(step.strategy) if isinstance(step, NextSearch) else self._training(step)

    def _training(self, step: NextTraining) -> TrainTrial:
        from sedona_nni.reporting.trial import TrainTrial
        from sedona_nni.strategies.settings.tuned import train_settings

        (name, strategy, _, _), chosen = step
        shown = {
            "strategy": strategy,
            "blocks": chosen.num_blocks,
            "cuts": chosen.cuts,
            "auxiliary": chosen.aux,
        }
        with self._reading_study():
            number, hyperparameters = self._studies[name].ask(shown)
        train = train_settings(self.settings, strategy)
        second = self.settings.tuning.second_objective
        ideal = None
        if second == "speed-up" and self._costs is not None:
            ideal = 1 / self._costs.largest_share(chosen)
        return TrainTrial(
            key=f"{name}-{number:03d}",
            strategy=name,
            **self.common,
            decoupling=chosen,
            train={**train.model_dump(mode="json"), "seed": train.seed + number},
            hyperparameters=hyperparameters,
            second_objective=second,
            ideal_speedup=ideal,
        )

    def _search(self, strategy: str) -> SearchTrial:
        from sedona_nni.reporting.trial import SearchTrial
        from sedona_nni.searches import SEARCHES
        from sedona_nni.strategies.settings.tuned import train_settings

        settings, kind = self.settings, SEARCHES[strategy]
        train = train_settings(settings, strategy) if kind.uses_training else None
        return SearchTrial(
            key="search" if strategy == self._plan.main else f"search-{strategy}",
            strategy=strategy,
            **self.common,
            search=strategy,
            aux=settings.training.aux,
            settings=settings.source.settings[strategy].model_dump(mode="json"),
            train=None if train is None else train.model_dump(mode="json"),
        )

    def no_more(self) -> bool:
        """See `LedgerSource.no_more`."""
        from sedona_nni.strategies.plan import is_complete

        return is_complete(self._plan, self._outcomes())

    def remaining(self) -> int:
        """See `LedgerSource.remaining`; a search that failed in an earlier session comes again."""
        searches = (record for record in self.ledger if record.is_search)
        return super().remaining() + sum(record.status == "failed" for record in searches)

    def take(self, key: str, result: AnyResult) -> None:
        """Take what a search found, or tell Optuna of a training."""
        record = self.ledger[key]
        if result.kind == "search":
            self._found[record.strategy] = _found(result)
        else:
            values = [result.default, *record.second_value]
            with self._reading_study():
                self._studies[record.strategy].tell(_number(key), *values)

    def judge(self, key: str, epoch: int, accuracy: float) -> bool:
        """Ask Optuna."""
        with self._reading_study():
            return self._studies[self.ledger[key].strategy].judge(_number(key), epoch, accuracy)

    def miss(self, key: str) -> None:
        """Tell Optuna; the trial is not replaced."""
        with self._reading_study():
            self._studies[self.ledger[key].strategy].tell(_number(key), None)

    def failed(self, parameters: Parameters, reason: str) -> None:
        """Give up if a search failed; see `LedgerSource.failed` for trainings.

        Raises:
            ExperimentFailedError: as said.
        """
        record = self.ledger[parameters["key"]]
        if record.is_search and record.result is None:
            check_room(self.host.checkpoint)
            self.ledger.fail(record.key, reason)
            raise ExperimentFailedError(f"the search failed; {reason}")
        super().failed(parameters, reason)


def _number(key: str) -> int:
    """Return the number of a training in its strategy's study."""
    return int(key.rsplit("-", 1)[1])


def _found(result: SearchTrialResult) -> SearchOutcome:
    from sedona_nni.searches.documents import parse_result

    return parse_result(result.search_result)
