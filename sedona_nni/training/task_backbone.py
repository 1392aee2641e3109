"""The backbone that a task describes."""

from __future__ import annotations

from sedona_nni.data.sets import form_of, image_size_of
from sedona_nni.models import ACTIVATIONS, Backbone, build_backbone, num_layers
from sedona_nni.task import Task

__all__ = ["task_backbone", "task_layers"]


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
    return build_backbone(
        task.backbone,
        num_classes=num_classes,
        image_size=image_size,
        width_multiplier=task.width_multiplier,
        activation=ACTIVATIONS[task.activation],
        stem=task.stem,
    )


def task_layers(task: Task) -> int:
    """Return L of the task's backbone; the data set itself is not needed.

    Raises:
        InputError: see `sedona_nni.models.num_layers`.
    """
    return num_layers(task.backbone, image_size_of(task))
