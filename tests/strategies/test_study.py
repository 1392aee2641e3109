"""Studies: their settings, the tuner under NNI's own dispatcher, and a strategy's trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sedona_nni.decouplings.choice import leaders
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.strategies.checkpoint import LEDGER_FILE
from sedona_nni.strategies.settings.studied import StudySettings, read_study, study_trial
from sedona_nni.strategies.study import StudyTuner
from sedona_nni.strategies.study_spaces import space_bound
from sedona_nni.trials import __main__ as trial_main
from sedona_nni.trials import study
from sedona_nni.trials.study import run_study_trial

STUDY: dict[str, Any] = {
    "task": {"backbone": "vgg11", "width_multiplier": 0.25, "dataset": "digits"},
    "aux": ["conv1", "conv2"],
    "spaces": [{"num_blocks": 2}, {"num_blocks": 2, "max_block_share": "1.3/K"}, {"num_blocks": 4}],
    "budget": 4,
    "replicates": {"random": 2, "uniform:conv1": 3, "backprop": 2},
    "train": {"epochs": 2, "batch_size": 64, "validation_fraction": 0.2, "seed": 1000},
    "search": {"inner_steps": 2, "seed": 50},
    "device": "cpu",
    "threads": 1,
}
BACKBONE = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
COMPUTE = compute_in_macs(BACKBONE, ["conv1", "conv2", "mlp-sr", "predsim"])


def settings_of(**changed: Any) -> StudySettings:
    return read_study({**STUDY, **changed}, Path())


def tried(strategy: str, replicate: int, directory: Path, **changed: Any) -> dict[str, Any]:
    """What a replicate of a strategy leaves."""
    trial = study_trial(settings_of(**changed), strategy, replicate)
    return run_study_trial(trial, directory=directory)


@pytest.mark.slow(reason="an experiment of several trials")
def test_first_all_strategies_once_then_again(dispatch: Any) -> None:
    """Also when it is interrupted: what was handed out is not handed out again."""
    nni = dispatch(StudyTuner(**STUDY))
    nni.initialize({})
    nni.request()
    for _ in range(4):
        nni.succeed(nni.started[-1], test_accuracy=0.4, runs=[])
    resumed = dispatch(StudyTuner(**STUDY))
    resumed.initialize({})
    resumed.request()
    while not resumed.ended:
        resumed.succeed(resumed.started[-1], test_accuracy=0.4, runs=[])
    records = list(Ledger(resumed.folder / LEDGER_FILE))
    assert [record.key for record in records] == [
        "random-000",
        "uniform:conv1-000",
        "backprop-000",
        "random-001",
        "uniform:conv1-001",
        "backprop-001",
        "uniform:conv1-002",
    ]
    assert resumed.source.settings.num_trials == 7
    given = records[4].parameters
    assert (given.strategy, given.replicate, given.kind) == ("uniform:conv1", 1, "study")
    settings = resumed.source.settings
    assert (given.spaces, given.budget) == (settings.study.spaces, settings.study.budget)
    assert given.search is None


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"replicates": {"probe": 1}}, "probe.cost: must be given, to be within the budget"),
        ({"replicates": {"luck": 1}}, "replicates: must name some of sedona, .* got 'luck'"),
        ({"replicates": {"uniform:": 1}}, "replicates: must name some of .* got 'uniform:'"),
        ({"replicates": {"uniform:<aux>": 1}}, "aux: must be one of .* got '<aux>'"),
        ({"replicates": {"random": 0}}, "replicates.random: must be at least 1, but got 0"),
        ({"replicates": {}}, "replicates"),
        ({"spaces": [{"num_blocks": 1}]}, "spaces.0.num_blocks: .* got 1"),
        ({"spaces": [{"num_blocks": 9}]}, "num_blocks: must be from 1 to .* 8, but got 9"),
        ({"spaces": [{"num_blocks": 2}] * 2}, "spaces: must be different from each other"),
        (
            {"spaces": [{"num_blocks": 2, "max_block_share": "1.085/K"}]},  # conv1 alone could
            "max_block_share: must be at least .* whichever of conv1, conv2 is preferred",
        ),
        (
            {"spaces": [STUDY["spaces"][1]], "replicates": {"predsim": 1}},
            "replicates.predsim: fits into none of the spaces; max_block_share: .* 1.3356/K",
        ),
        ({"search": {"meta_steps": 5}}, "search.meta_steps: must not be given, .* meta_share"),
        ({"search": {"validation_fraction": 0.4}}, "search.validation_fraction: .* from train"),
        ({"train": {"method": "dni"}}, "method"),
    ],
)
def test_a_study_that_cannot_be(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_study({**STUDY, **changed}, tmp_path)


class Trainings:
    """In place of `run_training`: the higher the seed, the better; tests see the opposite."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int, Path]] = []

    def __call__(
        self,
        task: Any,
        decoupling: Decoupling,
        settings: Any,
        *,
        device: Any,
        workers: int | None,
        directory: Path,
        check_memory: bool,
    ) -> dict[str, Any]:
        self.done.append((decoupling.key, settings.seed, directory))
        better = settings.seed / 10_000
        return {
            "default": better,
            "test_accuracy": 1 - better,
            "time_s": 2.0,
            "processor_s": 1.5,
            "images": 10,
            "macs": 3,
            "peak_memory_mib": 4.5,
            "parameters": 6,
            "compute": COMPUTE.model_dump(mode="json"),
            "history": {},
        }


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    found = Trainings()
    monkeypatch.setattr(study, "run_training", found)
    return found


