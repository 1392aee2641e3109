"""`benchmarks.tabular`: a table is judged by hand-worked numbers, and the shipped one is whole."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.record import ROOT, header
from benchmarks.tabular.__main__ import DATA, main
from benchmarks.tabular.collect import collect, joined
from benchmarks.tabular.evidence import (
    VARIANTS,
    Agreement,
    agreement,
    between,
    full_evidence,
    judge,
    search_cost,
)
from benchmarks.tabular.queries import STRATEGIES, queries
from benchmarks.tabular.search import search
from benchmarks.tabular.table import Entry, Table, Training, rank_correlation
from benchmarks.tabular.views import cover, longer
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import RepeatedTrial, RepeatedTrialResult
from sedona_nni.searches.documents import load_outcome
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.strategies.experiment import read_experiment
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

AUX = ("conv1", "conv2")
COMPUTE = Compute(
    backbone="vgg11",
    unit="macs",
    layers=[10, 10, 10, 10, 10, 10, 10, 30],
    auxiliary=[{"conv1": 5, "conv2": 6}] * 7,
)


def at(cut: int, aux: str = "conv1") -> Decoupling:
    return Decoupling(backbone="vgg11", cuts=[cut], aux=[aux])


def training(seed: int, test: float, validation: float) -> Training:
    return Training(
        seed=seed,
        validation_accuracy=validation,
        test_accuracy=test,
        validation_loss=1,
        test_loss=1,
        best_epoch=1,
        block_curves=((validation,),),
        train_losses=(1,),
        time_s=1,
    )


def entry(decoupling: Decoupling, trainings: Sequence[Training]) -> Entry:
    return Entry(
        cuts=tuple(decoupling.cuts),
        aux=tuple(decoupling.aux),
        parameters=1,
        macs=1,
        largest_share=COMPUTE.largest_share(decoupling),
        peak_memory_mib=1,
        trainings=tuple(trainings),
    )


def table(entries: Sequence[Entry]) -> Table:
    return Table(
        headers=(header(n=1),),
        task=Task(backbone="vgg11"),
        aux_choices=AUX,
        train=TrainSettings(),
        compute=COMPUTE,
        entries=tuple(entries),
    )


def small() -> Table:
    """Truths 0.5, 0.7, 0.7 and 0.6; validation tells another story."""
    rows = {
        at(0): [(0.4, 0.9), (0.6, 0.8)],
        at(1): [(0.8, 0.5), (0.6, 0.6)],
        at(1, "conv2"): [(0.7, 0.7), (0.7, 0.4)],
        at(2): [(0.5, 0.6), (0.7, 0.5)],
    }
    return table(
        [
            entry(decoupling, [training(s, *pair) for s, pair in enumerate(pairs)])
            for decoupling, pairs in rows.items()
        ]
    )


@pytest.fixture(scope="module")
def complete() -> Table:
    """All 14 decouplings into two blocks; every seed says the truth."""
    truths = np.random.default_rng(5).uniform(0.6, 0.8, (7, 2)).round(4)
    return table(
        [
            entry(at(cut, AUX[c]), [training(s, float(q), float(q)) for s in (1, 2)])
            for (cut, c), q in np.ndenumerate(truths)
        ]
    )


def test_truth_rank_and_regret_by_hand() -> None:
    found = small()
    among = found.decouplings(2)
    assert [found.truth(each) for each in among] == pytest.approx([0.5, 0.7, 0.7, 0.6])
    assert [found.rank(each, among) for each in among] == [4, 1, 1, 3]
    assert [found.regret(each, among) for each in among] == pytest.approx([0.2, 0, 0, 0.1])
    assert found.rank(at(2), [at(0)]) == 1
    assert found.regret(at(2), [at(0)]) == 0  # better than all that it is compared with


def test_the_sum_over_cuts_takes_each_cut_alone() -> None:
    both = Decoupling(backbone="vgg11", cuts=[0, 1], aux=["conv1", "conv2"])
    assert small().sum_of_cuts(both) == pytest.approx(0.5 + 0.7)
    assert small().sum_of_cuts(Decoupling(backbone="vgg11")) == 0


def test_a_lead_is_by_the_seeds_of_both() -> None:
    three = [training(s, 0.1 * s, 0.5) for s in (1, 2, 3)]
    two = [training(s, 0.2 * s, 0.5) for s in (2, 3, 4)]
    found = table([entry(at(0), three), entry(at(1), two), entry(at(2), three[:1])])
    assert found.lead(at(1), at(0)) == pytest.approx((0.2 + 0.3) / 2)
    assert found.lead(at(0), at(1)) == pytest.approx(-0.25)
    with pytest.raises(InputError, match="must have been trained with a seed in common"):
        found.lead(at(1), at(2))


def test_seed_correlation_by_hand() -> None:
    """Seed 0 ranks the four 1 4 3 2; seed 1 ranks them 1.5 1.5 3.5 3.5."""
    found = small()
    among = found.decouplings(2)
    ranks = np.corrcoef([1, 4, 3, 2], [1.5, 1.5, 3.5, 3.5])[0, 1]
    assert found.seed_correlation(among) == pytest.approx(ranks)
    with pytest.raises(InputError, match="two seeds in common"):
        table([entry(at(0), [training(1, 0.5, 0.5)])]).seed_correlation([at(0)])


def test_error_of_a_difference_by_hand() -> None:
    """Of 0.4 0.8 0.7 0.5 (seed 0), -0.075 0.125 0.025 -0.075 is left; of seed 1 the opposite."""
    found = small()
    variance = 2 * (0.075**2 + 0.125**2 + 0.025**2 + 0.075**2) / 3
    error = np.sqrt(2 * variance / 2)
    assert found.error_of_difference(found.decouplings(2)) == pytest.approx(error)
    with pytest.raises(InputError, match="must be at least 2"):
        found.error_of_difference([at(0)])


def test_what_becomes_of_longer_trainings_by_hand(tmp_path: Path) -> None:
    short, long = tmp_path / "short.json", tmp_path / "long.json"
    short.write_text(small().model_dump_json(), encoding="utf-8")
    reached = {at(0): 0.8, at(1): 0.7, at(2): 0.75}
    some = [entry(each, [training(1, test, test)]) for each, test in reached.items()]
    undivided = entry(Decoupling(backbone="vgg11"), [training(1, 0.9, 0.9)])
    long.write_text(table(some).model_dump_json(), encoding="utf-8")
    (row,) = longer(long, short).results["longer"]
    assert (row["num_blocks"], row["decouplings"], row["seeds"]) == (2, 3, [2, 1])
    assert row["mean"] == pytest.approx([0.6, 0.75])
    assert row["range"] == pytest.approx([0.2, 0.1])
    # 0.5, 0.7, 0.6 turn into 0.8, 0.7, 0.75: the other way around, and the best is last
    assert row["correlation"] == pytest.approx(-1)
    assert row["regret"] == pytest.approx(0.1)
    long.write_text(table([*some, undivided]).model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match="decoupling: must be in the table"):
        longer(long, short)


def test_what_a_growing_table_covers_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    first = [training(1, 0.70, 0.7), training(2, 0.74, 0.7), training(3, 0.75, 0.7)]
    second = [training(1, 0.60, 0.7), training(2, 0.62, 0.7)]
    grown = table([entry(at(0), first), entry(at(1), second)])
    grown = grown.model_copy(update={"task": grown.task.model_copy(update={"train_limit": 100})})
    path.write_text(grown.model_dump_json(), encoding="utf-8")

    (row,) = cover([path]).results["cover"]
    assert row["table"] == "table"
    assert (row["decouplings"], row["of"], row["trainings"], row["seeds"]) == (2, 14, 5, 2)
    assert (row["best"], row["worst"]) == pytest.approx((0.73, 0.61))
    variance = (0.0007 + 0.0002) / 2  # of (70, 74, 75) % and (60, 62) %
    assert row["standard_deviation"] == pytest.approx(variance**0.5)
    assert row["error_of_difference"] == pytest.approx(0.01)  # 70 74, 60 62: 0.5 % is left of each
    assert row["processor_s"] is None


def test_equal_numbers_say_nothing() -> None:
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0
    assert rank_correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)


def test_what_is_not_there_is_a_clear_error() -> None:
    found = small()
    with pytest.raises(InputError, match="must be in the table, but got 'vgg11 5:conv1'"):
        found.truth(at(5))
    with pytest.raises(InputError, match="of the 14 into 2 blocks only 4 were"):
        found.check_complete(2)
    with pytest.raises(InputError, match=r"num_blocks: .* a decoupling within 0.3 was trained"):
        judge(found, probing([(0.5, 0.5)] * 7, undivided=1), 2, "0.3")
    with pytest.raises(ValueError, match="each decoupling once"):
        table([*found.entries, found.entries[0]])


def test_a_query_is_one_of_the_trainings() -> None:
    rng = np.random.default_rng(0)
    assert {small().draw(at(0), rng).validation_accuracy for _ in range(30)} == {0.9, 0.8}


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("share", [None, "1.3/K"])
def test_every_strategy_asks_for_what_it_may(
    complete: Table, strategy: str, share: str | None
) -> None:
    """Each decoupling once, within the bound; and the same again with the same seed."""
    among = complete.decouplings(2, share)
    asked = [queries(complete, strategy, 2, 6, share, np.random.default_rng(1)) for _ in range(2)]
    for each in asked:
        decouplings = [decoupling for decoupling, _ in each]
        assert len(decouplings) == len(set(decouplings)) <= 6
        assert set(decouplings) <= set(among)
    assert asked[0] == asked[1]


def test_a_search_is_judged_by_hand() -> None:
    found = small()
    result = SearchResult(
        backbone="vgg11",
        dataset="digits",
        aux_choices=["conv1", "conv2"],
        alpha=[(0, 0), (2, 0), (1, 0), *[(-1, 0)] * 4],
        beta=[(0, 0), (1, 0), (0, 0), *[(0, 0)] * 4],
    )
    judged = judge(found, result, 2)
    assert judged.pick == at(1)
    assert (judged.rank, judged.count, judged.regret) == (1, 4, 0)
    assert judged.undecided_share == pytest.approx(1 / 7)
    # Truths rank the four 1 3.5 3.5 2
    evidences = full_evidence(result)
    assert (evidences == evidences[0]).all()  # whatever is below a cut
    expected = [np.log(0.5), 2 - np.log1p(np.exp(-1)), 1 - np.log1p(np.exp(-1)), 1 + np.log(0.5)]
    assert evidences[0, [0, 1, 1, 2], [0, 0, 1, 0]] == pytest.approx(expected)
    ranks = np.corrcoef([1, 3.5, 3.5, 2], [1, 4, 3, 2])[0, 1]
    assert judged.agreement.correlation == pytest.approx(ranks)
    assert judged.agreement.where == pytest.approx(1)  # 0.5, 0.7, 0.6, and -0.7, 1.7, 0.3
    assert judged.agreement.which == 0  # the only choice, at boundary 1, is between equals
    assert judged.trainings is None
    # Chosen by perturbation, the evidence is what each cut is worth, and not alpha and beta
    perturbed = [[0.5, 0.3, 0.4], [0.6, 0.7, 0.6], [0.5, 0.4, 0.2], *[[0.5, 0.6, 0.6]] * 4]
    by_worth = result.model_copy(update={"perturbed": perturbed})
    evidences = full_evidence(by_worth)
    assert evidences[0, [0, 1, 1, 2], [0, 0, 1, 0]] == pytest.approx([0.2, -0.1, 0, 0.1])
    assert (evidences == evidences[0]).all()
    judged = judge(found, by_worth, 2)
    assert judged.pick == at(2, "conv2")
    ranks = np.corrcoef([1, 3.5, 3.5, 2], [4, 1, 2, 3])[0, 1]
    assert judged.agreement.correlation == pytest.approx(ranks)


def test_where_to_cut_and_which_network_are_judged_apart() -> None:
    among = [at(cut, name) for cut in (0, 1, 2) for name in AUX]
    truths = [0.5, 0.6, 0.7, 0.8, 0.9, 0.3]
    # Best truths 0.6, 0.8, 0.9, best scores 2, 6, 5: their order agrees in part; of the pairs
    # two are told the right way and one the wrong
    found = Agreement.of([1, 2, 3, 6, 4, 5], truths, among)
    assert found.where == pytest.approx(0.5)
    assert found.which == pytest.approx(1 / 3)
    assert (found.rank, found.regret) == (2, pytest.approx(0.1))
    alone = Agreement.of([1, 2], [0.1, 0.2], [at(0), at(1)])
    assert (alone.where, alone.which) == (pytest.approx(1), 0)


def probing(losses: Sequence[tuple[float, float]], undivided: float) -> ProbeResult:
    return ProbeResult(
        backbone="vgg11",
        dataset="digits",
        aux_choices=["conv1", "conv2"],
        losses=[list(row) for row in losses],
        undivided=undivided,
        provenance={"trainings": 2.5},
    )


def test_a_probing_is_judged_by_hand() -> None:
    """All losses above the lowest boundaries are as bad; so smoothing pulls up those near them."""
    found = small()
    result = probing([(0.5, 0.5), (0.4, 0.5), (0.7, 0.9), *[(0.9, 0.9)] * 4], undivided=0.3)
    judged = judge(found, result, 2)
    assert (judged.pick, judged.rank, judged.count, judged.trainings) == (at(0), 4, 4, 2.5)
    assert judged.test_accuracy == pytest.approx(0.5)
    assert judged.regret == pytest.approx(0.2)
    assert judged.undecided_share is None
    among = found.decouplings(2)
    truths = [found.truth(each) for each in among]
    plain = agreement(VARIANTS["local loss"](result), AUX, among, truths)
    # Losses 0.5, 0.4, 0.5 and 0.7 of truths 0.5, 0.7, 0.7 and 0.6
    assert plain.rank == 1
    ranks = np.corrcoef([2.5, 4, 2.5, 1], [1, 3.5, 3.5, 2])[0, 1]
    assert plain.correlation == pytest.approx(ranks)
    # Shortfalls 0.2, 0.1, 0.2 and 0.4, times 1, 2, 2 and 3 of 8 layers
    raw = VARIANTS["the same, not smoothed"](result)
    assert -8 * raw[0, [0, 1, 1, 2], [0, 0, 1, 0]] == pytest.approx([0.2, 0.2, 0.4, 1.2])


def test_evidence_counts_layers_of_the_block() -> None:
    result = probing([(0.5, 0.6)] * 7, undivided=0.4)
    both = Decoupling(backbone="vgg11", cuts=[1, 4], aux=["conv2", "conv1"])
    shortfalls = result.shortfalls()
    evidences = full_evidence(result)
    np.testing.assert_allclose(evidences, result.evidence(), atol=1e-12)
    by_hand = -(2 * shortfalls[1, 1] + 3 * shortfalls[4, 0]) / 8
    assert evidences[0, 1, 1] + evidences[2, 4, 0] == pytest.approx(by_hand)
    layers = VARIANTS["layers alone, nothing probed"](result)
    assert layers[[0, 2], [1, 4]].tolist() == [[-2 / 8] * 2, [-3 / 8] * 2]
    without = VARIANTS["the same, all layers below"](result)
    assert without[2, 4, 0] == pytest.approx(-5 * shortfalls[4, 0] / 8)
    # Summed over the cuts, each with its own auxiliary network
    other = Decoupling(backbone="vgg11", cuts=[1, 4], aux=["conv1", "conv1"])
    assert agreement(evidences, AUX, [both, other], [0.1, 0.2]).rank == 1
    assert agreement(evidences, AUX, [both, other], [0.2, 0.1]).rank == 2


def test_how_alike_replicates_are() -> None:
    among, truths = [at(0), at(1), at(2)], [0.1, 0.2, 0.3]
    rising, falling, turned = (
        Agreement.of(scores, truths, among) for scores in ([1, 2, 3], [3, 2, 1], [2, 1, 3])
    )
    assert between([rising]) is None
    assert between([rising, rising]) == pytest.approx(1)
    # The pairs' correlations are -1, 1/2 and -1/2
    assert between([rising, falling, turned]) == pytest.approx(-1 / 3)


def test_a_pick_that_was_not_trained_has_no_rank() -> None:
    judged = judge(small(), probing([(0.9, 0.1), *[(0.9, 0.9)] * 6], undivided=0.1), 2)
    assert judged.pick == at(0, "conv2")
    assert (judged.rank, judged.regret, judged.test_accuracy) == (None, None, None)


def test_collecting_what_an_experiment_left(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.json")
    task, train = Task(backbone="vgg11"), TrainSettings(epochs=2, seed=1)
    run: dict[str, Any] = {
        "default": 0.5,
        "test_accuracy": 0.25,
        "loss": 1.0,
        "test_loss": 2.0,
        "best_epoch": 2,
        "time_s": 3.0,
        "processor_s": 2.5,
        "history": {
            "block_1_accuracy": [0.1, 0.2],
            "block_2_accuracy": [0.25, 0.5],
            "train_loss": [2.0, 1.0],
            "block_1_train_loss": [1.5, 1.25],
            "block_2_train_loss": [2.0, 1.0],
        },
    }

    def start(key: str, cut: int, train: TrainSettings = train) -> None:
        trial = RepeatedTrial(
            key=key,
            strategy="grid-k2",
            task=task,
            decoupling=at(cut),
            train=train.model_dump(mode="json"),
            repetitions=2,
        )
        ledger.start(trial)

    def succeed(key: str) -> None:
        sizes = {"default": 0.5, "parameters": 10.0, "macs": 20.0, "peak_memory_mib": 1.5}
        runs = [{"seed": 1, **run}, {"seed": 2, **run}]
        ledger.succeed(key, RepeatedTrialResult.model_validate({**sizes, "runs": runs}))

    for key, cut in (("a", 3), ("b", 1), ("c", 2)):
        start(key, cut)
    for key in ("a", "b"):
        succeed(key)
    collected = collect([ledger], header(n=1), AUX)
    path = tmp_path / "table.json"
    collected.save(path)
    assert Table.load(path) == collected
    assert collected.decouplings(2) == [at(1), at(3)]  # in order, and the one under way left out
    assert collected[at(1)].trainings[1].block_curves == ((0.1, 0.2), (0.25, 0.5))
    assert collected.truth(at(1)) == 0.25
    assert collected[at(1)].largest_share == pytest.approx(
        collected.compute.largest_share(at(1)), abs=1e-5
    )
    start("d", 4, TrainSettings(epochs=3))
    succeed("d")
    with pytest.raises(InputError, match="trial d: must have the task"):
        collect([ledger], header(n=1), AUX)


def test_a_table_grows() -> None:
    """By decouplings, and by the seeds that it does not have of one that it has."""
    first = [training(1, 0.5, 0.5), training(2, 0.4, 0.4)]
    before = table([entry(at(1), first), entry(at(2), [training(1, 0.1, 0.1)])])
    more = [training(2, 0.6, 0.6), training(3, 0.7, 0.7)]
    after = table([entry(at(1), more), entry(at(3), [training(2, 1, 1)])])
    after = after.model_copy(update={"train": after.train.model_copy(update={"seed": 2})})
    found = joined(before, after)
    assert found.decouplings(2) == [at(1), at(2), at(3)]
    assert found[at(1)].trainings == (*first, more[1])
    assert [len(found[at(cut)].trainings) for cut in (2, 3)] == [1, 1]
    assert found.train == before.train
    assert found.headers == after.headers  # of the same run, which has grown
    (head,) = after.headers
    elsewhere = (head.model_copy(update={"commit": "abc"}),)
    found = joined(before, after.model_copy(update={"headers": elsewhere}))
    assert found.headers == (*before.headers, *elsewhere)
    other = after.model_copy(update={"train": TrainSettings(epochs=9)})
    with pytest.raises(InputError, match=r"^--add: the tables must have the same train$"):
        joined(before, other)


@pytest.mark.slow(reason="probings")
def test_trainings_are_timed_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, into the table, with the rest of it unchanged."""
    cuts = [entry(at(cut), [training(1, 0.5, 0.5)]) for cut in (1, 6)]
    task = Task(backbone="vgg11", width_multiplier=0.1, train_limit=80)
    train = TrainSettings(epochs=3, batch_size=20, warmup_epochs=2, validation_fraction=0.5)
    before = table(cuts).model_copy(update={"task": task, "train": train})
    path = tmp_path / "table.json"
    before.save(path)
    monkeypatch.setattr("sys.argv", ["benchmarks.tabular", "clock", "--table", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    after = Table.load(path)
    assert after.clock is not None
    plain = Decoupling(backbone="vgg11")
    assert [*after.clock.seconds] == [plain.key, at(1).key, at(6).key]
    assert min(after.clock.seconds.values()) > 0
    assert after.clock.header.command.startswith("python -m benchmarks.tabular clock --table")
    assert after.model_copy(update={"clock": None}) == before


def test_probing_the_task_of_a_table() -> None:
    tiny = small().model_copy(
        update={
            "task": Task(backbone="vgg11", width_multiplier=0.0625, train_limit=60),
            "train": TrainSettings(epochs=1, batch_size=8, validation_fraction=0.5),
        }
    )
    one, other = (search(tiny, "probe", ProbeSettings(cost=60, seed=seed)) for seed in (1, 2))
    assert isinstance(one, ProbeResult)
    assert isinstance(other, ProbeResult)
    assert one.losses != other.losses
    assert np.shape(one.losses) == (7, len(AUX))
    assert 0 < one.provenance["trainings"] <= 60
    taken, training = one.provenance["processor_s"], one.provenance["training_s"]
    assert min(taken, training) > 0
    assert search_cost(one) == taken / training
    assert search_cost(one.model_copy(update={"provenance": {}})) is None


def test_the_shipped_probings_are_of_their_tables() -> None:
    for folder in sorted((DATA.parents[1] / "found").iterdir()):
        found = shipped(folder.name)
        paths = sorted((folder / "probe").glob("*.json"))
        assert len(paths) >= 8
        for path in paths:
            result = load_outcome(path)
            assert isinstance(result, ProbeResult)
            assert path.stem == f"{result.provenance['seed']}"
            judged = judge(found, result, 2)
            assert judged.rank is not None
            assert 0.2 < result.provenance["trainings"] == judged.trainings <= 0.25


@functools.cache
def shipped(name: str) -> Table:
    return Table.load(DATA.with_name(f"{name}.json"))


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.parent.glob("*.json")))
def test_the_shipped_tables_are_of_their_experiments(name: str) -> None:
    found = shipped(name)
    settings = read_experiment(ROOT / "experiments" / "tables" / f"{name}.yml").settings
    assert found.task == settings.training.task
    assert found.aux_choices == settings.training.aux
    assert found.train.model_copy(update={"seed": 0}) == settings.training.train.model_copy(
        update={"seed": 0}
    )
    for entry in found.entries:
        seeds = [training.seed for training in entry.trainings]
        assert len({*seeds}) == len(seeds) >= 2
        for training in entry.trainings:
            assert len(training.block_curves) == entry.num_blocks
            assert {len(curve) for curve in training.block_curves} == {found.train.epochs}


