"""The same training with several seeds, one after the other in one trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sedona_nni.training.settings import TrainSettings

__all__ = ["repeated"]


def repeated(
    train: Callable[[TrainSettings, Path], dict[str, Any]],
    settings: TrainSettings,
    repetitions: int,
    directory: Path,
) -> dict[str, Any]:
    """Train with the seeds ``settings.seed``, ``settings.seed + 1`` and so on.

    Args:
        train: Trains in a directory of its own, and returns the results again if it has finished
            there before.
        settings: The first training's.
        repetitions: How many trainings.
        directory: Holds a directory for each.

    Returns:
        What the first training returns, but for each number the mean over all trainings; and
        ``runs``, what each returns, with its ``seed``.
    """
    runs = []
    for seed in range(settings.seed, settings.seed + repetitions):
        found = train(settings.model_copy(update={"seed": seed}), directory / f"seed-{seed}")
        runs.append({"seed": seed, **found})
    means = {
        name: sum(run[name] for run in runs) / repetitions
        for name, value in runs[0].items()
        if isinstance(value, int | float)
    }
    return {**runs[0], **means, "runs": runs}
