"""``run`` and ``resume``: an experiment, under NNI or in a folder."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sedona_nni.command_line.given import read_given
from sedona_nni.command_line.options import ExperimentName, Json, Plugins, Port, Public, Results
from sedona_nni.command_line.tables import show_table
from sedona_nni.command_line.telling import tell_contents
from sedona_nni.errors import InputError
from sedona_nni.files import user_path
from sedona_nni.plugins import absolute_plugins

if TYPE_CHECKING:
    from sedona_nni.reporting.results import StrategyRow
    from sedona_nni.strategies.experiment import Experiment
    from sedona_nni.strategies.experiment_file import ExperimentFile
    from sedona_nni.strategies.watched import Watched

DEFAULT_PORT = 8080
RESULTS = Path("results")
FIRST_PORT, LAST_PORT = 1024, 65534  # below are those of the system; NNI may need the next one
_CHANGES = 6  # named of a file that was edited


def run(
    experiment: ExperimentName,
    port: Port = DEFAULT_PORT,
    public: Public = False,
    results: Results = RESULTS,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Run it here, without NNI's manager and web UI; again in the same folder, go on.",
            parser=user_path,
            metavar="PATH",
        ),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Run an experiment under NNI, to its end, and print what came of it.

    This is `nnictl create` with checks beforehand, a web UI that only this machine can reach,
    progress and errors in the terminal, a closing table, an exit code that tells the truth, and
    nothing left running: Ctrl-C stops the experiment.

    An experiment that comes with this project is known by its name, e.g. quickstart; its trials run
    in the current folder, where it also looks for data.

    With --directory there is no server at all, as on clusters and in notebooks: trials are
    processes of this one, and everything is in that folder.
    """
    from sedona_nni.strategies.experiment_file import find_experiment

    if directory is None:
        _check_start(port, results)
    else:
        _check_directory(directory, port, public, results)
    file = find_experiment(experiment)
    loaded = absolute_plugins(plugins or (), Path.cwd())
    file = file.model_copy(update={"plugins": tuple(loaded)})
    planned = read_given(experiment, file)
    tell_contents(planned.check_machine())
    console = Console(stderr=True)
    if directory is not None:
        from sedona_nni.strategies.processes import in_folder

        start: AbstractContextManager[Watched] = in_folder(directory, file.config())
    else:
        start = _under_nni(file, planned, console, port, public)
    _supervise(start, planned, results, console, as_json)


def resume(
    experiment_id: Annotated[str, typer.Argument(metavar="EXPERIMENT_ID")],
    port: Port = DEFAULT_PORT,
    public: Public = False,
    results: Results = RESULTS,
    unlimited: Annotated[
        bool,
        typer.Option(
            "--unlimited",
            help="Lift the experiment's maxExperimentDuration and maxTrialNumber for good.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Go on with a stopped experiment; what is finished is not repeated."""
    from sedona_nni.strategies.experiment import Experiment
    from sedona_nni.strategies.nni_border.launcher import experiment_folder, stopped_config

    _check_start(port, results)
    config = stopped_config(experiment_id)
    planned = Experiment.from_config(config)
    tell_contents(planned.check_machine())
    _tell_changes(config, experiment_folder(experiment_id) / "checkpoint")
    console = Console(stderr=True)
    start = _under_nni(experiment_id, planned, console, port, public, unlimited)
    _supervise(start, planned, results, console, as_json)


def _check_directory(directory: Path, port: int, public: bool, results: Path) -> None:
    """Check what goes with an experiment without NNI's manager."""
    from sedona_nni.files import check_output_folder

    for option, given, default in (
        ("--port", port, DEFAULT_PORT),
        ("--public", public, False),
        ("--results", results, RESULTS),
    ):
        if given != default:
            rule = "must be left out with --directory, where there is no server"
            if option == "--results":
                rule = "must be left out with --directory, which has them"
            raise InputError.rule(option, rule, str(given))
    check_output_folder("--directory", directory)


def _check_start(port: int, results: Path) -> None:
    """Check what is needed last before anything begins."""
    from sedona_nni.files import check_output_folder

    if not FIRST_PORT <= port <= LAST_PORT:
        raise InputError.rule("--port", f"must be from {FIRST_PORT} to {LAST_PORT}", port)
    check_output_folder("--results", results)


def _tell_changes(config: dict[str, Any], checkpoint: Path) -> None:
    """Say that a file was edited in vain: an experiment keeps the configuration of its start."""
    from sedona_nni.strategies.experiment_file import changed_since_start

    found = changed_since_start(config, checkpoint)
    if found is not None and found[1]:
        path, changes = found
        more = f" and {len(changes) - _CHANGES} more" if len(changes) > _CHANGES else ""
        print(
            f"{path} now differs from this experiment ({', '.join(changes[:_CHANGES])}{more}); "
            "resume goes on as it was started, `sedona-nni run` starts another",
            file=sys.stderr,
        )


def _under_nni(
    what: ExperimentFile | str,
    planned: Experiment,
    console: Console,
    port: int,
    public: bool,
    unlimited: bool = False,
) -> AbstractContextManager[Watched]:
    from sedona_nni.strategies.runner import under_nni

    if planned.platform not in ("local", "remote") and not public:
        raise InputError(
            f"trainingService.platform: trials on {planned.platform} reach the manager over the "
            "network, as everybody else does then: add --public if that is safe there"
        )
    return under_nni(what, console, port=port, public=public, unlimited=unlimited)


def _supervise(
    start: AbstractContextManager[Watched],
    planned: Experiment,
    results: Path,
    console: Console,
    as_json: bool,
) -> None:
    from sedona_nni.reporting.results import Compromise, StrategyRow, compromise_table
    from sedona_nni.strategies.runner import supervise

    exit_code, folder = supervise(start, planned, results=results, console=console)
    if folder is not None:
        table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        _show_comparison([StrategyRow.model_validate(row) for row in table], as_json)
        if (folder / "pareto.json").exists() and not as_json:
            found = json.loads((folder / "pareto.json").read_text())
            best = compromise_table([Compromise.model_validate(each) for each in found])
            print(f"best compromises of validation accuracy and {best[0][4]}")
            show_table(*best)
        print(f"results: {folder}", file=sys.stderr)
        plugins = absolute_plugins(planned.settings.plugins.plugins, planned.folder)
        command = ["sedona-nni", "report", str(folder), "--html", "report.html"]
        for plugin in plugins:  # or the page would not know what they have found
            command += ["--plugin", plugin]
        print(f"pictures: {shlex.join(command)}", file=sys.stderr)
    raise typer.Exit(exit_code)


def _show_comparison(rows: Iterable[StrategyRow], as_json: bool) -> None:
    from sedona_nni.reporting.results import closing_table

    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in rows]))
    else:
        show_table(*closing_table(rows))
