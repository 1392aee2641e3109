"""The command ``python -m benchmarks``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from benchmarks.command import new_app, run
from sedona_nni.errors import InputError, SedonaError

if TYPE_CHECKING:
    from benchmarks.search_steps import StepSetting
    from benchmarks.side_by_side import Prepare

app = new_app("Measure this project.")

BackboneName = Annotated[str, typer.Option(help="Name of the backbone.")]
BatchSize = Annotated[int, typer.Option(help="Training images per step.")]
InnerSteps = Annotated[int, typer.Option(help="T, training steps that a meta-step looks ahead.")]
ValidationBatchSize = Annotated[int, typer.Option(help="Validation images of a meta-step.")]
Aux = Annotated[str, typer.Option(help="Auxiliary networks at each boundary, by commas.")]
ImageSize = Annotated[int, typer.Option(help="Height and width of the images, pixels.")]
NumClasses = Annotated[int, typer.Option(help="Classes to tell apart.")]
WidthMultiplier = Annotated[float, typer.Option(help="Factor on every width.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads, by default one per core.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measurements of each value, after a warm-up.")]
Against = Annotated[
    str | None,
    typer.Option(help="Also measure naive, the plain form, or release, the authors' code."),
]
FashionMnist = Annotated[str, typer.Option(help="Folder that holds Fashion-MNIST.")]
Kept = Annotated[
    Path, typer.Option(help="Keeps finished trainings; called again, only others are run.")
]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each contender.")]
ReleasePath = Annotated[
    Path | None, typer.Option(help="A clone of github.com/mjpyeon/sedona, for release.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Record = Annotated[
    str | None, typer.Option(metavar="NAME", help="Write benchmarks/records/NAME.json and .md.")
]
Despite = Annotated[
    str | None,
    typer.Option(
        metavar="DOUBTS",
        help="Record, with a note, although the checkout is dirty or the machine busy: dirty, "
        "busy, or both by a comma.",
    ),
]


def main() -> None:
    """Run the command."""
    run(app, "benchmarks")


@app.command()
def meta_step(
    backbone: BackboneName = "vgg19",
    batch_size: BatchSize = 64,
    inner_steps: InnerSteps = 5,
    validation_batch_size: ValidationBatchSize = 256,
    aux: Aux = "conv1,conv2,conv3,conv4",
    image_size: ImageSize = 32,
    num_classes: NumClasses = 10,
    width_multiplier: WidthMultiplier = 1.0,
    device: Device = "cpu",
    threads: Threads = None,
    repeats: Repeats = 5,
    against: Against = None,
    release_path: ReleasePath = None,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Time and memory of the hypergradient of one meta-step."""
    setting = _setting(
        step="meta-step",
        backbone=backbone,
        batch_size=batch_size,
        inner_steps=inner_steps,
        validation_batch_size=validation_batch_size,
        aux=aux.split(","),
        image_size=image_size,
        num_classes=num_classes,
        width_multiplier=width_multiplier,
        device=device,
        release_path=release_path,
    )
    _side_by_side(setting, threads, repeats, against, as_json, record, despite)


