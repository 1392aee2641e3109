"""The command ``python -m benchmarks.tabular``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import new_app, run
from benchmarks.record import ROOT, header
from sedona_nni.errors import InputError
from sedona_nni.files import write_atomically, write_json

TABLES = ROOT / "benchmarks" / "data" / "tables"
FOUND = ROOT / "benchmarks" / "data" / "found"
DATA = TABLES / "vgg11_fashion_mnist.json"

app = new_app("Judge strategies by a table of trainings.")

TablePath = Annotated[Path, typer.Option("--table", help="The table.")]
NumBlocks = Annotated[int, typer.Option(help="K.")]
MaxBlockShare = Annotated[
    str | None, typer.Option(help="Only decouplings within this bound, e.g. 1.3/K.")
]
Found = Annotated[
    Path, typer.Argument(help="Folder with one for each search, each outcome a replicate.")
]
Tables = Annotated[
    list[Path] | None, typer.Argument(help="By default those in benchmarks/data/tables.")
]
FoundOfTables = Annotated[
    Path, typer.Option("--found", help="Folder with one of searches for each table.")
]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def main() -> None:
    """Run the command."""
    run(app, "benchmarks.tabular")


@app.command()
def collect(
    ledgers: Annotated[list[Path], typer.Argument(help="Its checkpoint/trials.jsonl.")],
    output: Annotated[Path, typer.Option(help="The table to write.")] = DATA,
    experiment: Annotated[Path, typer.Option(help="The experiment's file.")] = Path(
        "experiments/tables/vgg11_fashion_mnist.yml"
    ),
    commit: Annotated[
        str | None, typer.Option(help="Of the code that trained, by default the present one.")
    ] = None,
    add: Annotated[
        bool,
        typer.Option("--add", help="To what the table has, if it is of the same kind."),
    ] = False,
) -> None:
    """Make a table of an experiment's trainings, which may be spread over several runs of it."""
    from benchmarks.tabular.collect import collect as collected
    from benchmarks.tabular.collect import joined
    from benchmarks.tabular.table import Table
    from sedona_nni.reporting.ledger import Ledger
    from sedona_nni.strategies.experiment import read_experiment

    settings = read_experiment(experiment).settings
    head = header(n=1, packages=("torch", "torchvision", "numpy", "nni"))
    head = head.model_copy(update={"command": f"sedona-nni run {experiment}"})
    if commit is not None:
        head = head.model_copy(update={"commit": commit, "dirty": False})
    table = collected([Ledger(path) for path in ledgers], head, settings.training.aux)
    if add:
        table = joined(Table.load(output), table)
    _write(output, table.model_dump_json(indent=1) + "\n")
    trainings = sum(len(entry.trainings) for entry in table.entries)
    print(f"{output}: {len(table.entries)} decouplings, {trainings} trainings")


@app.command()
def cover(tables: Tables = None, as_json: Json = False) -> None:
    """What tables hold, which may be growing, with their noise and their cost."""
    from benchmarks.tabular import views

    views.cover(tables or sorted(TABLES.glob("*.json"))).show(as_json=as_json)


@app.command("clock")
def time_trainings(table: TablePath = DATA) -> None:
    """Time all single cuts of a table beside back-propagation, for comparisons at equal cost."""
    from benchmarks.tabular.clock import clock
    from benchmarks.tabular.table import Table
    from sedona_nni.decouplings.decoupling import Decoupling

    def tell(decoupling: Decoupling, seconds: float) -> None:
        print(f"{decoupling.in_words()}: {seconds:.1f} s of a processor", flush=True)

    loaded = Table.load(table)
    head = header(n=1, packages=("torch", "torchvision", "numpy"), module="benchmarks.tabular")
    timed = loaded.model_copy(update={"clock": clock(loaded, head, tell)})
    _write(table, timed.model_dump_json(indent=1) + "\n")


@app.command("overview")
def show_overview(
    tables: Tables = None, found: FoundOfTables = FOUND, as_json: Json = False
) -> None:
    """Probing beside the best of its controls, on every table."""
    from benchmarks.tabular.overview import overview

    overview(tables or sorted(TABLES.glob("*.json")), found).show(as_json=as_json)


