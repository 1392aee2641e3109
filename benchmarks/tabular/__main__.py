"""The command ``python -m benchmarks.tabular``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.record import ROOT, Header, check_name, header, publish
from benchmarks.record import Table as RecordTable
from sedona_nni.decoupling import SearchResult
from sedona_nni.errors import InputError, SedonaError
from sedona_nni.files import write_atomically

DATA = ROOT / "benchmarks" / "data" / "vgg11-fashion-mnist.json"

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
    from sedona_nni.ledger import Ledger
    from strategies.experiment import read_experiment

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
    """All decouplings by their truth, and how well one seed tells another's ranking."""
    from benchmarks.tabular.table import Field, Table, rank_correlation

    loaded = Table.load(table)
    among = loaded.decouplings(num_blocks, max_block_share)
    ordered = sorted(among, key=loaded.truth, reverse=True)
    fields: tuple[Field, ...] = ("test_accuracy", "validation_accuracy")
    correlation = {field: loaded.seed_correlation(among, field) for field in fields}
    by_cuts = rank_correlation(
        [loaded.sum_of_cuts(each) for each in among], [loaded.truth(each) for each in among]
    )
    title = (
        f"{len(among)} decouplings, K = {num_blocks}; rank correlation between two seeds: test "
        f"{correlation['test_accuracy']:.2f}, validation {correlation['validation_accuracy']:.2f}"
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
            RecordTable(f"Mean true rank of the pick, of {count}", headings, ranks),
            RecordTable("Mean regret of the pick, % of test accuracy", headings, regrets),
        ],
        as_json=as_json,
        record=record,
    )


@app.command()
def sedona(
    results: Annotated[list[Path], typer.Argument(help="search-result.json of searches.")],
    table: TablePath = DATA,
    num_blocks: NumBlocks = 2,
    max_block_share: MaxBlockShare = None,
    as_json: Json = False,
    record: Record = None,
) -> None:
    """Rank and regret of what searches picked, and whether their evidence follows the truth."""
    from benchmarks.tabular.evidence import judge
    from benchmarks.tabular.table import Table

    loaded = Table.load(table)
    judged = [
        judge(loaded, SearchResult.load(path), num_blocks, max_block_share) for path in results
    ]
    rows = [
        [
            path.stem,
            each.pick.in_words(),
            f"{each.rank} of {each.count}",
            f"{100 * each.regret:.2f}",
            f"{each.cut_correlation:.2f}",
            f"{each.full_correlation:.2f}",
            f"{each.undecided_share:.2f}",
        ]
        for path, each in zip(results, judged, strict=True)
    ]
    headings = ["search", "pick", "rank", "regret %", "a^loc", "a^loc, beta", "undecided"]
    title = "What was picked; rank correlation of a^loc, and of a^loc with beta, with the truth"
    publish(
        _header(len(results)),
        {"searches": [each.document() for each in judged]},
        [RecordTable(title, headings, rows)],
        as_json=as_json,
        record=record,
    )


