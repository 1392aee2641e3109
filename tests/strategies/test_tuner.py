"""`sedona_nni.strategies.tuner` under NNI's own dispatcher."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from folder_trial import FOUND as SEARCH_RESULT

from sedona_nni.decouplings.balance import balanced_decoupling
from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.choice import discretise, leaders
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling, uniform_cuts
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.results import closing_table, comparison, compromise_table, compromises
from sedona_nni.reporting.trial import AnyTrial, method_of
from sedona_nni.searches.documents import parse_result
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.strategies.checkpoint import LEDGER_FILE, STUDY_FILE
from sedona_nni.strategies.hyperparameters import study_url
from sedona_nni.strategies.measuring import run_bound, run_costs
from sedona_nni.strategies.nni_border.wire import packed, trial_folder
from sedona_nni.strategies.settings.tuned import contenders
from sedona_nni.strategies.tuner import OptunaTuner, ProbeTuner, SedonaTuner

SPACE = {
    "lr": {"_type": "loguniform", "_value": [0.01, 0.2]},
    "batch_size": {"_type": "choice", "_value": [32, 64]},
}


def session(
    dispatch: Any,
    concurrency: int = 2,
    again: list[AnyTrial] | None = None,
    tuner: type[OptunaTuner] = SedonaTuner,
    **changes: Any,
) -> Any:
    """Start a session; ``again`` are the trials that NNI runs again after a resume."""
    class_args: dict[str, Any] = {
        "task": {"backbone": "vgg11"},
        "num_blocks": 2,
        "aux": ["conv1", "conv2"],
        "compare": ["uniform", "random", "backprop"],
        "uniform_aux": "mlp-sr",
        "trials_per_strategy": 2,
        **changes,
    }
    nni = dispatch(tuner(**{name: value for name, value in class_args.items() if value != "-"}))
    nni.initialize(SPACE)
    if again is not None:
        trials = [{"parameter_id": n, "parameters": sent(p)} for n, p in enumerate(again, start=1)]
        nni.trials = {trial["parameter_id"]: trial for trial in trials}
        nni.dispatcher.handle_add_customized_trial(trials)
    nni.request(concurrency)
    return nni


def sent(trial: AnyTrial) -> dict[str, Any]:
    """What NNI keeps of a trial."""
    return {**trial.model_dump(mode="json"), "mutation_summary": trial.summary}


def finish(nni: Any) -> None:
    """Let trials succeed in the order of their start until the tuner ends the experiment."""
    for key in nni.started:  # grows meanwhile
        if nni.source.ledger[key].status == "running":
            nni.succeed(key, search_result=SEARCH_RESULT)


def ledger(nni: Any) -> Ledger:
    return Ledger(nni.folder / LEDGER_FILE)


def test_the_search_comes_first_and_comparisons_fill_the_other_slots(dispatch: Any) -> None:
    nni = session(dispatch, concurrency=3)
    assert nni.started == ["search", "uniform-000", "random-000"]


@pytest.mark.slow(reason="an experiment of several trials")
def test_every_strategy_gets_the_same_number_of_trials_and_the_experiment_ends(
    dispatch: Any,
) -> None:
    nni = session(dispatch)
    finish(nni)
    assert nni.ended
    assert nni.error is None
    counts = Counter(record.strategy for record in ledger(nni) if not record.is_search)
    assert counts == {"sedona": 2, "uniform": 2, "random": 2, "backprop": 2}
    assert all(record.status == "succeeded" for record in ledger(nni))


def test_one_trial_after_the_other_ends_too(dispatch: Any) -> None:
    nni = session(dispatch, concurrency=1, compare=[])
    finish(nni)
    assert nni.started == ["search", "sedona-000", "sedona-001"]
    assert nni.ended


def test_slots_that_had_to_wait_for_the_search_are_used_after_it(dispatch: Any) -> None:
    nni = session(dispatch, concurrency=3, compare=[])
    assert nni.started == ["search"]
    nni.final("search", search_result=SEARCH_RESULT)
    assert nni.started == ["search", "sedona-000", "sedona-001"]


@pytest.mark.slow(reason="an experiment of several trials")
def test_each_strategy_trains_its_own_decoupling(dispatch: Any) -> None:
    nni = session(dispatch)
    finish(nni)
    decouplings: dict[str, set[Decoupling]] = {}
    for record in ledger(nni):
        if not record.is_search:
            decoupling = record.parameters.decoupling
            decouplings.setdefault(record.strategy, set()).add(decoupling)
    assert decouplings["sedona"] == {Decoupling(backbone="vgg11", cuts=[4], aux=["conv2"])}
    assert decouplings["uniform"] == {Decoupling(backbone="vgg11", cuts=[3], aux=["mlp-sr"])}
    assert decouplings["backprop"] == {Decoupling(backbone="vgg11")}
    (drawn,) = decouplings["random"]
    assert drawn.num_blocks == 2
    assert set(drawn.aux) <= {"conv1", "conv2"}


@pytest.mark.slow(reason="an experiment of several trials")
def test_strategies_start_from_the_same_draws_and_seeds(dispatch: Any) -> None:
    nni = session(dispatch)
    finish(nni)
    by_key = {record.key: record.parameters for record in ledger(nni)}
    assert by_key["sedona-000"].hyperparameters == by_key["uniform-000"].hyperparameters
    assert by_key["sedona-000"].hyperparameters != by_key["sedona-001"].hyperparameters
    assert by_key["sedona-001"].train["seed"] == by_key["uniform-001"].train["seed"]
    assert by_key["sedona-001"].train["seed"] == by_key["sedona-000"].train["seed"] + 1


@pytest.mark.parametrize("accuracy", [math.nan, math.inf, None, "high"])
def test_a_result_that_is_no_number_is_a_failure_and_costs_a_trial(
    dispatch: Any, accuracy: Any
) -> None:
    nni = session(dispatch, compare=["uniform"])
    nni.succeed("uniform-000", default=accuracy)
    finish(nni)
    assert ledger(nni)["uniform-000"].status == "failed"
    assert nni.started.count("uniform-001") == 1
    assert "uniform-002" not in nni.started
    assert nni.ended


@pytest.mark.slow(reason="an experiment of several trials")
def test_failed_trials_are_told_to_optuna_and_not_replaced(dispatch: Any) -> None:
    import optuna

    nni = session(dispatch)
    nni.end("uniform-000", "FAILED")
    finish(nni)
    assert nni.ended
    study = optuna.load_study(study_name="uniform", storage=f"sqlite:///{nni.folder}/optuna.db")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]


def test_a_failed_search_ends_the_experiment(dispatch: Any) -> None:
    nni = session(dispatch)
    with pytest.raises(Exception, match="the search failed"):
        nni.end("search", "FAILED")
    assert "the search failed" in nni.error
    assert "Traceback of trial-file" in nni.error


def test_three_failed_trainings_end_the_experiment(dispatch: Any) -> None:
    nni = session(dispatch, concurrency=4)
    nni.end("uniform-000", "FAILED")
    nni.end("random-000", "FAILED")
    with pytest.raises(Exception, match="all of the first 3 trainings failed"):
        nni.end("backprop-000", "FAILED")
    assert "all of the first 3 trainings failed" in nni.error


def test_after_a_success_three_failures_do_not_matter(dispatch: Any) -> None:
    nni = session(dispatch, concurrency=5)
    nni.succeed("uniform-000")
    for key in ("random-000", "backprop-000", "uniform-001"):
        nni.end(key, "FAILED")
    assert nni.error is None


@pytest.mark.slow(reason="an experiment of several trials")
def test_finished_work_is_not_repeated_after_a_resume(dispatch: Any) -> None:
    before = session(dispatch, concurrency=1)
    before.succeed("search", search_result=SEARCH_RESULT)
    before.succeed(before.started[1])
    running = before.started[2]
    nni = session(dispatch, concurrency=1, again=[ledger(before)[running].parameters])
    assert nni.started == []  # its slot is the trial's that runs again
    nni.succeed(running)
    finish(nni)
    assert nni.ended
    assert len(set(before.started) | set(nni.started)) == 9
    assert not set(before.started) & set(nni.started)


def test_an_interrupted_search_is_waited_for_after_a_resume(dispatch: Any) -> None:
    before = session(dispatch, concurrency=1)
    nni = session(dispatch, concurrency=1, again=[ledger(before)["search"].parameters])
    assert nni.started == []
    nni.succeed("search", search_result=SEARCH_RESULT)
    assert nni.started == ["sedona-000"]


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_failed_search_is_tried_again_after_a_resume(dispatch: Any) -> None:
    before = session(dispatch, concurrency=1)
    with pytest.raises(Exception, match="the search failed"):
        before.end("search", "FAILED")
    nni = session(dispatch, concurrency=1, again=[])
    assert nni.started == ["search"]
    finish(nni)
    assert nni.ended


def test_trials_that_nni_has_lost_are_handed_out_again(dispatch: Any) -> None:
    before = session(dispatch, concurrency=2)
    lost = before.started[1]
    nni = session(dispatch, concurrency=2, again=[ledger(before)["search"].parameters])
    assert nni.started == [lost]


def test_results_known_to_nni_only_are_taken_over(dispatch: Any) -> None:
    before = session(dispatch, concurrency=2)
    result = {"key": "uniform-000", "default": 0.75}
    tuner_killed_before_it_saw_it = [{"parameter": {}, "value": result}]
    nni = dispatch(SedonaTuner(**before.source.tuner["classArgs"]))
    nni.initialize(SPACE)
    nni.dispatcher.handle_import_data(tuner_killed_before_it_saw_it)
    nni.dispatcher.handle_add_customized_trial([])
    nni.request(2)
    assert "uniform-000" not in nni.started
    assert ledger(nni)["uniform-000"].validation_accuracy == 0.75


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_resume_after_the_end_ends_again(dispatch: Any) -> None:
    before = session(dispatch)
    finish(before)
    nni = session(dispatch, again=[])
    assert nni.started == []
    assert nni.ended


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_resume_draws_what_an_uninterrupted_run_would_draw(
    dispatch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = session(dispatch, concurrency=1, compare=[])
    finish(through)

    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("NNI_CHECKPOINT_DIRECTORY", str(other))
    before = session(dispatch, concurrency=1, compare=[])
    before.succeed("search", search_result=SEARCH_RESULT)
    parameters = Ledger(other / LEDGER_FILE)["sedona-000"].parameters
    nni = session(dispatch, concurrency=1, compare=[], again=[parameters])
    nni.succeed("sedona-000")
    resumed = Ledger(other / LEDGER_FILE)["sedona-001"]
    assert resumed.parameters == ledger(through)["sedona-001"].parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_block": 2}, "tuner.classArgs.num_block: unknown field"),
        ({"num_blocks": 9}, "num_blocks: must be from 1 to the number of layers, 8, but got 9"),
        ({"task": {"backbone": "vgg12"}}, "backbone: must be one of"),
        ({"uniform_aux": "conf1"}, "aux: must be one of"),
        ({"aux": ["conv1", "kept"]}, "aux: must be one of"),
        ({"compare": ["unifrom"]}, "tuner.classArgs.compare.0: "),
        ({"compare": ["random", "random"]}, "compare: must name each strategy once"),
        ({"task": "-"}, "tuner.classArgs.task: this field is required"),
        (
            {"num_blocks": [2, 9]},
            "num_blocks: must be from 1 to the number of layers, 8, but got 9",
        ),
        ({"num_blocks": [2, 3, 2]}, "num_blocks: must have each number once, but got [2, 3, 2]"),
        ({"num_blocks": []}, "tuner.classArgs.num_blocks: "),
        ({"num_blocks": -1}, "tuner.classArgs.num_blocks.0: "),
        ({"num_blocks": "all"}, "tuner.classArgs.num_blocks: "),
        (
            {"train_for": {"sedonna": {}}},
            "train_for: must name sedona, uniform, predsim, random, ba",
        ),
        ({"train_for": {"predsim": {"rate": 1}}}, "train_for.predsim.rate: unknown field"),
        ({"also": {"sedona": "backprop"}}, "also: must not have the name of another strategy"),
        (
            {"num_blocks": [2, 3], "also": {"uniform-k2": "backprop"}},
            "also: must not have the name of another strategy",
        ),
        ({"also": {"a b": "backprop"}}, "tuner.classArgs.also.a b"),
        ({"also": {"a": "every:9:cnn"}}, "block_size: must be from 1 to the number of layers, 8"),
        ({"also": {"a": "every:2:cnm"}}, "aux: must be one of"),
        ({"also": {"a": "every:2:none"}}, "aux: must be an auxiliary network at every cut for"),
        ({"train": {"method": "ddg"}}, "aux: must be none at every cut for the method ddg"),
        (
            {"compare": ["random"], "train_for": {"random": {"method": "dni"}}},
            "aux: must be none at every cut for the method dni",
        ),
        ({"compare": ["uniform"], "uniform_aux": "none"}, "aux: must be an auxiliary network at"),
        (
            {"train": {"method": "parallel"}},
            "tuner.classArgs.train.method: must be one of greedy, ",
        ),
        (
            {"train": {"method": {"name": "asynchronous", "slow_block": 3, "slowdown": 2}}},
            "slow_block: must be at most the number of blocks, 2, but got 3",
        ),
        (
            {"also": {"a": "every:2:mlp"}, "train_for": {"a": {"method": "ddg"}}},
            "aux: must be none at every cut for the method ddg",
        ),
        ({"also": {"a": {"backbone": "vgg13"}}}, "decoupling: must be one of the task's backbone"),
        ({"also": {"a": "nowhere.json"}}, "nowhere.json: cannot be read"),
        ({"published": "mnist"}, "tuner.classArgs.published: "),
    ],
)
def test_wrong_settings_are_one_line(dispatch: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        session(dispatch, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_fixed_for_a_strategy_is_not_tuned_for_it(dispatch: Any) -> None:
    """`train_for` goes before `searchSpace`, which goes before `train`."""
    fixed = {"predsim": {"optimizer": "adam", "lr": 0.0005, "lr_min": 5e-6}}
    nni = session(dispatch, compare=["predsim"], train_for=fixed, train={"lr": 0.3})
    finish(nni)
    records = {record.key: record.parameters for record in ledger(nni) if not record.is_search}
    predsim = records["predsim-001"]
    assert set(predsim.hyperparameters) == {"batch_size"}
    assert predsim.settings["lr"] == 0.0005
    assert set(records["sedona-001"].hyperparameters) == {"lr", "batch_size"}


def test_published_settings_are_not_tuned_either(dispatch: Any) -> None:
    task = {"backbone": "vgg19", "data_dir": "data"}
    nni = session(dispatch, published="tiny-imagenet", compare=["predsim"], task=task)
    trial = next(t["parameters"] for t in nni.trials.values() if t["parameters"]["key"] != "search")
    assert (trial["key"], set(trial["hyperparameters"])) == ("predsim-000", {"batch_size"})
    assert trial["train"]["lr"] == 5e-4


def test_an_assessor_is_refused_also_by_plain_nnictl(dispatch: Any) -> None:
    tuner = SedonaTuner(task={"backbone": "vgg11"}, num_blocks=2)
    nni = dispatch(tuner)
    config = {**tuner.experiment_config(), "assessor": {"name": "Medianstop"}}
    tuner.experiment_config = lambda: config
    nni.initialize(SPACE)
    with pytest.raises(InputError, match=r"assessor: must not be given.*but got 'Medianstop'"):
        nni.request(1)


def trained(nni: Any) -> dict[str, Decoupling]:
    """What each contender trains."""
    return {
        record.strategy: record.parameters.decoupling
        for record in ledger(nni)
        if not record.is_search
    }


TWO_CUTS = {**SEARCH_RESULT, "alpha": [[float(i) if i in (4, 6) else -1.0, 0.0] for i in range(7)]}


@pytest.mark.slow(reason="an experiment of several trials")
def test_one_search_serves_every_number_of_blocks(dispatch: Any) -> None:
    """Boundaries 6 and 4 are preferred, in this order; K = 0 takes just these."""
    nni = session(dispatch, num_blocks=[2, 4, 0], compare=["uniform", "predsim", "backprop"])
    assert nni.started == ["search", "uniform-k2-000"]
    nni.succeed("search", search_result=TWO_CUTS)
    finish(nni)
    assert nni.ended
    assert nni.started.count("search") == 1
    cuts = {name: decoupling.cuts for name, decoupling in trained(nni).items()}
    assert cuts == {
        "sedona-k2": [6],
        "sedona-k4": [0, 4, 6],
        "sedona-k0": [4, 6],
        "uniform-k2": [3],
        "uniform-k4": [1, 3, 5],
        "uniform-k0": [1, 4],
        "predsim-k2": [3],
        "predsim-k4": [1, 3, 5],
        "predsim-k0": [1, 4],
        "backprop": [],
    }
    assert trained(nni)["uniform-k4"].aux == ["mlp-sr"] * 3
    assert trained(nni)["predsim-k4"].aux == ["predsim"] * 3
    assert len(nni.started) == 1 + 2 * 10 == nni.source.settings.num_trials


@pytest.mark.slow(reason="an experiment of several trials")
def test_the_search_may_choose_the_number_of_blocks(dispatch: Any) -> None:
    """What is compared on as many blocks has to wait for it."""
    nni = session(dispatch, concurrency=3, num_blocks=0)
    assert nni.started == ["search", "backprop-000", "backprop-001"]
    nni.succeed("search", search_result=TWO_CUTS)
    finish(nni)
    assert {name: decoupling.num_blocks for name, decoupling in trained(nni).items()} == {
        "sedona": 3,
        "uniform": 3,
        "random": 3,
        "backprop": 1,
    }
    assert trained(nni)["sedona"].cuts == [4, 6]


def test_a_resume_knows_what_was_found_for_every_number_of_blocks(dispatch: Any) -> None:
    changes = {"num_blocks": [0, 2], "compare": [], "concurrency": 1}
    before = session(dispatch, **changes)
    before.succeed("search", search_result=TWO_CUTS)
    before.succeed("sedona-k0-000")
    nni = session(dispatch, **changes, again=[])
    finish(nni)
    assert nni.ended
    assert {name: decoupling.cuts for name, decoupling in trained(nni).items()} == {
        "sedona-k0": [4, 6],
        "sedona-k2": [6],
    }


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_strategy_may_train_otherwise(dispatch: Any) -> None:
    other = {"optimizer": "adam", "lr_min": 0.0}
    nni = session(
        dispatch,
        num_blocks=[2, 3],
        compare=["uniform", "predsim"],
        train={"epochs": 5},
        train_for={"predsim": {**other, "classes_per_batch": 3}, "backprop": {"lr": 0.2}},
    )
    finish(nni)
    settings = {record.key: record.parameters.train for record in ledger(nni)}
    for key, train in settings.items():
        if key == "search":
            continue
        assert train["epochs"] == 5
        assert train["optimizer"] == ("adam" if "predsim" in key else "sgd")
        assert train["classes_per_batch"] == (3 if "predsim" in key else None)
    assert settings["predsim-k3-001"]["seed"] == settings["predsim-k3-000"]["seed"] + 1


LOPSIDED = {**SEARCH_RESULT, "alpha": [[float(i), 0.0] for i in range(7)]}  # prefers cuts on top


@pytest.mark.slow(reason="an experiment of several trials")
def test_every_strategy_keeps_to_a_bound_but_back_propagation(dispatch: Any) -> None:
    changes = {
        "num_blocks": [2, 3],
        "compare": ["uniform", "predsim", "random", "backprop"],
        "max_block_share": "1.6/K",
        "trials_per_strategy": 1,
    }
    nni = session(dispatch, **changes)
    nni.succeed("search", search_result=LOPSIDED)
    finish(nni)
    assert nni.ended
    settings = nni.source.settings
    bound = run_bound(settings, nni.folder, run_costs(settings, nni.folder, nni.folder / "none"))
    chosen = trained(nni)
    assert chosen.pop("backprop").cuts == []
    assert len(chosen) == 8
    for name, decoupling in chosen.items():
        assert bound.compute.largest_share(decoupling) <= 1.6 / int(name[-1])
    assert chosen["sedona-k2"].cuts == [4]  # the highest that is not too high; without, 6
    assert chosen["uniform-k2"].cuts == uniform_cuts(8, 2) == [3]
    assert chosen["predsim-k3"].cuts != uniform_cuts(8, 3) == [1, 4]  # moved
    assert chosen["random-k3"].num_blocks == 3
    provenance = chosen["sedona-k2"].provenance
    assert (provenance["max_block_share"], provenance["compute"]) == ("1.6/K", "macs")


@pytest.mark.slow(reason="an experiment of several trials")
def test_every_strategy_keeps_to_a_bound_on_memory(dispatch: Any) -> None:
    """Of the memory that ``train`` makes of it; rules that balance memory keep to the least."""
    changes = {
        "num_blocks": [2, 3],
        "compare": ["uniform", "predsim", "random", "backprop"],
        "max_block_memory": "90",
        "trials_per_strategy": 1,
        "also": {"even": "memory-balanced:3:conv1"},
        "train": {"batch_size": 256},
    }
    nni = session(dispatch, **changes)
    nni.succeed("search", search_result=LOPSIDED)
    finish(nni)
    settings = nni.source.settings
    bound = run_bound(settings, nni.folder, run_costs(settings, nni.folder, nni.folder / "none"))
    assert bound.memory.provenance["batch_size"] == 256
    chosen = trained(nni)
    assert bound.memory.blocks(chosen.pop("backprop"))[0] > 120 * 2**20
    for decoupling in chosen.values():
        assert max(bound.memory.blocks(decoupling)) <= 90 * 2**20
    assert chosen["even"] == balanced_decoupling(bound.memory, 3, "conv1")
    provenance = chosen["sedona-k2"].provenance
    assert provenance["max_block_memory"] == "90"
    assert provenance["memory"]["optimizer"] == "sgd"


def test_time_is_measured_once_and_travels_with_the_decouplings(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def measure(backbone: Any, names: Any, **how: Any) -> Compute:
        asked.append(how)
        slow_end = [1, 1, 1, 1, 1, 1, 1, 6]  # the last layer takes almost half of the time
        free = [dict.fromkeys(names, 0) for _ in slow_end[1:]]
        return Compute(backbone=backbone.name, unit="ns", layers=slow_end, auxiliary=free)

    monkeypatch.setattr("sedona_nni.strategies.measuring.compute_in_time", measure)
    changes = {"max_block_share": "0.7", "compute": "time", "train": {"batch_size": 48}}
    before = session(dispatch, **changes, concurrency=1, compare=[])
    before.succeed("search", search_result=LOPSIDED)
    nni = session(dispatch, **changes, again=[], concurrency=1, compare=[])
    finish(nni)
    assert [how["batch_size"] for how in asked] == [48]
    decoupling = trained(nni)["sedona"]
    assert decoupling.cuts == [6]  # by MACs 3 at most
    assert Compute.model_validate(decoupling.provenance["compute"]).layers[-1] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_block_share": "0.55", "compare": ["predsim"]},
            r"at least 0\.6799 for 2 blocks of vgg11 with predsim, but got '0\.55'",
        ),
        (
            {"max_block_share": "1.3/K", "num_blocks": 4, "compare": []},
            r"at least .*/K for 4 blocks of vgg11 whichever of conv1, conv2 the search prefers",
        ),
        (
            {"max_block_share": "0.7", "also": {"layers": "every:6:cnn"}},
            r"also\.layers: must respect max_block_share 0\.7, but the largest block of .* has",
        ),
        (
            {"max_block_memory": "5", "compare": []},
            r"max_block_memory: must be at least [\d.]* for 2 blocks of vgg11 whichever of conv1",
        ),
        (
            {"max_block_memory": "25", "compare": [], "also": {"whole": "every:7:conv1"}},
            r"also\.whole: must respect max_block_memory 25, but the largest block .* MiB",
        ),
        (
            {"compute": "memory", "second_objective": "speed-up"},
            "second_objective: must not be speed-up where compute is memory, but got 'speed-up'",
        ),
        ({"compute": "nowhere.json"}, "compute: must come with a max_block_share"),
        ({"max_block_share": "0.7", "compute": "nowhere.json"}, r"nowhere\.json: cannot be read"),
    ],
)
def test_a_bound_that_cannot_be_kept_to_is_one_line(
    dispatch: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        session(dispatch, **changes)


GIVEN = {"backbone": "vgg11", "cuts": [2], "aux": ["cnn"]}
ALONE = {"tuner": OptunaTuner, "num_blocks": "-"}


@pytest.mark.slow(reason="an experiment of several trials")
def test_further_decouplings_by_name(dispatch: Any, tmp_path: Path) -> None:
    """As JSON, in a file, by rule; each may train otherwise, and one may be there twice."""
    Decoupling.model_validate(GIVEN).save(tmp_path / "found.json")
    nni = session(
        dispatch,
        **ALONE,
        decoupling="every:3:mlp",
        name="dgl",
        compare=["backprop"],
        also={
            "json": GIVEN,
            "file": "found.json",
            "slow": "every:3:mlp",
            "dni": "every:4:none",
        },
        train_for={"slow": {"lr": 0.01}, "dni": {"method": "dni"}},
    )
    finish(nni)
    assert nni.ended
    assert {name: decoupling.cuts for name, decoupling in trained(nni).items()} == {
        "dgl": [2, 5],
        "backprop": [],
        "json": [2],
        "file": [2],
        "slow": [2, 5],
        "dni": [3],
    }
    rates = {record.key: record.parameters.train["lr"] for record in ledger(nni)}
    assert rates["slow-000"] == 0.01 != rates["dgl-000"]
    methods = {record.key: method_of(record.parameters) for record in ledger(nni)}
    assert (methods["dgl-000"], methods["dni-000"]) == ("greedy", "dni")
    assert len(nni.started) == 2 * 6 == nni.source.settings.num_trials


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_given_decoupling_needs_no_search(dispatch: Any) -> None:
    nni = session(dispatch, **ALONE, decoupling=GIVEN)
    finish(nni)
    assert nni.ended
    trained = {record.key for record in ledger(nni) if record.strategy == "given"}
    assert trained == {"given-000", "given-001"}
    assert ledger(nni)["given-000"].parameters.decoupling.cuts == [2]


def test_a_decoupling_may_be_a_file_beside_the_trial_code(dispatch: Any, tmp_path: Path) -> None:
    Decoupling.model_validate(GIVEN).save(tmp_path / "found.json")
    nni = session(dispatch, **ALONE, decoupling="found.json")
    assert ledger(nni)["given-000"].parameters.decoupling.cuts == [2]


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_search_result_may_be_a_file_beside_the_trial_code(dispatch: Any, tmp_path: Path) -> None:
    SearchResult.model_validate(TWO_CUTS).save(tmp_path / "found.json")
    options = {**ALONE, "decoupling": "found.json", "name": "sedona", "compare": ["uniform"]}
    nni = session(dispatch, **{**options, "num_blocks": [2, 0]})
    finish(nni)
    assert nni.ended
    assert {name: decoupling.cuts for name, decoupling in trained(nni).items()} == {
        "sedona-k2": [6],
        "sedona-k0": [4, 6],
        "uniform-k2": [3],
        "uniform-k0": [1, 4],
    }


@pytest.mark.slow(reason="an experiment of several trials")
def test_what_comes_from_files_keeps_to_a_bound(dispatch: Any, tmp_path: Path) -> None:
    SearchResult.model_validate(LOPSIDED).save(tmp_path / "found.json")
    bounded = {**ALONE, "compare": [], "max_block_share": "0.7"}
    nni = session(dispatch, **{**bounded, "decoupling": "found.json", "num_blocks": [2]})
    assert ledger(nni)["given-000"].parameters.decoupling.cuts == [4]
    measured = tmp_path / "measured.json"
    compute = run_costs(nni.source.settings, tmp_path, tmp_path / "none")
    assert compute is not None
    compute.model_copy(update={"layers": [1] * 7 + [9]}).save(measured)
    (nni.folder / LEDGER_FILE).unlink()
    options = {**bounded, "decoupling": "found.json", "num_blocks": [2], "compute": measured.name}
    with pytest.raises(InputError, match="max_block_share: must be at least"):
        session(dispatch, **options)
    with pytest.raises(InputError, match=r"decoupling: must respect max_block_share 0\.4"):
        session(dispatch, **{**bounded, "decoupling": GIVEN, "max_block_share": "0.4"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "num_blocks: must be given, as found.json is a search result"),
        ({"num_blocks": 9}, "num_blocks: must be from 1 to the number of layers, 8, but got 9"),
        ({"num_blocks": 2, "name": "random"}, "name: must not be that of another strategy"),
        ({"num_blocks": 2, "name": "../up"}, "tuner.classArgs.name: "),
        ({"num_blocks": 2, "decoupling": GIVEN}, "num_blocks: must not be given"),
        (
            {"num_blocks": 2, "task": {"backbone": "vgg13"}},
            "decoupling: must be one of the task's backbone, vgg13",
        ),
    ],
)
def test_a_search_result_that_does_not_fit(
    dispatch: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    SearchResult.model_validate(TWO_CUTS).save(tmp_path / "found.json")
    with pytest.raises(InputError) as caught:
        session(dispatch, **{**ALONE, "decoupling": "found.json", **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("decoupling", "message"),
    [
        ("nowhere.json", "nowhere.json: cannot be read"),
        ({**GIVEN, "cuts": [7]}, "cuts: must be boundaries of vgg11, 0 to 6"),
        ({**GIVEN, "backbone": "vgg19"}, "decoupling: must be one of the task's backbone, vgg11"),
    ],
)
def test_a_wrong_decoupling_is_one_line(dispatch: Any, decoupling: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        session(dispatch, **ALONE, decoupling=decoupling)
    assert message in str(caught.value)


PROBE_RESULT = {
    "format": "sedona-nni/probe-result/1",
    "backbone": "vgg11",
    "dataset": "digits",
    "aux_choices": ["conv1", "conv2"],
    "losses": [[2.3, 2.2 - 0.1 * (i in (2, 5))] for i in range(7)],
    "undivided": 2.3,
}


@pytest.mark.slow(reason="an experiment of several trials")
def test_probing_comes_first_and_what_it_finds_is_trained(dispatch: Any) -> None:
    nni = session(dispatch, tuner=ProbeTuner, num_blocks=[2, 3], compare=["uniform"], concurrency=1)
    search = nni.source.ledger["search"].parameters
    assert (search.kind, search.strategy, search.search) == ("search", "probe", "probe")
    assert search.settings["cost"] is None
    assert search.train["epochs"] == 182
    nni.succeed("search", search_result=PROBE_RESULT)
    finish(nni)
    assert nni.ended
    trained = {r.strategy: r.parameters.decoupling for r in ledger(nni) if not r.is_search}
    assert set(trained) == {"probe-k2", "probe-k3", "uniform-k2", "uniform-k3"}
    assert trained["probe-k3"].aux == ["conv2", "conv2"]


@pytest.mark.slow(reason="an experiment of several trials")
@pytest.mark.parametrize(
    ("tuner", "main", "other"), [(ProbeTuner, "probe", "sedona"), (SedonaTuner, "sedona", "probe")]
)
def test_two_searches_beside_each_other(
    dispatch: Any, tuner: type[OptunaTuner], main: str, other: str
) -> None:
    nni = session(dispatch, tuner=tuner, num_blocks=2, compare=[other, "random"], concurrency=3)
    assert nni.source.settings.num_trials == 8
    assert nni.started == ["search", f"search-{other}", "random-000"]
    searches = [nni.source.ledger[key].parameters for key in ("search", f"search-{other}")]
    assert [search.strategy for search in searches] == [main, other]
    assert [search.search for search in searches] == [main, other]
    results = {"sedona": SEARCH_RESULT, "probe": PROBE_RESULT}
    nni.succeed(f"search-{other}", search_result=results[other])
    assert f"{main}-000" not in nni.started  # each trains what its own search finds
    nni.succeed("search", search_result=results[main])
    finish(nni)
    assert nni.ended
    trained = [r for r in ledger(nni) if not r.is_search]
    found = {r.strategy: r.parameters.decoupling.cuts for r in trained}
    for strategy, result in results.items():
        assert found[strategy] == discretise(parse_result(result), 2, None).cuts
    assert found["sedona"] != found["probe"]
    nni = session(dispatch, tuner=tuner, num_blocks=2, compare=[other, "random"])
    assert nni.started == []  # nothing is repeated


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compare": ["probe"]}, "compare: must not name probe, which is what others are compared"),
        ({"search": {"meta_steps": 5}}, "search: must come with sedona in compare"),
        ({"compare": ["sedona"], "num_blocks": [0, 2]}, "num_blocks: must be at least 1 for probe"),
    ],
)
def test_two_searches_that_cannot_be(dispatch: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        session(dispatch, tuner=ProbeTuner, **changes)
    assert str(caught.value).startswith(message)


@pytest.mark.slow(reason="an experiment of several trials")
def test_leaders_are_trained_on_the_same_budget(dispatch: Any) -> None:
    nni = session(dispatch, leaders=3, compare=["uniform"], max_block_share="1.6/K")
    finish(nni)
    assert nni.ended
    counts = Counter(record.strategy for record in ledger(nni) if not record.is_search)
    assert counts == {"sedona": 2, "sedona-2": 2, "sedona-3": 2, "uniform": 2}
    found = SearchResult.model_validate(SEARCH_RESULT)
    with torch.device("meta"):
        backbone = build_backbone("vgg11", num_classes=10, in_channels=3, image_size=32)
    compute = compute_in_macs(backbone, ["conv1", "conv2"])
    best = leaders(found, 2, 3, BlockBound(compute, "1.6/K"))
    for name, leader in zip(("sedona", "sedona-2", "sedona-3"), best, strict=True):
        trained = {
            record.parameters.decoupling
            for record in ledger(nni)
            if record.strategy == name and not record.is_search
        }
        assert trained == {leader}
    first = [r for r in ledger(nni) if r.key in ("sedona-000", "sedona-3-000")]
    assert first[0].parameters.train == first[1].parameters.train


def test_leaders_of_several_numbers_of_blocks_have_names_of_their_own(dispatch: Any) -> None:
    nni = session(dispatch, tuner=ProbeTuner, num_blocks=[2, 3], compare=[], leaders=2)
    names = [each.name for each in contenders(nni.source.settings)]
    assert names == ["probe-k2", "probe-k2-2", "probe-k3", "probe-k3-2"]


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leaders": 8}, "leaders: must be at most 7, the decouplings into 2 blocks, but got 8"),
        (
            {"leaders": 2, "num_blocks": 0},
            "leaders: must be at most 1, the decouplings where the search decides their number, "
            "but got 2",
        ),
        (
            {"leaders": 3, "max_block_share": "1.2/K"},
            "leaders: must be at most 2, the decouplings into 2 blocks within the bound, whichever "
            "of conv1, conv2 the search prefers, but got 3",
        ),
    ],
)
def test_leaders_that_there_cannot_be(dispatch: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        session(dispatch, **changes)
    assert str(caught.value).startswith(message)


def test_leaders_of_a_result_that_is_given(dispatch: Any, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    SearchResult.model_validate(SEARCH_RESULT).save(path)
    given = {**ALONE, "decoupling": str(path), "num_blocks": 2, "compare": []}
    nni = session(dispatch, **given, leaders=2)
    finish(nni)
    assert {r.strategy for r in ledger(nni)} == {"given", "given-2"}
    with pytest.raises(InputError, match="leaders: must be at most 7, the decouplings that there"):
        session(dispatch, **given, leaders=8)
    with pytest.raises(InputError, match="leaders: must be 1, as there is a decoupling, but got 2"):
        session(dispatch, **ALONE, decoupling=GIVEN, leaders=2)


def test_probing_does_not_tell_how_many_blocks(dispatch: Any) -> None:
    with pytest.raises(InputError, match=r"num_blocks: must be at least 1 .* but got \[0\]"):
        session(dispatch, tuner=ProbeTuner, num_blocks=0)


def studies(nni: Any) -> Any:
    """Return what Optuna has, by study."""
    import optuna

    storage = optuna.storages.RDBStorage(study_url(nni.folder / STUDY_FILE))
    names = optuna.get_all_study_names(storage)
    return {name: optuna.load_study(study_name=name, storage=storage) for name in names}


def epochs(nni: Any, key: str, *accuracies: float) -> None:
    """Report validation accuracies after each of the first epochs."""
    for epoch, accuracy in enumerate(accuracies, start=1):
        if key not in nni.stopped:
            nni.intermediate(key, epoch - 1, default=accuracy, loss=1.0, epoch=epoch)


def test_optuna_knows_what_was_trained_and_how_it_went(dispatch: Any) -> None:
    nni = session(dispatch)
    epochs(nni, "uniform-000", 0.3, 0.5)
    nni.succeed("uniform-000")
    first = studies(nni)["uniform"].trials[0]
    assert first.user_attrs == {
        "strategy": "uniform",
        "blocks": 2,
        "cuts": [3],
        "auxiliary": ["mlp-sr"],
    }
    assert first.intermediate_values == {1: 0.3, 2: 0.5}
    assert first.state.name == "COMPLETE"


PRUNED = {"pruner": {"name": "median", "startup_trials": 1}, "train": {"epochs": 4}}


def pruned(dispatch: Any, **changes: Any) -> Any:
    """Return an experiment in which uniform-001 has been stopped, and the next is open."""
    changes = {"compare": ["uniform"], "trials_per_strategy": 3, **PRUNED, **changes}
    nni = session(dispatch, **changes)
    epochs(nni, "uniform-000", 0.4, 0.6)
    nni.succeed("uniform-000")
    epochs(nni, "uniform-001", 0.5, 0.55, 0.9)
    return nni


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_hopeless_training_is_stopped_and_counts(dispatch: Any) -> None:
    nni = pruned(dispatch)
    assert nni.stopped == ["uniform-001"]  # after its second epoch
    nni.end("uniform-001", "USER_CANCELED")
    finish(nni)
    record = ledger(nni)["uniform-001"]
    assert (record.status, record.share_done) == ("stopped", 0.5)
    assert record.reason == "stopped early after epoch 2 of 4, validation accuracy 55.0%"
    assert [t.state.name for t in studies(nni)["uniform"].trials] == [
        *("COMPLETE", "PRUNED", "COMPLETE"),
    ]
    rows = comparison(record for record in ledger(nni) if not record.is_search)
    row = next(row for row in rows if row.strategy == "uniform")
    assert closing_table([row])[1][0][-1] == "2 (1 stopped early)"
    assert nni.ended
    assert nni.error is None
    assert "uniform-003" not in nni.started


def test_a_stopped_training_stays_so_whatever_comes_of_it(dispatch: Any) -> None:
    """It may come to its end meanwhile, and NNI may start it again when it is resumed."""
    before = pruned(dispatch)
    before.succeed("uniform-001")
    assert ledger(before)["uniform-001"].status == "stopped"
    again = [r.parameters for r in ledger(before) if r.key in ("search", "uniform-001")]
    changes = {"compare": ["uniform"], "trials_per_strategy": 3, **PRUNED}
    nni = session(dispatch, again=again, **changes)
    nni.intermediate("uniform-001", 7, default=0.99, epoch=8)  # NNI has lost what came before
    assert nni.stopped == ["uniform-001"]
    nni.end("uniform-001", "USER_CANCELED")
    reason = "stopped early after epoch 2 of 4, validation accuracy 55.0%"
    assert ledger(nni)["uniform-001"].reason == reason


def test_a_search_is_never_stopped(dispatch: Any) -> None:
    nni = pruned(dispatch)
    nni.intermediate("search", 0, default=-9.0, epoch=1)
    assert nni.stopped == ["uniform-001"]


def test_halving(dispatch: Any) -> None:
    """After epoch 1 the better half goes on, after epoch 2 the better half of those."""
    nni = pruned(dispatch, pruner={"name": "halving", "reduction": 2}, compare=["uniform"])
    assert nni.stopped == ["uniform-001"]
    assert ledger(nni)["uniform-001"].share_done == 0.5


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("word", ["none", False, None])
def test_nothing_is_stopped_without_a_rule(dispatch: Any, word: Any) -> None:
    assert pruned(dispatch, pruner=word).stopped == []


@pytest.mark.slow(reason="an experiment of several trials")
def test_two_objectives(dispatch: Any) -> None:
    """Trainings that need less memory are as good as those that are more accurate."""
    nni = session(dispatch, compare=["uniform"], trials_per_strategy=3, second_objective="memory")
    nni.intermediate("uniform-000", 0, default=0.1, epoch=1)
    for number, (accuracy, memory) in enumerate([(0.5, 20.0), (0.6, 30.0), (0.4, 25.0)]):
        nni.succeed(f"uniform-00{number}", default=accuracy, peak_memory_mib=memory)
    study = studies(nni)["uniform"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.trials[0].values == [0.5, 20.0]
    found = compromises(ledger(nni))
    assert [(each.key, each.value) for each in found] == [
        ("uniform-001", 30.0),
        ("uniform-000", 20.0),
    ]
    headings, (best, _) = compromise_table(found)
    assert headings[-2:] == ["peak memory", "tuned"]
    assert best[:3] == ["uniform-001", "cut after layer 3 (mlp-sr)", "60.0%"]
    assert best[-2] == "30 MiB"


@pytest.mark.slow(reason="an experiment of several trials")
def test_speed_up_as_the_second_objective(dispatch: Any) -> None:
    nni = session(
        dispatch,
        compare=["uniform", "backprop"],
        trials_per_strategy=1,
        second_objective="speed-up",
        tuner=OptunaTuner,
        num_blocks="-",
        decoupling="uniform:4:conv1",
    )
    finish(nni)
    found = {each.key: each for each in compromises(ledger(nni))}
    with torch.device("meta"):
        compute = compute_in_macs(build_backbone("vgg11", num_classes=10), ["conv1"])
    best = Decoupling(backbone="vgg11", cuts=uniform_cuts(8, 4), aux=["conv1"] * 3)
    assert list(found) == ["given-000"]  # as accurate as the others, and faster
    assert found["given-000"].value == pytest.approx(1 / compute.largest_share(best))
    assert studies(nni)["backprop"].trials[0].values == [0.5, 1.0]


def test_the_best_network_is_kept_where_nobody_watches(
    dispatch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with ``nnictl create``; `sedona-nni run` copies it at the end."""
    nni = session(dispatch, concurrency=1, compare=[])
    monkeypatch.delenv("SEDONA_NNI_RUN")
    nni.succeed("search", search_result=SEARCH_RESULT)
    left = trial_folder(tmp_path, "x")
    packed({"key": "sedona-000", "data": "cats"}, (), left)
    (left / "results.json").write_text('{"default": 0.5}')
    (left / "model.safetensors").write_text("weights")
    nni.succeed("sedona-000")
    assert (tmp_path / "checkpoint" / "best" / "model.safetensors").read_text() == "weights"


