"""What is written under ``tuner.classArgs`` of an experiment's YAML file.

The keys lie side by side there; here they are parts, see `sedona_nni.strategies.settings.parts`.
What an experiment is follows from the parts that it has:

    tuned      searches or what is given, their tuning, and what they are compared with
    explored   one of NNI's own strategies
    gridded    every decoupling of a grid
    studied    strategies that choose decouplings, compared at equal cost
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from sedona_nni.errors import InputError
from sedona_nni.strategies.settings.explored import ExploredSettings, read_explored
from sedona_nni.strategies.settings.gridded import GridSettings, read_grid
from sedona_nni.strategies.settings.studied import StudySettings, read_study
from sedona_nni.strategies.settings.tuned import TunedSettings, read_given, read_searching

__all__ = ["AnySettings", "read_settings"]

AnySettings: TypeAlias = TunedSettings | ExploredSettings | GridSettings | StudySettings

_READERS: dict[str, Callable[[Mapping[str, Any], Path], AnySettings]] = {
    "strategies.tuner.SedonaTuner": partial(read_searching, search="sedona"),
    "strategies.tuner.ProbeTuner": partial(read_searching, search="probe"),
    "strategies.tuner.SearchTuner": read_searching,
    "strategies.tuner.OptunaTuner": read_given,
    "strategies.bridge.BridgeTuner": read_explored,
    "strategies.grid.GridTuner": read_grid,
    "strategies.study.StudyTuner": read_study,
}


def read_settings(tuner: Mapping[str, Any], folder: Path) -> AnySettings:
    """Read and check the settings of whichever of our tuners is named.

    Args:
        tuner: ``className`` and ``classArgs``.
        folder: What relative paths are relative to: ``trialCodeDirectory``.

    Raises:
        InputError: if it is none of ours, a field is misspelt or missing, or its value breaks a
            rule.
    """
    # Without the first name in experiments of a checkout, whose folders it is
    reader = _READERS.get(str(tuner.get("className")).removeprefix("sedona_nni."))
    if reader is None:
        known = ", ".join(f"sedona_nni.{name}" for name in _READERS)
        raise InputError.rule("tuner.className", f"must be one of {known}", dict(tuner))
    return reader(tuner.get("classArgs") or {}, folder)
