"""The command ``python -m benchmarks.tabular``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.record import ROOT, Header, check_name, header, publish
from benchmarks.record import Table as RecordTable
from sedona_nni.errors import InputError, SedonaError
from sedona_nni.files import write_atomically, write_json
from sedona_nni.searches.documents import load_outcome
from sedona_nni.searches.probing.result import ProbeResult

if TYPE_CHECKING:
    from benchmarks.tabular.evidence import Agreement

DATA = ROOT / "benchmarks" / "data" / "vgg11-fashion-mnist.json"
PROBINGS = DATA.parent / "probings"

_AGREEMENT = ("rank correlation", "least", "mean rank", "true ranks of picks")

app = typer.Typer(
    help="Judge strategies by a table of trainings. Run it from the root of a checkout.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

TablePath = Annotated[Path, typer.Option("--table", help="The table.")]
NumBlocks = Annotated[int, typer.Option(help="K.")]
MaxBlockShare = Annotated[
    str | None, typer.Option(help="Only decouplings within this bound, e.g. 1.3/K.")
]
Results = Annotated[
    list[Path], typer.Argument(help="search-result.json of searches, SEDONA's or probings.")
]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Record = Annotated[
    str | None, typer.Option(metavar="NAME", help="Write benchmarks/records/NAME.json and .md.")
]


def main() -> None:
    """Run the command; a mistake of the user is one line and exit code 2."""
    try:
        app(prog_name="python -m benchmarks.tabular")
    except SedonaError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


@app.command()
def collect(
    ledgers: Annotated[list[Path], typer.Argument(help="trials.json of the experiment.")],
    output: Annotated[Path, typer.Option(help="The table to write.")] = DATA,
    experiment: Annotated[Path, typer.Option(help="The experiment's file.")] = Path(
        "experiments/tabular_vgg11.yml"
    ),
    commit: Annotated[
        str | None, typer.Option(help="Of the code that trained, by default the present one.")
    ] = None,
) -> None:
    """Make a table of an experiment's trainings, which may be spread over several runs of it."""
    from benchmarks.tabular.collect import collect as collected
    from sedona_nni.reporting.ledger import Ledger
    from sedona_nni.strategies.experiment import read_experiment

    settings = read_experiment(experiment).settings
    head = header(n=1, packages=("torch", "torchvision", "numpy", "nni"))
    head = head.model_copy(update={"command": f"sedona-nni run {experiment}"})
    if commit is not None:
        head = head.model_copy(update={"commit": commit, "dirty": False})
    table = collected([Ledger(path) for path in ledgers], head, settings.aux)
    text = table.model_dump_json(indent=1) + "\n"
    write_atomically(output, lambda path: path.write_text(text, encoding="utf-8"))
    trainings = sum(len(entry.trainings) for entry in table.entries)
    print(f"{output}: {len(table.entries)} decouplings, {trainings} trainings")


@app.command()
def show(
    table: TablePath = DATA,
    num_blocks: NumBlocks = 2,
    max_block_share: MaxBlockShare = None,
    as_json: Json = False,
    record: Record = None,
) -> None:
    """All decouplings by their truth, how well one seed tells another's ranking, and the noise."""
    from benchmarks.tabular.table import Field, Table, rank_correlation

    loaded = Table.load(table)
    among = loaded.decouplings(num_blocks, max_block_share)
    ordered = sorted(among, key=loaded.truth, reverse=True)
    fields: tuple[Field, ...] = ("test_accuracy", "validation_accuracy")
    correlation = {field: loaded.seed_correlation(among, field) for field in fields}
    error = loaded.error_of_difference(among)
    near = sum(loaded.regret(each, among) <= 2 * error for each in among)
    by_cuts = rank_correlation(
        [loaded.sum_of_cuts(each) for each in among], [loaded.truth(each) for each in among]
    )
    title = (
        f"{len(among)} decouplings, K = {num_blocks}; rank correlation between two seeds: test "
        f"{correlation['test_accuracy']:.2f}, validation {correlation['validation_accuracy']:.2f}; "
        f"standard error of a difference {100 * error:.2f} %, and {near} are within two of the best"
    )
    if num_blocks > 2:
        title += f"; of the truth with the sum over the cuts of the truth for each: {by_cuts:.2f}"
    headings = ["decoupling", "rank", "test %", "of single seeds", "validation %", "ideal speed-up"]
    shown = RecordTable(
        title,
        headings,
        [
            [
                each.in_words(),
                str(loaded.rank(each, among)),
                f"{100 * loaded.truth(each):.2f}",
                " ".join(f"{100 * t.test_accuracy:.1f}" for t in loaded[each].trainings),
                f"{100 * loaded[each].mean('validation_accuracy'):.2f}",
                f"{loaded[each].ideal_speedup:.2f}",
            ]
            for each in ordered
        ],
    )
    results = {
        "seed_correlation": correlation,
        "error_of_difference": error,
        "within_two_errors_of_the_best": near,
        "correlation_with_sum_of_cuts": by_cuts,
        "decouplings": [
            {"rank": loaded.rank(each, among), **loaded[each].model_dump(mode="json")}
            for each in ordered
        ],
    }
    publish(_header(1), results, [shown], as_json=as_json, record=record)


