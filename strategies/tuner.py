"""The tuners that ``nnictl`` loads: SEDONA with Optuna, and Optuna alone.

Light at import: NNI kills a tuner that is not ready after 10 seconds. PyTorch and Optuna are
imported when it is configured.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strategies.nni_border.tuner import BorderTuner, ExperimentFailedError, Parameters

if TYPE_CHECKING:
    from sedona_nni.decoupling import Decoupling
    from strategies.hyperparameters import Study

__all__ = ["LEDGER_FILE", "OptunaTuner", "SedonaTuner"]

LEDGER_FILE = "trials.json"
STUDY_FILE = "optuna.db"

_FAILURES_TO_GIVE_UP = 3
_SEARCH_KEY = "search"

_logger = logging.getLogger(__name__)


class OptunaTuner(BorderTuner):
    """Tunes the K-block training of a decoupling, and of those that it is compared with.

    Each strategy has a study of its own, the same number of trials, and the same sampler with the
    same seed. Settings: `strategies.settings.TuningSettings`.
    """

    main_strategy = "given"

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `BorderTuner.configure`."""
        import optuna

        from sedona_nni.ledger import Ledger
        from strategies.hyperparameters import Study, read_search_space

        self.settings = self._read_settings(Path(self.experiment_config()["trialCodeDirectory"]))
        self.ledger = Ledger(self.checkpoint / LEDGER_FILE)
        self._lost: list[Parameters] = []
        self._strategies = [self.main_strategy, *self.settings.compare]
        space = read_search_space(search_space, self.settings.train)
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.checkpoint / STUDY_FILE}")
        self._studies: dict[str, Study] = {
            name: Study(name, storage, space, self.settings.sampler, self.settings.seed)
            for name in self._strategies
        }
        for name, study in self._studies.items():
            known = [r.key for r in self.ledger if r.strategy == name and r.stage == "train"]
            study.forget_others({_number(key) for key in known})
        self._decouplings = self._known_decouplings()

    def _read_settings(self, folder: Path) -> Any:
        from strategies.settings import TuningSettings, read_settings

        settings = read_settings(TuningSettings, self.class_args, folder)
        self._given = settings.load_decoupling(folder)
        return settings

    def _known_decouplings(self) -> dict[str, Decoupling]:
        """Return what can be trained already, by strategy."""
        compared = self._compared(self._given.num_blocks)
        return {self.main_strategy: self._given, **compared}

    def _compared(self, num_blocks: int) -> dict[str, Decoupling]:
        from sedona_nni.backbones import num_layers
        from sedona_nni.decoupling import (
            Decoupling,
            random_decoupling,
            uniform_cuts,
        )

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

    def resumed(self, running: list[Parameters]) -> None:
        """See `BorderTuner.resumed`."""
        again = {parameters["key"] for parameters in running}
        self._lost = [
            record.parameters
            for record in self.ledger
            if record.status == "running" and record.key not in again
        ]

    def next_parameters(self) -> Parameters | None:
        """Return a trial of the strategy that has had the fewest."""
        if self._lost:
            return self._lost.pop(0)
        ready = [name for name in self._strategies if name in self._decouplings]
        neediest = max(ready, key=self._left, default=None)
        if neediest is None or self._left(neediest) == 0:
            return None
        parameters = self._training(neediest)
        self.ledger.start(parameters)
        return parameters

    def finished(self) -> bool:
        """See `BorderTuner.finished`."""
        return not self._lost and all(
            name in self._decouplings and self._left(name) == 0 for name in self._strategies
        )

    def _left(self, strategy: str) -> int:
        handed_out = sum(r.strategy == strategy and r.stage == "train" for r in self.ledger)
        return int(self.settings.trials_per_strategy) - handed_out

    def _training(self, strategy: str) -> Parameters:
        number, hyperparameters = self._studies[strategy].ask()
        train = self.settings.train
        return {
            "key": f"{strategy}-{number:03d}",
            "stage": "train",
            "strategy": strategy,
            "task": self.settings.task.model_dump(mode="json"),
            "decoupling": self._decouplings[strategy].model_dump(mode="json"),
            "train": {**train.model_dump(mode="json"), "seed": train.seed + number},
            "hyperparameters": hyperparameters,
            "device": self.settings.device,
            "threads": self.settings.threads,
        }

    def succeeded(self, parameters: Parameters, result: Any) -> None:
        """See `BorderTuner.succeeded`."""
        key = parameters["key"]
        if key not in self.ledger:
            _logger.warning("ignored the result of a trial that is not ours: %s", key)
            return
        if self.ledger[key].status == "succeeded":  # known, and seen again after a resume
            result = self.ledger[key].result
        accuracy = result.get("default") if isinstance(result, dict) else None
        if not isinstance(accuracy, int | float) or not math.isfinite(accuracy):
            self.failed(parameters, f"its result has no finite validation accuracy: {result!r}")
            return
        if self.ledger[key].status != "succeeded":
            self.ledger.succeed(key, result)
        self._take(key, result)

    def _take(self, key: str, result: dict[str, Any]) -> None:
        """Use the result of a trial that has succeeded, now or earlier."""
        self._studies[self.ledger[key].strategy].tell(_number(key), result["default"])

    def failed(self, parameters: Parameters, reason: str) -> None:
        """Enter a failed training; give up if there are only such.

        Raises:
            ExperimentFailedError: if it looks as if no training could succeed.
        """
        key = parameters["key"]
        if self.ledger[key].status == "succeeded":  # failed when it ran again after a resume
            return
        self.ledger.fail(key, reason)
        self._studies[self.ledger[key].strategy].tell(_number(key), None)
        ended = [r for r in self.ledger if r.stage == "train" and r.status != "running"]
        total = len(self._strategies) * self.settings.trials_per_strategy
        if len(ended) >= min(_FAILURES_TO_GIVE_UP, total) and all(
            record.status == "failed" for record in ended
        ):
            raise ExperimentFailedError(f"all of the first {len(ended)} trainings failed; {reason}")


