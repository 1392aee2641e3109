"""What NNI's NAS strategies run on in `strategies.sources.exploring`: models become trials."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sedona_nni.data.sets import image_size_of
from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.search_spaces import DecouplingSpace, DistinctDecouplings
from sedona_nni.search_spaces.nni_nas import SimplifiedModelSpace
from sedona_nni.strategies.settings.parts import Exploration
from sedona_nni.task import Task

from nni.nas.execution import ExecutionEngine  # isort: skip  # after search_spaces, see there
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent  # isort: skip
from nni.nas.space import ModelStatus  # isort: skip
from nni.nas.strategy import TPE, Random, RegularizedEvolution, Strategy  # isort: skip
from nni.algorithms.hpo.tpe_tuner import TpeTuner  # isort: skip

__all__ = ["TrialEngine", "build_strategy"]

_STRATEGIES = {"random": Random, "regularized_evolution": RegularizedEvolution, "tpe": TPE}

# A strategy that only asks for what is known has seen the whole space.
_PATIENCE = 50


def decoupling_space(
    exploration: Exploration, task: Task, aux: Sequence[str], bound: BlockBound | None
) -> DecouplingSpace:
    """Return what is explored.

    Args:
        exploration: K.
        task: Whose backbone is cut.
        aux: The auxiliary networks to choose from.
        bound: What the decouplings respect.
    """
    # No network is built here, so the number of classes does not matter.
    return DecouplingSpace(
        task.backbone,
        aux,
        num_classes=2,
        num_blocks=exploration.num_blocks,
        image_size=image_size_of(task),
        bound=bound,
    )


def build_strategy(exploration: Exploration, seed: int) -> Strategy:
    """Return the strategy that explores.

    Args:
        exploration: Which one, and its arguments.
        seed: Of its draws.

    Raises:
        InputError: if the strategy does not accept ``strategy_args``.
    """
    where = "tuner.classArgs.strategy_args"
    kind = _STRATEGIES[exploration.strategy]
    # TPE passes its arguments on, the others silently ignore what they do not know.
    options = inspect.signature(TpeTuner if kind is TPE else kind).parameters
    known = [name for name in options if name not in ("kwargs", "seed", "optimize_mode")]
    for name in exploration.strategy_args:
        if name not in known:
            raise InputError.rule(where, f"must be of {', '.join(known)}", name)
    fixed: dict[str, Any] = {"seed": seed}
    if kind is TPE:
        fixed["optimize_mode"] = "maximize"  # accuracy; NNI's default is the opposite
    try:
        return kind(**exploration.strategy_args, **fixed)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from None


class TrialEngine(ExecutionEngine):
    """Has each distinct decoupling trained once; the same again gets the known result.

    Args:
        start: Has a decoupling trained.
        is_free: Whether there is a slot for one more training.
        lock: Held when the tuner calls.
        exploration: How many trainings there may be.
        space: What is explored.
    """

    def __init__(
        self,
        start: Callable[[Decoupling], None],
        is_free: Callable[[], bool],
        lock: threading.RLock,
        exploration: Exploration,
        space: DecouplingSpace,
    ) -> None:
        super().__init__()
        self.space = space
        self._start = start
        self._is_free = is_free
        self._lock = lock
        self._budget = exploration.max_trials
        # Evolution chooses parents among results: after its first population it needs one.
        self._population: int | None = exploration.strategy_args.get("population_size")
        self._models: list[Any] = []
        self._waiting: dict[Decoupling, list[Any]] = {}
        self._known: dict[Decoupling, float | None] = {}
        self._repeated = 0

    def remember(self, decoupling: Decoupling, is_running: bool, accuracy: float | None) -> None:
        """Take over what an earlier session has trained."""
        if is_running:
            self._waiting[decoupling] = []
        else:
            self._known[decoupling] = accuracy

    def finish(self, decoupling: Decoupling, accuracy: float | None) -> None:
        """Tell the strategy the validation accuracy of a training, None if it failed."""
        self._known[decoupling] = accuracy
        for model in self._waiting.pop(decoupling, []):
            self._tell(model, accuracy)

    def _tell(self, model: Any, accuracy: float | None) -> None:
        if accuracy is None:
            self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Failed))
        else:
            self.dispatch_model_event(FinalMetricEvent(model, accuracy))
            self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Trained))

    def explore(self, strategy: Strategy) -> None:
        """Run a strategy to its end; it waits for free slots and for results."""
        # NNI's TPE does not expect the error by which others are kept from repeating a decoupling.
        form = SimplifiedModelSpace if isinstance(strategy, TPE) else DistinctDecouplings
        strategy(form.from_model(self.space), self)

    # What strategies call, from their thread

    def submit_models(self, *models: Any) -> None:
        """See NNI."""
        with self._lock:
            for model in models:
                decoupling = self.space.decoupling(model.sample)
                model.status = ModelStatus.Training
                self._models.append(model)
                self._repeated += 1
                if decoupling in self._known:
                    self._tell(model, self._known[decoupling])
                elif decoupling in self._waiting:
                    self._waiting[decoupling].append(model)
                else:
                    self._repeated = 0
                    self._waiting[decoupling] = [model]
                    self._start(decoupling)

    def list_models(self, status: ModelStatus | None = None) -> list[Any]:
        """See NNI."""
        with self._lock:
            return [model for model in self._models if status in (None, model.status)]

    def idle_worker_available(self) -> bool:
        """See NNI."""
        with self._lock:
            no_parents = self._population is not None and len(self._models) >= self._population
            if no_parents and not any(
                model.status == ModelStatus.Trained for model in self._models
            ):
                return False
            return self._is_free()

    def budget_available(self) -> bool:
        """See NNI."""
        with self._lock:
            trained = len(self._known) + len(self._waiting)
            return trained < self._budget and self._repeated < _PATIENCE + trained

    def shutdown(self) -> None:
        """See NNI."""