@app.command("contests")
def show_contests(
    tables: Tables = None,
    found: FoundOfTables = FOUND,
    budget: Annotated[float, typer.Option(help="In trainings without cuts.")] = 4,
    as_json: Json = False,
) -> None:
    """Probing and all that does not search at equal cost, on every table."""
    from benchmarks.tabular.overview import contests

    contests(tables or sorted(TABLES.glob("*.json")), found, budget).show(as_json=as_json)


@app.command("leads")
def show_leads(
    tables: Tables = None,
    found: FoundOfTables = FOUND,
    budget: Annotated[float, typer.Option(help="In trainings without cuts.")] = 4,
    as_json: Json = False,
) -> None:
    """Probing's lead at equal cost, by truths that the picks have no part in, on every table."""
    from benchmarks.tabular.overview import leads

    leads(tables or sorted(TABLES.glob("*.json")), found, budget).show(as_json=as_json)


@app.command()
def longer(
    long: Annotated[Path, typer.Argument(help="A table of longer trainings.")],
    table: TablePath = DATA,
    as_json: Json = False,
) -> None:
    """What becomes of decouplings that are trained for longer than those of the table."""
    from benchmarks.tabular import views

    views.longer(long, table).show(as_json=as_json)


@app.command()
def show(
    table: TablePath = DATA,
    num_blocks: NumBlocks = 2,
    max_block_share: MaxBlockShare = None,
    as_json: Json = False,
) -> None:
    """All decouplings by their truth, how well one seed tells another's ranking, and the noise."""
    from benchmarks.tabular import views

    views.show(table, num_blocks, max_block_share).show(as_json=as_json)