def test_a_rule_compares_one_number(dispatch: Any) -> None:
    with pytest.raises(InputError, match="pruner must be none where there is a second_objective"):
        session(dispatch, pruner="median", second_objective="memory")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("data", "its images are others than those of search: the data have changed"),
        ("weights", "its first weights are others than those of search: their file has changed"),
    ],
)
def test_an_experiment_ends_when_what_it_began_with_has_changed(
    dispatch: Any, name: str, reason: str
) -> None:
    """As when it is resumed after somebody changed the folder: results could not be compared."""
    nni = session(dispatch, concurrency=1, compare=[])
    nni.succeed("search", search_result=SEARCH_RESULT, **{name: "cats"})
    nni.succeed("sedona-000", **{name: "cats"})
    with pytest.raises(Exception, match=reason):
        nni.final("sedona-001", **{name: "dogs"})
    assert reason in (nni.error or "")
    assert ledger(nni)["sedona-001"].status == "failed"


@pytest.mark.slow(reason="an experiment of several trials")
def test_the_web_ui_gets_what_people_look_for(dispatch: Any) -> None:
    nni = session(dispatch, compare=["uniform", "backprop"])
    finish(nni)
    summaries = {
        trial["parameters"]["key"]: trial["parameters"]["mutation_summary"]
        for trial in nni.trials.values()
    }
    assert summaries["search"] == {"key": "search", "strategy": "sedona"}
    drawn = ledger(nni)["uniform-000"].parameters.hyperparameters
    assert set(drawn) == {"lr", "batch_size"}
    assert summaries["uniform-000"] == {
        "key": "uniform-000",
        "strategy": "uniform",
        "blocks": 2,
        "cuts": "3 mlp-sr",
        "method": "greedy",
        **drawn,
    }
    assert summaries["backprop-000"]["cuts"] == "none"
    assert "mutation_summary" not in (nni.folder / LEDGER_FILE).read_text()


@pytest.mark.slow(reason="an experiment of several trials")
def test_the_number_of_trials_is_announced(dispatch: Any) -> None:
    nni = session(dispatch, concurrency=1)
    assert nni.max_trials == 9
    with pytest.raises(Exception, match="the search failed"):
        nni.end("search", "FAILED")
    again = session(dispatch, concurrency=1, again=[])
    assert again.max_trials == 9  # no trial-jobs are left here; under NNI the failed one counts
    finish(again)
    assert len(again.started) == 9
