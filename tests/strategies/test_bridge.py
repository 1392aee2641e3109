"""`sedona_nni.strategies.bridge` under NNI's own dispatcher: NNI's strategies, run by a tuner."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import TrainTrial
from sedona_nni.strategies.bridge import BridgeTuner
from sedona_nni.strategies.checkpoint import LEDGER_FILE
from sedona_nni.strategies.measuring import run_bound, run_costs
from sedona_nni.strategies.nni_border.terminal import TunerError
from sedona_nni.strategies.settings.parts import Exploration
from sedona_nni.strategies.trial_engine import build_strategy

EVOLUTION = {
    "strategy": "regularized_evolution",
    "strategy_args": {"population_size": 3, "sample_size": 2, "mutation_prob": 0.5},
}


def session(
    dispatch: Any, concurrency: int = 2, again: list[TrainTrial] | None = None, **changes: Any
) -> Any:
    class_args = {
        "task": {"backbone": "vgg11"},
        "num_blocks": 2,
        "aux": ["conv1", "conv2"],
        "strategy": "random",
        "max_trials": 5,
        **changes,
    }
    nni = dispatch(BridgeTuner(**class_args))
    nni.initialize({})
    trials = [
        {"parameter_id": number, "parameters": trial.model_dump(mode="json")}
        for number, trial in enumerate(again or [], start=1)
    ]
    nni.trials = {trial["parameter_id"]: trial for trial in trials}
    nni.dispatcher.handle_add_customized_trial(trials)
    nni.request(concurrency)
    return nni


def bound_of(nni: Any) -> BlockBound:
    settings, folder = nni.source.settings, nni.folder
    bound = run_bound(settings, folder, run_costs(settings, folder, folder / "none.json"))
    assert bound is not None
    return bound


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_long_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let NNI's strategies, which look for a free slot every second, look more often."""
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.01)))


def finish(nni: Any, accuracy: Callable[[dict[str, Any]], float] | None = None) -> None:
    """Let all trials succeed."""
    done: set[str] = set()
    while not nni.ended:
        wait_for(lambda: nni.ended or set(nni.started) > done)
        for key in [key for key in nni.started if key not in done]:
            done.add(key)
            value = accuracy(nni.source.ledger[key].parameters) if accuracy else 0.5
            nni.succeed(key, default=value)


def decouplings(nni: Any) -> list[Decoupling]:
    return [record.parameters.decoupling for record in Ledger(nni.folder / LEDGER_FILE)]


@pytest.mark.parametrize("changes", [{}, EVOLUTION, {"strategy": "tpe"}])
def test_a_strategy_trains_distinct_decouplings_and_ends(
    dispatch: Any, changes: dict[str, Any]
) -> None:
    nni = session(dispatch, **changes)
    finish(nni)
    assert nni.error is None
    assert len(decouplings(nni)) == len(set(decouplings(nni))) == 5
    assert all(decoupling.num_blocks == 2 for decoupling in decouplings(nni))


@pytest.mark.parametrize("changes", [{}, EVOLUTION])
def test_the_seed_decides(dispatch: Any, changes: dict[str, Any]) -> None:
    runs = []
    for seed in (1, 1, 2):
        nni = session(dispatch, concurrency=1, seed=seed, **changes)
        finish(nni)
        runs.append(decouplings(nni))
        (nni.folder / LEDGER_FILE).unlink()
    assert runs[0] == runs[1] != runs[2]


def test_no_more_trials_at_a_time_than_nni_has_slots(dispatch: Any) -> None:
    nni = session(dispatch, concurrency=2)
    wait_for(lambda: len(nni.started) == 2)
    time.sleep(0.01)
    assert len(nni.started) == 2
    nni.succeed(nni.started[0])
    wait_for(lambda: len(nni.started) == 3)


def test_a_space_smaller_than_the_budget_ends(dispatch: Any) -> None:
    nni = session(dispatch, max_trials=50)
    finish(nni)
    assert len(decouplings(nni)) == 14  # 7 boundaries, 2 auxiliary networks


@pytest.mark.slow(reason="an experiment of several trials")
@pytest.mark.parametrize("changes", [{}, EVOLUTION, {"strategy": "tpe"}])
def test_only_decouplings_within_the_bound_are_trained(
    dispatch: Any, changes: dict[str, Any]
) -> None:
    bounded = {"num_blocks": 3, "max_block_share": "1.7/K", "max_trials": 12, **changes}
    nni = session(dispatch, **bounded)
    finish(nni, lambda parameters: sum(parameters.decoupling.cuts) / 20)
    bound = bound_of(nni)
    assert len(set(decouplings(nni))) == 12
    for decoupling in decouplings(nni):
        assert max(bound.compute.blocks(decoupling)) * 3 <= 1.7 * bound.compute.total