class SedonaTuner(OptunaTuner):
    """Searches for a decoupling, then tunes its training.

    The first trial is the search. Decouplings to compare with need none, so their trainings fill
    free slots meanwhile. Settings: `strategies.settings.ExperimentSettings`.
    """

    main_strategy = "sedona"

    def _read_settings(self, folder: Path) -> Any:
        from strategies.settings import ExperimentSettings, read_settings

        return read_settings(ExperimentSettings, self.class_args, folder)

    def _known_decouplings(self) -> dict[str, Decoupling]:
        decouplings = self._compared(self.settings.num_blocks)
        if _SEARCH_KEY in self.ledger and (result := self.ledger[_SEARCH_KEY].result):
            decouplings["sedona"] = self._found(result)
        return decouplings

    def next_parameters(self) -> Parameters | None:
        """Return the search first, and again if it failed in an earlier session."""
        if _SEARCH_KEY not in self.ledger or self.ledger[_SEARCH_KEY].status == "failed":
            parameters = self._search()
            self.ledger.start(parameters)
            return parameters
        return super().next_parameters()

    def _search(self) -> Parameters:
        return {
            "key": _SEARCH_KEY,
            "stage": "search",
            "strategy": self.main_strategy,
            "task": self.settings.task.model_dump(mode="json"),
            "num_blocks": self.settings.num_blocks,
            "aux": list(self.settings.aux),
            "search": self.settings.search.model_dump(mode="json"),
            "device": self.settings.device,
            "threads": self.settings.threads,
        }

    def _take(self, key: str, result: dict[str, Any]) -> None:
        if key == _SEARCH_KEY:
            self._decouplings["sedona"] = self._found(result)
        else:
            super()._take(key, result)

    def _found(self, result: dict[str, Any]) -> Decoupling:
        from sedona_nni.decoupling import SearchResult

        found = SearchResult.model_validate(result["search_result"])
        return found.decoupling(self.settings.num_blocks)

    def failed(self, parameters: Parameters, reason: str) -> None:
        """Give up if the search failed; see `OptunaTuner.failed` for trainings.

        Raises:
            ExperimentFailedError: as said.
        """
        if parameters["key"] == _SEARCH_KEY:
            self.ledger.fail(_SEARCH_KEY, reason)
            raise ExperimentFailedError(f"the search failed; {reason}")
        super().failed(parameters, reason)


def _number(key: str) -> int:
    """Return the number of a training in its strategy's study."""
    return int(key.rsplit("-", 1)[1])
