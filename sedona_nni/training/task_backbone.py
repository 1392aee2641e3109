"""The backbone that a task describes."""

from __future__ import annotations

from sedona_nni.data.sets import form_of
from sedona_nni.errors import InputError
from sedona_nni.models import ACTIVATIONS, Backbone, build_backbone
from sedona_nni.task import Task

__all__ = ["task_backbone"]


def task_backbone(task: Task) -> Backbone:
    """Return the task's backbone, for the form of its images.

    Weights come from torch's global generator. Build it under ``torch.device("meta")`` where only
    its shape matters.

    Raises:
        InputError: if a name is unknown, or numbers do not fit the backbone.

    Examples:
        >>> from sedona_nni import Task, task_backbone
        >>> task_backbone(Task(backbone="vgg11", width_multiplier=0.25)).num_classes
        10
    """
    num_classes, image_size = form_of(task)
    if not isinstance(image_size, int):
        raise InputError.rule("image_size", f"must be a square for {task.backbone}", image_size)
    return build_backbone(
        task.backbone,
        num_classes=num_classes,
        image_size=image_size,
        width_multiplier=task.width_multiplier,
        activation=ACTIVATIONS[task.activation],
        stem=task.stem,
    )
