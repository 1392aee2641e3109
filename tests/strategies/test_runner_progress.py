"""`sedona_nni.strategies.runner`: what is told while an experiment runs."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from report_records import search, training
from rich.console import Console

from sedona_nni.reporting.ledger import Ledger
from sedona_nni.strategies import runner
from sedona_nni.strategies.nni_border.wire import packed
from sedona_nni.strategies.watched import Outcome, TrialView

SEARCH = search("probe")
PROBED = {"loss": 2.319, "probe": 3, "probes": 29, "tried": "cut after layer 4 (conv2)"}


class Started:
    """An experiment as `RunningExperiment` shows it: a probing, then a training."""

    concurrency = 1
    waits = False

    def __init__(self, checkpoint: Path, outcomes: list[Outcome]) -> None:
        self.checkpoint = checkpoint
        self.has_finished = False
        self._outcomes = outcomes
        self.results: dict[str, Any] = {
            "a": {"default": -2.25, "key": "search"},
            "b": {"default": 0.95, "key": "probe-000"},
        }

    def polls(self) -> Iterator[tuple[list[TrialView], Outcome | None]]:
        now = time.time()
        sent = packed(self.results["a"], [], None)
        probing, trained = (
            trial.model_dump(mode="json") for trial in (SEARCH, training("probe-000"))
        )
        yield [TrialView("a", probing, "RUNNING", None, now - 6)], None
        done = TrialView("a", probing, "SUCCEEDED", sent, now - 6, now)
        yield [done, TrialView("b", trained, "RUNNING", None, now - 10)], None
        last = TrialView("b", trained, "SUCCEEDED", self.results["b"], now - 40, now)
        yield [done, last], self._outcomes.pop(0)

    def stopped(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=77, name=lambda: "node")] if self.waits else []

    def latest_intermediate(self, trial_id: str) -> dict[str, Any]:
        numbers = {"default": 0.942, "epoch": 1, "epochs": 4}
        return PROBED if trial_id == "a" else numbers

    def final_result(self, trial: TrialView) -> Any:
        return self.results[trial.id]

    def outcome(self) -> Outcome:
        return self._outcomes[0]


def watch(tmp_path: Path, console: Console, *outcomes: Outcome) -> Outcome:
    started = Started(tmp_path, list(outcomes) or [Outcome(0), Outcome(0)])
    started.has_finished = not outcomes
    experiment = SimpleNamespace(settings=SimpleNamespace(num_trials=2))
    return runner.watch(cast(Any, started), cast(Any, experiment), console)


@pytest.mark.parametrize("width", [80, 100])
def test_in_a_terminal_a_line_says_what_how_far_how_long_and_the_best(
    width: int, tmp_path: Path
) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=width, legacy_windows=False)
    watch(tmp_path, console)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert max(map(len, lines)) <= width
    bars = [line for line in lines if " of 2 " in line]
    assert any(re.search(r"^search: probe 3 of 29.* 0 of 2 +> 52 s left", bar) for bar in bars)
    assert any(re.search(r"^probe-000: epoch 1 of 4.* 1 of 2 +30 s left", bar) for bar in bars)
    assert "2 of 2" in bars[-1]
    assert ("best 95.0% (probe-000)" if width >= 100 else "best 95.0%") in bars[-1]


def test_what_is_stopped_by_a_signal_is_told_once(tmp_path: Path) -> None:
    shown = io.StringIO()
    started = Started(tmp_path, [Outcome(1, "no")])
    started.waits = True
    experiment = SimpleNamespace(settings=SimpleNamespace(num_trials=2))
    runner.watch(cast(Any, started), cast(Any, experiment), Console(file=shown, width=40))
    (line,) = (line for line in shown.getvalue().splitlines() if "stopped" in line)
    assert line == (
        "process 77 (node) is stopped by a signal, and waited for: `kill -CONT 77` lets it go on, "
        "Ctrl-C ends the experiment"
    )


def test_an_end_that_was_none_is_gone_on_from(tmp_path: Path) -> None:
    """NNI is done when its last trial was killed, until the tuner lets it run again."""

    class Again(Started):
        def outcome(self) -> Outcome | None:  # type: ignore[override]
            self.has_finished = not self._outcomes
            return Outcome(0) if self.has_finished else None

    shown = io.StringIO()
    started = Again(tmp_path, [Outcome(0), Outcome(0)])
    experiment = SimpleNamespace(settings=SimpleNamespace(num_trials=2))
    end = runner.watch(cast(Any, started), cast(Any, experiment), Console(file=shown, width=40))
    assert end == Outcome(0)
    assert shown.getvalue().count("search: started") == 2


def test_elsewhere_plain_lines_do(tmp_path: Path) -> None:
    shown = io.StringIO()
    watch(tmp_path, Console(file=shown, width=40))
    assert shown.getvalue().splitlines() == [
        "search: started",
        "search: done, least loss 2.250; 1 of 2, 30 s left",
        "probe-000: started",
        "probe-000: done, validation accuracy 95.0%; 2 of 2, best 95.0% (probe-000)",
    ]


@pytest.mark.slow(reason="an experiment of several trials")
def test_the_tuner_is_waited_for(tmp_path: Path) -> None:
    """NNI knows how many trials there are: it may be done before the tuner."""
    ledger = Ledger(tmp_path / "trials.jsonl")
    ledger.start(SEARCH)
    late = threading.Timer(0.3, ledger.fail, ["search", "it failed"])
    late.start()
    failed = Outcome(1, "the search failed")

    class Late(Started):
        def outcome(self) -> Outcome:
            is_known = Ledger(tmp_path / "trials.jsonl")["search"].status == "failed"
            return failed if is_known else Outcome(0)

    started = Late(tmp_path, [Outcome(0)])
    experiment = SimpleNamespace(settings=SimpleNamespace(num_trials=2))
    console = Console(file=io.StringIO())
    assert runner.watch(cast(Any, started), cast(Any, experiment), console) == failed
    assert Ledger(tmp_path / "trials.jsonl")["search"].status == "failed"
    late.join()
