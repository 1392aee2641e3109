"""The backbone that a task describes."""

from __future__ import annotations

from sedona_nni.data.sets import form_of
from sedona_nni.models import ACTIVATIONS, Backbone, build_backbone
from sedona_nni.task import Task

__all__ = ["task_backbone"]


def task_backbone(task: Task) -> Backbone:
    """Return the task's backbone, for the form of its images.

    Weights come from torch's global generator. Build it under ``torch.device("meta")`` where only
    its shape matters.

    Raises:
        InputError: if a name is unknown, or numbers do not fit the backbone.
    """
    num_classes, image_size = form_of(task)
    return build_backbone(
        task.backbone,
        num_classes=num_classes,
        image_size=image_size,
        width_multiplier=task.width_multiplier,
        activation=ACTIVATIONS[task.activation],
        stem=task.stem,
    )