@app.command()
def score(
    strategy: Annotated[
        list[str] | None, typer.Option(help="random, regularized_evolution, tpe or uniform.")
    ] = None,
    table: TablePath = DATA,
    num_blocks: NumBlocks = 2,
    max_block_share: MaxBlockShare = None,
    queries: Annotated[int, typer.Option(min=1, help="Trainings that a strategy may see.")] = 12,
    repeats: Annotated[int, typer.Option(min=1, help="Picks per strategy.")] = 100,
    seed: Seed = 0,
    as_json: Json = False,
    record: Record = None,
) -> None:
    """Rank and regret of the picks of strategies, by the number of trainings they may see."""
    from benchmarks.tabular.score import STRATEGIES
    from benchmarks.tabular.score import score as scored
    from benchmarks.tabular.table import Table

    names = strategy or list(STRATEGIES)
    for name in names:
        if name not in STRATEGIES:
            raise InputError.rule("--strategy", f"must be one of {', '.join(STRATEGIES)}", name)
    if record is not None:
        check_name(record)
    loaded = Table.load(table)
    head = _header(repeats)
    count = len(loaded.decouplings(num_blocks, max_block_share))
    shown = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28) if n <= min(queries, count)]
    results, ranks, regrets = {}, [], []
    for name in names:
        found = scored(
            loaded,
            name,
            num_blocks,
            repeats=repeats,
            num_queries=queries,
            max_block_share=max_block_share,
            seed=seed,
        )
        results[name] = {
            "mean_rank": found.ranks.mean(axis=0).round(3).tolist(),
            "mean_regret": found.regrets.mean(axis=0).round(6).tolist(),
            "among_top_3": found.among_top(3).tolist(),
        }
        ranks.append([name, *(f"{found.ranks.mean(axis=0)[n - 1]:.1f}" for n in shown)])
        regrets.append([name, *(f"{100 * found.regrets.mean(axis=0)[n - 1]:.2f}" for n in shown)])
    headings = ["after n trainings", *map(str, shown)]
    publish(
        head,
        {"decouplings": count, "strategies": results},
        [
            RecordTable(
                f"Mean true rank of the pick, of {count}{_within(max_block_share)}", headings, ranks
            ),
            RecordTable("Mean regret of the pick, % of test accuracy", headings, regrets),
        ],
        as_json=as_json,
        record=record,
    )


@app.command()
def judge(
    results: Results,
    table: TablePath = DATA,
    num_blocks: NumBlocks = 2,
    max_block_share: MaxBlockShare = None,
    as_json: Json = False,
    record: Record = None,
) -> None:
    """Rank and regret of what searches picked, and whether their evidence follows the truth.

    Of probings also what is left of that with less than their whole evidence.
    """
    from benchmarks.tabular.evidence import VARIANTS, agreement
    from benchmarks.tabular.evidence import judge as judged
    from benchmarks.tabular.table import Table

    if record is not None:
        check_name(record)
    loaded = Table.load(table)
    head = _header(len(results))
    outcomes = [load_outcome(path) for path in results]
    verdicts = [judged(loaded, each, num_blocks, max_block_share) for each in outcomes]
    rows = [
        [
            path.stem,
            each.pick.key.removeprefix(f"{loaded.task.backbone} "),
            _percent(each.test_accuracy),
            "–" if each.rank is None else str(each.rank),
            _percent(each.regret),
            f"{each.cut_correlation:.2f}",
            f"{each.full_correlation:.2f}",
            "–" if each.trainings is None else f"{each.trainings:.2f}",
        ]
        for path, each in zip(results, verdicts, strict=True)
    ]
    among = loaded.decouplings(num_blocks, max_block_share)
    ranked = [each for each in verdicts if each.rank is not None]
    if len(ranked) == len(verdicts) > 1:
        n = len(ranked)
        rows.append(
            [
                "mean",
                "",
                _percent(sum(each.test_accuracy or 0 for each in ranked) / n),
                f"{sum(each.rank or 0 for each in ranked) / n:.1f}",
                _percent(sum(each.regret or 0 for each in ranked) / n),
                f"{sum(each.cut_correlation for each in ranked) / n:.2f}",
                f"{sum(each.full_correlation for each in ranked) / n:.2f}",
                "",
            ]
        )
    headings = ["search", "pick", "test %", "rank", "regret %", "r cuts", "r", "cost"]
    title = (
        f"Picked of {len(among)} that were trained, K = {num_blocks}{_within(max_block_share)}; "
        "rank correlation of the evidence with the truth, for cuts alone (r cuts) and with "
        "auxiliary networks (r); cost in trainings"
    )
    tables = [RecordTable(title, headings, rows)]

    truths = [loaded.truth(each) for each in among]
    probings = [each for each in outcomes if isinstance(each, ProbeResult)]
    variants = {
        name: [agreement(variant(each), each.aux_choices, among, truths) for each in probings]
        for name, variant in VARIANTS.items()
        if probings
    }
    if probings:
        title = f"What else could be made of the probings, of {len(among)} trained decouplings"
        rows = [_agreements(name, found) for name, found in variants.items()]
        tables.append(RecordTable(title, ["evidence", *_AGREEMENT], rows))
    publish(
        head,
        {
            "searches": [each.document() for each in verdicts],
            "variants": {name: [asdict(each) for each in row] for name, row in variants.items()},
        },
        tables,
        as_json=as_json,
        record=record,
    )