def chosen(result: dict[str, Any], space: int | None) -> list[Decoupling]:
    return [
        Decoupling.model_validate(run["decoupling"])
        for run in result["runs"]
        if run["space"] == space
    ]


@pytest.mark.slow(reason="an experiment of several trials")
@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_what_asks_trains_as_many_decouplings_as_it_may(
    strategy: str, trainings: Trainings, tmp_path: Path
) -> None:
    reported: list[float] = []
    result = run_study_trial(
        study_trial(settings_of(), strategy, 3),
        directory=tmp_path,
        report=lambda numbers: reported.append(numbers["default"]),
    )
    assert json.loads(json.dumps(result)) == result
    for space, num_blocks in enumerate((2, 2, 4)):
        found = chosen(result, space)
        assert len(set(found)) == 4
        assert {each.num_blocks for each in found} == {num_blocks}
    assert all(COMPUTE.largest_share(each) <= 1.3 / 2 for each in chosen(result, 1))
    assert [run["seed"] for run in result["runs"]] == [1300, 1301, 1302, 1303] * 3
    assert result["picks"] == [3, 7, 11]
    assert result["default"] == pytest.approx(0.1303)
    assert result["test_accuracy"] == pytest.approx(1 - 0.1303)
    assert result["search"] is None
    assert result["left_out"] == {}
    assert (result["time_s"], result["images"]) == (2.0 * len(trainings.done), 10 * len(reported))
    assert result["runs"][0] == {
        "space": 0,
        "decoupling": chosen(result, 0)[0].model_dump(mode="json"),
        "seed": 1300,
        "validation_accuracy": 0.13,
        "test_accuracy": 0.87,
        "time_s": 2.0,
        "processor_s": 1.5,
        "images": 10,
        "macs": 3,
        "peak_memory_mib": 4.5,
        "largest_share": COMPUTE.largest_share(chosen(result, 0)[0]),
        "parameters": 6,
    }


@pytest.mark.slow(reason="an experiment of several trials")
def test_draws_depend_on_seed_replicate_and_space(trainings: Trainings, tmp_path: Path) -> None:
    def drawn(strategy: str = "random", replicate: int = 0, **changed: Any) -> list[Decoupling]:
        spaces = [{"num_blocks": 4, "max_block_share": share} for share in ("0.99", "0.98")]
        result = tried(strategy, replicate, tmp_path, spaces=spaces, budget=8, **changed)
        assert chosen(result, 0) != chosen(result, 1)
        return chosen(result, 0)

    first = drawn()
    assert drawn() == first
    assert drawn(replicate=1) != first
    assert drawn(seed=1) != first
    evolved = drawn("evolution")
    assert evolved[:3] == first[:3]  # its first population
    assert evolved != first


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_training_of_two_spaces_is_done_once(trainings: Trainings, tmp_path: Path) -> None:
    spaces = [{"num_blocks": 2}, {"num_blocks": 2, "max_block_share": "0.99"}, {"num_blocks": 3}]
    result = tried("uniform:conv1", 0, tmp_path, spaces=spaces)
    assert [run["space"] for run in result["runs"]] == 4 * [0] + 4 * [1] + 4 * [2]
    assert len(trainings.done) == len(set(trainings.done)) == 8
    assert (result["time_s"], result["images"]) == (16.0, 80)
    assert result["picks"] == [3, 7, 11]
    assert {each.key for each in chosen(result, 0)} == {"vgg11 3:conv1"}
    assert chosen(result, 0) == chosen(result, 1)
    assert len({directory for _, _, directory in trainings.done}) == 8


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_space_that_uniform_cuts_cannot_respect_is_left_out(
    trainings: Trainings, tmp_path: Path
) -> None:
    result = tried("predsim", 0, tmp_path)
    assert result["picks"] == [3, None, 7]
    assert chosen(result, 1) == []
    assert list(result["left_out"]) == ["1"]
    assert "must be at least 1.3356/K" in result["left_out"]["1"]
    assert result["default"] == pytest.approx(0.1003)
    within = tried("uniform:mlp-sr", 0, tmp_path)
    assert COMPUTE.largest_share(chosen(within, 1)[0]) <= 1.3 / 2


