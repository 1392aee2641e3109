"""NNI's own NAS strategies, which explore our search space.

NNI runs them in experiments of its own kind, which cannot be resumed (nnictl refuses, its Python
interface fails) and need their own kind of trial. Here they run unchanged in a thread.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from sedona_nni.files import reading
from sedona_nni.strategies.checkpoint import COMPUTE_FILE
from sedona_nni.strategies.sources.ledger import LedgerSource

if TYPE_CHECKING:
    from nni.nas.strategy import Strategy

    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.reporting.trial import AnyResult, AnyTrial

__all__ = ["ExploringSource"]


class ExploringSource(LedgerSource):
    """Trains the decouplings that one of NNI's strategies asks for, each once.

    After a resume the strategy starts anew with the same seed and gets known results at once, so it
    comes back to where it was. Settings: `sedona_nni.strategies.settings.explored`.
    """

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `TrialSource.configure`."""
        from sedona_nni.strategies.measuring import run_bound, run_costs
        from sedona_nni.strategies.trial_engine import (
            TrialEngine,
            build_strategy,
            decoupling_space,
        )

        super().configure(search_space)
        training, exploration = self.settings.training, self.settings.exploration
        costs = run_costs(self.settings, self.folder, self.host.checkpoint / COMPUTE_FILE)
        bound = run_bound(self.settings, self.folder, costs)
        space = decoupling_space(exploration, training.task, training.aux, bound)
        self._wanted: deque[Decoupling] = deque()
        self._explored = False
        self._engine = TrialEngine(self._start, self._is_free, self.host.lock, exploration, space)
        with reading(self.ledger.path, "start the experiment anew"):
            for record in self.ledger:
                accuracy = record.validation_accuracy if record.status == "succeeded" else None
                decoupling = self._decoupling(record.key)
                self._engine.remember(decoupling, record.status == "running", accuracy)
        strategy = build_strategy(exploration, training.seed)
        threading.Thread(target=self._explore, args=[strategy], daemon=True).start()

    def _explore(self, strategy: Strategy) -> None:
        try:
            self._engine.explore(strategy)
            self._explored = True
            self.host.supply()
        except Exception as error:
            self.host.give_up(error)

    def _start(self, decoupling: Decoupling) -> None:
        self._wanted.append(decoupling)
        self.host.supply()

    def _is_free(self) -> bool:
        return self.host.free_slots > len(self._wanted)

    def new_trial(self) -> AnyTrial | None:
        """Return a training that the strategy wants."""
        from sedona_nni.reporting.trial import TrainTrial

        if not self._wanted:
            return None
        number = len(self.ledger)
        strategy, train = self.settings.exploration.strategy, self.settings.training.train
        return TrainTrial(
            key=f"{strategy}-{number:03d}",
            strategy=strategy,
            **self.common,
            decoupling=self._wanted.popleft(),
            train={**train.model_dump(mode="json"), "seed": train.seed + number},
        )

    def no_more(self) -> bool:
        """See `LedgerSource.no_more`."""
        return self._explored and not self._wanted

    def take(self, key: str, result: AnyResult) -> None:
        """Tell the strategy."""
        self._engine.finish(self._decoupling(key), result.default)

    def miss(self, key: str) -> None:
        """Tell the strategy."""
        self._engine.finish(self._decoupling(key), None)

    def _decoupling(self, key: str) -> Decoupling:
        from sedona_nni.reporting.trial import TrainTrial

        trial = self.ledger[key].parameters
        assert isinstance(trial, TrainTrial)
        return trial.decoupling