@app.command()
def relaxed_step(
    backbone: BackboneName = "vgg19",
    batch_size: BatchSize = 64,
    aux: Aux = "conv1,conv2,conv3,conv4",
    image_size: ImageSize = 32,
    num_classes: NumClasses = 10,
    width_multiplier: WidthMultiplier = 1.0,
    device: Device = "cpu",
    threads: Threads = None,
    repeats: Repeats = 15,
    against: Against = None,
    release_path: ReleasePath = None,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Time and memory of one training step of the relaxed network."""
    setting = _setting(
        step="relaxed-step",
        backbone=backbone,
        batch_size=batch_size,
        aux=aux.split(","),
        image_size=image_size,
        num_classes=num_classes,
        width_multiplier=width_multiplier,
        device=device,
        release_path=release_path,
    )
    _side_by_side(setting, threads, repeats, against, as_json, record, despite)


@app.command()
def scaling(
    over: Annotated[
        str, typer.Option(help="inner-steps, batch-size, boundaries (of backbones) or threads.")
    ],
    values: Annotated[str, typer.Option(help="By commas; for boundaries names of backbones.")],
    backbone: BackboneName = "vgg19",
    batch_size: BatchSize = 64,
    inner_steps: InnerSteps = 5,
    validation_batch_size: ValidationBatchSize = 256,
    aux: Aux = "conv1,conv2,conv3,conv4",
    image_size: ImageSize = 32,
    num_classes: NumClasses = 10,
    width_multiplier: WidthMultiplier = 1.0,
    device: Device = "cpu",
    threads: Threads = None,
    repeats: Repeats = 3,
    against: Against = None,
    release_path: ReleasePath = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw time and memory into this file (.png, .svg ...).")
    ] = None,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """How time and memory of the meta-step grow with one of its sizes."""
    from benchmarks.record import begin, publish
    from benchmarks.scaling import OVER, draw, points, scaling_table

    if over not in OVER:
        raise InputError.rule("--over", f"must be one of {', '.join(OVER)}", over)
    setting = _setting(
        step="meta-step",
        backbone=backbone,
        batch_size=batch_size,
        inner_steps=inner_steps,
        validation_batch_size=validation_batch_size,
        aux=aux.split(","),
        image_size=image_size,
        num_classes=num_classes,
        width_multiplier=width_multiplier,
        device=device,
        release_path=release_path,
    )
    prepare = _sides(setting, against)
    head = begin(record, despite, n=repeats, gpu=_gpu(device))
    measured = points(
        setting, threads or _cores(), over, values.split(","), prepare, repeats=repeats
    )
    title = f"{_title(setting)}, by {over}: median time and peak resident memory"
    if figure is not None:
        draw(figure, title, over, measured, list(prepare))
    publish(
        head,
        {"over": over, "setting": setting.document(), "points": measured},
        [scaling_table(title, over, measured, list(prepare))],
        as_json=as_json,
        record=record,
    )


@app.command()
def parts(
    step: Annotated[str, typer.Option(help="meta-step or relaxed-step.")] = "meta-step",
    backbone: BackboneName = "vgg19",
    batch_size: BatchSize = 64,
    inner_steps: InnerSteps = 5,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Where the time of a search's step goes, and how much of it is arithmetic."""
    from benchmarks.parts import parts as measure
    from benchmarks.parts import parts_table
    from benchmarks.record import begin, publish

    setting = _setting(step=step, backbone=backbone, batch_size=batch_size, inner_steps=inner_steps)
    head = begin(record, despite, n=1)
    measured = measure(setting)
    publish(
        head,
        {"setting": setting.document(), **measured},
        [parts_table(_title(setting), measured)],
        as_json=as_json,
        record=record,
    )


@app.command()
def start_up(
    backbone: BackboneName = "vgg19",
    batch_size: BatchSize = 64,
    repeats: Repeats = 3,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Time of imports, and of a search trial under NNI up to its first training step."""
    from benchmarks.record import begin, publish
    from benchmarks.start_up import import_table, import_times, trial_start_ups, trial_table

    _setting(step="relaxed-step", backbone=backbone, batch_size=batch_size)
    head = begin(
        record, despite, n=repeats, packages=("torch", "nni", "pytorch-lightning", "sedona-nni")
    )
    imports = import_times(repeats)
    trials = trial_start_ups(repeats, backbone=backbone, batch_size=batch_size)
    publish(
        head,
        {"imports": imports, "trials": trials},
        [import_table(imports), trial_table(trials, backbone)],
        as_json=as_json,
        record=record,
    )


@app.command()
def endurance(
    trials: Annotated[int, typer.Option(min=20, help="Short trials of each run.")] = 300,
    seconds: Annotated[float, typer.Option(help="How long each of them sleeps.")] = 1.0,
    kept: Annotated[int, typer.Option(min=20, help="Trials of the ledger and the study.")] = 10_000,
    reported: Annotated[int, typer.Option(min=20, help="Trials of the report.")] = 1000,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Memory, open files and answers over hundreds of trials; ledger, study and report of many."""
    from benchmarks.endurance import (
        SIDES,
        long_run,
        opening,
        opening_table,
        reporting,
        run_tables,
    )
    from benchmarks.record import begin, publish
    from benchmarks.view import Table

    head = begin(record, despite, n=1, packages=("torch", "nni", "optuna", "sedona-nni"))
    runs = {side: long_run(side, trials, seconds) for side in SIDES}
    opened = {number: opening(number) for number in (kept // 10, kept)}
    page = reporting(reported)
    shown = Table(
        "the page of a report",
        ["trials", "s, all", "MiB"],
        [[f"{reported:,}", f"{page['seconds']:.1f}", f"{page['mib']:.1f}"]],
    )
    publish(
        head,
        {"runs": runs, "opening_s": opened, "report": page},
        [*run_tables(runs), opening_table(opened), shown],
        as_json=as_json,
        record=record,
    )


@app.command()
def rank_start_up(
    num_blocks: Annotated[str, typer.Option(help="K, by commas; processes for each.")] = "2,4",
    repeats: Repeats = 5,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Time of a training in parallel up to its first step, and of one in one process."""
    from benchmarks.rank_start_up import first_steps, rank_table
    from benchmarks.record import begin, publish

    counts = num_blocks.split(",")
    if not all(count.isdigit() and 2 <= int(count) <= 8 for count in counts):
        raise InputError.rule("--num-blocks", "must be whole numbers from 2 to 8", num_blocks)
    head = begin(record, despite, n=repeats)
    measured = first_steps([int(count) for count in counts], repeats)
    publish(head, measured, [rank_table(measured)], as_json=as_json, record=record)


@app.command()
def cutting(
    models: Annotated[str, typer.Option(help="By commas: vit-tiny, convnext-tiny, resnet50.")] = (
        "vit-tiny,convnext-tiny,resnet50"
    ),
    image_size: ImageSize = 64,
    batch_size: BatchSize = 16,
    threads: Threads = None,
    repeats: Repeats = 30,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Time to find where models can be cut, and of their training steps, plain and cut."""
    import torch

    from benchmarks.cutting import cut_steps, cutting_table
    from benchmarks.record import begin, publish

    torch.set_num_threads(threads or _cores())
    head = begin(record, despite, n=repeats)
    found = cut_steps(models.split(","), image_size, batch_size, repeats)
    title = f"Training steps of models cut at every unit, batch {batch_size}, {image_size} px"
    publish(
        head,
        {"image_size": image_size, "batch_size": batch_size, "models": found},
        [cutting_table(f"{title}, {threads or _cores()} threads", found)],
        as_json=as_json,
        record=record,
    )


@app.command("fine-tuning")
def fine_tuning(
    data_dir: FashionMnist,
    directory: Kept,
    seeds: Seeds = 3,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """A pretrained ResNet-18 fine-tuned by blocks, and as a user would otherwise, on one thread."""
    import torch

    from benchmarks.fine_tuning import FIRST, FIRST_SETTINGS, THEN, THEN_SETTINGS, runs, tables
    from benchmarks.record import begin, publish

    torch.set_num_threads(1)
    head = begin(record, despite, n=seeds)
    found = runs(data_dir, seeds, directory)
    settings = {
        "pretraining_task": FIRST,
        "pretraining": FIRST_SETTINGS,
        "task": THEN,
        "train": THEN_SETTINGS,
    }
    publish(
        head,
        {
            **{name: value.model_dump(mode="json") for name, value in settings.items()},
            "runs": found,
        },
        tables(found),
        as_json=as_json,
        record=record,
    )


@app.command()
def dgl_family(
    data_dir: FashionMnist,
    directory: Kept,
    seeds: Seeds = 3,
    figure: Annotated[
        Path | None, typer.Option(help="Draw learning curves into this file (.png, .svg ...).")
    ] = None,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """DGL, sequential and asynchronous training, DNI and DDG on one budget, on one CPU thread."""
    import torch

    from benchmarks.dgl_family import SETTINGS, TASK, draw, runs, tables
    from benchmarks.record import begin, publish

    torch.set_num_threads(1)
    head = begin(record, despite, n=seeds)
    found = runs(data_dir, seeds, directory)
    if figure is not None:
        draw(figure, found)
    settings = {"task": TASK, "train": SETTINGS}
    publish(
        head,
        {
            **{name: value.model_dump(mode="json") for name, value in settings.items()},
            "runs": found,
        },
        tables(found),
        as_json=as_json,
        record=record,
    )


@app.command()
def gpu(
    record: Annotated[str, typer.Option(metavar="NAME", help="Write NAME.json and NAME.md.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="How long all of it may take.")] = 8,
    device: Annotated[str, typer.Option(help="cuda; or cpu, at small sizes.")] = "cuda",
    parts: Annotated[
        str | None, typer.Option(help="Which, by commas: checks, models, ranks, ...")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(help="Where to write, by default benchmarks/records.")
    ] = None,
    release_path: ReleasePath = None,
    as_json: Json = False,
    despite: Despite = None,
) -> None:
    """All that should be seen once on a GPU: checks, training, search, probing, steps, memory.

    It needs torch, torchvision, NumPy, safetensors, pydantic, typer and rich, and not that this
    project is installed. What it has measured so far is in the file at any time.
    """
    import torch

    from benchmarks.gpu import FULL, SMALL, run
    from benchmarks.record import RECORDS, begin
    from benchmarks.release import check_release

    if device not in ("cpu", "cuda"):
        raise InputError.rule("--device", "must be cpu or cuda", device)
    if release_path is not None:
        check_release(_setting(step="relaxed-step", release_path=release_path))
    sizes = FULL if device == "cuda" else SMALL
    failed = run(
        begin(record, despite, n=sizes.repeats, gpu=_gpu(device)),
        torch.device(device),
        sizes,
        minutes,
        record=record,
        directory=directory or RECORDS,
        parts=parts and parts.split(","),
        release_path=release_path,
        as_json=as_json,
    )
    if failed:
        raise SedonaError(f"failed, see the record: {', '.join(failed)}")


@app.command()
def precision(
    backbones: Annotated[str, typer.Option(help="Names of backbones, by commas.")] = (
        "vgg11,vgg13,vgg16,vgg19,resnet18,resnet34,resnet50,resnet101,resnet152"
    ),
    batch_size: BatchSize = 16,
    inner_steps: InnerSteps = 2,
    validation_batch_size: ValidationBatchSize = 32,
    aux: Aux = "conv1",
    image_size: ImageSize = 32,
    num_classes: NumClasses = 10,
    width_multiplier: WidthMultiplier = 1.0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Errors of gradient and hypergradient in float32 and bf16, against float64.

    Backbones are worked on side by side, each by one thread.
    """
    from benchmarks.precision import all_errors, precision_table
    from benchmarks.record import begin, publish

    settings = [
        _setting(
            step="meta-step",
            backbone=name,
            batch_size=batch_size,
            inner_steps=inner_steps,
            validation_batch_size=validation_batch_size,
            aux=aux.split(","),
            image_size=image_size,
            num_classes=num_classes,
            width_multiplier=width_multiplier,
            device=device,
        )
        for name in backbones.split(",")
    ]
    head = begin(record, despite, n=1, gpu=_gpu(device))
    found = all_errors(settings, threads or _cores())
    title = f"Relative errors, {_sizes(settings[0])}"
    publish(
        head,
        {"settings": [setting.document() for setting in settings], "errors": found},
        [precision_table(title, found)],
        as_json=as_json,
        record=record,
    )


NumBlocks = Annotated[int, typer.Option(min=1, help="K, blocks or stages.")]
Cuts = Annotated[
    str,
    typer.Option(
        help="Where to cut: uniform, published, balanced by times measured here, macs or memory "
        "likewise by those, or boundaries by commas."
    ),
]
CutAux = Annotated[str, typer.Option("--aux", help="Auxiliary network at each cut.")]
Microbatches = Annotated[
    str, typer.Option(help="Parts of the batch in pipelines of exact gradients, by commas.")
]
Accumulate = Annotated[
    int, typer.Option(min=2, help="Parts of the batch where gradients are accumulated.")
]
Steps = Annotated[int, typer.Option(min=1, help="Steps that count, of each repeat.")]
Sides = Annotated[
    str | None, typer.Option(help="What to measure, by commas: backprop, ddp, blocks, ...")
]
Link = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        help="Put half of the processes behind a link, e.g. 1gbit or 100mbit; only root can.",
    ),
]
DelayMs = Annotated[float, typer.Option(min=0, help="Delay of the link, ms.")]


@app.command()
def parallel(
    backbone: BackboneName = "vgg19",
    width_multiplier: WidthMultiplier = 1.0,
    batch_size: BatchSize = 32,
    num_blocks: NumBlocks = 2,
    cuts: Cuts = "balanced",
    aux: CutAux = "conv1",
    image_size: ImageSize = 32,
    num_classes: NumClasses = 10,
    microbatches: Microbatches = "4,8",
    accumulate: Accumulate = 4,
    steps: Steps = 10,
    repeats: Repeats = 3,
    sides: Sides = None,
    link: Link = None,
    delay_ms: DelayMs = 0,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Rate and memory of blocks in parallel, and of what a user would pick instead."""
    from benchmarks.rivals.command import measure

    measure(
        first="rates",
        cuts=cuts,
        num_blocks=num_blocks,
        microbatches=microbatches,
        sides=sides,
        repeats=repeats,
        rate=link,
        delay_ms=delay_ms,
        as_json=as_json,
        record=record,
        despite=despite,
        backbone=backbone,
        width_multiplier=width_multiplier,
        batch_size=batch_size,
        aux=aux,
        image_size=image_size,
        num_classes=num_classes,
        accumulate=accumulate,
        steps=steps,
    )


@app.command()
def memory(
    backbone: BackboneName = "resnet50",
    width_multiplier: WidthMultiplier = 1.0,
    batch_size: BatchSize = 64,
    num_blocks: NumBlocks = 4,
    cuts: Cuts = "memory",
    aux: CutAux = "conv1",
    image_size: ImageSize = 128,
    num_classes: NumClasses = 10,
    microbatches: Microbatches = "4",
    accumulate: Accumulate = 4,
    steps: Steps = 3,
    repeats: Repeats = 3,
    sides: Sides = None,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Memory of blocks, in one process and in parallel, and of what else saves memory."""
    from benchmarks.rivals.command import measure

    measure(
        first="memory",
        cuts=cuts,
        num_blocks=num_blocks,
        microbatches=microbatches,
        sides=sides,
        repeats=repeats,
        as_json=as_json,
        record=record,
        despite=despite,
        backbone=backbone,
        width_multiplier=width_multiplier,
        batch_size=batch_size,
        aux=aux,
        image_size=image_size,
        num_classes=num_classes,
        accumulate=accumulate,
        steps=steps,
    )


@app.command()
def teacher_times(
    ledger: Annotated[
        Path, typer.Argument(help="Of experiments/teachers/compare_*.yml, in benchmarks/data.")
    ],
    turns: Annotated[int, typer.Option(min=1, help="Of each teacher, that count.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="In a turn.")] = 10,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """What a training step takes with each teacher, beside back-propagation, on one thread."""
    import torch

    from benchmarks.record import begin, publish
    from benchmarks.teachers.times import step_times

    torch.set_num_threads(1)
    head = begin(record, despite, n=turns)
    found = step_times(ledger, turns, steps)
    publish(head, found.results, found.tables, as_json=as_json, record=record)


@app.command()
def simulate(
    measured: Annotated[
        Path, typer.Argument(help="What `parallel --json` printed, or its record's JSON.")
    ],
    link: Annotated[
        str | None, typer.Option(metavar="RATE", help="Of the links, e.g. 1gbit or 100mbit.")
    ] = None,
    delay_ms: DelayMs = 0,
    as_json: Json = False,
) -> None:
    """Rate of blocks on a device each, simulated from times measured in one process."""
    from benchmarks.rivals.simulation import simulate as simulated

    simulated(measured, link, delay_ms).show(as_json=as_json)


@app.command()
def overview(
    write: Annotated[
        bool,
        typer.Option("--write", help="Put the tables into the guide, in place of those there."),
    ] = False,
    as_json: Json = False,
) -> None:
    """All records of `parallel` and `memory`, a row each."""
    from benchmarks.rivals.overview import overview as overview_of_records
    from benchmarks.rivals.overview import put, written

    if write:
        put(written())
    if as_json:
        overview_of_records().show(as_json=True)
    else:
        print(written())  # too wide for a terminal's table


@app.command()
def faults(
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 1,
    count: Annotated[int, typer.Option(min=1, help="Rounds, with a fault each.")] = 100,
    patience_s: Annotated[
        float, typer.Option(min=2, help="How long ranks wait for one that is silent, s.")
    ] = 5,
    only: Annotated[
        list[int] | None, typer.Option("--round", help="Only this one, e.g. one that failed.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="A file of rounds that are done, to go on from.")
    ] = None,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """All of the product, with something killed, stopped, full or wrong: nothing may be lost.

    As root: it mounts small disks and lets them be full. Ctrl-C ends it after the present round's
    clean-up; with --journal the same command goes on.
    """
    from benchmarks.faults.campaign import campaign, fault_table
    from benchmarks.record import begin, publish

    head = begin(record, despite, n=1)
    numbers = only or range(1, count + 1)
    rounds = campaign(seed, numbers, patience_s, lambda line: print(line, file=sys.stderr), journal)
    publish(
        head,
        {"seed": seed, "patience_s": patience_s, "rounds": [asdict(each) for each in rounds]},
        [fault_table(rounds)],
        as_json=as_json,
        record=record,
    )
    if failed := [f"{each.number}" for each in rounds if each.reason is not None]:
        raise SedonaError(f"rounds {', '.join(failed)} of seed {seed} failed")


@app.command()
def hostile(
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 1,
    count: Annotated[int, typer.Option(min=1, help="Mutations.")] = 500,
    first: Annotated[int, typer.Option(min=1, help="Number of the first one.")] = 1,
    as_json: Json = False,
    record: Record = None,
    despite: Despite = None,
) -> None:
    """Commands whose files, words or surroundings are damaged or hostile: one line, or a result."""
    from benchmarks.hostile.campaign import campaign, hostile_tables
    from benchmarks.record import begin, publish

    head = begin(record, despite, n=1)
    numbers = range(first, first + count)
    done = campaign(seed, numbers, lambda line: print(line, file=sys.stderr, flush=True))
    publish(
        head,
        {"seed": seed, "mutations": [asdict(each) for each in done]},
        hostile_tables(done),
        as_json=as_json,
        record=record if len(done) == count else None,
    )
    if failed := [f"{each.number}" for each in done if each.reason is not None]:
        raise SedonaError(f"mutations {', '.join(failed)} of seed {seed} broke a promise")


@app.command()
def derive(
    names: Annotated[
        list[str] | None, typer.Argument(help="Of what to build, by default of all.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(help="Where to write, by default benchmarks/derived.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Only put the tables into the documents again.")
    ] = False,
) -> None:
    """Build the tables that follow from benchmarks/data alone, which are not stored."""
    from benchmarks.derived import DERIVATIONS, DIRECTORY, DOCUMENTS, filled
    from benchmarks.derived import derive as derived
    from sedona_nni.files import write_atomically

    if write:
        for path in DOCUMENTS:
            text = filled(path.read_text(encoding="utf-8"))
            write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
        return
    for name in names or DERIVATIONS:
        if name not in DERIVATIONS:
            raise InputError.rule("names", f"must be of {', '.join(DERIVATIONS)}", name)
    for name in names or DERIVATIONS:
        print(derived(name, directory or DIRECTORY), flush=True)


def _setting(**values: Any) -> StepSetting:
    from benchmarks.search_steps import StepSetting

    try:
        return StepSetting.model_validate(values)
    except ValidationError as error:
        raise InputError.from_validation(error, "options") from None


def _sides(setting: StepSetting, against: str | None) -> dict[str, Prepare]:
    """Return what prepares each side, by its name, ours first."""
    from benchmarks.release import check_release, release
    from benchmarks.search_steps import naively, ours

    if against is None:
        return {"ours": ours}
    others: dict[str, Prepare] = {"naive": naively, "release": release}
    if against not in others:
        raise InputError.rule("--against", f"must be one of {', '.join(others)}", against)
    if against == "release":
        check_release(setting)
    return {"ours": ours, against: others[against]}


def _side_by_side(
    setting: StepSetting,
    threads: int | None,
    repeats: int,
    against: str | None,
    as_json: bool,
    record: str | None,
    despite: str | None,
) -> None:
    from benchmarks.record import begin, publish
    from benchmarks.side_by_side import Side, compare, comparison_table

    prepare = _sides(setting, against)
    head = begin(record, despite, n=repeats, gpu=_gpu(setting.device))
    threads = threads or _cores()
    measured = compare(
        [
            Side(name, function, setting, setting.device, threads)
            for name, function in prepare.items()
        ],
        repeats=repeats,
    )
    title = f"{_title(setting)}, {threads} threads"
    publish(
        head,
        {"setting": setting.document(), "threads": threads, **measured},
        [comparison_table(title, measured, list(prepare))],
        as_json=as_json,
        record=record,
    )


def _title(setting: StepSetting) -> str:
    return f"{setting.step} of {setting.backbone}, {_sizes(setting)}"


def _sizes(setting: StepSetting) -> str:
    parts = [f"batch {setting.batch_size}"]
    if setting.step == "meta-step":
        parts += [f"T = {setting.inner_steps}", f"validation {setting.validation_batch_size}"]
    parts += [f"{setting.image_size} px", "+".join(setting.aux)]
    return ", ".join(parts)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _gpu(device: str) -> str | None:
    """Return the GPU's model, None for the CPU.

    Raises:
        InputError: if there is no usable GPU.
    """
    if device == "cpu":
        return None
    import torch

    if not torch.cuda.is_available():
        raise InputError.rule("--device", "must be cpu where torch finds no GPU", device)
    return torch.cuda.get_device_name()


if __name__ == "__main__":
    main()
