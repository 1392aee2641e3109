"""Records of trials as an experiment leaves them, for reports."""

from __future__ import annotations

from typing import Any

from sedona_nni.ledger import TrialRecord

TASK = {"backbone": "vgg11", "dataset": "digits"}
CUT = {"backbone": "vgg11", "cuts": [4], "aux": ["conv2"]}
# Of eight layers; block 1 has 5 of 8 parts of the compute and 1 of its auxiliary network
COMPUTE = {
    "format": "sedona-nni/compute/1",
    "backbone": "vgg11",
    "unit": "macs",
    "layers": [10] * 8,
    "auxiliary": [{"conv2": 10}] * 7,
}


def trained(
    key: str,
    validation: float,
    test: float | None = None,
    images: float | None = 50,
    given: dict[str, Any] | None = None,
    **more: Any,
) -> TrialRecord:
    """A training that succeeded; it took a tenth of a second per image.

    Args:
        key: Its key.
        validation: Validation accuracy.
        test: Test accuracy, by default 0.1 less.
        images: Images that it took, None if that is not known.
        given: What is otherwise among its parameters.
        **more: What else there is in its result.
    """
    result = {
        "default": validation,
        "test_accuracy": validation - 0.1 if test is None else test,
        "time_s": (images or 0) / 10,
        **({} if images is None else {"images": images}),
        **more,
    }
    return record(key, given, status="succeeded", result=result)


def record(key: str, given: dict[str, Any] | None = None, **more: Any) -> TrialRecord:
    """A training that has not ended unless ``more`` says so."""
    parameters = {
        "key": key,
        "stage": "train",
        "strategy": key.rsplit("-", 1)[0],
        "task": TASK,
        "decoupling": CUT,
        "train": {"seed": 3, "epochs": 2, "lr": 0.1},
        "hyperparameters": {"lr": 0.2},
    }
    return TrialRecord(parameters={**parameters, **(given or {})}, **more)


def searched(images: float = 100, strategy: str = "sedona", **more: Any) -> TrialRecord:
    """A search that succeeded; boundary 4 is where to cut, and three of seven are undecided."""
    found = {
        "backbone": "vgg11",
        "dataset": "digits",
        "aux_choices": ["conv1", "conv2"],
        "alpha": [[0, 0.03], [0.03, 0], [0, 0], [0, 0.1], [1, 0], [0, 1], [0, 1]],
        "beta": [[0, 1]] * 7,
    }
    result = {"default": 0.4, "images": images, "time_s": images / 10, "search_result": found}
    parameters = {"key": "search", "stage": "search", "strategy": strategy, "task": TASK}
    return TrialRecord(
        parameters={**parameters, "search": {"pretrain_steps": 60}},
        status="succeeded",
        result={**result, **more},
    )
