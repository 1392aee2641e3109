"""The command ``sedona-nni``."""

from __future__ import annotations

import codecs
import errno
import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand

from sedona_nni.errors import InputError, SedonaError
from sedona_nni.files import user_path

if TYPE_CHECKING:
    import torch

    from sedona_nni.data.sets import Contents
    from sedona_nni.decouplings.balance import BlockBound, FrontPoint
    from sedona_nni.decouplings.compute import Compute
    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.decouplings.outcome import SearchOutcome
    from sedona_nni.models import Backbone, Stem
    from sedona_nni.progress import Narrator
    from sedona_nni.reporting.data import Group
    from sedona_nni.reporting.results import StrategyRow
    from sedona_nni.searches.sedona.result import SearchResult
    from sedona_nni.strategies.experiment import Experiment
    from sedona_nni.strategies.known import KnownExperiment
    from sedona_nni.training.settings import TrainSettings


class _Command(TyperCommand):
    """A command whose errors name an option as it is typed: ``--num-blocks: must be ...``."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            name, _, complaint = str(error).partition(": ")
            typed = {each.name: each.opts[0] for each in self.params if each.opts[0][:2] == "--"}
            given = name in typed and ctx.get_parameter_source(name).name == "COMMANDLINE"
            if given or (name in typed and complaint.startswith("must be given")):
                raise InputError(f"{typed[name]}: {complaint}") from None
            raise  # it may be a field of a file


class _App(typer.Typer):
    """Whose help flows as wide as the terminal is."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        def register(function: Callable[..., Any]) -> Any:
            paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
            text = "\n\n".join(" ".join(part.split()) for part in paragraphs)
            return super(_App, self).command(name, cls=_Command, help=text, **options)(function)

        return register


