"""The tuners that ``nnictl`` loads: SEDONA or probing with Optuna, and Optuna alone.

PyTorch and Optuna are imported when a tuner is configured, see `strategies.ledger_tuner`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedona_nni.strategies.checkpoint import COMPUTE_FILE, STUDY_FILE
from sedona_nni.strategies.ledger_tuner import LedgerTuner
from sedona_nni.strategies.nni_border.tuner import ExperimentFailedError, Parameters

if TYPE_CHECKING:
    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.decouplings.outcome import SearchOutcome
    from sedona_nni.reporting.trial import AnyResult, AnyTrial, SearchTrial, SearchTrialResult
    from sedona_nni.strategies.hyperparameters import Study
    from sedona_nni.strategies.settings import Contender

__all__ = ["OptunaTuner", "ProbeTuner", "SearchingTuner", "SedonaTuner"]


class OptunaTuner(LedgerTuner):
    """Tunes the K-block training of a decoupling, and of those that it is compared with.

    Each contender has a study of its own, the same number of trials, and the same sampler with the
    same seed. Settings: `sedona_nni.strategies.settings.TuningSettings`.
    """

    def read_settings(self, folder: Path) -> Any:
        """See `LedgerTuner.read_settings`."""
        from sedona_nni.strategies.settings import TuningSettings, read_settings

        return read_settings(TuningSettings, self.class_args, folder)

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `BorderTuner.configure`."""
        import optuna

        from sedona_nni.strategies.hyperparameters import Study, read_search_spaces, study_url
        from sedona_nni.strategies.pruners import build_pruner

        super().configure(search_space)
        self._bound = self.settings.bound(self.folder, self.checkpoint / COMPUTE_FILE)
        self._contenders = {each.name: each for each in self.settings.contenders}
        spaces = read_search_spaces(search_space, self.settings, self.folder)
        self._costs = None
        if self.settings.second_objective == "speed-up":
            self._costs = self.settings.costs(self.folder, self.checkpoint / COMPUTE_FILE)
        storage = optuna.storages.RDBStorage(study_url(self.checkpoint / STUDY_FILE))
        self._studies: dict[str, Study] = {}
        for name in self._contenders:
            study = Study(
                name,
                storage,
                spaces[name],
                self.settings.sampler,
                self.settings.seed,
                build_pruner(self.settings.pruner),
                self.settings.second_objective,
            )
            study.forget_others({_number(key) for key in self._trained(name)})
            self._studies[name] = study
        self._documents = self._known_documents()
        self._also = {
            name: self.settings.also_decoupling(name, self.folder) for name in self.settings.also
        }

    def _known_documents(self) -> dict[str, Decoupling | SearchOutcome]:
        """Return what decouplings come from, by strategy, as far as it is known."""
        return {self.settings.main_strategy: self.settings.load(self.folder)}

    def _decoupling(self, contender: Contender) -> Decoupling | None:
        """Return what a contender trains, None while that depends on a search."""
        import numpy as np

        from sedona_nni.decouplings.decoupling import Decoupling, random_decoupling, uniform_cuts
        from sedona_nni.models import num_layers
        from sedona_nni.strategies.settings import derived

        settings = self.settings
        backbone, num_blocks = settings.task.backbone, contender.num_blocks
        if contender.strategy == "backprop":
            return Decoupling(backbone=backbone)
        if contender.strategy in self._also:
            return self._also[contender.strategy]
        if contender.strategy in settings.sources or num_blocks == 0:
            is_source = contender.strategy in settings.sources
            source = contender.strategy if is_source else settings.main_strategy
            if source not in self._documents:
                return None
            document = self._documents[source]
            found = derived(document, num_blocks, self._bound, contender.place)
            if is_source:
                return found
            num_blocks = found.num_blocks  # as many as the main strategy's
        layers, bound = num_layers(backbone), self._bound
        if contender.strategy == "random":
            if bound is not None:
                rng = np.random.default_rng(settings.seed)
                return bound.random(num_blocks, settings.aux, rng)
            return random_decoupling(backbone, layers, num_blocks, settings.aux, settings.seed)
        cuts = uniform_cuts(layers, num_blocks)
        (aux,) = settings.aux_for(contender.strategy)
        if bound is not None:
            return bound.nearest(cuts, [[aux]] * (layers - 1))
        return Decoupling(backbone=backbone, cuts=cuts, aux=[aux] * len(cuts))

    def _trained(self, strategy: str) -> list[str]:
        return [r.key for r in self.ledger if r.strategy == strategy and not r.is_search]

    def _left(self, strategy: str) -> int:
        return int(self.settings.trials_per_strategy) - len(self._trained(strategy))

    def new_trial(self) -> AnyTrial | None:
        """Return a training for the contender that has had the fewest."""
        from sedona_nni.reporting.trial import TrainTrial

        ready = {
            name: decoupling
            for name, contender in self._contenders.items()
            if (decoupling := self._decoupling(contender)) is not None
        }
        neediest = max(ready, key=self._left, default=None)
        if neediest is None or self._left(neediest) == 0:
            return None
        chosen, strategy = ready[neediest], self._contenders[neediest].strategy
        shown = {
            "strategy": strategy,
            "blocks": chosen.num_blocks,
            "cuts": chosen.cuts,
            "auxiliary": chosen.aux,
        }
        number, hyperparameters = self._studies[neediest].ask(shown)
        train = self.settings.train_settings(strategy)
        costs = self._costs
        return TrainTrial(
            key=f"{neediest}-{number:03d}",
            strategy=neediest,
            task=self.settings.task,
            machine=self.settings.machine,
            decoupling=chosen,
            train={**train.model_dump(mode="json"), "seed": train.seed + number},
            hyperparameters=hyperparameters,
            second_objective=self.settings.second_objective,
            ideal_speedup=None if costs is None else 1 / costs.largest_share(chosen),
        )

    def no_more(self) -> bool:
        """See `LedgerTuner.no_more`."""
        return all(self._left(name) == 0 for name in self._contenders)

    def take(self, key: str, result: AnyResult) -> None:
        """Tell Optuna."""
        record = self.ledger[key]
        values = [result.default, *record.second_value]
        self._studies[record.strategy].tell(_number(key), *values)

    def judge(self, key: str, epoch: int, accuracy: float) -> bool:
        """Ask Optuna."""
        return self._studies[self.ledger[key].strategy].judge(_number(key), epoch, accuracy)

    def miss(self, key: str) -> None:
        """Tell Optuna; the trial is not replaced."""
        self._studies[self.ledger[key].strategy].tell(_number(key), None)


