"""One strategy of a study, tried once in every space: it chooses decouplings, which are trained.

A directory that it was tried in holds a directory of each training, which has its results, and of
the search.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.choice import leaders
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.reporting.trial import StudySpace, StudyTrial
from sedona_nni.searches import SEARCHES
from sedona_nni.searches.documents import parse_result
from sedona_nni.strategies.plan import BACKPROP
from sedona_nni.strategies.settings.parts import Exploration
from sedona_nni.strategies.settings.studied import EVOLUTION, num_leaders
from sedona_nni.strategies.study_spaces import (
    fixed_aux,
    space_bound,
    uniform_in,
    why_not_uniform,
)
from sedona_nni.training.loop import training_stream
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.weights import MODEL_FILE
from sedona_nni.trials.search import run_search
from sedona_nni.trials.train import run_training

__all__ = ["run_study_trial"]

# A budget of a few trainings leaves evolution little to evolve: it has to begin early
_EVOLUTION: dict[str, Any] = {"population_size": 3, "sample_size": 2, "mutation_prob": 0.3}
_SPENT = ("time_s", "processor_s", "images")
_REPORTS = 2  # of a search: each validates and saves, which costs time


def run_study_trial(
    trial: StudyTrial,
    *,
    device: torch.device | str = "cpu",
    report: Callable[[dict[str, float]], None] = lambda numbers: None,
    directory: Path,
) -> dict[str, Any]:
    """Let a strategy choose a decoupling in every space, at the cost that the study allows.

    Called again with the same directory it goes on, and trains nothing twice. Trainings of the same
    decoupling with the same seed are one, also in several spaces.

    Args:
        trial: The strategy, the replicate, and all that the study says.
        device: Where.
        report: Called with the validation accuracy of every training as ``default``.
        directory: Where to keep checkpoints and results.

    Returns:
        ``default`` and ``test_accuracy``, means over the spaces of the picks' validation and test
        accuracy; ``time_s``, ``processor_s`` and ``images`` of search and trainings together;
        ``search`` (of strategies without one None): these three of its own, and
        ``search_result``; ``runs``, every training in the order of the spaces, with ``space`` (its
        number, from 0; of back-propagation None), ``decoupling``, ``seed``,
        ``validation_accuracy``, ``test_accuracy``, ``time_s``, ``processor_s``, ``images``,
        ``macs``, ``peak_memory_mib``, ``largest_share`` and ``parameters``, as in
        `trials.train.run_training` and `Compute.largest_share`; ``picks``, for each space the
        number of the pick in ``runs``, None in a space that the strategy cannot respect (of
        back-propagation one number); and ``left_out``, why not, by the space's number.

    Raises:
        DivergedError: if the loss of a training does not stay finite.
    """
    doing = _Doing(trial, torch.device(device), report, directory)
    runs: list[dict[str, Any]] = []
    picks: list[int | None] = []
    left_out: dict[str, str] = {}
    spaces = [None] if trial.strategy == BACKPROP else [*range(len(trial.spaces))]
    for space in spaces:
        if reason := doing.why_not(space):
            left_out[str(space)] = reason
            picks.append(None)
            continue
        found = [{"space": space, **run} for run in doing.trained_in(space)]
        best = max(range(len(found)), key=lambda i: found[i]["validation_accuracy"])
        picks.append(len(runs) + best)
        runs += found
    picked = [runs[pick] for pick in picks if pick is not None]
    spent = [*doing.trained.values(), *([] if doing.search is None else [doing.search])]
    return {
        "default": float(np.mean([run["validation_accuracy"] for run in picked])),
        "test_accuracy": float(np.mean([run["test_accuracy"] for run in picked])),
        **{name: sum(each[name] for each in spent) for name in _SPENT},
        "search": doing.search,
        "runs": runs,
        "picks": picks,
        "left_out": left_out,
    }


class _Doing:
    """Trains and searches for a trial, nothing twice.

    Attributes:
        trained: Every training, by the name of its directory.
        search: The search, once there was one.
    """

    def __init__(
        self,
        trial: StudyTrial,
        device: torch.device,
        report: Callable[[dict[str, float]], None],
        directory: Path,
    ) -> None:
        self._trial = trial
        self._train_settings = TrainSettings.model_validate(trial.train)
        self._device = device
        self._report = report
        self._directory = directory
        self.trained: dict[str, dict[str, Any]] = {}
        self.search: dict[str, Any] | None = None

    def why_not(self, number: int | None) -> str | None:
        """Return why the strategy cannot choose from a space, None if it can."""
        aux = fixed_aux(self._trial.strategy)
        if number is None or aux is None:
            return None
        return why_not_uniform(self._trial.spaces[number], self._trial.task, aux)

    def trained_in(self, number: int | None) -> list[dict[str, Any]]:
        """Return the trainings that the strategy spends its budget in a space on."""
        trial, aux = self._trial, fixed_aux(self._trial.strategy)
        if number is None:
            return self._with_seeds(Decoupling(backbone=trial.task.backbone))
        space = trial.spaces[number]
        if aux is not None:
            return self._with_seeds(uniform_in(space, trial.task, aux))
        if trial.search is None:
            return self._asked_for(number, space)
        how = SEARCHES[trial.strategy].settings.model_validate(trial.search.settings)
        if self.search is None:
            self.search = self._searched(how, trial.search.options)
        count = num_leaders(trial.strategy, how, trial.budget)
        found = parse_result(self.search["search_result"])
        bound = space_bound(space, trial.task, trial.aux)
        best = itertools.cycle(leaders(found, space.num_blocks, count, bound))
        return [self._train(next(best), number) for number in range(count)]

    def _with_seeds(self, decoupling: Decoupling) -> list[dict[str, Any]]:
        return [self._train(decoupling, number) for number in range(self._trial.budget)]

    def _asked_for(self, number: int, space: StudySpace) -> list[dict[str, Any]]:
        """Train what one of NNI's strategies asks for; a small space may have less of it."""
        from sedona_nni.strategies.asking import (
            ask_by_nni,  # with all of nni.nas, which others do without
        )

        trial, evolves = self._trial, self._trial.strategy == EVOLUTION
        rng = np.random.default_rng([trial.seed, trial.replicate, number])
        exploration = Exploration(
            strategy="regularized_evolution" if evolves else "random",
            strategy_args=_EVOLUTION if evolves else {},
            num_blocks=space.num_blocks,
            max_trials=trial.budget,
        )
        found: list[dict[str, Any]] = []

        def ask(decoupling: Decoupling) -> float:
            found.append(self._train(decoupling, len(found)))
            return float(found[-1]["validation_accuracy"])

        ask_by_nni(
            exploration,
            trial.task,
            trial.aux,
            bound=space_bound(space, trial.task, trial.aux),
            seed=int(rng.integers(2**31)),
            ask=ask,
        )
        return found

    def _train(self, decoupling: Decoupling, number: int) -> dict[str, Any]:
        """Return the replicate's training ``number``, from 0, of a decoupling."""
        trial, settings = self._trial, self._train_settings
        seed = settings.seed + 100 * trial.replicate + number
        name = f"{decoupling.key} seed {seed}".replace(" ", "_").replace(":", "-")
        name = re.sub(r"[^\w.+-]", "", name)  # a model from elsewhere may have JSON in its name
        if name in self.trained:
            return self.trained[name]
        directory = self._directory / name
        found = run_training(
            trial.task,
            decoupling,
            settings.model_copy(update={"seed": seed}),
            device=self._device,
            workers=trial.machine.workers,
            directory=directory,
            check_memory=trial.machine.check_memory,
        )
        (directory / MODEL_FILE).unlink(missing_ok=True)  # hundreds of them would fill a disk
        kept = ("test_accuracy", *_SPENT, "macs", "peak_memory_mib", "parameters")
        compute = Compute.model_validate(found["compute"])
        self.trained[name] = {
            "decoupling": decoupling.model_dump(mode="json"),
            "seed": seed,
            "validation_accuracy": found["default"],
            "largest_share": compute.largest_share(decoupling),
            **{name: found[name] for name in kept},
        }
        self._report({"default": found["default"]})
        return self.trained[name]

    def _searched(self, settings: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Search as the study says; replicate r has a seed of 100 r more."""
        trial, kind = self._trial, SEARCHES[self._trial.strategy]
        how = kind.for_study(
            settings,
            kind.study_options.model_validate(options),
            self._train_settings,
            self._steps(),
        )
        found = run_search(
            kind.name,
            trial.task,
            how.model_copy(update={"seed": how.seed + 100 * trial.replicate}),
            aux=trial.aux,
            train=self._train_settings,
            device=self._device,
            workers=trial.machine.workers,
            directory=self._directory / "search",
            num_reports=_REPORTS,
        )
        return {name: found[name] for name in (*_SPENT, "search_result")}

    def _steps(self) -> int:
        """Return the steps of a training."""
        settings, workers = self._train_settings, self._trial.machine.workers
        splits = load_splits(self._trial.task, settings.validation_fraction, workers=workers)
        return settings.epochs * training_stream(splits, settings, "cpu").batches_per_epoch