@app.command()
def probe(
    steps: Annotated[int, typer.Option(min=2, help="Training steps of each.")] = 20,
    seeds: Annotated[str, typer.Option(help="By commas; others than those of the table.")] = "11",
    table: TablePath = DATA,
    num_blocks: NumBlocks = 2,
    output: Annotated[Path | None, typer.Option(help="What to write.")] = None,
) -> None:
    """Train every decoupling for a few steps."""
    from benchmarks.tabular.probe import Probes
    from benchmarks.tabular.probe import probe as probed
    from benchmarks.tabular.table import Table

    loaded, numbers = Table.load(table), [int(seed) for seed in seeds.split(",")]
    head = _header(len(numbers))
    probes = [
        probed(loaded, each, steps, seed)
        for seed in numbers
        for each in loaded.decouplings(num_blocks)
    ]
    path = output or table.with_name(f"{table.stem}-probes-{steps}.json")
    text = Probes(header=head, steps=steps, probes=tuple(probes)).model_dump_json(indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(f"{path}: {len(probes)} probes")


@app.command()
def signs(
    probes: Annotated[list[Path] | None, typer.Argument(help="Files of `probe`.")] = None,
    table: TablePath = DATA,
    max_block_share: MaxBlockShare = None,
    as_json: Json = False,
    record: Record = None,
) -> None:
    """How well early signs follow the truth: of the table's trainings, and of probes (K = 2).

    Signs of a seed of the table are compared with the truth of its other seeds.
    """
    from benchmarks.tabular.probe import EVIDENCE, Probes, early_signs, follow, smoothed
    from benchmarks.tabular.table import Table

    loaded = Table.load(table)
    among = loaded.decouplings(2, max_block_share)
    truths = [loaded.truth(each) for each in among]
    known = []  # what from, its cost in trainings, and pairs of signs and truths
    epochs, steps = loaded.train.epochs, loaded.steps
    seeds = [training.seed for training in loaded[among[0]].trainings]
    for epoch in range(1, epochs + 1):
        pairs = [
            (
                early_signs(loaded, among, seed, epoch),
                [loaded.truth(each, without=seed) for each in among],
            )
            for seed in seeds
        ]
        known.append((f"epoch {epoch} of {epochs}", len(among) * epoch / epochs, pairs))
    for path in probes or []:
        document = Probes.load(path)
        by_place = {(each.seed, each.cuts, each.aux): each for each in document.probes}
        pairs = [
            ([by_place[seed, tuple(each.cuts), tuple(each.aux)] for each in among], truths)
            for seed in sorted({each.seed for each in document.probes})
        ]
        cost = len(among) * document.steps / steps
        known.append((f"probes of {document.steps} steps", cost, pairs))

    results, rows = [], []
    for source, cost, pairs in known:
        for name, evidence in EVIDENCE.items():
            for smooth in (False, True):
                found = []
                for seen, true in pairs:
                    value = evidence(seen)
                    if smooth:
                        value = smoothed(value, among, loaded.aux_choices)
                    found.append(follow(value, true))
                correlations, ranks = zip(*found, strict=True)
                results.append(
                    {
                        "from": source,
                        "cost": cost,
                        "evidence": name,
                        "smoothed": smooth,
                        "rank_correlations": correlations,
                        "ranks": ranks,
                    }
                )
                mean = sum(correlations) / len(correlations)
                rows.append(
                    [
                        f"{source}, {name}{', smoothed' if smooth else ''}",
                        f"{cost:.1f}",
                        f"{mean:.2f}",
                        f"{min(correlations):.2f}",
                        " ".join(map(str, ranks)),
                    ]
                )
    headings = ["evidence", "cost, trainings", "rank correlation", "least", "true ranks of picks"]
    title = f"Early signs against the truth, of {len(among)} decouplings; one pick per seed"
    publish(
        _header(len(seeds)),
        {"signs": results},
        [RecordTable(title, headings, rows)],
        as_json=as_json,
        record=record,
    )


@app.command()
def figure(
    output: Annotated[Path, typer.Argument(help="The picture (.png, .svg ...).")],
    table: TablePath = DATA,
    probes: Annotated[Path | None, typer.Option(help="Probes to show beside strategies.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Picks per strategy.")] = 100,
) -> None:
    """Draw the table and what strategies pick."""
    from benchmarks.tabular.figure import draw
    from benchmarks.tabular.probe import Probes
    from benchmarks.tabular.table import Table

    short = None if probes is None else Probes.load(probes)
    draw(Table.load(table), output, probes=short, repeats=repeats)


def _header(n: int) -> Header:
    command = f"python -m benchmarks.tabular {shlex.join(sys.argv[1:])}"
    return header(n=n, packages=("numpy", "nni", "optuna")).model_copy(update={"command": command})


if __name__ == "__main__":
    main()
