"""The study as a reader sees it. Nothing is measured here: the same file gives the same values."""

from __future__ import annotations

from pathlib import Path

from benchmarks.study.comparison import REFERENCES, compare
from benchmarks.study.document import Measure, Study
from benchmarks.study.tables import comparison_tables, overview, picks_of, picks_table
from benchmarks.view import View
from sedona_nni.errors import InputError

__all__ = ["show"]


def show(data: Path, first: str | None = None) -> View:
    """Return what strategies picked, at what cost, and how they compare, replicate by replicate.

    Args:
        data: The study's file.
        first: ``STRATEGY=N``: count only a strategy's first N trainings in each space.

    Raises:
        InputError: if ``first`` is something else.
    """
    study = Study.load(data)
    if first is not None:
        strategy, _, count = first.rpartition("=")
        if not count.isdecimal():
            raise InputError.rule("first", "must be STRATEGY=N, e.g. probe=2", first)
        study = study.with_first(strategy, int(count))
    measures: tuple[Measure, ...] = ("pick", "training")
    comparisons = [
        each
        for measure in measures
        for reference in REFERENCES
        for strategy in study.strategies
        if strategy != reference
        for each in compare(study, strategy, reference, measure)
    ]
    results = {
        "trained": study.header.model_dump(mode="json"),
        "picks": [
            {
                "net": net.name,
                "space": net.spaces[space].in_words,
                "strategy": strategy,
                **(picks_of(net, space, strategy) or {"n": 0}),
            }
            for net, space in study.places
            for strategy in study.strategies
        ],
        "comparisons": [each.document() for each in comparisons],
    }
    tables = [overview(study, measure) for measure in measures]
    tables += [picks_table(study, *place) for place in study.places]
    tables += comparison_tables(study.strategies, comparisons)
    return View(results, tables)
