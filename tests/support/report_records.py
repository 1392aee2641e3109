"""Records of trials as experiments and studies leave them, for reports."""

from __future__ import annotations

from typing import Any

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.reporting.trial import SearchTrial, TrainTrial

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


def training(key: str) -> TrainTrial:
    """A training as a tuner sends it."""
    decoupling = Decoupling.model_validate(CUT)
    return TrainTrial(key=key, strategy=key.rsplit("-", 1)[0], decoupling=decoupling)


def search(name: str, key: str = "search") -> SearchTrial:
    """A search as a tuner sends it."""
    return SearchTrial(key=key, strategy=name, search=name)


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
        "kind": "train",
        "key": key,
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
        "format": "sedona-nni/search-result/1",
        "backbone": "vgg11",
        "dataset": "digits",
        "aux_choices": ["conv1", "conv2"],
        "alpha": [[0, 0.03], [0.03, 0], [0, 0], [0, 0.1], [1, 0], [0, 1], [0, 1]],
        "beta": [[0, 1]] * 7,
    }
    result = {"default": 0.4, "images": images, "time_s": images / 10, "search_result": found}
    return TrialRecord(
        parameters={
            "kind": "search",
            "key": "search",
            "strategy": strategy,
            "task": TASK,
            "search": "sedona",
            "settings": {"pretrain_steps": 60},
        },
        status="succeeded",
        result={**result, **more},
    )


def probed(**more: Any) -> TrialRecord:
    """A probing that succeeded; least speaks against boundary 4 with conv1, then 5."""
    found = {
        "format": "sedona-nni/probe-result/1",
        "backbone": "vgg11",
        "dataset": "digits",
        "aux_choices": ["conv1", "conv2"],
        "losses": [
            *([2.3, 2.2], [2.0, 1.9], [1.5, 1.6], [1.2, 1.3]),
            [0.5, 1.1],
            [0.9, 1.3],
            [1, 2],
        ],
        "undivided": 2.25,
        "provenance": {"steps": 24},
    }
    result = {"default": -0.5, "steps": 24, "trainings": 2.44, "images": 70, "time_s": 7.0}
    return TrialRecord(
        parameters={
            "kind": "search",
            "key": "search",
            "strategy": "probe",
            "task": TASK,
            "search": "probe",
            "settings": {"cost": 2.5},
        },
        status="succeeded",
        result={**result, "search_result": found, **more},
    )


def studied(strategy: str, replicate: int, *accuracies: float, **more: Any) -> TrialRecord:
    """A trial of a study with two spaces, that trained as often in either, 10 s each.

    Args:
        strategy: Its strategy; of ``backprop`` there is no space, of ``probe`` and ``sedona`` a
            search before.
        replicate: Its number.
        *accuracies: Test accuracy of the trainings in the first space; in the second they are 0.1
            less, and all validate 0.05 better.
        **more: Of the record, in place of its success.
    """
    is_backprop = strategy == "backprop"
    searches = {"sedona": searched, "probe": probed}
    found = searches[strategy]().result if strategy in searches else None
    search = None if found is None else found.model_dump()
    runs = [
        {
            "space": None if is_backprop else space,
            "seed": 100 * replicate + number,
            "decoupling": {"backbone": "vgg11"} if is_backprop else CUT,
            "validation_accuracy": accuracy - 0.1 * space + 0.05,
            "test_accuracy": accuracy - 0.1 * space,
            "time_s": 10.0,
            "images": 100,
            "macs": 1000,
            "peak_memory_mib": 5.5,
            "parameters": 1234,
            "largest_share": 0.8,
        }
        for space in ([0] if is_backprop else [0, 1])
        for number, accuracy in enumerate(accuracies)
    ]
    parameters = {
        "kind": "study",
        "key": f"{strategy}-{replicate:03d}",
        "strategy": strategy,
        "replicate": replicate,
        "task": TASK,
        "train": {"seed": 3, "epochs": 2, "lr": 0.1},
        "spaces": [{"num_blocks": 2}, {"num_blocks": 2, "max_block_share": "1.5/K"}],
        "search": {"settings": {"seed": 1}} if strategy in searches else None,
    }
    if more:
        return TrialRecord(parameters=parameters, **more)
    result = {
        "default": sum(run["validation_accuracy"] for run in runs) / len(runs),
        "test_accuracy": sum(run["test_accuracy"] for run in runs) / len(runs),
        "time_s": 10.0 * len(runs) + (search or {}).get("time_s", 0.0),
        "images": 100 * len(runs) + (search or {}).get("images", 0),
        "search": search and {name: search[name] for name in ("time_s", "images", "search_result")},
        "runs": runs,
        "picks": [0],
    }
    return TrialRecord(parameters=parameters, status="succeeded", result=result)
