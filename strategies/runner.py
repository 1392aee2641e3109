"""``sedona-nni run`` and ``resume``: an experiment, watched to its end."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from sedona_nni.errors import UnwritableError
from sedona_nni.files import write_atomically, write_json
from sedona_nni.progress import progress_bar
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.results import (
    as_markdown,
    comparison,
    compromise_table,
    compromises,
    markdown_table,
)
from sedona_nni.reporting.trial import SearchTrial, SearchTrialResult
from sedona_nni.searches import SEARCHES
from sedona_nni.searches.documents import parse_result
from sedona_nni.strategies.best_model import BEST_FOLDER, keep_best
from sedona_nni.strategies.checkpoint import LEDGER_FILE, STUDY_FILE, TRIALS_FILE
from sedona_nni.strategies.experiment import Experiment
from sedona_nni.strategies.experiment_file import ExperimentFile, remember_file
from sedona_nni.strategies.forecast import Forecast, Standing
from sedona_nni.strategies.hyperparameters import study_url
from sedona_nni.strategies.nni_border.launcher import (
    Interrupted,
    RunningExperiment,
    one_interrupt,
    running,
)
from sedona_nni.strategies.nni_border.rest import ManagerGoneError
from sedona_nni.strategies.watched import Outcome, TrialView, Watched

__all__ = ["supervise", "under_nni", "watch", "write_results"]

_SETTLE_S = 120.0  # how long the tuner, maybe just begun, may take to use the last result
_FINISH_S = 2.0  # and then to say that it has finished


@contextlib.contextmanager
def under_nni(
    what: ExperimentFile | str,
    console: Console,
    *,
    port: int,
    public: bool,
    unlimited: bool = False,
) -> Iterator[RunningExperiment]:
    """Start an experiment under NNI's manager, and stop it when the block is left.

    Args:
        what: The experiment to create, or NNI's id of one to resume.
        console: Where its web UI is named.
        port: See `sedona_nni.strategies.nni_border.launcher.running`.
        public: See there.
        unlimited: Lift the limits on time and trials of an experiment that is resumed.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(what, ExperimentFile):
            arguments = ["create", "--config", str(stack.enter_context(what.completed()))]
        else:
            arguments = ["resume", what]
        started = stack.enter_context(running(arguments, port=port, public=public))
        _greet(started, port, public, console)
        if isinstance(what, ExperimentFile):
            remember_file(what, started.checkpoint)
        if unlimited and not started.has_finished:
            started.lift_limits()
        yield started


