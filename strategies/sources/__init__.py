"""What to try next, of whichever kind an experiment is; NNI or not.

    source     what a source of trials is, and who asks it
    ledger     trials with a key, entered in a ledger
    tuning     searches, and Optuna, which tunes the training of what they find
    exploring  one of NNI's own strategies
    grid       every decoupling of a grid
    study      strategies that choose decouplings, tried several times each

Light at import: NNI kills a tuner that is not ready after 10 seconds.
"""

from __future__ import annotations

import importlib
from typing import cast

from sedona_nni.errors import InputError
from sedona_nni.strategies.sources.source import TrialSource

__all__ = ["source_type"]

_SOURCES = {
    "strategies.tuner.SedonaTuner": "tuning.TuningSource",
    "strategies.tuner.ProbeTuner": "tuning.TuningSource",
    "strategies.tuner.SearchTuner": "tuning.TuningSource",
    "strategies.tuner.OptunaTuner": "tuning.TuningSource",
    "strategies.bridge.BridgeTuner": "exploring.ExploringSource",
    "strategies.grid.GridTuner": "grid.GridSource",
    "strategies.study.StudyTuner": "study.StudySource",
}


def source_type(class_name: str) -> type[TrialSource]:
    """Return what the trials of one of our tuners come from.

    Args:
        class_name: The tuner's ``className`` in an experiment.

    Raises:
        InputError: if it is none of ours.
    """
    # Without the first name in experiments of a checkout, whose folders it is
    name = _SOURCES.get(class_name.removeprefix("sedona_nni."))
    if name is None:
        known = ", ".join(f"sedona_nni.{name}" for name in _SOURCES)
        raise InputError.rule("tuner.className", f"must be one of {known}", class_name)
    module, _, kind = name.partition(".")
    found = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    return cast(type[TrialSource], found)
