"""``report``: what came of experiments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sedona_nni.command_line.options import Json
from sedona_nni.command_line.tables import show_table
from sedona_nni.files import user_path
from sedona_nni.printable import printable

if TYPE_CHECKING:
    from sedona_nni.reporting.data import Group


def report(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPERIMENT...",
            help="Ids of NNI, or folders in results/; several are put together.",
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with pictures here: one file that needs nothing else.",
            parser=user_path,
            metavar="PATH",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Report on experiments, also while they run: a table, or a page with pictures."""
    from datetime import datetime

    import optuna

    from sedona_nni import __version__
    from sedona_nni.files import check_output_file, write_atomically
    from sedona_nni.reporting.build import build_report
    from sedona_nni.reporting.text import experiment_in_words, task_in_words
    from sedona_nni.strategies.hyperparameters import importance
    from sedona_nni.strategies.report_source import read_sources

    if html is not None:
        check_output_file("--html", html)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = build_report(read_sources(targets), importance)
    if html is not None:
        from sedona_nni.reporting.page import render

        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        page = render(made, f"Made by sedona-nni {__version__} on {now}")
        write_atomically(html, lambda path: path.write_text(page, encoding="utf-8"))
        print(f"report: {html}", file=sys.stderr)
    if as_json:
        print(made.model_dump_json())
        return
    for group in made.groups:
        names = ", ".join(experiment.name for experiment in group.experiments)
        print(printable(f"{task_in_words(group)}, {names}"))
        for experiment in group.experiments:
            if experiment.state != "finished":
                print(printable(experiment_in_words(experiment)))
        _show_summaries(group)


def _show_summaries(group: Group) -> None:
    from sedona_nni.reporting.text import summary_table

    show_table(*summary_table(group))
