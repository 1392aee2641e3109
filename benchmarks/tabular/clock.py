"""What trainings of a table cost beside each other.

The trainings themselves ran for days, on machines that did other work meanwhile: where one took
longer than another, that is not to say that it computes more. So each decoupling is timed again,
for an epoch with half of the images, validated as in a training, one after the other on a machine
that does nothing else; the undivided network, which is the unit, again and again between them.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import torch

from benchmarks.record import Header
from benchmarks.tabular.table import Clock, Table
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.trials.train import run_training

__all__ = ["clock"]


def clock(
    table: Table, header: Header, tell: Callable[[Decoupling, float], None] | None = None
) -> Clock:
    """Time back-propagation and all decouplings of a table into two blocks, with one thread.

    Args:
        table: Gives task and training.
        header: Of the clock.
        tell: Is told of each that was timed, and its seconds of a processor.

    Returns:
        The clock; back-propagation's time is the mean of several, one for each boundary.

    Raises:
        InputError: if the table's data set is missing, or its size is not given.
    """
    if (pool := table.task.train_limit) is None:
        raise InputError("task.train_limit: must be given")
    task = table.task.model_copy(update={"train_limit": pool // 2})
    train = table.train.model_copy(update={"epochs": 1, "warmup_epochs": 0})
    torch.set_num_threads(1)

    def seconds(decoupling: Decoupling) -> float:
        found = float(run_training(task, decoupling, train)["processor_s"])
        if tell is not None:
            tell(decoupling, found)
        return found

    run_training(task, table.undivided, train)  # the first in a process loads what others find
    units, found, cuts = [], {}, None
    for each in table.decouplings(2):
        if each.cuts != cuts:
            units.append(seconds(table.undivided))
            cuts = each.cuts
        found[each.key] = round(seconds(each), 3)
    return Clock(header=header, seconds={table.undivided.key: round(fmean(units), 3), **found})