app = _App(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ExperimentFile = Annotated[
    Path, typer.Argument(metavar="EXPERIMENT.yml", help="An experiment.", parser=user_path)
]
Port = Annotated[int, typer.Option(help="Of the web UI; if it is taken, the next free one.")]
Public = Annotated[
    bool,
    typer.Option(
        "--public", metavar="", help="Serve the web UI to the network. It asks nobody who he is."
    ),
]
Results = Annotated[
    Path,
    typer.Option(help="Folder for results/<experiment id>/.", parser=user_path, metavar="PATH"),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON for machines.")]
Folder = Annotated[
    Path,
    typer.Option(
        "--directory", help="For checkpoints and results.", parser=user_path, metavar="PATH"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that read image files, 0 for none beside this one; by default as many as "
        "processors, at most 8.",
    ),
]
DecouplingText = Annotated[
    str,
    typer.Option(
        "--decoupling",
        help="JSON file of a decoupling or search result, or a rule: backprop, uniform:<K>:<aux> "
        "or every:<layers per block>:<aux>.",
    ),
]
NumBlocks = Annotated[
    int | None,
    typer.Option(help="Blocks to derive from a search result; 0: cut wherever a_loc > a_up."),
]
MaxBlockShare = Annotated[
    str | None,
    typer.Option(
        help="Bound on the largest block's share of the compute, its auxiliary network included: "
        "e.g. 0.4, or 1.3/K."
    ),
]
NumClasses = Annotated[int, typer.Option(help="Classes to tell apart.")]
InChannels = Annotated[int, typer.Option(help="Channels of the images.")]
ImageSize = Annotated[int, typer.Option(help="Height and width of the images, pixels.")]
WidthMultiplier = Annotated[float, typer.Option(help="Factor on every width.")]
StemName = Annotated[str, typer.Option("--stem", help="Of a ResNet: published or torchvision.")]
DEFAULT_PORT = 8080
_CHANGES = 6  # named of a file that was edited
FIRST_PORT, LAST_PORT = 1024, 65534  # below are those of the system; NNI may need the next one


def main() -> None:
    """Run the command; a mistake of the user is one line and exit code 2."""
    _write_whatever_the_terminal_can()
    try:
        try:
            app(prog_name="sedona-nni")  # also as `python -m`
        finally:
            sys.stdout.flush()
    except SedonaError as error:
        print(f"sedona-nni: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = error.filename or "standard output"
        print(f"sedona-nni: {where}: cannot be written ({error.strerror})", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the end complains again
        sys.exit(2)


_PLAIN = {"–": "-", "—": "-", "×": "x", "±": "+/-", "…": "...", "≥": ">=", "≤": "<="}


def _write_whatever_the_terminal_can() -> None:
    """Let characters that the output's encoding does not have be replaced, not end the command."""

    def plain(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        missing = error.object[error.start : error.end]
        return "".join(_PLAIN.get(character, "?") for character in missing), error.end

    codecs.register_error("sedona-nni.plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sedona-nni.plain")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"sedona-nni {version('sedona-nni')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_show_version, is_eager=True, help="Say which it is."
        ),
    ] = False,
) -> None:
    """Find where to cut a network into greedily trained blocks: SEDONA as a plugin of NNI."""


@app.command()
def run(
    experiment: ExperimentFile,
    port: Port = DEFAULT_PORT,
    public: Public = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Run an experiment under NNI, to its end, and print what came of it.

    This is `nnictl create` with checks beforehand, a web UI that only this machine can reach,
    progress and errors in the terminal, a closing table, an exit code that tells the truth, and
    nothing left running: Ctrl-C stops the experiment.
    """
    _check_start(port, results)
    planned = _read(experiment)
    _tell_contents(planned.check_machine())
    _supervise(experiment, planned, port, public, results, as_json)


@app.command()
def resume(
    experiment_id: Annotated[str, typer.Argument(metavar="EXPERIMENT_ID")],
    port: Port = DEFAULT_PORT,
    public: Public = False,
    results: Results = Path("results"),
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
    _tell_contents(planned.check_machine())
    _tell_changes(config, experiment_folder(experiment_id) / "checkpoint")
    _supervise(experiment_id, planned, port, public, results, as_json, unlimited)


def _tell_changes(config: dict[str, Any], checkpoint: Path) -> None:
    """Say that a file was edited in vain: an experiment keeps the configuration of its start."""
    from sedona_nni.strategies.experiment import changed_since_start

    found = changed_since_start(config, checkpoint)
    if found is not None and found[1]:
        path, changes = found
        more = f" and {len(changes) - _CHANGES} more" if len(changes) > _CHANGES else ""
        print(
            f"{path} now differs from this experiment ({', '.join(changes[:_CHANGES])}{more}); "
            "resume goes on as it was started, `sedona-nni run` starts another",
            file=sys.stderr,
        )


def _read(experiment: Path) -> Experiment:
    """Read an experiment; its errors name its file, as options have the same names as fields."""
    from sedona_nni.strategies.experiment import read_experiment

    try:
        return read_experiment(experiment)
    except InputError as error:
        file = f"{experiment}: "
        raise InputError(file + str(error).removeprefix(file)) from None


def _check_start(port: int, results: Path) -> None:
    """Check what is needed last before anything begins."""
    from sedona_nni.files import check_output_folder

    if not FIRST_PORT <= port <= LAST_PORT:
        raise InputError.rule("--port", f"must be from {FIRST_PORT} to {LAST_PORT}", port)
    check_output_folder("--results", results)


def _supervise(
    what: Path | str,
    planned: Experiment,
    port: int,
    public: bool,
    results: Path,
    as_json: bool,
    unlimited: bool = False,
) -> None:
    from sedona_nni.reporting.results import Compromise, StrategyRow, compromise_table
    from sedona_nni.strategies.runner import supervise

    if planned.platform != "local" and not public:
        raise InputError("trials on other machines need to reach the manager: add --public")
    exit_code, folder = supervise(
        what,
        planned,
        port=port,
        public=public,
        results=results,
        console=Console(stderr=True),
        unlimited=unlimited,
    )
    if folder is not None:
        table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        _show_comparison([StrategyRow.model_validate(row) for row in table], as_json)
        if (folder / "pareto.json").exists() and not as_json:
            found = json.loads((folder / "pareto.json").read_text())
            best = compromise_table([Compromise.model_validate(each) for each in found])
            print(f"best compromises of validation accuracy and {best[0][4]}")
            _show_table(*best)
        print(f"results: {folder}", file=sys.stderr)
        print(f"pictures: sedona-nni report {folder} --html report.html", file=sys.stderr)
    raise typer.Exit(exit_code)


@app.command("list")
def list_experiments(as_json: Json = False) -> None:
    """List the experiments of this user: what they are at, the best so far, where they are."""
    from sedona_nni.strategies.known import known_experiments

    found = known_experiments()
    if as_json:
        print(json.dumps([each.model_dump(mode="json") for each in found]))
    elif not found:
        print("there are no experiments yet; `sedona-nni run experiments/quickstart.yml` makes one")
    else:
        _show_known(found)


@app.command()
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
    from importlib.metadata import version

    import optuna

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
        page = render(made, f"Made by sedona-nni {version('sedona-nni')} on {now}")
        write_atomically(html, lambda path: path.write_text(page, encoding="utf-8"))
        print(f"report: {html}", file=sys.stderr)
    if as_json:
        print(made.model_dump_json())
        return
    for group in made.groups:
        names = ", ".join(experiment.name for experiment in group.experiments)
        print(f"{task_in_words(group)}, {names}")
        for experiment in group.experiments:
            if experiment.state != "finished":
                print(experiment_in_words(experiment))
        _show_summaries(group)


@app.command()
def search(
    experiment: ExperimentFile,
    directory: Folder,
    max_block_share: MaxBlockShare = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Search as the experiment would, by SEDONA or by probing, without NNI's manager.

    Leaves search-result.json and, for each of the experiment's numbers of blocks K,
    decoupling-k<K>.json. Called again with the same directory, it continues an interrupted search.
    A bound on the blocks replaces that of the experiment.
    """
    from sedona_nni.decouplings.balance import leaders
    from sedona_nni.files import check_output_folder
    from sedona_nni.searches.documents import parse_result
    from sedona_nni.strategies.nni_border.devices import claim_device
    from sedona_nni.strategies.settings import SearchingSettings

    check_output_folder("--directory", directory)
    planned = _read(experiment)
    settings = planned.settings
    if not isinstance(settings, SearchingSettings):
        raise InputError(f"{experiment}: must be an experiment of the SedonaTuner or ProbeTuner")
    bound = _bound(planned, max_block_share, directory)
    with claim_device(device, threads=settings.threads) as claimed:
        _tell_contents(planned.contents())
        result = _run_search(planned, claimed, directory, workers)
    found = parse_result(result["search_result"])
    found.save(directory / "search-result.json")
    for count in settings.num_blocks:
        best = leaders(found, count, settings.leaders, bound)
        for place, decoupling in enumerate(best, start=1):
            name = f"decoupling-k{count}" if place == 1 else f"decoupling-k{count}-{place}"
            decoupling.save(directory / f"{name}.json")
            if not as_json:
                print(f"{count or 'any number of'} blocks: {decoupling.in_words()}")
    if as_json:
        print(json.dumps({**result, **_undecided_share(found)}))
    else:
        _show_undecided(found)
        if "trainings" in result:
            print(f"probing cost as much as {result['trainings']:.2f} trainings, by MACs")


def _run_search(
    planned: Experiment, device: torch.device, directory: Path, workers: int | None
) -> dict[str, Any]:
    """Run the search of an experiment that has one."""
    from sedona_nni.strategies.settings import ExperimentSettings, ProbeExperimentSettings

    settings = planned.settings
    workers = settings.workers if workers is None else workers
    if isinstance(settings, ProbeExperimentSettings):
        from sedona_nni.trials.probe import run_probes

        return run_probes(
            planned.task,
            settings.train_settings(settings.main_strategy),
            settings.probe,
            aux=settings.aux,
            device=device,
            workers=workers,
            report=_narrator(),
            directory=directory,
        )
    from sedona_nni.trials.search import run_search

    assert isinstance(settings, ExperimentSettings)
    return run_search(
        planned.task,
        settings.search,
        aux=settings.aux,
        device=device,
        workers=workers,
        report=_narrator(),
        directory=directory,
    )


@app.command()
def train(
    experiment: ExperimentFile,
    directory: Folder,
    decoupling: DecouplingText,
    num_blocks: NumBlocks = None,
    max_block_share: MaxBlockShare = None,
    relaxed: Annotated[
        bool,
        typer.Option(
            "--relaxed", metavar="", help="Cut nothing: train a search result's relaxed network."
        ),
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Replaces one of the training settings, by a value as in YAML, e.g. "
            "milestones=[40,60]; method.NAME is an option of its method.",
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How the blocks learn, e.g. greedy or sequential.")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Train a decoupling as a trial of the experiment would, without NNI's manager.

    It trains with the experiment's settings under train, and nothing of its train_for or
    searchSpace; --set replaces some of them.
    A bound on the blocks replaces that of the experiment. What is derived from a search result
    keeps to it, what is given has to.
    """
    import torch

    from sedona_nni.files import check_output_folder
    from sedona_nni.searches.sedona.relaxed_training import build_relaxed
    from sedona_nni.strategies.nni_border.devices import claim_device
    from sedona_nni.training.task_backbone import task_backbone
    from sedona_nni.trials.train import run_training

    check_output_folder("--directory", directory)
    planned = _read(experiment)
    settings = _changed(planned.settings.train, setting or [], method)
    chosen: Decoupling | SearchResult
    if relaxed:
        if max_block_share is not None:
            rule = "must not be given with --relaxed"
            raise InputError.rule("--max-block-share", rule, max_block_share)
        chosen = _search_result(decoupling, num_blocks)
        with torch.device("meta"):  # before data are read: only to see that it fits
            build_relaxed(task_backbone(planned.task), chosen)
        if chosen.in_release_mode:
            print("relaxed in release mode, in which it was found", file=sys.stderr)
    else:

        def bound_for(aux: Iterable[str]) -> BlockBound | None:
            return _bound(planned, max_block_share, directory, aux)

        chosen = _decoupling(decoupling, num_blocks, planned.task.backbone, bound_for)
    with claim_device(device, threads=planned.settings.threads) as claimed:
        _tell_contents(planned.contents())
        result = run_training(
            planned.task,
            chosen,
            settings,
            device=claimed,
            workers=planned.settings.workers if workers is None else workers,
            report=_narrator(),
            directory=directory,
        )
    _show_numbers(result, as_json)


@app.command("test")
def retest(
    directory: Annotated[
        Path, typer.Argument(help="What `train`, or a trial, has trained into.", parser=user_path)
    ],
    device: Device = "auto",
    workers: Workers = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Where the data set is, by default where it was.")
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(min=1, help="Classifiers to test together, by default as when training."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test a trained network again."""
    from sedona_nni.strategies.nni_border.devices import claim_device
    from sedona_nni.trials.train import evaluate_saved

    with claim_device(device) as claimed:
        result = evaluate_saved(
            directory, device=claimed, workers=workers, data_dir=data_dir, ensemble=ensemble
        )
    if result.get("same_data") is False:
        print(f"other images than {directory} was trained with, of its classes", file=sys.stderr)
    _show_numbers(result, as_json)


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="Name of a data set; by default all.")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder to look in, by default the usual one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which data sets there are, where they are looked for, and how to get them.

    Of a single one, show what is used of its folder, class by class, and what is left out.
    """
    from sedona_nni.data.sets import DATASETS, find_contents

    found = {
        each: find_contents(each, data_dir, must_be_there=name is not None)
        for each in ([name] if name else DATASETS)
    }
    if as_json:
        shown = [each.as_json() for each in found.values()]
        print(json.dumps(shown[0] if name else shown))
        return
    for each in found.values():
        for line in each.in_words():
            print(line)
        if name and each.contents is not None:
            _show_contents(each.contents)


@app.command()
def describe(
    backbone: Annotated[
        str | None, typer.Option(help="Name of a backbone, by default that of the decoupling.")
    ] = None,
    decoupling: DecouplingText = "backprop",
    num_blocks: NumBlocks = None,
    num_classes: NumClasses = 10,
    in_channels: InChannels = 3,
    image_size: ImageSize = 32,
    width_multiplier: WidthMultiplier = 1.0,
    stem: StemName = "published",
    as_json: Json = False,
) -> None:
    """Show what a backbone, its auxiliary candidates and the blocks of a decoupling cost."""
    import torch

    from sedona_nni.decouplings.cost import describe as describe_cost
    from sedona_nni.models import build_backbone

    chosen = _decoupling(decoupling, num_blocks, backbone)
    with torch.device("meta"):  # nothing is computed
        network = build_backbone(
            chosen.backbone,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            width_multiplier=width_multiplier,
            stem=cast("Stem", stem),
        )
    described = describe_cost(network, chosen)
    if as_json:
        print(json.dumps(described))
        return
    print(
        f"{network.name}, width multiplier {width_multiplier:g}, images "
        f"{in_channels} x {image_size} x {image_size}, {num_classes} classes"
    )
    if described["stem"] is not None:
        print(f"stem: {described['stem']}")
    _show_parts(described)
    _show_layers(described)
    _show_candidates(described)
    print(chosen.in_words())
    _show_blocks(described)


@app.command("discretise")
def derive(
    result: Annotated[Path, typer.Argument(help="JSON file of a search result.", parser=user_path)],
    num_blocks: Annotated[
        int, typer.Option(help="K; 0: any number, without a bound wherever a_loc > a_up.")
    ],
    max_block_share: MaxBlockShare = None,
    pareto: Annotated[
        bool,
        typer.Option(
            "--pareto", metavar="", help="Every best compromise of evidence and ideal speed-up."
        ),
    ] = False,
    count: Annotated[
        int, typer.Option("--leaders", min=1, help="So many decouplings, those of most evidence.")
    ] = 1,
    compute: Annotated[
        str,
        typer.Option(
            help="What a share is of: macs; time, measured here; or a file that has measured times."
        ),
    ] = "macs",
    batch_size: Annotated[int, typer.Option(min=2, help="Images per measured pass.")] = 128,
    device: Device = "auto",
    num_classes: NumClasses = 10,
    in_channels: InChannels = 3,
    image_size: ImageSize = 32,
    width_multiplier: WidthMultiplier = 1.0,
    stem: StemName = "published",
    output: Annotated[
        Path | None,
        typer.Option(help="Write the decoupling here.", parser=user_path, metavar="PATH"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Derive decouplings from a search result: what speaks for them, and what they promise.

    evidence is the sum over the cuts of log(a_loc / a_up) or, of a probing, of their weighted
    shortfalls in loss; the decoupling has the most evidence of all within the bound. largest share
    is the largest block's, with its auxiliary network, of the backbone's compute, and 1 /
    largest share the ideal speed-up of a pipeline with a device per block over back-propagation on
    one.
    """
    import torch

    from sedona_nni.decouplings.balance import BlockBound, FrontPoint, leaders, pareto_front
    from sedona_nni.files import check_output_file
    from sedona_nni.models import build_backbone
    from sedona_nni.searches.documents import load_outcome

    if output is not None:
        check_output_file("--output", output)
    found = load_outcome(result)
    if pareto and count > 1:
        raise InputError.rule("--leaders", "must not be given with --pareto", count)
    if output is not None and (pareto or count > 1):
        several = "--pareto" if pareto else "--leaders"
        raise InputError.rule("--output", f"must not be given with {several}", str(output))
    with torch.device("cpu" if compute == "time" else "meta"):  # or nothing is computed
        backbone = build_backbone(
            found.backbone,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            width_multiplier=width_multiplier,
            stem=cast("Stem", stem),
        )
    costs = _compute(compute, backbone, found.aux_choices, device, batch_size)
    if pareto:
        points = pareto_front(found, num_blocks, costs, max_block_share)
    else:
        bound = None if max_block_share is None else BlockBound(costs, max_block_share)
        chosen = leaders(found, num_blocks, count, bound)
        points = [FrontPoint.of(found, each, costs) for each in chosen]
        if output is not None:
            chosen[0].save(output)
    _show_points(found, points, costs, as_json)


def _compute(
    text: str, backbone: Backbone, aux: Iterable[str], device: str, batch_size: int
) -> Compute:
    """Return what ``--compute`` says."""
    from sedona_nni.decouplings.compute import compute_in_macs, load_compute
    from sedona_nni.decouplings.layer_time import compute_in_time
    from sedona_nni.strategies.nni_border.devices import claim_device

    if text == "macs":
        return compute_in_macs(backbone, aux)
    if text != "time":
        return load_compute(user_path(text))
    with claim_device(device) as claimed:
        return compute_in_time(backbone, aux, device=claimed, batch_size=batch_size)


@app.command()
def import_release(
    alpha: Annotated[
        Path, typer.Argument(help="alpha.pt, or a JSON file (of both).", parser=user_path)
    ],
    backbone: Annotated[str, typer.Option(help="What was searched on.")],
    beta: Annotated[
        Path | None, typer.Argument(help="beta.pt, or a JSON file.", parser=user_path)
    ] = None,
    dataset: Annotated[str, typer.Option(help="What was searched with.")] = "cifar10",
    num_blocks: NumBlocks = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write the search result here or, with --num-blocks, the decoupling.",
            parser=user_path,
            metavar="PATH",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a search result that the authors of SEDONA published."""
    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.files import check_output_file
    from sedona_nni.searches.sedona.release import import_release as read

    if output is not None:
        check_output_file("--output", output)
    result = read(alpha, beta, backbone=backbone, dataset=dataset)
    shown = result if num_blocks is None else result.decoupling(num_blocks)
    if output is not None:
        shown.save(output)
    if as_json:
        print(shown.model_dump_json())
    elif isinstance(shown, Decoupling):
        print(shown.in_words())
    else:
        for index, local in enumerate(result.a_loc()):
            print(f"boundary {index}: a_loc {local:.4f}")


def _changed(train: TrainSettings, settings: Iterable[str], method: str | None) -> TrainSettings:
    """Return an experiment's settings with what ``--set`` and ``--method`` replace of them."""
    import yaml
    from pydantic import ValidationError

    from sedona_nni.training.settings import TrainSettings

    described = train.model_dump()
    changes = []
    for text in settings:
        name, separator, value = text.partition("=")
        if not separator:
            raise InputError.rule("--set", "must be NAME=VALUE", text)
        try:
            changes.append((name.split("."), yaml.safe_load(value)))
        except yaml.YAMLError:
            raise InputError.rule("--set", "must have a VALUE as in YAML", text) from None
    if method is not None:
        if any(names == ["method"] for names, _ in changes):
            raise InputError("--method: must not be given with --set method=...")
        changes.append((["method"], method))
    for names, value in sorted(changes, key=lambda change: len(change[0])):  # a whole, then in it
        node: Any = described
        for name in names[:-1]:
            if isinstance(node.get(name), str):  # a method's name stands for it with its defaults
                node[name] = {"name": node[name]}
            node = node.get(name)
            if not isinstance(node, dict):
                field = ".".join(names)
                raise InputError(f"--set.{field}: unknown field, please check its spelling")
        node[names[-1]] = value
    try:
        return TrainSettings.model_validate(described)
    except ValidationError as error:
        raise InputError.from_validation(error, "--set") from None


def _bound(
    planned: Experiment, share: str | None, directory: Path, aux: Iterable[str] = ()
) -> BlockBound | None:
    """Return the experiment's bound on blocks, or one of another share; times go to a directory."""
    from sedona_nni.decouplings.balance import allowed_share
    from sedona_nni.strategies.ledger_tuner import COMPUTE_FILE
    from sedona_nni.strategies.settings import BalancedSettings

    settings = planned.settings
    if not isinstance(settings, BalancedSettings):
        if share is not None:
            raise InputError("--max-block-share: the experiment's tuner knows no bound on blocks")
        return None
    if share is not None:
        allowed_share(share, 1)
        settings = settings.model_copy(update={"max_block_share": share})
    return settings.bound(planned.folder, directory / COMPUTE_FILE, aux)


def _undecided_share(result: SearchOutcome) -> dict[str, float]:
    """Return that of a relaxation; a probing decides nothing boundary by boundary."""
    from sedona_nni.searches.sedona.result import SearchResult

    return {"undecided_share": result.undecided_share} if isinstance(result, SearchResult) else {}


def _show_undecided(result: SearchOutcome) -> None:
    for share in _undecided_share(result).values():
        count = result.num_layers - 1
        print(
            f"{round(share * count)} of {count} boundaries are undecided: "
            "a_loc is within 0.01 of 0.5"
        )


def _decoupling(
    text: str,
    num_blocks: int | None,
    backbone: str | None,
    bound_for: Callable[[Iterable[str]], BlockBound | None] = lambda aux: None,
) -> Decoupling:
    """Return what ``--decoupling``, ``--num-blocks`` and maybe ``--backbone`` say.

    ``bound_for`` returns what it has to respect, given the auxiliary networks that it may use.
    """
    from sedona_nni.decouplings.balance import discretise
    from sedona_nni.decouplings.rules import decoupling_by_rule, is_rule
    from sedona_nni.models import backbone_names, num_layers
    from sedona_nni.searches.documents import load_decoupling
    from sedona_nni.teachers import NO_AUXILIARY
    from sedona_nni.teachers.auxiliary import check_auxiliary

    if not is_rule(text):

        def derive(result: SearchOutcome, num_blocks: int) -> Decoupling:
            return discretise(result, num_blocks, bound_for(result.aux_choices))

        chosen = load_decoupling(user_path(text), num_blocks, derive)
        if backbone not in (None, chosen.backbone):
            raise InputError.rule("--decoupling", f"must be one of {backbone}", chosen.backbone)
        chosen.blocks(num_layers(chosen.backbone))
    else:
        if num_blocks is not None:
            raise InputError.rule("--num-blocks", f"must not be given for {text}", num_blocks)
        if backbone is None:
            raise InputError(
                f"--backbone: must be given, one of {', '.join(backbone_names())}; or a file as "
                "--decoupling"
            )
        chosen = decoupling_by_rule(text, backbone, num_layers(backbone))
        for name in set(chosen.aux) - {NO_AUXILIARY}:
            check_auxiliary(name)
    if chosen.cuts and (bound := bound_for(chosen.aux)) is not None:
        bound.require(chosen, "decoupling")
    return chosen


def _search_result(text: str, num_blocks: int | None) -> SearchResult:
    from sedona_nni.searches.sedona.result import SearchResult

    if num_blocks is not None:
        raise InputError.rule("--num-blocks", "must not be given with --relaxed", num_blocks)
    return SearchResult.load(user_path(text))


def _show_contents(contents: Contents) -> None:
    """Show the images of each class, and all that is left out."""
    _show_table(
        ("class", *contents.counts),
        (
            [name, *(f"{counts[number]:,}" for counts in contents.counts.values())]
            for number, name in enumerate(contents.classes)
        ),
    )
    for phrase in contents.left_out:
        print(f"left out: {phrase}")


def _tell_contents(contents: Contents | None) -> None:
    """Say what of a data set is used, and what is left out."""
    for line in [] if contents is None else contents.in_words():
        print(line, file=sys.stderr)


def _narrator() -> Narrator:
    """Return what tells of the progress of a search or a training."""
    from sedona_nni.progress import Narrator

    return Narrator(lambda line: print(line, file=sys.stderr))


def _show_numbers(numbers: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(numbers))
    else:
        for name, value in numbers.items():
            if isinstance(value, int | float):  # what is more is for reports
                print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")


def _show_comparison(rows: Iterable[StrategyRow], as_json: bool) -> None:
    from sedona_nni.reporting.results import HEADINGS, cells

    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in rows]))
    else:
        _show_table(HEADINGS, map(cells, rows))


def _show_known(found: Iterable[KnownExperiment]) -> None:
    _show_table(
        ("experiment", "name", "state", "trials", "best so far", "started", "where"),
        (
            [
                each.id,
                each.name,
                each.state,
                f"{each.ended} of {'?' if each.planned is None else each.planned}",
                "–" if each.best is None else f"{each.best:.1%} ({each.best_strategy})",
                f"{each.started:%Y-%m-%d %H:%M}",
                each.web_ui or str(each.folder),
            ]
            for each in found
        ),
    )


def _show_points(
    result: SearchOutcome, points: Iterable[FrontPoint], compute: Compute, as_json: bool
) -> None:
    """Show decouplings of a search result."""
    if as_json:
        shown = [
            {
                "decoupling": point.decoupling.model_dump(mode="json"),
                "evidence": point.evidence,
                "largest_share": point.largest_share,
                "ideal_speedup": point.ideal_speedup,
            }
            for point in points
        ]
        head = {**_undecided_share(result), "compute": compute.as_provenance}
        print(json.dumps({**head, "decouplings": shown}))
        return
    _show_table(
        ("decoupling", "evidence", "largest share", "ideal speed-up"),
        (
            [
                point.decoupling.in_words(),
                f"{point.evidence:.3g}",
                f"{point.largest_share:.1%}",
                f"{point.ideal_speedup:.2f}",
            ]
            for point in points
        ),
    )
    _show_undecided(result)


def _show_summaries(group: Group) -> None:
    from sedona_nni.reporting.text import summary_table

    _show_table(*summary_table(group))


def _show_parts(described: dict[str, Any]) -> None:
    """Show what the backbone is made of."""
    _show_table(
        ("part", "parameters", "MACs"),
        (
            [part, *(f"{described[field][part]:,}" for field in ("parameters", "macs"))]
            for part in described["macs"]
        ),
    )


def _show_layers(described: dict[str, Any]) -> None:
    _show_table(
        ("layer", "name", "width", "size", "parameters", "MACs"),
        (
            [f"{layer[k]:,}" if k in ("parameters", "macs") else str(layer[k]) for k in layer]
            for layer in described["layers"]
        ),
    )


def _show_candidates(described: dict[str, Any]) -> None:
    """Show every auxiliary network at every boundary, those of equal shape in one column."""
    columns = []
    for shape, same in groupby(described["boundaries"], key=itemgetter("width", "size")):
        group = list(same)
        places = sorted({group[0]["index"], group[-1]["index"]})
        columns.append(("-".join(map(str, places)), shape, group[0]["auxiliary"]))
    if not columns:
        return
    print("auxiliary networks by boundary, parameters / MACs")
    _show_table(
        ("boundary:", *(f"{place} {width}x{size}x{size}" for place, (width, size), _ in columns)),
        (
            [name, *(_short(costs[name]) for _, _, costs in columns)]
            for name in described["boundaries"][0]["auxiliary"]
        ),
    )


def _short(cost: dict[str, int]) -> str:
    """Return parameters and MACs, thousands as k, millions as M."""
    return " / ".join(
        f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.1f}k"
        for number in (cost["parameters"], cost["macs"])
    )


def _show_blocks(described: dict[str, Any]) -> None:
    _show_table(
        (
            "block",
            "layers",
            "parameters",
            "MACs",
            "share",
            "auxiliary",
            "its parameters",
            "its MACs",
        ),
        (
            [
                str(block["index"]),
                f"{block['first_layer']}-{block['last_layer']}",
                f"{block['parameters']:,}",
                f"{block['macs']:,}",
                f"{block['share']:.1%}",
                block["aux"] or "(head)",
                *(f"{block['auxiliary'][field]:,}" for field in ("parameters", "macs")),
            ]
            for block in described["blocks"]
        ),
    )
    print(
        f"largest block: {described['largest_share']:.1%} of the MACs, so an ideal speed-up of "
        f"{described['ideal_speedup']:.2f} ({described['ideal_speedup_with_auxiliary']:.2f} with "
        "auxiliary networks)"
    )


def _show_table(headings: Iterable[str], rows: Iterable[list[str]]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = list(rows)
    for place, heading in enumerate(headings):
        if heading == "decoupling":  # the only long texts
            table.add_column(heading, min_width=17)
        else:
            texts = [*heading.split(" "), *(row[place] for row in shown)]
            longest = max(map(len, texts))
            table.add_column(heading.replace(" ", "\n"), no_wrap=True, min_width=longest)
    for row in shown:
        table.add_row(*row)
    console = Console()
    unlimited = console.options.update(max_width=1000)
    needed = console.measure(table, options=unlimited).minimum
    console.width = max(console.width, 100, needed)  # rich would leave out what does not fit
    console.print(table, markup=False)
