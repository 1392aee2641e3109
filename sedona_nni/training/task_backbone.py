"""The backbone that a task describes."""

from __future__ import annotations

from pathlib import Path

import torch

from sedona_nni.data.sets import DATASETS, form_of, image_size_of
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize
from sedona_nni.models import ACTIVATIONS, Backbone, build_backbone, num_layers
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

__all__ = [
    "backbone_for",
    "check_pretrained_rate",
    "check_weights",
    "fresh_in_words",
    "task_backbone",
    "task_layers",
]

_ANY = 10  # classes; what a check finds does not depend on how many there are


def task_backbone(task: Task) -> Backbone:
    """Return the task's backbone, for the form of its images.

    Weights come from the task's file of weights or else from torch's global generator. Build it
    under ``torch.device("meta")`` where only its shape matters; the file is not read then.

    Raises:
        InputError: if a name is unknown, numbers do not fit the backbone, or the file's weights.

    Examples:
        >>> from sedona_nni import Task, task_backbone
        >>> task_backbone(Task(backbone="vgg11", width_multiplier=0.25)).num_classes
        10
    """
    form_alone = torch.get_default_device().type == "meta"
    return backbone_for(task, *form_of(task), None if form_alone else task.weights)


def backbone_for(
    task: Task, num_classes: int, image_size: ImageSize, weights: str | None = None
) -> Backbone:
    """Return a task's backbone, for images of which this is known; the data set is not needed.

    Args:
        task: The task; its file of weights is not looked at.
        num_classes: Number of classes.
        image_size: Height and width of the images, see `sedona_nni.image_size`.
        weights: A file of weights; otherwise they come from torch's global generator.

    Raises:
        InputError: see `task_backbone`.
    """
    return build_backbone(
        task.backbone,
        num_classes=num_classes,
        image_size=image_size,
        width_multiplier=task.width_multiplier,
        activation=ACTIVATIONS[task.activation],
        stem=task.stem,
        weights=None if weights is None else Path(weights),
        reset_classifier=task.reset_classifier,
    )


def check_weights(task: Task) -> None:
    """Check that a task's file of weights is of its backbone; the data set itself is not needed.

    Raises:
        InputError: if it is not, or cannot be read.
    """
    if task.weights is not None:
        known = DATASETS[task.dataset].num_classes
        num_classes = known if isinstance(known, int) else _ANY
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            backbone_for(task, num_classes, image_size_of(task), task.weights)


def check_pretrained_rate(task: Task, settings: TrainSettings) -> None:
    """Check that there are pretrained weights if they have a learning rate of their own.

    Raises:
        InputError: if there are none.
    """
    if settings.lr_pretrained != 1 and task.weights is None:
        rule = "must be 1 where the task has no weights that are pretrained"
        raise InputError.rule("lr_pretrained", rule, settings.lr_pretrained)


def fresh_in_words(task: Task) -> str | None:
    """Return which weights a task's file does not have for its classes, None if it has all.

    Raises:
        InputError: see `task_backbone`.
    """
    if task.weights is None:
        return None
    num_classes, image_size = form_of(task)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        fresh = backbone_for(task, num_classes, image_size, task.weights).fresh
    if not fresh:
        return None
    names = ", ".join(fresh)
    return f"drawn anew for {num_classes} classes, not taken from {task.weights}: {names}"


def task_layers(task: Task) -> int:
    """Return L of the task's backbone; the data set itself is not needed.

    Raises:
        InputError: see `sedona_nni.models.num_layers`.
    """
    return num_layers(task.backbone, image_size_of(task))
