"""Round after round of faults, each noted as soon as it is over."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.faults import parallel
from benchmarks.faults.broken import Broken
from benchmarks.faults.disturbed import SUBJECTS, Disturbance, Undisturbed, What, disturb, kinds
from benchmarks.view import Table
from sedona_nni.errors import SedonaError

__all__ = ["AnyRound", "campaign", "fault_table", "planned_round"]

AnyRound: TypeAlias = parallel.Round | Disturbance

_BY_THEMSELVES = 10  # rounds of trainings in parallel, in each pass through all kinds


def planned_round(seed: int, number: int) -> AnyRound:
    """Return what a round does: one kind after the other, in an order by chance."""
    every: list[What | None] = [*kinds(), *[None] * _BY_THEMSELVES]
    turn, place = divmod(number - 1, len(every))
    random.Random(f"{seed}/{turn}").shuffle(every)
    what = every[place]
    if what is None:
        return parallel.Round.at_random(seed, number)
    return Disturbance.at_random(seed, number, what)


def campaign(
    seed: int,
    numbers: Iterable[int],
    patience_s: float,
    show: Callable[[str], None],
    journal: Path | None = None,
) -> list[AnyRound]:
    """Do rounds, until all are done or Ctrl-C.

    Args:
        seed: Of all that is random.
        numbers: Of the rounds, from 1.
        patience_s: Of trainings in parallel by themselves.
        show: Is told how far it is.
        journal: A file, to which each round is added when it is over; those in it are not repeated.
    """
    for each in (signal.SIGINT, signal.SIGTERM):  # also of one in the background, whom INT passes
        signal.signal(each, signal.default_int_handler)
    known = _read(journal)
    rounds: list[AnyRound] = []
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(KeyboardInterrupt):
        doing = _Doing(Path(name), patience_s)
        for number in numbers:
            planned = planned_round(seed, number)
            done = _found(planned, known.get((seed, number)))
            if done is None:
                began = time.monotonic()
                done = doing.round(planned)
                outcome = "passed" if done.reason is None else f"FAILED: {done.reason}"
                took = f"{time.monotonic() - began:.0f} s"
                show(f"round {number}, {took}, {done.in_words}: {outcome}")
                if journal is not None:
                    with journal.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([seed, asdict(done)]) + "\n")
            rounds.append(done)
    return rounds


class _Doing:
    """What rounds share: a folder, and how all goes without a fault.

    Args:
        folder: For all of them.
        patience_s: Of trainings in parallel by themselves.
    """

    def __init__(self, folder: Path, patience_s: float) -> None:
        self._folder = folder
        self._patience_s = patience_s
        self._trainings: dict[tuple[int, str], Path] = {}
        self._undisturbed: dict[tuple[str, bool], Undisturbed] = {}

    def round(self, planned: AnyRound) -> AnyRound:
        """Return a round with what came of it."""
        if isinstance(planned, parallel.Round):
            return parallel.do_round(planned, self._patience_s, self._folder, self._trainings)
        folder = self._folder / f"round-{planned.number}"
        what = (planned.subject, planned.is_parallel)
        try:
            if what not in self._undisturbed:
                subject = SUBJECTS[planned.subject]
                self._undisturbed[what] = Undisturbed.of(subject, planned.is_parallel, folder)
            return disturb(planned, self._undisturbed[what], folder)
        except (Broken, SedonaError) as error:
            return replace(planned, reason=str(error))


def _read(journal: Path | None) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the rounds in a journal, by seed and number."""
    if journal is None or not journal.exists():
        return {}
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return {(seed, done["number"]): done for seed, done in entries}


def _found(planned: AnyRound, known: dict[str, Any] | None) -> AnyRound | None:
    """Return a round of a journal if it did what is planned."""
    if known is None:
        return None
    plan = {name: value for name, value in asdict(planned).items() if value is not None}
    same = all(known.get(name) == value for name, value in plan.items())
    return type(planned)(**known) if same else None


def fault_table(rounds: Sequence[AnyRound]) -> Table:
    """Return what `campaign` returned for readers."""
    rows = []
    for kind in sorted({each.kind for each in rounds}):
        those = [each for each in rounds if each.kind == kind]
        ends = [each.end_s for each in those if each.end_s is not None]
        failed = sum(each.reason is not None for each in those)
        rows.append([kind, f"{len(those)}", f"{failed}", f"{max(ends, default=0):.1f}"])
    columns = ["fault", "rounds", "failed", "longest until it ended or said why, s"]
    return Table("faults, each gone on from", columns, rows)