def test_of_equals_the_first_is_picked(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "run_training", lambda *a, **k: {**trainings(*a, **k), "default": 1})
    assert tried("backprop", 0, tmp_path)["picks"] == [0]


SEDONA = SearchResult(
    backbone="vgg11",
    dataset="digits",
    aux_choices=["conv1", "conv2"],
    alpha=[(i / 10, 0) for i in range(7)],
    beta=[[0, 1]] * 7,
)
PROBED = ProbeResult(
    backbone="vgg11",
    dataset="digits",
    aux_choices=["conv1", "conv2"],
    losses=[[2.3 - 0.1 * i, 2.2 - 0.1 * i] for i in range(1, 8)],
    undivided=2.0,
)


@pytest.mark.slow(reason="an experiment of several trials")
@pytest.mark.parametrize("strategy", ["sedona", "probe"])
def test_one_search_serves_all_spaces(
    strategy: str, trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    outcome = SEDONA if strategy == "sedona" else PROBED

    def searched(*args: Any, **options: Any) -> dict[str, Any]:
        calls.append((args, options))
        known = {"search_result": outcome.model_dump(mode="json"), "history": {}}
        return {**known, "default": 0.9, "time_s": 7.0, "processor_s": 6.0, "images": 100}

    monkeypatch.setattr(study, "run_search", searched)
    settings = settings_of(
        budget=4, pretrain_share=0.5, meta_share=0.1, probe={"cost": 1.5, "seed": 60}
    )
    result = run_study_trial(study_trial(settings, strategy, 2), directory=tmp_path)
    training = settings.training
    bound = space_bound(settings.study.spaces[1], training.task, training.aux)
    count = 2 if strategy == "probe" else 1  # the budget less what probing costs
    assert [run["decoupling"] for run in result["runs"]] == [
        leader.model_dump(mode="json")
        for num_blocks, limit in ((2, None), (2, bound), (4, None))
        for leader in leaders(outcome, num_blocks, count, limit)
    ]
    assert [run["seed"] for run in result["runs"]] == [1200, 1201][:count] * 3
    assert [pick // count for pick in result["picks"]] == [0, 1, 2]
    assert result["time_s"] == 7.0 + 2.0 * len(trainings.done)
    assert result["processor_s"] == 6.0 + 1.5 * len(trainings.done)
    assert result["images"] == 100 + 10 * len(trainings.done)
    assert result["search"] == {
        "time_s": 7.0,
        "processor_s": 6.0,
        "images": 100,
        "search_result": outcome.model_dump(mode="json"),
    }
    ((args, options),) = calls
    assert options["aux"] == ("conv1", "conv2")
    assert options["directory"] == tmp_path / "search"
    how = args[-1]
    if strategy == "probe":
        assert options["train"] == training.train
        assert (how.cost, how.seed) == (1.5, 260)
    else:
        steps = 2 * 18  # 1,151 images in batches of 64
        assert (how.pretrain_steps, how.meta_steps) == (steps // 2, 4)
        assert (how.validation_fraction, how.seed, how.inner_steps) == (0.2, 250, 2)


@pytest.mark.slow(reason="an experiment of several trials")
def test_an_interrupted_trial_goes_on(tmp_path: Path) -> None:
    """For real, as NNI starts it."""
    settings = settings_of(
        aux=["conv1"],
        spaces=[{"num_blocks": 2}],
        budget=6,
        replicates={"probe": 1},
        task={**STUDY["task"], "train_limit": 200},
        train={"epochs": 3, "batch_size": 64, "seed": 5},
        probe={"cost": 5},
    )
    trial = study_trial(settings, "probe", 0)

    def run(directory: Path, report: Callable[[dict[str, float]], None]) -> dict[str, Any]:
        return trial_main.run(trial, torch.device("cpu"), directory, report).model_dump()

    def interrupt(numbers: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupt)
    (training,) = tmp_path.glob("vgg11*/results.json")
    assert not list(tmp_path.rglob("*.safetensors"))
    known = {path: path.read_text() for path in (training, tmp_path / "search/results.json")}
    reported: list[dict[str, float]] = []
    result = run(tmp_path, reported.append)
    assert {path: path.read_text() for path in known} == known  # times included
    assert reported == [{"default": result["default"]}]
    (only,) = result["runs"]
    assert only["largest_share"] == COMPUTE.largest_share(chosen(result, 0)[0])
    assert result["time_s"] == pytest.approx(result["search"]["time_s"] + only["time_s"])
    assert 0 < result["test_accuracy"] == only["test_accuracy"] < 1
