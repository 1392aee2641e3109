"""One strategy of a study, tried once in every space: it chooses decouplings, which are trained.

A directory that it was tried in holds a directory of each training, which has its results, and of
the search.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from sedona_nni.data.batches import BatchStream
from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.choice import leaders
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.reporting.trial import StudySpace
from sedona_nni.searches.documents import parse_result
from sedona_nni.strategies.settings import BridgeSettings
from sedona_nni.strategies.study_settings import (
    StudySettings,
    fixed_aux,
    space_bound,
    uniform_in,
    why_not_uniform,
)
from sedona_nni.training.weights import MODEL_FILE
from sedona_nni.trials.search import run_search
from sedona_nni.trials.train import run_training

__all__ = ["run_study_trial"]

# A budget of a few trainings leaves evolution little to evolve: it has to begin early
_EVOLUTION: dict[str, Any] = {"population_size": 3, "sample_size": 2, "mutation_prob": 0.3}
_REPORTS = 2  # of a search: each validates and saves, which costs time


def run_study_trial(
    settings: StudySettings,
    strategy: str,
    replicate: int,
    *,
    device: torch.device | str = "cpu",
    report: Callable[[dict[str, float]], None] = lambda numbers: None,
    directory: Path,
) -> dict[str, Any]:
    """Let a strategy choose a decoupling in every space, at the cost that the study allows.

    Called again with the same directory it goes on, and trains nothing twice. Trainings of the same
    decoupling with the same seed are one, also in several spaces.

    Args:
        settings: Of the study.
        strategy: One of its strategies.
        replicate: Number of the replicate, from 0.
        device: Where.
        report: Called with the validation accuracy of every training as ``default``.
        directory: Where to keep checkpoints and results.

    Returns:
        ``default`` and ``test_accuracy``, means over the spaces of the picks' validation and test
        accuracy; ``time_s`` and ``images`` of search and trainings together; ``search`` (of
        strategies without one None): its ``time_s``, ``images`` and ``search_result``; ``runs``,
        every training in the order of the spaces, with ``space`` (its number, from 0; of
        back-propagation None), ``decoupling``, ``seed``, ``validation_accuracy``,
        ``test_accuracy``, ``time_s``, ``images``, ``macs``, ``peak_memory_mib``, ``largest_share``
        and ``parameters``, as in `trials.train.run_training` and `Compute.largest_share`;
        ``picks``, for each space the number of the pick in ``runs``, None in a space that the
        strategy cannot respect (of back-propagation one number); and ``left_out``, why not, by the
        space's number.

    Raises:
        DivergedError: if the loss of a training does not stay finite.
    """
    trial = _Trial(settings, strategy, replicate, torch.device(device), report, directory)
    runs: list[dict[str, Any]] = []
    picks: list[int | None] = []
    left_out: dict[str, str] = {}
    spaces = [None] if strategy == "backprop" else [*range(len(settings.spaces))]
    for space in spaces:
        if reason := trial.why_not(space):
            left_out[str(space)] = reason
            picks.append(None)
            continue
        found = [{"space": space, **run} for run in trial.trained_in(space)]
        best = max(range(len(found)), key=lambda i: found[i]["validation_accuracy"])
        picks.append(len(runs) + best)
        runs += found
    picked = [runs[pick] for pick in picks if pick is not None]
    spent = [*trial.trained.values(), *([] if trial.search is None else [trial.search])]
    return {
        "default": float(np.mean([run["validation_accuracy"] for run in picked])),
        "test_accuracy": float(np.mean([run["test_accuracy"] for run in picked])),
        "time_s": sum(each["time_s"] for each in spent),
        "images": sum(each["images"] for each in spent),
        "search": trial.search,
        "runs": runs,
        "picks": picks,
        "left_out": left_out,
    }


class _Trial:
    """Trains and searches for a trial, nothing twice.

    Attributes:
        trained: Every training, by the name of its directory.
        search: The search, once there was one.
    """

    def __init__(
        self,
        settings: StudySettings,
        strategy: str,
        replicate: int,
        device: torch.device,
        report: Callable[[dict[str, float]], None],
        directory: Path,
    ) -> None:
        self._settings = settings
        self._strategy = strategy
        self._replicate = replicate
        self._device = device
        self._report = report
        self._directory = directory
        self.trained: dict[str, dict[str, Any]] = {}
        self.search: dict[str, Any] | None = None

    def why_not(self, number: int | None) -> str | None:
        """Return why the strategy cannot choose from a space, None if it can."""
        aux = fixed_aux(self._strategy)
        if number is None or aux is None:
            return None
        return why_not_uniform(self._settings.spaces[number], self._settings.task, aux)

    def trained_in(self, number: int | None) -> list[dict[str, Any]]:
        """Return the trainings that the strategy spends its budget in a space on."""
        settings, aux = self._settings, fixed_aux(self._strategy)
        if number is None:
            return self._with_seeds(Decoupling(backbone=settings.task.backbone))
        space = settings.spaces[number]
        if aux is not None:
            return self._with_seeds(uniform_in(space, settings.task, aux))
        if self._strategy in ("sedona", "probe"):
            if self.search is None:
                self.search = self._searched()
            count = settings.num_leaders(self._strategy)
            found = parse_result(self.search["search_result"])
            bound = space_bound(space, settings.task, settings.aux)
            best = itertools.cycle(leaders(found, space.num_blocks, count, bound))
            return [self._train(next(best), number) for number in range(count)]
        return self._asked_for(number, space)

    def _with_seeds(self, decoupling: Decoupling) -> list[dict[str, Any]]:
        return [self._train(decoupling, number) for number in range(self._settings.budget)]

    def _asked_for(self, number: int, space: StudySpace) -> list[dict[str, Any]]:
        """Train what one of NNI's strategies asks for; a small space may have less of it."""
        from sedona_nni.strategies.asking import (
            ask_by_nni,  # with all of nni.nas, which others do without
        )

        settings, evolves = self._settings, self._strategy == "evolution"
        rng = np.random.default_rng([settings.seed, self._replicate, number])
        bridge = BridgeSettings(
            task=settings.task,
            aux=settings.aux,
            strategy="regularized_evolution" if evolves else "random",
            strategy_args=_EVOLUTION if evolves else {},
            num_blocks=space.num_blocks,
            max_trials=settings.budget,
            max_block_share=space.max_block_share,
            seed=int(rng.integers(2**31)),
        )
        found: list[dict[str, Any]] = []

        def ask(decoupling: Decoupling) -> float:
            found.append(self._train(decoupling, len(found)))
            return float(found[-1]["validation_accuracy"])

        ask_by_nni(bridge, space_bound(space, settings.task, settings.aux), ask)
        return found

    def _train(self, decoupling: Decoupling, number: int) -> dict[str, Any]:
        """Return the replicate's training ``number``, from 0, of a decoupling."""
        settings = self._settings
        seed = settings.train.seed + 100 * self._replicate + number
        name = f"{decoupling.key} seed {seed}".replace(" ", "_").replace(":", "-")
        if name in self.trained:
            return self.trained[name]
        directory = self._directory / name
        found = run_training(
            settings.task,
            decoupling,
            settings.train.model_copy(update={"seed": seed}),
            device=self._device,
            workers=settings.workers,
            directory=directory,
        )
        (directory / MODEL_FILE).unlink(missing_ok=True)  # hundreds of them would fill a disk
        kept = ("test_accuracy", "time_s", "images", "macs", "peak_memory_mib", "parameters")
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

    def _searched(self) -> dict[str, Any]:
        settings, replicate = self._settings, self._replicate
        how: dict[str, Any] = {
            "aux": settings.aux,
            "train": settings.train,
            "num_reports": _REPORTS,
            "device": self._device,
            "workers": settings.workers,
            "directory": self._directory / "search",
        }
        if self._strategy == "probe":
            search: BaseModel = settings.probe_settings(replicate)
        else:
            search = settings.search_settings(replicate, self._steps())
        found = run_search(self._strategy, settings.task, search, **how)
        return {name: found[name] for name in ("time_s", "images", "search_result")}

    def _steps(self) -> int:
        """Return the steps of a training."""
        train = self._settings.train
        images = load_splits(self._settings.task, train.validation_fraction).train
        return train.epochs * BatchStream(images, train.batch_size, 0, "cpu").batches_per_epoch