@pytest.mark.slow(reason="an experiment of several trials")
@pytest.mark.parametrize("changes", [{}, EVOLUTION])
def test_only_decouplings_within_both_bounds_are_trained(
    dispatch: Any, changes: dict[str, Any]
) -> None:
    bounds = {"max_block_memory": "1.6/K", "max_block_share": "2/K"}
    nni = session(dispatch, num_blocks=3, max_trials=6, **bounds, **changes)
    finish(nni, lambda parameters: sum(parameters.decoupling.cuts) / 20)
    bound = bound_of(nni)
    assert bound.memory is not None
    assert bound.memory.provenance["batch_size"] == nni.source.settings.training.train.batch_size
    for decoupling in decouplings(nni):
        assert max(bound.memory.blocks(decoupling)) * 3 <= 1.6 * bound.memory.total
        assert max(bound.compute.blocks(decoupling)) * 3 <= 2 * bound.compute.total


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_bounded_space_is_explored_to_its_end(dispatch: Any) -> None:
    bounded = {"num_blocks": 3, "max_block_share": "1.5/K", "max_trials": 50}
    nni = session(dispatch, **bounded, aux=["conv1"])
    finish(nni)
    bound = bound_of(nni)
    every = {
        decoupling
        for cuts in itertools.combinations(range(7), 2)
        if bound.respects(
            decoupling := Decoupling(backbone="vgg11", cuts=list(cuts), aux=["conv1"] * 2)
        )
    }
    assert 2 < len(every) < 15
    assert set(decouplings(nni)) == every


def test_a_repeated_decoupling_gets_the_known_result(dispatch: Any) -> None:
    nni = session(dispatch, max_trials=50, strategy="tpe", aux=["conv1"])
    finish(nni)  # TPE repeats itself; without the known results it would train more than 7
    assert len(decouplings(nni)) == len(set(decouplings(nni))) == 7


def test_tpe_looks_for_high_accuracy() -> None:
    exploration = Exploration(strategy="tpe", num_blocks=2, max_trials=1)
    assert build_strategy(exploration, 0).tuner.optimize_mode.value == "maximize"


def test_failed_trials_are_told_to_the_strategy(dispatch: Any) -> None:
    nni = session(dispatch, concurrency=1, **EVOLUTION)
    wait_for(lambda: len(nni.started) == 1)
    nni.end(nni.started[0], "FAILED")
    wait_for(lambda: len(nni.started) == 2)
    nni.succeed(nni.started[1])
    wait_for(lambda: len(nni.started) == 3)
    statuses = [record.status for record in Ledger(nni.folder / LEDGER_FILE)]
    assert statuses == ["failed", "succeeded", "running"]


def test_evolution_waits_for_a_first_result_before_it_chooses_parents(dispatch: Any) -> None:
    nni = session(dispatch, concurrency=5, **EVOLUTION)
    wait_for(lambda: len(nni.started) == 3)
    time.sleep(0.01)
    assert len(nni.started) == 3
    finish(nni)
    assert nni.error is None


def test_a_resume_goes_on_where_it_was(dispatch: Any) -> None:
    def accuracy(parameters: TrainTrial) -> float:
        return float(parameters.decoupling.cuts[0]) / 10

    through = session(dispatch, concurrency=1, **EVOLUTION)
    finish(through, accuracy)
    expected = decouplings(through)
    (through.folder / LEDGER_FILE).unlink()

    before = session(dispatch, concurrency=1, **EVOLUTION)
    for count in (1, 2, 3):
        wait_for(lambda count=count: len(before.started) == count)  # type: ignore[misc]
        key = before.started[-1]
        before.succeed(key, default=accuracy(before.source.ledger[key].parameters))
    wait_for(lambda: len(before.started) == 4)
    interrupted = Ledger(before.folder / LEDGER_FILE)[before.started[3]].parameters

    nni = session(dispatch, concurrency=1, again=[interrupted], **EVOLUTION)
    time.sleep(0.01)
    assert nni.started == []
    nni.succeed(interrupted.key, default=accuracy(interrupted))
    finish(nni, accuracy)
    assert len(nni.started) == 1
    assert decouplings(nni) == expected


def test_an_exception_in_a_strategy_ends_the_experiment(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("in NNI")

    monkeypatch.setattr("sedona_nni.strategies.trial_engine.build_strategy", lambda *_: fail)
    tuner = BridgeTuner(task={"backbone": "vgg11"}, num_blocks=2, strategy="random", max_trials=5)
    nni = dispatch(tuner)
    nni.initialize({})
    wait_for(lambda: TunerError.load(nni.folder) is not None)
    with pytest.raises(ZeroDivisionError):
        nni.request()
    assert "ZeroDivisionError: in NNI" in nni.error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "darts"}, "tuner.classArgs.strategy: "),
        ({"strategy_args": {"population": 3}}, "strategy_args: must be of dedup, but got"),
        ({"strategy": "tpe", "strategy_args": {"size": 3}}, "strategy_args: must be of tpe_args"),
        ({**EVOLUTION, "strategy_args": {"population_size": 2, "sample_size": 3}}, "strategy_args"),
        (
            {"max_block_share": "0.4"},
            "max_block_share: must be at least 0.5338 for 2 blocks of vgg11",
        ),
        ({"max_block_memory": "2"}, "max_block_memory: must be at least "),
        ({"max_block_memory": "2/L"}, "max_block_memory: must be MiB above 0, e.g. 512, or a"),
        (
            {"max_block_memory": 99, "compute": "memory"},
            "compute: must come with a max_block_share",
        ),
        ({"max_block_share": "4"}, "tuner.classArgs.max_block_share: max_block_share: must be"),
        ({"compute": "time"}, "compute: must come with a max_block_share, but got 'time'"),
        ({"num_blocks": 9}, "num_blocks: must be from 1 to the number of layers, 8"),
    ],
)
def test_wrong_settings_are_one_line(dispatch: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        session(dispatch, **changes)
    assert message in str(caught.value)
