"""DGL's ways of training and what it is compared with, on one network, data set and budget.

The network is that of DGL's learning curves at a quarter of its width, cut after every layer into
four blocks, on Fashion-MNIST scaled down to 16 pixels. All have the same images, epochs (of every
block, where blocks do not learn together), optimizer, learning rate and seeds; nothing is tuned.
Adam is the optimizer because the published comparison with DNI uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.kept_trainings import Training, kept_trainings
from benchmarks.view import Table
from sedona_nni.models import num_layers
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

__all__ = ["CONTENDERS", "Contender", "draw", "runs", "tables"]

TASK = Task(
    backbone="dgl-cnn4",
    width_multiplier=0.25,
    dataset="fashion-mnist",
    image_size=16,
    train_limit=5000,
)
SETTINGS = TrainSettings(
    epochs=8,
    optimizer="adam",
    lr=0.002,
    lr_min=0.0,
    weight_decay=0.0,
    label_smoothing=0.0,
    validation_fraction=0.2,
)


@dataclass(frozen=True)
class Contender:
    """One way of training.

    Attributes:
        rule: Its cuts, see `sedona_nni.decouplings.rules`.
        method: Name and options of the method, see `sedona_nni.training.methods`.
    """

    rule: str
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "greedy"})


def _slowed(slowdown: float) -> Contender:
    """Return asynchronous training in which the third block has fewer turns than the others."""
    method = {"name": "asynchronous", "buffer": 10, "slow_block": 3, "slowdown": slowdown}
    return Contender("every:1:mlp-sr", method)


CONTENDERS = {
    "back-propagation": Contender("backprop"),
    "DGL, mlp": Contender("every:1:mlp"),
    "DGL, mlp-sr": Contender("every:1:mlp-sr"),
    "DGL, cnn": Contender("every:1:cnn"),
    "sequential, mlp-sr": Contender("every:1:mlp-sr", {"name": "sequential"}),
    "asynchronous, slowed by 1.11": _slowed(1.11),
    "asynchronous, slowed by 2": _slowed(2.0),
    "DNI": Contender("every:1:none", {"name": "dni"}),
    "cDNI": Contender("every:1:none", {"name": "cdni"}),
    "DDG": Contender("every:1:none", {"name": "ddg"}),
}

# Test accuracies on CIFAR-10 in the logs of DGL's release, %: after 1,500 epochs (DGL) and 2,000;
# of the last layer after 50 epochs of each
PUBLISHED_DNI = {"back-propagation": 84.47, "DGL": 85.05, "cDNI": 80.86, "DNI": 64.74}
PUBLISHED_CURVES = {"parallel": 89.86, "sequential": 89.13}


def runs(
    data_dir: str,
    seeds: int,
    directory: Path,
    task: Task = TASK,
    settings: TrainSettings = SETTINGS,
) -> dict[str, list[dict[str, Any]]]:
    """Train every contender, see `kept_trainings`.

    Args:
        data_dir: Folder that holds the data set.
        seeds: How many, from that of the settings on.
        directory: Where each finished training leaves a file.
        task: What to train on.
        settings: How, the method and the seed aside.

    Returns:
        What `kept_trainings` returns.
    """
    task = task.model_copy(update={"data_dir": data_dir})
    contenders = {
        name: Training(
            task,
            contender.rule,
            TrainSettings.model_validate({**settings.model_dump(), "method": contender.method}),
        )
        for name, contender in CONTENDERS.items()
    }
    return kept_trainings(contenders, seeds, directory)


def tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Table]:
    """Return what a reader should see: costs and accuracies, layers, and the published gaps."""
    return [_accuracies(found), _layers(found), _gaps(found)]


def _accuracies(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    rows = []
    for name, results in found.items():
        accuracies = [100 * result["test_accuracy"] for result in results]
        rows.append(
            [
                name,
                _spread(accuracies),
                ", ".join(f"{accuracy:.2f}" for accuracy in accuracies),
                f"{mean(result['peak_memory_mib'] for result in results):.1f}",
                f"{results[0]['parameters'] / 1e3:.0f}",
                f"{results[0]['macs'] / 1e6:.2f}",
                _spread([result["cpu_s"] for result in results]),
            ]
        )
    return Table(
        "Test accuracy of the epoch that validated best, %: mean ± standard deviation over seeds, "
        "and every value. Peak memory of a training step, MiB; parameters, thousands, and "
        "multiply-accumulates per image, millions, with all that is trained; processor time of the "
        "trial, s",
        ("contender", "accuracy", "values", "memory", "parameters", "MACs", "time"),
        rows,
    )


def _layers(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    parallel, sequential = found["DGL, mlp-sr"], found["sequential, mlp-sr"]
    rows = []
    for layer in range(1, num_layers(TASK.backbone) + 1):
        curves = [_curves(results, layer) for results in (parallel, sequential)]
        row = [str(layer)]
        for epoch in (0, -1):
            row += [_spread([100 * curve[epoch] for curve in each]) for each in curves]
        rows.append(row)
    headings = [f"{how}, {when}" for when in ("first", "last") for how in PUBLISHED_CURVES]
    return Table(
        "Validation accuracy of each layer's classifier after the first and after the last epoch "
        "in which the layer learned, %",
        ("layer", *headings),
        rows,
    )


def _gaps(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Compare differences, seed by seed, with those of the published logs."""
    whole = "back-propagation"
    pairs = [
        ("DGL, cnn", whole, PUBLISHED_DNI["DGL"] - PUBLISHED_DNI[whole]),
        ("cDNI", whole, PUBLISHED_DNI["cDNI"] - PUBLISHED_DNI[whole]),
        ("DNI", whole, PUBLISHED_DNI["DNI"] - PUBLISHED_DNI[whole]),
        (
            "DGL, mlp-sr",
            "sequential, mlp-sr",
            PUBLISHED_CURVES["parallel"] - PUBLISHED_CURVES["sequential"],
        ),
    ]
    rows = []
    for first, second, published in pairs:
        differences = [
            100 * (a["test_accuracy"] - b["test_accuracy"])
            for a, b in zip(found[first], found[second], strict=True)
        ]
        rows.append([f"{first} less {second}", _spread(differences), f"{published:.2f}"])
    return Table(
        "Differences in test accuracy, percentage points; published: CIFAR-10, logs of DGL's "
        "release, where DGL's auxiliary networks in the comparison with DNI are convolutional",
        ("difference", "here", "published"),
        rows,
    )


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


def _curves(results: Sequence[Mapping[str, Any]], layer: int) -> list[list[float]]:
    """Return a layer's validation accuracies over the epochs in which it learned, by seed."""
    curves = []
    for result in results:
        values = result["history"][f"block_{layer}_accuracy"]
        curve = [value for value in values if value is not None]
        curves.append(curve[: SETTINGS.epochs])  # afterwards a finished layer is frozen
    return curves


def draw(path: Path, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw each layer's learning curve, parallel and sequential, means over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    styles = (("DGL, mlp-sr", "parallel", "-"), ("sequential, mlp-sr", "sequential", "--"))
    for layer in range(1, num_layers(TASK.backbone) + 1):
        for name, label, style in styles:
            curves = _curves(found[name], layer)
            means = [100 * mean(values) for values in zip(*curves, strict=True)]
            axes.plot(
                range(1, len(means) + 1),
                means,
                style,
                color=f"C{layer - 1}",
                label=f"layer {layer}, {label}",
            )
    axes.set_xlabel("epoch in which the layer learned")
    axes.set_ylabel("validation accuracy of its classifier, %")
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
