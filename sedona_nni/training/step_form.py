"""What of the settings of a training decides how much memory it takes."""

from __future__ import annotations

from functools import partial

import torch

from sedona_nni.decouplings.memory import StepForm
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.methods.method import build_optimizer
from sedona_nni.training.settings import TrainSettings

__all__ = ["step_form"]

_TOLD = ("batch_size", "accumulate", "checkpoint", "optimizer", "momentum", "ema_decay", "amp")


def step_form(settings: TrainSettings, device: torch.device | str = "cpu") -> StepForm:
    """Return the form of a training's steps.

    Args:
        settings: Of the training.
        device: Where it is.

    Examples:
        >>> from sedona_nni import TrainSettings, step_form
        >>> step_form(TrainSettings(batch_size=64)).batch_size
        64
    """
    return StepForm(
        batch_size=settings.batch_size,
        optimizer=partial(build_optimizer, settings=settings),
        accumulate=settings.accumulate,
        checkpointed=settings.checkpoint == "layers",
        transports=settings.transport > 0,
        averaged=settings.ema_decay is not None,
        amp=settings.amp,
        criterion=LabelSmoothing(settings.label_smoothing),
        on_gpu=torch.device(device).type == "cuda",
        provenance={name: getattr(settings, name) for name in _TOLD}
        | ({"transport": settings.transport} if settings.transport else {}),
    )