@app.command()
def race(
    table: TablePath = DATA,
    num_blocks: NumBlocks = 2,
    max_block_share: MaxBlockShare = None,
    budgets: Annotated[
        str, typer.Option(help="In trainings without cuts, by commas.")
    ] = "0.5,1,2,4,8,16",
    repeats: Annotated[int, typer.Option(min=2, help="Picks per strategy.")] = 100,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Regret of the picks of strategies against the clock, by the processor time of trainings."""
    from benchmarks.tabular import views

    each = [float(budget) for budget in budgets.split(",")]
    view = views.race(table, num_blocks, max_block_share, each, repeats, seed)
    view.show(as_json=as_json)


@app.command()
def contest(
    found: Found,
    table: TablePath = DATA,
    budget: Annotated[float, typer.Option(help="In trainings without cuts.")] = 4,
    num_blocks: NumBlocks = 2,
    max_block_share: MaxBlockShare = None,
    repeats: Annotated[int, typer.Option(min=2, help="Replicates of other strategies.")] = 100,
    seed: Seed = 0,
    reference: Annotated[
        str | None, typer.Option(help="What is compared with; by default the first search.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Searches and strategies at equal cost by processor time: what they pick, which differ."""
    from benchmarks.tabular import views

    view = views.contest(
        found, table, budget, num_blocks, max_block_share, repeats, seed, reference
    )
    view.show(as_json=as_json)


@app.command()
def judge(
    found: Found,
    table: TablePath = DATA,
    num_blocks: NumBlocks = 2,
    max_block_share: MaxBlockShare = None,
    as_json: Json = False,
) -> None:
    """Rank and regret of what searches picked, and whether their evidence follows the truth.

    Beside them controls that do not search, the zero-cost scores among them if they are in the
    folder; of probings also what is left with less than their whole evidence.
    """
    from benchmarks.tabular import views

    views.judge(found, table, num_blocks, max_block_share).show(as_json=as_json)


@app.command()
def zero_cost(
    output: Annotated[Path, typer.Argument(help="FOUND/zero-costs.json, for `judge` to find it.")],
    seeds: Annotated[
        str, typer.Option(help="By commas; others than those of the table.")
    ] = "31,32,33",
    table: TablePath = DATA,
) -> None:
    """Scores of untrained lowest blocks, of all decouplings of a table: a control for searches."""
    from benchmarks.tabular.controls import ZeroCosts, zero_costs
    from benchmarks.tabular.table import Table

    loaded = Table.load(table)
    among = [
        d
        for k in sorted({e.num_blocks for e in loaded.entries} - {1})
        for d in loaded.decouplings(k)
    ]
    head = header(n=1, packages=("torch", "torchvision", "numpy"), module="benchmarks.tabular")
    scores: dict[str, dict[int, dict[str, float]]] = {}
    for seed in map(int, seeds.split(",")):
        for name, found in zero_costs(loaded, among, seed).items():
            by_key = {each.key: score for each, score in zip(among, found, strict=True)}
            scores.setdefault(name, {})[seed] = by_key
    document = ZeroCosts(header=head, task=loaded.task, scores=scores)
    _write(output, document.model_dump_json(indent=1) + "\n")
    print(f"{output}: {len(among)} decouplings, seeds {seeds}")


@app.command()
def references(
    output: Annotated[
        Path, typer.Argument(help="FOUND/references.json, for `contest` to find it.")
    ],
    training_seed: Annotated[int, typer.Option(help="Of all trainings.")] = 1,
    table: TablePath = DATA,
) -> None:
    """Train back-propagation, also checkpointed, beside the best decoupling of a table."""
    from benchmarks.tabular.references import references as trained
    from benchmarks.tabular.table import Table

    head = header(n=1, packages=("torch", "torchvision", "numpy"), module="benchmarks.tabular")
    document = trained(Table.load(table), head, training_seed)
    _write(output, document.model_dump_json(indent=1) + "\n")
    print(f"{output}: {', '.join(each.name for each in document.trainings)}")


@app.command()
def search(
    name: Annotated[str, typer.Argument(help="Of the search: probe, sedona, slopes.")],
    seeds: Annotated[str, typer.Option(help="By commas; others than those of the table.")] = "31",
    settings: Annotated[str, typer.Option(help="Those that are not the defaults, JSON.")] = "{}",
    table: TablePath = DATA,
    *,
    directory: Annotated[Path, typer.Option(help="FOUND/NAME, where to leave SEED.json.")],
) -> None:
    """Search the task of the table; with each seed in turn, an interrupted one goes on."""
    import json
    import shutil

    from benchmarks.tabular.search import search as searched
    from benchmarks.tabular.search import search_settings
    from benchmarks.tabular.table import Table

    loaded = Table.load(table)
    try:
        given = json.loads(settings)
    except json.JSONDecodeError as error:
        raise InputError(f"--settings: must be JSON, but got {settings!r}: {error}") from None
    every = [search_settings(name, given, int(seed)) for seed in seeds.split(",")]
    for each, seed in zip(every, seeds.split(","), strict=True):
        path = directory / f"{seed}.json"
        under_way = path.with_suffix("")
        result = searched(loaded, name, each, under_way)
        write_json(path, result.model_dump(mode="json"))
        shutil.rmtree(under_way)
        print(f"{path}: {result.provenance}", flush=True)


@app.command()
def probe_losses(
    seeds: Annotated[str, typer.Option(help="By commas; others than those of the table.")],
    directory: Annotated[Path, typer.Option(help="Where to leave SEED.json.")],
    steps: Annotated[int, typer.Option(min=1, help="Of each probe.")] = 80,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="By default that of the trainings.")
    ] = None,
    cosine: Annotated[
        bool, typer.Option("--cosine", help="Lower the rate by a cosine instead of keeping it.")
    ] = False,
    table: TablePath = DATA,
) -> None:
    """Probe every cut for some steps and keep every loss, for `ablate`."""
    from benchmarks.tabular.probe_losses import probe_losses as probed
    from benchmarks.tabular.table import Table

    loaded = Table.load(table)
    head = header(n=1, packages=("torch", "torchvision", "numpy"), module="benchmarks.tabular")
    for seed in seeds.split(","):
        path = directory / f"{seed}.json"
        if path.exists():
            print(f"{path}: was there")
            continue
        found = probed(
            loaded,
            head,
            int(seed),
            steps=steps,
            batch_size=batch_size,
            schedule="cosine" if cosine else "constant",
        )
        _write(path, found.model_dump_json() + "\n")
        print(f"{path}: {sum(found.processor_s):.0f} s of a core", flush=True)


@app.command()
def ablate(
    losses: Annotated[list[Path], typer.Argument(help="What `probe-losses` left, one per seed.")],
    table: TablePath = DATA,
    num_blocks: NumBlocks = 2,
    as_json: Json = False,
) -> None:
    """What each part of probing is worth: the same losses, put together otherwise."""
    from benchmarks.tabular import views

    views.ablate(losses, table, num_blocks).show(as_json=as_json)


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
