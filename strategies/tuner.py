"""The tuners that ``nnictl`` loads: SEDONA with Optuna, and Optuna alone.

PyTorch and Optuna are imported when a tuner is configured, see `strategies.ledger_tuner`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from strategies.ledger_tuner import LedgerTuner
from strategies.nni_border.tuner import ExperimentFailedError, Parameters

if TYPE_CHECKING:
    from sedona_nni.decoupling import Decoupling
    from strategies.hyperparameters import Study

__all__ = ["OptunaTuner", "SedonaTuner"]

STUDY_FILE = "optuna.db"

_SEARCH_KEY = "search"


class OptunaTuner(LedgerTuner):
    """Tunes the K-block training of a decoupling, and of those that it is compared with.

    Each strategy has a study of its own, the same number of trials, and the same sampler with the
    same seed. Settings: `strategies.settings.TuningSettings`.
    """

    main_strategy = "given"

    def read_settings(self, folder: Path) -> Any:
        """See `LedgerTuner.read_settings`."""
        from strategies.settings import TuningSettings, read_settings

        return read_settings(TuningSettings, self.class_args, folder)

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `BorderTuner.configure`."""
        import optuna

        from strategies.hyperparameters import Study, read_search_space

        super().configure(search_space)
        self._strategies = [self.main_strategy, *self.settings.compare]
        space = read_search_space(search_space, self.settings.train)
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.checkpoint / STUDY_FILE}")
        self._studies: dict[str, Study] = {}
        for name in self._strategies:
            study = Study(name, storage, space, self.settings.sampler, self.settings.seed)
            study.forget_others({_number(key) for key in self._trained(name)})
            self._studies[name] = study
        self._decouplings = self._known_decouplings()

    def _known_decouplings(self) -> dict[str, Decoupling]:
        """Return what can be trained already, by strategy."""
        given = self.settings.load_decoupling(self.folder)
        return {self.main_strategy: given, **self._compared(given.num_blocks)}

    def _compared(self, num_blocks: int) -> dict[str, Decoupling]:
        from sedona_nni.backbones import num_layers
        from sedona_nni.decoupling import Decoupling, random_decoupling, uniform_cuts

        settings = self.settings
        backbone = settings.task.backbone
        layers = num_layers(backbone)
        cuts = uniform_cuts(layers, num_blocks)
        aux = [settings.uniform_aux] * len(cuts)
        every = {
            "uniform": Decoupling(backbone=backbone, cuts=cuts, aux=aux),
            "random": random_decoupling(backbone, layers, num_blocks, settings.aux, settings.seed),
            "backprop": Decoupling(backbone=backbone),
        }
        return {name: every[name] for name in settings.compare}

    def _trained(self, strategy: str) -> list[str]:
        return [r.key for r in self.ledger if r.strategy == strategy and r.stage == "train"]

    def _left(self, strategy: str) -> int:
        return int(self.settings.trials_per_strategy) - len(self._trained(strategy))

    def new_parameters(self) -> Parameters | None:
        """Return a training for the strategy that has had the fewest."""
        ready = [name for name in self._strategies if name in self._decouplings]
        neediest = max(ready, key=self._left, default=None)
        if neediest is None or self._left(neediest) == 0:
            return None
        number, hyperparameters = self._studies[neediest].ask()
        return self.training(neediest, number, self._decouplings[neediest], hyperparameters)

    def no_more(self) -> bool:
        """See `LedgerTuner.no_more`."""
        return all(self._left(name) == 0 for name in self._strategies)

    def take(self, key: str, result: dict[str, Any]) -> None:
        """Tell Optuna."""
        self._studies[self.ledger[key].strategy].tell(_number(key), result["default"])

    def miss(self, key: str) -> None:
        """Tell Optuna; the trial is not replaced."""
        self._studies[self.ledger[key].strategy].tell(_number(key), None)


class SedonaTuner(OptunaTuner):
    """Searches for a decoupling, then tunes its training.

    The first trial is the search. Decouplings to compare with need none, so their trainings fill
    free slots meanwhile. Settings: `strategies.settings.ExperimentSettings`.
    """

    main_strategy = "sedona"

    def read_settings(self, folder: Path) -> Any:
        """See `LedgerTuner.read_settings`."""
        from strategies.settings import ExperimentSettings, read_settings

        return read_settings(ExperimentSettings, self.class_args, folder)

    def _known_decouplings(self) -> dict[str, Decoupling]:
        decouplings = self._compared(self.settings.num_blocks)
        if _SEARCH_KEY in self.ledger and (result := self.ledger[_SEARCH_KEY].result):
            decouplings[self.main_strategy] = self._found(result)
        return decouplings

    def new_parameters(self) -> Parameters | None:
        """Return the search first, and again if it failed in an earlier session."""
        if _SEARCH_KEY not in self.ledger or self.ledger[_SEARCH_KEY].status == "failed":
            return self._search()
        return super().new_parameters()

    def _search(self) -> Parameters:
        settings = self.settings
        return {
            "key": _SEARCH_KEY,
            "stage": "search",
            "strategy": self.main_strategy,
            "task": settings.task.model_dump(mode="json"),
            "num_blocks": settings.num_blocks,
            "aux": list(settings.aux),
            "search": settings.search.model_dump(mode="json"),
            "device": settings.device,
            "threads": settings.threads,
        }

    def take(self, key: str, result: dict[str, Any]) -> None:
        """Take the decoupling that was found, or tell Optuna of a training."""
        if key == _SEARCH_KEY:
            self._decouplings[self.main_strategy] = self._found(result)
        else:
            super().take(key, result)

    def _found(self, result: dict[str, Any]) -> Decoupling:
        from sedona_nni.decoupling import SearchResult

        found = SearchResult.model_validate(result["search_result"])
        return found.decoupling(self.settings.num_blocks)

    def failed(self, parameters: Parameters, reason: str) -> None:
        """Give up if the search failed; see `LedgerTuner.failed` for trainings.

        Raises:
            ExperimentFailedError: as said.
        """
        if parameters["key"] == _SEARCH_KEY and self.ledger[_SEARCH_KEY].result is None:
            self.ledger.fail(_SEARCH_KEY, reason)
            raise ExperimentFailedError(f"the search failed; {reason}")
        super().failed(parameters, reason)


def _number(key: str) -> int:
    """Return the number of a training in its strategy's study."""
    return int(key.rsplit("-", 1)[1])