class SearchingTuner(OptunaTuner):
    """Searches for a decoupling, then tunes its training.

    The first trials are the searches, one for each strategy that searches. Decouplings to compare
    with need none, so their trainings fill free slots meanwhile.
    """

    def _known_documents(self) -> dict[str, Decoupling | SearchOutcome]:
        from sedona_nni.reporting.trial import SearchTrialResult

        return {
            record.strategy: _found(record.result)
            for record in self.ledger
            if isinstance(record.result, SearchTrialResult)
        }

    def new_trial(self) -> AnyTrial | None:
        """Return the searches first, and again those that failed in an earlier session."""
        for strategy in self.settings.sources:
            key = self._search_key(strategy)
            if key not in self.ledger or self.ledger[key].status == "failed":
                return self._search(strategy)
        return super().new_trial()

    def remaining(self) -> int:
        """See `LedgerTuner.remaining`; a search that failed in an earlier session comes again."""
        searches = (record for record in self.ledger if record.is_search)
        return super().remaining() + sum(record.status == "failed" for record in searches)

    def _search_key(self, strategy: str) -> str:
        return "search" if strategy == self.settings.main_strategy else f"search-{strategy}"

    def _search(self, strategy: str) -> SearchTrial:
        from sedona_nni.reporting.trial import SearchTrial
        from sedona_nni.searches import SEARCHES

        settings, kind = self.settings, SEARCHES[strategy]
        how = getattr(settings, kind.field)
        train = settings.train_settings(strategy) if kind.uses_training else None
        return SearchTrial(
            key=self._search_key(strategy),
            strategy=strategy,
            task=settings.task,
            machine=settings.machine,
            search=strategy,
            aux=settings.aux,
            settings=how.model_dump(mode="json"),
            train=None if train is None else train.model_dump(mode="json"),
        )

    def take(self, key: str, result: AnyResult) -> None:
        """Take what was found, or tell Optuna of a training."""
        if result.kind == "search":
            self._documents[self.ledger[key].strategy] = _found(result)
        else:
            super().take(key, result)

    def failed(self, parameters: Parameters, reason: str) -> None:
        """Give up if a search failed; see `LedgerTuner.failed` for trainings.

        Raises:
            ExperimentFailedError: as said.
        """
        record = self.ledger[parameters["key"]]
        if record.is_search and record.result is None:
            self.ledger.fail(record.key, reason)
            raise ExperimentFailedError(f"the search failed; {reason}")
        super().failed(parameters, reason)


class SedonaTuner(SearchingTuner):
    """Searches with SEDONA. Settings: `sedona_nni.strategies.settings.ExperimentSettings`."""

    def read_settings(self, folder: Path) -> Any:
        """See `LedgerTuner.read_settings`."""
        from sedona_nni.strategies.settings import ExperimentSettings, read_settings

        return read_settings(ExperimentSettings, self.class_args, folder)


class ProbeTuner(SearchingTuner):
    """Searches by short trainings, see `sedona_nni.searches.probing.probing`.

    Settings: `sedona_nni.strategies.settings.ProbeExperimentSettings`.
    """

    def read_settings(self, folder: Path) -> Any:
        """See `LedgerTuner.read_settings`."""
        from sedona_nni.strategies.settings import ProbeExperimentSettings, read_settings

        return read_settings(ProbeExperimentSettings, self.class_args, folder)


def _number(key: str) -> int:
    """Return the number of a training in its strategy's study."""
    return int(key.rsplit("-", 1)[1])


def _found(result: SearchTrialResult) -> SearchOutcome:
    from sedona_nni.searches.documents import parse_result

    return parse_result(result.search_result)