@app.command()
def probe(
    seeds: Annotated[str, typer.Option(help="By commas; others than those of the table.")] = "31",
    cost: Annotated[float, typer.Option(help="Of each probing, in full trainings.")] = 1,
    batch_split: Annotated[int, typer.Option(help="By what the table's batches are split.")] = 4,
    table: TablePath = DATA,
    directory: Annotated[Path, typer.Option(help="Where to leave BACKBONE-SEED.json.")] = PROBINGS,
) -> None:
    """Probe the task of the table; each seed's takes seconds to minutes of one core."""
    from benchmarks.tabular.probe import probe as probed
    from benchmarks.tabular.table import Table
    from sedona_nni.searches.probing.probing import ProbeSettings

    loaded = Table.load(table)
    every = [
        ProbeSettings(cost=cost, batch_split=batch_split, seed=int(seed))
        for seed in seeds.split(",")
    ]
    for settings in every:
        result = probed(loaded, settings)
        path = directory / f"{loaded.task.backbone}-{settings.seed}.json"
        write_json(path, result.model_dump(mode="json"))
        print(f"{path}: {result.provenance}", flush=True)


@app.command()
def signs(
    table: TablePath = DATA,
    max_block_share: MaxBlockShare = None,
    as_json: Json = False,
    record: Record = None,
) -> None:
    """How well the table's own trainings, cut short, follow the truth (K = 2).

    Each seed is compared with the truth of the others.
    """
    from benchmarks.tabular.evidence import VARIANTS, agreement, probing_of
    from benchmarks.tabular.table import Table

    loaded = Table.load(table)
    loaded.check_complete(2)
    among = loaded.decouplings(2, max_block_share)
    seeds = [training.seed for training in loaded[among[0]].trainings]
    truths = {seed: [loaded.truth(each, without=seed) for each in among] for seed in seeds}
    epochs = loaded.train.epochs
    kinds = [
        ("error of the head", -1, "local loss"),
        ("error of the head, smoothed", -1, "local loss, smoothed"),
        ("local error", 0, "local loss"),
        ("evidence by local errors", 0, "and against the undivided"),
    ]
    results, rows = [], []
    for epoch in range(1, epochs + 1):
        for name, block, variant in kinds:
            seen = {
                seed: VARIANTS[variant](probing_of(loaded, seed, epoch, block)) for seed in seeds
            }
            found = [agreement(seen[s], loaded.aux_choices, among, truths[s]) for s in seeds]
            agreements = [asdict(each) for each in found]
            results.append({"epoch": epoch, "evidence": name, "agreements": agreements})
            rows.append(_agreements(f"epoch {epoch} of {epochs}, {name}", found))
    title = (
        f"Early signs against the truth of other seeds, of {len(among)} decouplings"
        f"{_within(max_block_share)}; an epoch of all costs {len(among) / epochs:g} trainings"
    )
    publish(
        _header(len(seeds)),
        {"signs": results},
        [RecordTable(title, ["evidence", *_AGREEMENT], rows)],
        as_json=as_json,
        record=record,
    )


@app.command()
def figure(
    output: Annotated[Path, typer.Argument(help="The picture (.png, .svg ...).")],
    results: Results,
    table: TablePath = DATA,
    cost: Annotated[
        float | None, typer.Option(help="Of searches whose files do not tell, in trainings.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Picks per strategy.")] = 100,
) -> None:
    """Draw the table, and what strategies and searches pick."""
    from benchmarks.tabular.figure import draw
    from benchmarks.tabular.table import Table

    outcomes = [load_outcome(path) for path in results]
    draw(Table.load(table), output, outcomes, cost=cost, repeats=repeats)


def _agreements(name: str, found: Sequence[Agreement]) -> list[str]:
    """Return a row for readers, see `_AGREEMENT`."""
    correlations = [each.correlation for each in found]
    ranks = [each.rank for each in found]
    mean = sum(correlations) / len(found)
    return [
        name,
        f"{mean:.2f}",
        f"{min(correlations):.2f}",
        f"{sum(ranks) / len(found):.1f}",
        " ".join(map(str, ranks)),
    ]


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def _within(max_block_share: str | None) -> str:
    return "" if max_block_share is None else f" within {max_block_share}"


def _header(n: int) -> Header:
    command = f"python -m benchmarks.tabular {shlex.join(sys.argv[1:])}"
    return header(n=n, packages=("numpy", "nni", "optuna")).model_copy(update={"command": command})


if __name__ == "__main__":
    main()
