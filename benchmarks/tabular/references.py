"""What a decoupling stands beside: back-propagation, and its checkpointed form.

Both end with the same weights; the second keeps only the inputs of layers for its backward pass and
computes the rest twice, which is what somebody short of memory would otherwise do. They are trained
with one seed on one machine, beside the decoupling that the table says is best.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from benchmarks.record import Header
from benchmarks.tabular.table import Accuracy, Table
from sedona_nni.files import Document
from sedona_nni.task import Task
from sedona_nni.trials.train import run_training

__all__ = ["Reference", "References", "references"]


class Reference(BaseModel):
    """One of the trainings.

    Attributes:
        name: What was trained.
        test_accuracy: Of the epoch that validated best.
        processor_s: Seconds of a processor.
        peak_memory_mib: Of a step, see `sedona_nni.trials.train.run_training`.
        ideal_peak_memory_mib: Of the largest block's step in a process of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    test_accuracy: Accuracy
    processor_s: float
    peak_memory_mib: float
    ideal_peak_memory_mib: float


class References(Document):
    """All of them.

    Attributes:
        header: How they were made, where, and with which versions.
        task: Backbone and data.
        seed: Of all trainings.
        trainings: The trainings.
    """

    format: Literal["sedona-nni/references/1"] = "sedona-nni/references/1"
    header: Header
    task: Task
    seed: int
    trainings: tuple[Reference, ...]


def references(table: Table, header: Header, seed: int) -> References:
    """Train the references of a table, and the best of its decouplings into two blocks.

    Args:
        table: Gives task and training; it must have decouplings into two blocks.
        header: Of the document.
        seed: Of initial weights and order of the images.

    Raises:
        InputError: if the table's data set is missing.
    """
    plain = table.train.model_copy(update={"seed": seed})
    best = max(table.decouplings(2), key=table.truth)
    found = []
    for name, decoupling, train in (
        ("back-propagation", table.undivided, plain),
        ("checkpointed", table.undivided, plain.model_copy(update={"checkpoint": "layers"})),
        (f"the best, {best.in_words()}", best, plain),
    ):
        results = run_training(table.task, decoupling, train)
        each = {key: results[key] for key in Reference.model_fields if key != "name"}
        found.append(Reference(name=name, **each))
    return References(header=header, task=table.task, seed=seed, trainings=tuple(found))
