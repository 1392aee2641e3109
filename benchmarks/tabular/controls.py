"""Controls: what can be said of decouplings without any search.

A search that does not beat them has found nothing: a rule like "cut low" is as good on networks
whose local signals are weak, and costs nothing. Each control gives every decoupling a score, the
larger the better; which sign it has is said here once and not chosen by what it would be worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from benchmarks.record import Header
from benchmarks.tabular.table import Table
from benchmarks.tabular.zero_cost import ZERO_COST, zero_cost
from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.files import Document
from sedona_nni.task import Task

__all__ = ["CONTROLS", "ZeroCosts", "controls", "zero_costs"]

CONTROLS: dict[str, Callable[[Table, Decoupling], float]] = {
    "cuts low": lambda table, each: -math.fsum(each.cuts),
    "cuts high": lambda table, each: math.fsum(each.cuts),
    "layers alone": lambda table, each: -max(each.cuts),  # so probing would weigh cuts, unprobed
    "even blocks": lambda table, each: -table[each].largest_share,
    "few MACs": lambda table, each: -table[each].macs,
    "many MACs": lambda table, each: table[each].macs,
    "few parameters": lambda table, each: -table[each].parameters,
    "many parameters": lambda table, each: table[each].parameters,
}
"""By name, what follows from a decoupling alone, with what it costs."""


def controls(
    table: Table, among: Sequence[Decoupling], scored: Path
) -> dict[str, list[list[float]]]:
    """Return the scores of decouplings by each of `CONTROLS`, and zero-cost scores where known.

    Args:
        table: Says what they cost.
        among: Decouplings with cuts.
        scored: The file of their `ZeroCosts`, which need not be there.

    Returns:
        For each name a row per replicate.
    """
    found = {name: [[score(table, each) for each in among]] for name, score in CONTROLS.items()}
    return found | (ZeroCosts.load(scored).of(among) if scored.exists() else {})


class ZeroCosts(Document):
    """Zero-cost scores of the decouplings of a table.

    Attributes:
        header: How they were made, where, and with which versions.
        task: Backbone and data.
        scores: By name of the score, seed and `Decoupling.key`.
    """

    format: Literal["sedona-nni/zero-costs/1"] = "sedona-nni/zero-costs/1"
    header: Header
    task: Task
    scores: dict[str, dict[int, dict[str, float]]]

    def of(self, among: Sequence[Decoupling]) -> dict[str, list[list[float]]]:
        """Return the scores of some decouplings, for each name a row per seed.

        Raises:
            InputError: if one has none.
        """
        keys = [each.key for each in among]
        found = [by_key for by_seed in self.scores.values() for by_key in by_seed.values()]
        if missing := {key for key in keys for by_key in found if key not in by_key}:
            raise InputError.rule("scores", "must be there of all decouplings", min(missing))
        return {
            name: [[by_key[key] for key in keys] for by_key in by_seed.values()]
            for name, by_seed in self.scores.items()
        }


def zero_costs(table: Table, among: Sequence[Decoupling], seed: int) -> dict[str, list[float]]:
    """Return the zero-cost scores of the decouplings' lowest blocks, a second or so for each.

    Args:
        table: Gives the task and its trainings' batches and loss.
        among: Decouplings with cuts.
        seed: Of initial weights and batch; another than those of the table.

    Raises:
        InputError: if the table's data set is missing.
    """
    train = table.train.model_copy(update={"seed": seed})
    splits = load_splits(table.task, train.validation_fraction)
    return {
        name: [zero_cost(name, table.task, each, train, splits) for each in among]
        for name in ZERO_COST
    }
