"""Fine-tuning by blocks, beside what a user would pick instead.

torchvision's ResNet-18 learns Fashion-MNIST by back-propagation; its weights then begin trainings
on scikit-learn's digits, with few images and epochs. All have the same images, epochs, optimizer,
learning rate and seeds; nothing is tuned. A control begins with weights as they are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.kept_trainings import Training, kept_trainings
from benchmarks.view import Table
from sedona_nni.decouplings.rules import decoupling_by_rule
from sedona_nni.task import Task
from sedona_nni.training.plain_files import write_plain
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_layers
from sedona_nni.trials.plain_model import trained_plain_model
from sedona_nni.trials.train import run_training

__all__ = ["CONTENDERS", "Contender", "runs", "tables"]

MODEL = "torchvision:resnet18"
FIRST = Task(backbone=MODEL, dataset="fashion-mnist", image_size=32, train_limit=10_000)
FIRST_SETTINGS = TrainSettings(
    epochs=4, batch_size=64, optimizer="adam", lr=0.001, lr_min=0.0, validation_fraction=0.1
)
THEN = Task(backbone=MODEL, dataset="digits", image_size=32, train_limit=400)
THEN_SETTINGS = TrainSettings(
    epochs=8, batch_size=32, optimizer="adam", lr=0.001, lr_min=0.0, validation_fraction=0.2
)


@dataclass(frozen=True)
class Contender:
    """One way of fine-tuning.

    Attributes:
        rule: Its cuts, see `sedona_nni.decouplings.rules`.
        changes: Of the settings.
        pretrained: Whether it begins with the weights that were learned.
    """

    rule: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = True


CONTENDERS = {
    "back-propagation": Contender("backprop"),
    "checkpointed": Contender("backprop", {"checkpoint": "layers"}),
    "K = 2": Contender("uniform:2:conv1"),
    "K = 4": Contender("uniform:4:conv1"),
    "K = 4, checkpointed": Contender("uniform:4:conv1", {"checkpoint": "layers"}),
    "head only": Contender("backprop", {"lr_pretrained": 0}),
    "back-propagation from scratch": Contender("backprop", pretrained=False),
}


def runs(
    data_dir: str,
    seeds: int,
    directory: Path,
    first: tuple[Task, TrainSettings] = (FIRST, FIRST_SETTINGS),
    then: tuple[Task, TrainSettings] = (THEN, THEN_SETTINGS),
) -> dict[str, list[dict[str, Any]]]:
    """Pretrain once, then fine-tune each way with every seed, but for what was done earlier.

    Args:
        data_dir: Folder that holds Fashion-MNIST.
        seeds: How many, from that of the settings on.
        directory: Where each finished training leaves a file.
        first: What is learned first, and how.
        then: What is learned then.

    Returns:
        What `kept_trainings` returns; under ``pretraining`` what came of that.
    """
    task, settings = first
    weights = directory / "pretrained.safetensors"
    task = task.model_copy(update={"data_dir": data_dir})
    trained = directory / "pretraining"
    begun = run_training(
        task,
        decoupling_by_rule("backprop", task.backbone, task_layers(task)),
        settings,
        directory=trained,
    )
    if not weights.exists():
        model, images = trained_plain_model(trained)
        write_plain(model, images, "state-dict", weights)
    return {
        "pretraining": [begun],
        **kept_trainings(_trainings(*then, weights), seeds, directory),
    }


def _trainings(task: Task, settings: TrainSettings, weights: Path) -> dict[str, Training]:
    # Ten classes there and here, but not the same
    with_weights = task.model_copy(update={"weights": str(weights), "reset_classifier": True})
    return {
        name: Training(
            with_weights if contender.pretrained else task,
            contender.rule,
            TrainSettings.model_validate({**settings.model_dump(), **contender.changes}),
        )
        for name, contender in CONTENDERS.items()
    }


def tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Table]:
    """Return accuracy, memory and time of each contender."""
    whole = found["back-propagation"]
    rows = []
    for name in CONTENDERS:
        accuracies = [100 * result["test_accuracy"] for result in found[name]]
        differences = [
            100 * (one["test_accuracy"] - other["test_accuracy"])
            for one, other in zip(found[name], whole, strict=True)
        ]
        rows.append(
            [
                name,
                _spread(accuracies),
                ", ".join(f"{accuracy:.2f}" for accuracy in accuracies),
                "" if name == "back-propagation" else _spread(differences),
                f"{mean(result['peak_memory_mib'] for result in found[name]):.1f}",
                _spread([result["time_s"] for result in found[name]]),
            ]
        )
    (begun,) = found["pretraining"]
    return [
        Table(
            f"Test accuracy on digits after fine-tuning, %: mean ± standard deviation over seeds, "
            f"every value, and what it is more than back-propagation's, seed by seed. Peak memory "
            f"of a training step, MiB; time of the training, s. The weights come from a training "
            f"on Fashion-MNIST (test accuracy {begun['test_accuracy']:.2%})",
            ("contender", "accuracy", "values", "difference", "memory", "time"),
            rows,
        )
    ]


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"
