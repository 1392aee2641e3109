"""The command ``python -m benchmarks.study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import new_app, run
from benchmarks.record import ROOT, header
from sedona_nni.errors import InputError
from sedona_nni.files import write_atomically

DATA = ROOT / "benchmarks" / "data" / "study.json"
EXPERIMENTS = [Path(f"experiments/study_{net}.yml") for net in ("vgg13", "resnet18")]

app = new_app("Compare strategies at equal cost.")

Data = Annotated[Path, typer.Option("--data", help="What `collect` wrote.")]


def main() -> None:
    """Run the command."""
    run(app, "benchmarks.study")


@app.command()
def collect(
    ledgers: Annotated[list[Path], typer.Argument(help="Their checkpoint/trials.jsonl.")],
    into: Annotated[Path, typer.Option(help="The document to write.")] = DATA,
    experiment: Annotated[
        list[Path] | None, typer.Option(help="The experiments' files, by default the two shipped.")
    ] = None,
    commit: Annotated[
        str | None, typer.Option(help="Of the code that trained, by default the present one.")
    ] = None,
) -> None:
    """Gather the finished trials of experiments, each of which may be spread over several runs."""
    from benchmarks.study.collect import collect as collected
    from sedona_nni.reporting.ledger import Ledger

    for path in ledgers:
        if not path.exists():
            raise InputError.rule("ledgers", "must be files that exist", str(path))
    opened = [Ledger(path) for path in ledgers]
    commands = [f"sedona-nni run {path}" for path in experiment or EXPERIMENTS]
    head = header(n=1, packages=("torch", "torchvision", "numpy", "nni"))
    head = head.model_copy(update={"command": "; ".join(commands)})
    if commit is not None:
        head = head.model_copy(update={"commit": commit, "dirty": False})
    study = collected(opened, head)
    # A trial a line, and a training: small, and a change is easy to see
    text = (
        study.model_dump_json().replace('{"key":', '\n{"key":').replace('{"space":', '\n{"space":')
    )
    text += "\n"
    write_atomically(into, lambda path: path.write_text(text, encoding="utf-8"))
    for net in study.nets:
        runs = sum(len(trial.runs) for trial in net.trials)
        print(f"{into}: {net.name}: {len(net.trials)} trials, {runs} trainings")
    others = [f"{r.key} {r.status}" for each in opened for r in each if r.status != "succeeded"]
    if others:
        print(f"left out: {', '.join(others)}")


@app.command()
def show(
    data: Data = DATA,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    first: Annotated[
        str | None,
        typer.Option(
            metavar="STRATEGY=N", help="Count only a strategy's first N trainings in each space."
        ),
    ] = None,
) -> None:
    """What strategies picked, at what cost, and how they compare, replicate by replicate."""
    from benchmarks.study.views import show as view

    view(data, first).show(as_json=as_json)


@app.command()
def figure(
    output: Annotated[Path, typer.Argument(help="Folder of study.png and study-pareto.png.")],
    data: Data = DATA,
) -> None:
    """Draw every strategy's picks, and accuracy against ideal speed-up and memory."""
    from benchmarks.study.document import Study
    from benchmarks.study.figure import draw_pareto, draw_strips

    study = Study.load(data)
    draw_strips(study, output / "study.png")
    draw_pareto(study, output / "study-pareto.png")


if __name__ == "__main__":
    main()
