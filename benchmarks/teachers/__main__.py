"""The command ``python -m benchmarks.teachers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import new_app, run
from benchmarks.record import ROOT, header
from sedona_nni.errors import InputError
from sedona_nni.files import write_atomically, write_json

DATA = ROOT / "benchmarks" / "data" / "teachers"

app = new_app("Compare teachers.")


def main() -> None:
    """Run the command."""
    run(app, "benchmarks.teachers")


@app.command()
def keep(
    ledger: Annotated[Path, typer.Argument(help="The experiment's checkpoint/trials.jsonl.")],
    experiment: Annotated[Path, typer.Option(help="The experiment's file.")],
    commit: Annotated[
        str | None, typer.Option(help="Of the code that trained, by default the present one.")
    ] = None,
    into: Annotated[Path, typer.Option(help="Folder of what is kept.")] = DATA,
) -> None:
    """Keep an experiment's ledger, with how it was made beside it.

    It is the experiment's memory, too: see `begin`.
    """
    from sedona_nni.reporting.ledger import Ledger

    if not ledger.is_file():
        raise InputError.rule("ledger", "must be a file that exists", str(ledger))
    trained = sum(record.result is not None for record in Ledger(ledger))
    head = header(n=1, packages=("torch", "torchvision", "numpy", "nni"))
    head = head.model_copy(update={"command": f"sedona-nni run {experiment}"})
    if commit is not None:
        head = head.model_copy(update={"commit": commit, "dirty": False})
    kept = into / f"{experiment.stem}.jsonl"
    write_atomically(kept, lambda path: path.write_bytes(ledger.read_bytes()))
    write_json(kept.with_suffix(".json"), head.model_dump(mode="json"))
    print(f"{kept}: {trained} trials")


@app.command()
def begin(
    ledger: Annotated[Path, typer.Argument(help="What `keep` kept.")],
    folder: Annotated[Path, typer.Argument(help="A new one.")],
    experiment: Annotated[Path, typer.Option(help="The experiment's file.")],
) -> None:
    """Make a folder with which `sedona-nni run EXPERIMENT --directory FOLDER` goes on, anywhere."""
    from sedona_nni.strategies.experiment_file import find_experiment
    from sedona_nni.strategies.processes import restore

    if not ledger.is_file():
        raise InputError.rule("ledger", "must be a file that exists", str(ledger))
    restore(folder, find_experiment(experiment).config(), ledger)
    print(f"sedona-nni run {experiment} --directory {folder}")


@app.command()
def show(
    ledger: Annotated[Path, typer.Argument(help="What `keep` kept.")],
    made: Annotated[Path | None, typer.Option(help="How it was made, kept beside it.")] = None,
    times: Annotated[
        Path | None, typer.Option(help="The record of python -m benchmarks teacher-times.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show accuracies with their spread, memory, time and what inference takes."""
    from benchmarks.teachers.views import show as shown

    shown(ledger, made, times).show(as_json=as_json)


@app.command()
def published(
    ledgers: Annotated[list[Path], typer.Argument(help="What `keep` kept.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show what InfoPro's and FDG's authors published beside what ledgers say."""
    from benchmarks.teachers.published import published as shown

    shown(ledgers).show(as_json=as_json)


@app.command()
def best(
    ledgers: Annotated[list[Path], typer.Argument(help="What `keep` kept.")],
    times: Annotated[
        list[Path],
        typer.Option(
            help="Of each, in this order, the record of python -m benchmarks teacher-times."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show which teacher or method is the best of each column."""
    from benchmarks.teachers.best import best as shown

    shown(ledgers, times).show(as_json=as_json)


if __name__ == "__main__":
    main()
