"""One name for a model from elsewhere, and how a task makes it."""

from __future__ import annotations

import pytest

from sedona_nni.errors import InputError
from sedona_nni.model_name import ModelName
from sedona_nni.task import Task


def test_alike_models_are_called_alike() -> None:
    written = {"model": "timm:vit", "model_args": {"b": 1, "a": [2]}, "boundaries": ["x", "y"]}
    name = 'timm:vit {"args": {"a": [2], "b": 1}, "boundaries": ["x", "y"]}'
    task = Task.model_validate(written)
    assert task.backbone == name
    assert Task.model_validate_json(task.model_dump_json()) == task
    assert Task.model_validate({"backbone": "timm:vit", "boundaries": "units"}).backbone == (
        "timm:vit"
    )
    assert ModelName.parse(name).given() == ModelName.parse(name)


def test_our_own_may_be_written_model_as_well() -> None:
    assert Task.model_validate({"model": "resnet18"}) == Task(backbone="resnet18")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"model": "vgg11", "backbone": "vgg11"}, "model: must not be given beside backbone"),
        ({"model": "vgg11", "boundaries": 3}, "boundaries: must be given with a model from else"),
        ({"model_args": {}}, "model_args: must be given with a model from elsewhere"),
        ({"model": "a:b", "boundaries": 1.5}, "boundaries: must be all, units, a number of lay"),
        ({"model": "a:b", "boundaries": True}, "boundaries: must be all, units, a number of lay"),
        ({"model": "a:b", "model_args": [1]}, "model_args: must be names and values"),
        ({"model": "a:b", "model_args": {"x": {1}}}, "model_args: must be fit for JSON"),
        ({"model": "a:"}, "model: must be like torchvision:resnet50"),
    ],
)
def test_refused(written: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task.model_validate(written)
    try:
        Task.model_validate(written)
    except InputError:
        pytest.fail("pydantic says where it is")
    except ValueError:
        pass