def test_the_table_that_searches_are_developed_on_is_whole() -> None:
    found = Table.load(DATA)
    found.check_complete(2)
    among = found.decouplings(2)
    assert len(among) == 35
    assert found.seed_correlation(among) > 0.5
    assert found.error_of_difference(among) < 0.004


INTO = ("--directory", "found")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "luck", *INTO], "search: must be one of sedona, probe, slopes, but got 'luck'"),
        (
            ["search", "probe", *INTO, "--settings", "cost"],
            "--settings: must be JSON, but got 'cost'",
        ),
        (
            ["search", "probe", *INTO, "--settings", '{"cost": 0}'],
            "--settings.cost: Input should be gr",
        ),
        (["judge", "nowhere"], "FOUND: must hold folders with outcomes of searches, but got"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.tabular", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow(reason="a search")
def test_a_search_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = table([entry(at(0), [training(1, 0.7, 0.7)])]).model_copy(
        update={
            "task": Task(backbone="vgg11", width_multiplier=0.0625, train_limit=60),
            "train": TrainSettings(epochs=1, batch_size=8, validation_fraction=0.5),
        }
    )
    path = tmp_path / "table.json"
    path.write_text(tiny.model_dump_json(), encoding="utf-8")
    options = ["--settings", '{"steps": 2}', "--seeds", "7,8", "--directory", str(tmp_path)]
    words = ["search", "slopes", "--table", str(path), *options]
    monkeypatch.setattr("sys.argv", ["benchmarks.tabular", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    one, other = (load_outcome(tmp_path / f"{seed}.json") for seed in (7, 8))
    assert one.provenance["processor_s"] > 0
    assert one.evidence().tolist() != other.evidence().tolist()
    assert {each.name for each in tmp_path.iterdir()} == {
        "table.json",
        "7.json",
        "8.json",
    }
