"""`sedona_nni.strategies.settings`: keys side by side, parts behind them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError
from sedona_nni.machine import Machine
from sedona_nni.reporting.build import Source, build_report
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.page import render
from sedona_nni.reporting.text import search_in_words
from sedona_nni.searches import SEARCHES, Findings, SearchKind, SearchSetup, register_search
from sedona_nni.searches.slopes.kind import SlopeSettings
from sedona_nni.strategies import measuring
from sedona_nni.strategies.checkpoint import LEDGER_FILE
from sedona_nni.strategies.runner import write_results
from sedona_nni.strategies.settings import read_settings
from sedona_nni.strategies.settings.parts import (
    Bound,
    Comparison,
    Exploration,
    Given,
    Grid,
    Plugins,
    Searched,
    Study,
    Training,
    Tuning,
)
from sedona_nni.strategies.tuner import SearchTuner

ROOT = Path(__file__).parents[2]
FILES = Path(__file__).parents[1] / "former" / "files"
READ: dict[str, dict[str, Any]] = json.loads((FILES / "settings.json").read_text())

COMMON: tuple[type[BaseModel], ...] = (Training, Machine, Plugins)
TUNED: tuple[type[BaseModel], ...] = (*COMMON, Bound, Tuning, Comparison)


@pytest.mark.parametrize(
    "parts",
    [
        (*TUNED, Searched),
        (*TUNED, Given),
        (*COMMON, Bound, Exploration),
        (*COMMON, Grid),
        (*COMMON, Study, *(SEARCHES[name].study_options for name in SEARCHES)),
    ],
)
def test_every_key_is_of_one_part(parts: tuple[type[BaseModel], ...]) -> None:
    keys = [name for part in parts for name in part.model_fields]
    keys += [SEARCHES[name].field for name in SEARCHES]
    assert len(keys) == len(set(keys))


def flat(settings: Any) -> dict[str, Any]:
    """The settings as they were written, with all defaults."""
    return dict(_flat(settings))


def _flat(settings: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name == "wanted":  # what follows from the others
            continue
        if isinstance(value, BaseModel):
            yield from value.model_dump(mode="json").items()
        elif field.name == "source":
            yield "num_blocks", list(value.num_blocks)
            for name, how in value.settings.items():
                yield SEARCHES[name].field, how.model_dump(mode="json")
        else:
            for name, (how, options) in value.items():
                yield SEARCHES[name].field, how.model_dump(mode="json")
                yield from options.model_dump(mode="json").items()


# What has come since, or has another default
SINCE = {"plugins": [], "check_memory": True}
SINCE_IN_TASK = {"on_bad_image": "fail", "weights": None, "reset_classifier": False}
SINCE_IN_SEARCH = {
    "mix": "logits",
    "start_a_loc": 0.5,
    "meta_num_blocks": None,
    "perturbation_steps": 0,
    "tf32": False,
    "cuda_graphs": False,
}
SINCE_IN_TRAIN = {
    "accumulate": 1,
    "checkpoint": "no",
    "parallel": None,
    "lr_pretrained": 1.0,
    "transport": 0.0,
    "views": 1,
}


def _changed_since(then: dict[str, Any]) -> dict[str, Any]:
    changed = {**copy.deepcopy(then), **SINCE, "slopes": SlopeSettings().model_dump(mode="json")}
    changed["task"] = {**SINCE_IN_TASK, **then["task"]}
    if "train" in then:
        changed["train"] = {**SINCE_IN_TRAIN, **then["train"]}
        if then["train"]["evaluation_batch_size"] == 1024:
            changed["train"]["evaluation_batch_size"] = None
    if "probe" in then:
        del changed["probe"]["batch_split"]
    if "search" in then:
        changed["search"] = {**SINCE_IN_SEARCH, **then["search"]}
    if "parts" in then:
        changed["trained"] = []
    if "max_block_share" in then:
        changed["max_block_memory"] = None
    if "uniform_aux" in then and then["published"] is None:
        changed["uniform_aux"] = "conv1"
    return changed


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("name", READ)
def test_files_of_before_are_read_as_then(name: str) -> None:
    """``settings.json`` has what was read of these files when settings were classes in a row."""
    tuner = yaml.safe_load((FILES / f"{name}.yml").read_text())["tuner"]
    settings = read_settings(tuner, ROOT)
    then, now = READ[name], flat(settings)
    assert settings.trainings == then["trainings"]
    assert settings.num_trials == then["num_trials"]
    searches = ("search", "probe", "slopes")
    unused = {field for field in searches if field not in now}  # nobody asks for them
    expected = _changed_since(then["settings"])
    assert now == {k: v for k, v in expected.items() if k not in unused}


SEDONA = "sedona_nni.strategies.tuner.SedonaTuner"
SEARCH = "sedona_nni.strategies.tuner.SearchTuner"
GIVEN = "sedona_nni.strategies.tuner.OptunaTuner"
BRIDGE = "sedona_nni.strategies.bridge.BridgeTuner"
STUDY = "sedona_nni.strategies.study.StudyTuner"
SMALL: dict[str, dict[str, Any]] = {
    SEDONA: {"task": {}, "num_blocks": 2},
    GIVEN: {"task": {}, "decoupling": "backprop"},
    BRIDGE: {"task": {}, "num_blocks": 2, "strategy": "random", "max_trials": 1},
    STUDY: {"task": {}, "spaces": [{"num_blocks": 2}], "budget": 2, "replicates": {"random": 1}},
}


@pytest.mark.parametrize(
    ("tuner", "changes", "message"),
    [
        (SEDONA, {"task": None}, "tuner.classArgs.task: "),
        (
            SEDONA,
            {"train": {"lr_pretrained": 0.1}},
            "lr_pretrained: must be 1 where the task has no",
        ),
        (GIVEN, {"train_for": {"given": {"lr_pretrained": 0}}}, "lr_pretrained: must be 1 where"),
        (SEDONA, {"num_blocks": []}, "tuner.classArgs.num_blocks: "),
        (SEDONA, {"device": "gpu"}, "tuner.classArgs.device: Input should be 'auto', 'cpu' or"),
        (SEDONA, {"threads": 0}, "tuner.classArgs.threads: Input should be greater than or equal"),
        (SEDONA, {"threads": 1025}, "tuner.classArgs.threads: Input should be less than or equal"),
        (SEDONA, {"workers": 10**6}, "tuner.classArgs.workers: Input should be less than or equal"),
        (SEDONA, {"max_block_share": "2/L"}, "tuner.classArgs.max_block_share: "),
        (SEDONA, {"trials_per_strategy": 0}, "tuner.classArgs.trials_per_strategy: "),
        (SEDONA, {"search": {"inner": 1}}, "tuner.classArgs.search.inner: unknown field, please"),
        (SEDONA, {"probe": {"cost": 0}}, "tuner.classArgs.probe.cost: Input should be greater"),
        (
            SEDONA,
            {"compare": ["dgl"]},
            "tuner.classArgs.compare.0: must be one of sedona, probe, slopes, u",
        ),
        (SEDONA, {"strategy": "sedona"}, "tuner.classArgs.strategy: unknown field, please check"),
        (SEDONA, {"decoupling": "backprop"}, "tuner.classArgs.decoupling: unknown field"),
        (GIVEN, {"decoupling": 3}, "tuner.classArgs.decoupling"),
        (GIVEN, {"compare": ["probe"]}, "tuner.classArgs.compare.0: must be one of uniform, preds"),
        (GIVEN, {"search": {}}, "tuner.classArgs.search: unknown field, please check its spell"),
        (BRIDGE, {"leaders": 2}, "tuner.classArgs.leaders: unknown field, please check its spell"),
        (BRIDGE, {"compute": "time"}, "compute: must come with a max_block_share, but got 'time'"),
        (STUDY, {"budget": 101}, "tuner.classArgs.budget: Input should be less than or equal to"),
        (STUDY, {"meta_share": 0}, "tuner.classArgs.meta_share: Input should be greater than 0"),
        (STUDY, {"compute": "macs"}, "tuner.classArgs.compute: unknown field, please check its"),
        (SEARCH, {}, "tuner.classArgs.strategy: must be one of sedona, probe, slopes, but got"),
    ],
)
def test_errors_name_the_field_as_it_was_written(
    tuner: str, changes: dict[str, Any], message: str
) -> None:
    usual = SMALL.get(tuner, SMALL[SEDONA])
    with pytest.raises(InputError) as caught:
        read_settings({"className": tuner, "classArgs": {**usual, **changes}}, ROOT)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tuner", [SEDONA, GIVEN, BRIDGE, STUDY])
def test_weights_are_looked_at_before_any_trial(tuner: str, tmp_path: Path) -> None:
    """Relative to the folder of the trials, as data are."""
    usual = SMALL.get(tuner, SMALL[SEDONA])
    task = {**usual["task"], "weights": "nets/w.pt"}
    with pytest.raises(InputError, match=f"^weights: {tmp_path}/nets/w.pt: is not a file of tens"):
        read_settings({"className": tuner, "classArgs": {**usual, "task": task}}, tmp_path)


def test_what_is_missing_is_said_before_what_is_unknown() -> None:
    """As a misspelt field is both."""
    with pytest.raises(InputError, match="num_blocks: this field is required"):
        read_settings({"className": SEDONA, "classArgs": {"task": {}, "num_block": 2}}, ROOT)


@pytest.mark.parametrize("tuner", [SEDONA, BRIDGE])
def test_checking_neither_measures_nor_claims_a_device(
    tuner: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def forbidden(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("not before the run")

    monkeypatch.setattr(measuring, "claim_device", forbidden)
    monkeypatch.setattr(measuring, "compute_in_time", forbidden)
    given = {**SMALL[tuner], "max_block_share": 0.01, "compute": "time"}
    settings: Any = read_settings({"className": tuner, "classArgs": given}, ROOT)
    with pytest.raises(AssertionError, match="not before the run"):
        measuring.run_costs(settings, ROOT, tmp_path / "compute.json")


# ---- A search that is neither SEDONA nor probing -------------------------------------------------


class WalkSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 3
    seed: int = 1


class WalkResult(SearchOutcome):
    tells_num_blocks: ClassVar[bool] = False

    format: Literal["mine/walk/1"] = "mine/walk/1"
    speaks: list[float]
    """What speaks for a cut at each boundary, whatever is below it, with the first network."""

    @property
    def num_layers(self) -> int:
        return len(self.speaks) + 1

    def evidence(self) -> np.ndarray:
        least = np.zeros(len(self.aux_choices))
        least[1:] = -1
        boundaries = len(self.speaks)
        return np.array([[each + least for each in self.speaks]] * boundaries)

    def ranked_aux(self, boundary: int) -> list[str]:
        return self.aux_choices


class Walk(SearchKind[WalkSettings]):
    """Says what it is told to."""

    name = "walk"
    field = "walk-settings"
    settings = WalkSettings
    outcome = WalkResult
    noun = "walk"

    def run(self, setup: SearchSetup, settings: WalkSettings) -> Findings:
        raise NotImplementedError

    def in_words(self, results: Any) -> str:
        return "walked"


COMMON_RESULT = {"backbone": "vgg11", "dataset": "digits", "aux_choices": ["conv1", "conv2"]}
WALKED = {"format": "mine/walk/1", **COMMON_RESULT, "speaks": [0, 1, 3, 2, 0, -1, 1]}
PROBED = {
    "format": "sedona-nni/probe-result/1",
    **COMMON_RESULT,
    "losses": [[2.3, 2.2 - 0.1 * (i in (2, 5))] for i in range(7)],
    "undivided": 2.3,
}


@pytest.fixture
def walk() -> Iterator[None]:
    register_search(Walk())
    yield
    SEARCHES.remove("walk")


def run_walk(dispatch: Any) -> Any:
    nni = dispatch(
        SearchTuner(
            strategy="walk",
            task={"backbone": "vgg11"},
            num_blocks=2,
            aux=["conv1", "conv2"],
            compare=["probe", "uniform"],
            **{"walk-settings": {"steps": 7}},
        )
    )
    nni.initialize({})
    nni.request()
    for key in nni.started:  # grows meanwhile
        found = PROBED if "probe" in key else WALKED
        nni.succeed(key, search_result=found, time_s=1.0, images=5)
    return nni


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_search_of_ones_own_is_one_among_others(
    walk: None, dispatch: Any, tmp_path: Path
) -> None:
    nni = run_walk(dispatch)
    assert nni.error is None
    assert nni.ended
    assert nni.started == ["search", "search-probe", "walk-000", "probe-000", "uniform-000"]
    records = list(Ledger(nni.folder / LEDGER_FILE))
    trial = records[0].parameters
    assert (trial.kind, trial.strategy, trial.search) == ("search", "walk", "walk")
    assert (trial.settings, trial.train) == ({"steps": 7, "seed": 1}, None)
    assert records[2].parameters.decoupling == Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"])

    write_results(Ledger(nni.folder / LEDGER_FILE), tmp_path / "results")
    written = json.loads((tmp_path / "results" / "search-result.json").read_text())
    assert written["format"] == "mine/walk/1"
    report = build_report([Source("e", records)], lambda trials: {})
    walked, probed = report.groups[0].searches
    assert (walked.kind, probed.kind) == ("walk", "probing")
    assert walked.validation_accuracy is None
    assert walked.evidence[0] == WALKED["speaks"]
    assert search_in_words(walked) == "evidence at 7 boundaries"
    page = render(report, "now")
    losses = page.count("How well each single cut teaches what is below it")
    assert page.count("What speaks for each block that ends with a cut") == 2 * losses > 0


@pytest.mark.slow(reason="an experiment of several trials")
def test_its_ledger_is_read_without_its_plug_in(dispatch: Any) -> None:
    register_search(Walk())
    try:
        nni = run_walk(dispatch)
    finally:
        SEARCHES.remove("walk")
    records = list(Ledger(nni.folder / LEDGER_FILE))
    report = build_report([Source("e", records)], lambda trials: {})
    assert report.groups[0].searches[0].kind == "walk"
    assert report.groups[0].searches[0].result is None
    page = render(report, "now")
    assert "walk-000" in page
    assert "What it found is not shown" in page


def test_its_settings_do_not_stand_where_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walk, "field", "task")
    register_search(Walk())
    given = {"strategy": "walk", "task": {}, "num_blocks": 2}
    try:
        with pytest.raises(InputError, match=r"^search: must have a field .*, but got 'task'$"):
            read_settings({"className": SEARCH, "classArgs": given}, ROOT)
    finally:
        SEARCHES.remove("walk")


def test_it_may_be_compared_with_ours(walk: None) -> None:
    given = {"task": {}, "num_blocks": 2, "compare": ["walk"], "walk-settings": {"steps": 2}}
    settings: Any = read_settings({"className": SEDONA, "classArgs": given}, ROOT)
    assert settings.searches == ("sedona", "walk")
    assert settings.source.settings["walk"] == WalkSettings(steps=2)
    del given["compare"]
    with pytest.raises(InputError, match="walk-settings: must come with walk in compare"):
        read_settings({"className": SEDONA, "classArgs": given}, ROOT)


def test_it_may_take_part_in_a_study(walk: None) -> None:
    """Its settings do not say what it costs, so that it trains once."""
    given = {**SMALL[STUDY], "replicates": {"walk": 2}, "walk-settings": {"steps": 2}}
    settings: Any = read_settings({"className": STUDY, "classArgs": given}, ROOT)
    assert settings.trials == [("walk", 0), ("walk", 1)]
    assert settings.searches["walk"].settings == WalkSettings(steps=2)


def test_the_kinds_of_settings_know_nothing_of_each_other() -> None:
    """No part is a kind of another."""
    parts = [Training, Machine, Plugins, Bound, Tuning, Comparison, Searched, Given]
    for one, other in itertools.permutations([*parts, Exploration, Grid, Study], 2):
        assert not issubclass(one, other)