def supervise(
    start: AbstractContextManager[Watched],
    experiment: Experiment,
    *,
    results: Path,
    console: Console,
) -> tuple[int, Path | None]:
    """Start an experiment, show its progress until it ends, and stop it.

    Args:
        start: Starts it, and stops it when its block is left.
        experiment: What is going to happen.
        results: Folder in which a folder with the experiment's name and results is made.
        console: Where progress is shown: as a bar if it is a terminal, else as plain lines.

    Returns:
        The exit code: 0 if all went well, 2 if the user can mend what went wrong, 128 and more for
        a signal, else 1. And the experiment's folder in ``results``, if there are results.
    """
    with one_interrupt():
        started: Watched | None = None
        limit = ""
        try:
            with start as started:
                outcome = watch(started, experiment, console)
                if outcome.exit_code == 0 and not started.has_finished:
                    limit = started.reached_limit()
        except Interrupted as interrupt:
            again = "" if started is None else f", {started.again}"
            outcome = Outcome(interrupt.exit_code, f"stopped by {interrupt}{again}")
        folder = None
        if started is not None:
            ledger = Ledger(started.checkpoint / LEDGER_FILE)
            missing = [] if started.has_finished else _missing(ledger, experiment)
            if limit and missing:
                outcome = Outcome(
                    1,
                    f"the experiment has ended early, as its {limit}; it lacks "
                    f"{', '.join(missing)}; {started.beyond_limits}",
                )
            planned = experiment.settings.trainings if missing else None
            outcome, folder = _keep_results(started, ledger, planned, outcome, results)
            study = started.checkpoint / STUDY_FILE
            if study.exists():
                address = shlex.quote(study_url(study))
                console.print(
                    f"Optuna's studies: optuna-dashboard {address}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
        if outcome.message:
            line = f"sedona-nni: {outcome.message}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return outcome.exit_code, folder


def _missing(ledger: Ledger, experiment: Experiment) -> list[str]:
    """Say in words which trials an experiment was to have and has not had to their end."""
    ended = Counter(
        "" if record.is_search else record.strategy
        for record in ledger
        if record.status != "running"
    )
    planned = experiment.settings.trainings
    searches = experiment.settings.num_trials - sum(planned.values())
    missing = ["its search" if searches == 1 else "a search"] if ended[""] < searches else []
    for strategy, number in planned.items():
        if left := max(0, number - ended[strategy]):
            missing.append(f"{left} of {number} trainings of {strategy}")
    return missing


def _keep_results(
    started: Watched,
    ledger: Ledger,
    planned: Mapping[str, int] | None,
    outcome: Outcome,
    results: Path,
) -> tuple[Outcome, Path | None]:
    """Write what there is to write, and see whether it is a success.

    Returns:
        How the experiment has ended after all, and the folder of its results, if there are any.
    """
    if not any(record.status == "succeeded" for record in ledger):
        return outcome, None
    folder = started.results_folder(results)
    try:
        write_results(ledger, folder, planned)
        keep_best(ledger, started.folder, folder / BEST_FOLDER)
    except (OSError, UnwritableError) as error:
        lost = (
            f"the results could not be written ({error}); "
            f"`sedona-nni report {started.id}` shows them"
        )
        return Outcome(outcome.exit_code or 1, f"{outcome.message}\n{lost}".strip()), None
    empty = [row.strategy for row in comparison(ledger, planned) if not row.num_trials]
    if outcome.exit_code == 0 and empty:
        outcome = Outcome(1, f"no training of {', '.join(empty)} succeeded")
    return outcome, folder


def _greet(started: RunningExperiment, port: int, public: bool, console: Console) -> None:
    if started.port != port:
        console.print(f"port {port} is taken, so this is on port {started.port}")
    console.print(f"experiment {started.id}, web UI: {started.api.address}", highlight=False)
    if public:
        console.print("--public: whoever reaches this port can control the experiment")


def watch(started: Watched, experiment: Experiment, console: Console) -> Outcome:
    """Tell how an experiment goes until it ends; return how."""
    forecast = Forecast(experiment.settings.num_trials, started.concurrency)
    ledger = Ledger(started.checkpoint / LEDGER_FILE)
    seen: dict[str, str] = {}
    told: set[int] = set()
    with progress_bar(console) as progress:
        bar = progress.add_task("starting", total=experiment.settings.num_trials, best="", left="")
        for trials, outcome in _until_settled(started):
            told = _tell_stopped(started, told, console)
            standing = forecast.standing(trials, _latest(started, trials))
            for trial in trials:
                if seen.get(trial.id) != trial.status:
                    seen[trial.id] = trial.status
                    _tell_status(started, ledger, trial, standing, console)
            progress.update(
                bar,
                description=standing.doing or "waiting",
                completed=standing.ended,
                total=standing.planned,
                left=standing.left_in_words,
                best=standing.best_in_words(with_key=console.width >= 100),
                refresh=True,
            )
            if outcome is not None:
                return outcome
    raise AssertionError("polls end with an outcome")


def _until_settled(started: Watched) -> Iterator[tuple[list[TrialView], Outcome | None]]:
    """Yield what an experiment's polls do, also after a false end."""
    while True:
        for trials, outcome in started.polls():
            if outcome is not None and outcome.exit_code == 0:
                outcome = _settled(started)
            yield trials, outcome
        if outcome is not None:
            return


def _settled(started: Watched) -> Outcome | None:
    """Return how a finished experiment ended, after the tuner has used the last result.

    NNI knows how many trials there are, so it may say that all is done before the tuner does; or
    although the last was killed, and the tuner lets it run again. Then this is None.
    """
    began = time.monotonic()
    try:
        while True:
            outcome = started.outcome()
            if started.has_finished or outcome is None or outcome.exit_code != 0:
                return outcome
            ledger = Ledger(started.checkpoint / LEDGER_FILE)
            owes = any(record.status == "running" for record in ledger)
            if time.monotonic() > began + (_SETTLE_S if owes else _FINISH_S):
                return outcome
            time.sleep(0.2)
    except ManagerGoneError:
        return Outcome(0)


def _tell_stopped(started: Watched, told: set[int], console: Console) -> set[int]:
    """Tell of processes that a signal has stopped, once of each; return their numbers."""
    stopped = {process.pid: process for process in started.stopped()}
    for number in stopped.keys() - told:
        with contextlib.suppress(psutil.Error):
            line = (
                f"process {number} ({stopped[number].name()}) is stopped by a signal, and waited "
                f"for: `kill -CONT {number}` lets it go on, Ctrl-C ends the experiment"
            )
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return {*stopped}


def _tell_status(
    started: Watched, ledger: Ledger, trial: TrialView, standing: Standing, console: Console
) -> None:
    if trial.status == "RUNNING":
        line = f"{trial.key}: started"
    elif trial.status == "SUCCEEDED":
        line = f"{trial.key}: done, {_result_in_words(trial, started.final_result(trial))}"
        if not console.is_terminal:  # where the bar says it
            parts = [standing.left_in_words, standing.best_in_words(with_key=True)]
            line += f"; {standing.ended} of {standing.planned}, {', '.join(filter(None, parts))}"
    elif trial.has_failed:
        stopped = _stopped_early(ledger, trial.key)
        failed = "killed" if trial.status == "USER_CANCELED" else trial.status.lower()
        line = f"{trial.key}: {stopped or failed}"
        line += "" if stopped else f"\n{_last_words(started, trial)}"
    else:
        return
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _result_in_words(trial: TrialView, result: Any) -> str:
    default = result.get("default") if isinstance(result, dict) else None
    if not isinstance(default, int | float):
        return "without a result"
    if isinstance(trial.trial, SearchTrial):
        return SEARCHES[trial.trial.search].in_words(result)
    return f"validation accuracy {default:.1%}"


def _stopped_early(ledger: Ledger, key: str) -> str | None:
    """Return why the tuner has stopped a trial, None if it has not."""
    ledger.refresh()
    return ledger[key].reason if key in ledger and ledger[key].status == "stopped" else None


def _last_words(started: Watched, trial: TrialView) -> str:
    try:
        return started.last_words(trial.id)
    except ManagerGoneError:
        return ""


def _latest(started: Watched, trials: list[TrialView]) -> dict[str, dict[str, Any]]:
    """Return what each running trial has reported last."""
    found = {}
    for trial in trials:
        if trial.status == "RUNNING":
            with contextlib.suppress(ManagerGoneError):
                found[trial.id] = started.latest_intermediate(trial.id) or {}
    return found


def write_results(ledger: Ledger, folder: Path, planned: Mapping[str, int] | None = None) -> None:
    """Write what came of an experiment; ``planned`` is `sedona_nni.reporting.results.comparison`'s.

    ``table.md`` and ``table.json`` have one row per strategy, ``<strategy>.json`` is the decoupling
    of its best trial, ``search-result.json`` the end of the search (that of a strategy that it is
    compared with is ``search-result-<strategy>.json``), ``trials.json`` every trial. With a
    second objective ``pareto.md`` and ``pareto.json`` have the best compromises.
    """
    rows = comparison(ledger, planned)
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if row.decoupling is not None:
            row.decoupling.save(folder / f"{row.strategy}.json")
    for record in ledger:
        if isinstance(record.result, SearchTrialResult):
            name = record.key.replace("search", "search-result", 1)
            parse_result(record.result.search_result).save(folder / f"{name}.json")
    write_json(folder / "table.json", [row.model_dump(mode="json") for row in rows])
    table = as_markdown(rows)
    write_atomically(folder / "table.md", lambda path: _write(path, table))
    if found := compromises(ledger):
        best = markdown_table(*compromise_table(found))
        write_json(folder / "pareto.json", [each.model_dump(mode="json") for each in found])
        write_atomically(folder / "pareto.md", lambda path: _write(path, best))
    write_json(folder / TRIALS_FILE, ledger.document())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
