"""``sedona-nni search``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shell import EXPERIMENTS, QUICKSTART, discretised, sedona

from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

PROBED = {
    "format": "sedona-nni/probe-result/1",
    "backbone": "vgg11",
    "dataset": "digits",
    "aux_choices": ["conv1", "conv2"],
    "losses": [[2.0, 2.1]] * 6 + [[1.2, 1.1]],  # prefers a cut on top
    "undivided": 2.0,
}


@pytest.mark.slow(reason="every command imports PyTorch")
def test_probing_and_its_compromises(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def run_search(*arguments: Any, train: Any, **_: Any) -> dict[str, Any]:
        asked.extend([*arguments, train])
        return {"search_result": PROBED, "trainings": 2.468}

    monkeypatch.setattr("sedona_nni.trials.search.run_search", run_search)
    probe = ("search", str(EXPERIMENTS / "probe_digits.yml"), "--directory", "d", "--device", "cpu")
    assert sedona(monkeypatch, *probe) == 0
    out = capsys.readouterr().out
    assert "3 blocks: cut after layer" in out
    assert "the search cost as much as 2.47 trainings, by MACs" in out
    assert "undecided" not in out
    assert asked[0] == "probe"
    assert [type(each) for each in asked[1:]] == [Task, ProbeSettings, TrainSettings]
    assert sedona(monkeypatch, *probe, "--json") == 0
    assert "undecided_share" not in json.loads(capsys.readouterr().out)

    shown = discretised(
        monkeypatch, capsys, "d/search-result.json", "--num-blocks", "2", "--pareto"
    )
    cuts = [each["decoupling"]["cuts"] for each in shown["decouplings"]]
    assert cuts[0] == [6]
    assert len(cuts) > 1
    assert "undecided_share" not in shown
    assert sedona(monkeypatch, "discretise", "d/search-result.json", "--num-blocks", "0") == 2
    assert "--num-blocks: must be at least 1 for a search that tells" in capsys.readouterr().err


@pytest.mark.slow(reason="every command imports PyTorch")
def test_search_and_train_keep_to_the_bound(
    found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"search_result": json.loads(Path(found).read_text())}
    monkeypatch.setattr("sedona_nni.trials.search.run_search", lambda *_, **__: result)
    bounded = ("--directory", "d", "--max-block-share", "1.5/K", "--device", "cpu")
    assert sedona(monkeypatch, "search", QUICKSTART, *bounded) == 0
    out = capsys.readouterr().out
    assert "1 of 7 boundaries are undecided" in out
    assert sedona(monkeypatch, "search", QUICKSTART, *bounded, "--json") == 0
    assert json.loads(capsys.readouterr().out)["undecided_share"] == 1 / 7
    searched = Decoupling.load(Path("d", "decoupling-k3.json"))
    assert {path.name for path in Path("d").iterdir()} == {
        "search-result.json",
        "decoupling-k3.json",
    }
    assert searched.cuts != [5, 6] == discretise(SearchResult.load(Path(found)), 3).cuts
    assert searched.provenance["max_block_share"] == "1.5/K"

    trained: list[Decoupling] = []

    def run_training(task: object, decoupling: Decoupling, *_: object, **__: object) -> dict:  # type: ignore[type-arg]
        trained.append(decoupling)
        return {}

    monkeypatch.setattr("sedona_nni.trials.train.run_training", run_training)
    derived = (*bounded, "--decoupling", found, "--num-blocks", "3")
    assert sedona(monkeypatch, "train", QUICKSTART, *derived) == 0
    assert trained == [searched]
    assert sedona(monkeypatch, "train", QUICKSTART, *bounded, "--decoupling", "backprop") == 0
    assert sedona(monkeypatch, "train", QUICKSTART, *bounded, "--decoupling", "every:6:cnn") == 2
    assert "decoupling: must respect max_block_share 1.5/K, but" in capsys.readouterr().err
    assert len(trained) == 2
