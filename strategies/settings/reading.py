"""From the keys under ``tuner.classArgs``, side by side there, to the parts that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from sedona_nni.data.sets import image_size_of
from sedona_nni.errors import InputError
from sedona_nni.files import user_path
from sedona_nni.model_name import module_of
from sedona_nni.models import check_image_size, check_stem
from sedona_nni.plugins import load_plugins
from sedona_nni.strategies.settings.parts import Plugins, Training
from sedona_nni.task import Task
from sedona_nni.teachers.auxiliary import check_auxiliary
from sedona_nni.training.task_backbone import check_pretrained_rate, check_weights, task_layers

__all__ = [
    "Parts",
    "check_seeds",
    "check_training",
    "load_named_plugins",
    "read_parts",
    "task_in",
]

PartT = TypeVar("PartT", bound=BaseModel)

_WHERE = "tuner.classArgs"


class Parts:
    """What was read: a part of each class, and what stood under keys of its own.

    Args:
        found: The parts, by their classes.
        under: What stood under a key, by the key.
        given: The keys that were written.
    """

    def __init__(
        self,
        found: Mapping[type[BaseModel], BaseModel],
        under: Mapping[str, BaseModel],
        given: frozenset[str],
    ) -> None:
        self._found = found
        self.under = under
        self.given = given

    def __getitem__(self, part: type[PartT]) -> PartT:
        """Return the part of a class."""
        return cast(PartT, self._found[part])


def read_parts(
    class_args: Mapping[str, Any],
    parts: Sequence[type[BaseModel]],
    under: Mapping[str, type[BaseModel]] | None = None,
) -> Parts:
    """Read parts whose keys lie side by side.

    Args:
        class_args: What the YAML file has; every key is that of one part.
        parts: Their classes.
        under: Classes of what stands under one key as a whole, by the key; all have defaults.

    Raises:
        InputError: if a field is missing, its value breaks a rule, or it is of no part. It names
            the field as it was written.
    """
    found: dict[type[BaseModel], BaseModel] = {}
    for part in parts:
        own = {name: class_args[name] for name in part.model_fields if name in class_args}
        found[part] = _validated(part, own, _WHERE)
    under = under or {}
    fields = {name for part in parts for name in part.model_fields}
    for name in sorted(fields & set(under)):
        raise InputError.rule("search", "must have a field that is none of experiments", name)
    whole = {
        name: _validated(kind, class_args.get(name, {}), f"{_WHERE}.{name}")
        for name, kind in under.items()
    }
    known = {*under, *fields}
    for name in class_args:
        if name not in known:
            raise InputError(f"{_WHERE}.{name}: unknown field, please check its spelling")
    return Parts(found, whole, frozenset(class_args))


def _validated(part: type[PartT], given: Any, where: str) -> PartT:
    try:
        return part.model_validate(given)
    except ValidationError as error:
        raise InputError.from_validation(error, where) from None


def load_named_plugins(class_args: Mapping[str, Any], folder: Path) -> None:
    """Load the plug-ins that settings name, and the module of a user's own model, before all else.

    Args:
        class_args: What the YAML file has.
        folder: What relative paths are relative to.

    Raises:
        InputError: if one cannot be loaded.
    """
    own = {name: class_args[name] for name in Plugins.model_fields if name in class_args}
    load_plugins(_validated(Plugins, own, _WHERE).plugins, folder)
    task = class_args.get("task")
    name = task.get("model", task.get("backbone")) if isinstance(task, Mapping) else None
    if isinstance(name, str) and (module := module_of(name)) is not None:
        load_plugins([module], folder)


def task_in(task: Task, folder: Path) -> Task:
    """Return a task with the paths of its data and weights independent of the current folder.

    Args:
        task: The task.
        folder: What a relative path is relative to: ``trialCodeDirectory``.
    """
    paths = {"data_dir": task.data_dir, "weights": task.weights}
    return task.model_copy(
        update={
            name: str(folder / user_path(path)) for name, path in paths.items() if path is not None
        }
    )


def check_training(training: Training, folder: Path) -> None:
    """Check what is trained, beyond the form of single fields.

    Args:
        training: That.
        folder: See `task_in`.

    Raises:
        InputError: if a name is unknown, numbers do not fit the backbone, or weights do not.
    """
    task = training.task
    check_image_size(task.backbone, image_size_of(task))
    check_stem(task.backbone, task.stem)
    task_layers(task)  # of a model from elsewhere: that it can be built and cut
    check_weights(task_in(task, folder))
    check_pretrained_rate(task, training.train)
    for name in training.aux:
        check_auxiliary(name)
    check_seeds(training.model_dump())


def check_seeds(settings: Mapping[str, Any], where: str = "") -> None:
    """Check that there is room above every seed, as later trials have the next ones.

    Args:
        settings: By name; those in mappings, too.
        where: What stands before the names, for messages.

    Raises:
        InputError: if there is not.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            check_seeds(value, f"{where}{name}.")
        elif name in ("seed", "split_seed") and isinstance(value, int) and value >= 2**32:
            raise InputError.rule(f"{where}{name}", "must be below 2^32", value)
