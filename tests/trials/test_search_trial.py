"""A search as a trial: run directories, what is reported and found, interruptions; of each kind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import watched_layouts
from third_search import Drawing, DrawingSettings, Drawn

from sedona_nni.data.batches import Batch, BatchStream
from sedona_nni.data.sets import load_splits
from sedona_nni.errors import InputError
from sedona_nni.models import num_layers
from sedona_nni.searches import SEARCHES, register_search
from sedona_nni.searches.documents import parse_result
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona import search as sedona_search
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials import search as trial
from sedona_nni.trials.search import run_search

TASK = Task(backbone="vgg11", width_multiplier=0.0625, train_limit=60)
SETTINGS = SearchSettings(
    pretrain_steps=5,
    meta_steps=4,
    inner_steps=2,
    batch_size=8,
    validation_batch_size=8,
    memory_size=3,
    meta_lr=0.1,
    seed=7,
)
OPTIONS = {"aux": ["conv1", "mlp"]}
PROBE, TRAIN = ProbeSettings(cost=60, seed=1), TrainSettings(epochs=1, batch_size=8)


class Stop(Exception):
    """Interrupts a search."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread: these networks are too small to share, and others may compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_what_another_has_ended_meanwhile_is_not_searched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a search in the same folder gets ready."""
    ended = []
    given: dict[str, Any] = {**OPTIONS, "directory": tmp_path}

    def load_while_another_searches(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(trial, "load_splits", load_splits)
        ended.append(run_search("probe", TASK, PROBE, train=TRAIN, **given))
        return load_splits(*arguments, **options)

    monkeypatch.setattr(trial, "load_splits", load_while_another_searches)
    reported: list[dict[str, float]] = []
    found = run_search("probe", TASK, PROBE, train=TRAIN, report=reported.append, **given)
    assert reported == []
    assert [found] == ended


def command(directory: Path, report: str = "lambda numbers: None") -> list[str]:
    """Return the command of a search in another process."""
    script = f"""
        from pathlib import Path
        import torch
        from sedona_nni.searches.sedona.settings import SearchSettings
        from sedona_nni.trials.search import run_search, Task

        torch.set_num_threads(1)
        run_search(
            "sedona",
            Task(**{TASK.model_dump()!r}),
            SearchSettings(**{SETTINGS.model_dump()!r}),
            **{OPTIONS!r},
            directory=Path({str(directory)!r}),
            report={report},
        )
    """
    return [sys.executable, "-c", textwrap.dedent(script)]


@pytest.fixture(scope="module")
def uninterrupted(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_search(
        "sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path_factory.mktemp("whole")
    )


def outcome(results: dict[str, Any]) -> dict[str, Any]:
    measured = ("time_s", "processor_s", "peak_memory_mib")
    return {name: value for name, value in results.items() if name not in measured}


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_same_seed_same_search_and_another_seed_another(uninterrupted: dict[str, Any]) -> None:
    torch.manual_seed(123)
    again = run_search("sedona", TASK, SETTINGS, **OPTIONS)
    assert outcome(again) == outcome(uninterrupted)
    other = run_search("sedona", TASK, SETTINGS.model_copy(update={"seed": 8}), **OPTIONS)
    assert other["search_result"]["alpha"] != uninterrupted["search_result"]["alpha"]


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_it_trains_and_judges_in_one_layout() -> None:
    task = TASK.model_copy(update={"width_multiplier": 0.125})  # maps of one channel have none
    settings = SETTINGS.model_copy(update={"pretrain_steps": 1, "meta_steps": 1})
    with watched_layouts() as seen:
        run_search("sedona", task, settings, **OPTIONS)
    assert seen == {torch.channels_last}


def test_search_moves_alpha_and_beta(uninterrupted: dict[str, Any]) -> None:
    result = SearchResult.model_validate(uninterrupted["search_result"])
    assert len(result.alpha) == num_layers("vgg11") - 1
    assert all(row[0] == pytest.approx(-row[1]) and row[0] for row in result.alpha)
    assert all(len(set(row)) == 2 for row in result.beta)


@pytest.mark.slow(reason="starts or interrupts whole searches")
@pytest.mark.parametrize("stop_after", [1, 5, 8])
def test_interrupted_trial_goes_on_to_the_same_result(
    stop_after: int,
    tmp_path: Path,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[dict[str, float]] = []

    def report(numbers: dict[str, float]) -> None:
        reported.append(numbers)
        if len(reported) == stop_after + 1:
            raise Stop

    with pytest.raises(Stop):
        run_search("sedona", TASK, SETTINGS, **OPTIONS, report=report, directory=tmp_path)
    kept = (tmp_path / "progress.json").read_text()
    for damage in (
        {"history": {}},
        {"history": {"step": 1}},
        {"relaxation": []},
        {"history": None},
    ):
        before = json.loads(kept)
        before["kept"] |= damage
        (tmp_path / "progress.json").write_text(json.dumps(before))
        with pytest.raises(InputError, match="remove it to go on without what it kept"):
            run_search("sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path)
    (tmp_path / "progress.json").write_text(kept)
    before = json.loads(kept)
    steps = Search.steps
    done: list[int] = []

    def counted(search: Search, *batches: Any) -> Iterator[dict[str, float]]:
        for numbers in steps(search, *batches):
            done.append(search.step)
            yield numbers

    monkeypatch.setattr(Search, "steps", counted)
    resumed: list[dict[str, float]] = []
    results = run_search(
        "sedona", TASK, SETTINGS, **OPTIONS, report=resumed.append, directory=tmp_path
    )
    assert outcome(results) == outcome(uninterrupted)
    assert all(results[clock] > before[clock] > 0 for clock in ("time_s", "processor_s"))
    assert done[0] == stop_after + 1  # it did not start over
    assert [numbers["step"] for numbers in resumed] == list(range(1, 10))
    # told again what was told, and the step that was lost is repeated to the bit
    assert resumed[: stop_after + 1] == reported


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_killed_trial_goes_on_to_the_same_result(
    tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    steps = []
    for last in ("3", "7"):
        with subprocess.Popen(
            command(tmp_path, 'lambda numbers: print(numbers["step"], flush=True)'),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                steps.append(line.strip())
                if steps[-1] == last:
                    process.kill()
                    break
        assert process.returncode == -signal.SIGKILL
    assert steps == [*"123", *"1234567"]  # told again what was told
    results = run_search("sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path)
    assert outcome(results) == outcome(uninterrupted)


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_finished_trial_returns_its_results_again(
    tmp_path: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run_search("sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "run.json", "results.json"}
    monkeypatch.setattr(Search, "steps", None)  # nothing is done again
    assert run_search("sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path) == results
    assert results["search_result"] == uninterrupted["search_result"]


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_trial_is_silent_and_writes_nothing_elsewhere(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    done = subprocess.run(
        command(tmp_path / "here"),
        cwd=nowhere,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert not list(nowhere.iterdir())


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_trial_reports_numbers_and_a_search_result(uninterrupted: dict[str, Any]) -> None:
    settings = SETTINGS.model_copy(update={"pretrain_steps": 150, "meta_steps": 5})
    reports: list[dict[str, float]] = []
    results = run_search("sedona", TASK, settings, **OPTIONS, report=reports.append)
    assert 50 <= len(reports) <= 100
    assert reports[-1]["step"] == 155
    always = {"default", "loss", "meta_loss", "train_loss", "decided", "step"}
    for numbers in reports:
        assert always <= set(numbers)
        assert all(type(number) in (int, float) for number in numbers.values())
    assert reports[0]["decided"] == 0 < reports[-1]["decided"]
    assert results["decided"] == pytest.approx(reports[-1]["decided"])
    assert reports[-1]["default"] == results["default"]
    assert {"test_accuracy", "parameters", "macs", "peak_memory_mib", "time_s"} <= set(results)
    assert json.loads(json.dumps(results)) == results
    found = SearchResult.model_validate(results["search_result"])
    assert (found.num_layers, found.aux_choices) == (8, OPTIONS["aux"])
    assert results["peak_memory_mib"] > 0 < results["time_s"]

    history = results["history"]
    for name in ("step", "default"):
        assert history[name] == pytest.approx([numbers[name] for numbers in reports], abs=1e-4)
    relaxation = results["relaxation"]
    assert relaxation["step"] == [150, 151, 152, 153, 154, 155]
    assert relaxation["a_loc"][0] == [0.5] * 7
    assert relaxation["a_loc"][-1] == pytest.approx(found.a_loc(), abs=1e-4)
    beta = torch.tensor(found.beta).softmax(1)
    assert torch.allclose(torch.tensor(relaxation["aux"][-1]), beta, atol=1e-4)
    # a batch for each step of pre-training and T + 1 for each meta-step; each step validates, too
    train = 150 + 5 * (settings.inner_steps + 1)
    assert results["images"] == (train * settings.batch_size + 155 * settings.validation_batch_size)


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_images_are_those_that_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where batches are smaller than was asked for, as there are no more images."""
    drawn: list[int] = []

    class Counting(BatchStream):
        def iterate(self, start: int = 0) -> Iterator[Batch]:
            for images, labels in super().iterate(start):
                drawn.append(len(images))
                yield images, labels

    monkeypatch.setattr(sedona_search, "BatchStream", Counting)
    large = {"batch_size": 1024, "validation_batch_size": 1024}
    results = run_search("sedona", TASK, SETTINGS.model_copy(update=large), **OPTIONS)
    assert set(drawn) == {36, 24}  # of 60 images
    assert results["images"] == sum(drawn)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"aux": ["conf9"]}, "aux"), ({"aux": []}, "aux")],
)
def test_impossible_searches_are_refused_and_leave_nothing(
    change: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"^{field}: "):
        run_search("sedona", TASK, SETTINGS, **{**OPTIONS, **change}, directory=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("search", "aux", "line"),
    [
        ("sedona", "infopro", "aux: must learn from its logits alone to be mixed .* 'infopro'"),
        ("sedona", "predsim", "aux: must learn from its logits alone to be mixed .* 'predsim'"),
        ("slopes", "barlow", "aux: must learn from its logits alone to be mixed .* 'barlow'"),
        ("probe", "barlow", "views: must be 2 for barlow, but got 1"),
    ],
)
def test_teachers_that_a_search_cannot_take_are_refused_and_leave_nothing(
    search: str, aux: str, line: str, tmp_path: Path
) -> None:
    settings = SETTINGS if search == "sedona" else SEARCHES[search].settings()
    options = {"aux": ["conv1", aux], "train": TrainSettings(epochs=1, batch_size=16)}
    with pytest.raises(InputError, match=f"^{line}$"):
        run_search(search, TASK, settings, **options, directory=tmp_path / "found")
    assert not (tmp_path / "found").exists()


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_directory_of_another_search_is_refused(tmp_path: Path) -> None:
    run_search("sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path)
    for task, settings in [
        (TASK, SETTINGS.model_copy(update={"meta_lr": 0.2})),
        (TASK.model_copy(update={"split_seed": 1}), SETTINGS),
    ]:
        with pytest.raises(InputError, match="holds another search"):
            run_search("sedona", task, settings, **OPTIONS, directory=tmp_path)


@pytest.fixture
def drawing() -> Iterator[None]:
    register_search(Drawing())
    yield
    SEARCHES.remove("drawing")


THIRD: dict[str, Any] = {"aux": ("conv1", "mlp"), "train": TrainSettings(validation_fraction=0.3)}
SMALL = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=60)


def test_a_search_of_another_kind_is_a_trial_like_ours(drawing: None, tmp_path: Path) -> None:
    settings = DrawingSettings(seed=4)
    whole = run_search("drawing", SMALL, settings, **THIRD)
    found = parse_result(whole["search_result"])
    assert isinstance(found, Drawn)
    assert (whole["search"], whole["default"], whole["images"]) == ("drawing", 0.0, 0)
    assert len(whole["data"]) == 64

    def interrupt(numbers: dict[str, Any]) -> None:
        if numbers["step"] == 2:
            raise Stop

    with pytest.raises(Stop):
        run_search("drawing", SMALL, settings, **THIRD, report=interrupt, directory=tmp_path)
    kept = {".lock", "run.json", "progress.json", "told.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    with (tmp_path / "told.jsonl").open("a") as told:
        told.write('{"step": 3, "st')  # cut off, as by a kill
    before = json.loads((tmp_path / "progress.json").read_text())
    reports: list[dict[str, Any]] = []
    options = {**THIRD, "directory": tmp_path}
    results = run_search("drawing", SMALL, settings, **options, report=reports.append)
    assert [numbers["step"] for numbers in reports] == [1, 2, 3]
    assert results["search_result"] == whole["search_result"]
    assert all(results[clock] > before[clock] > 0 for clock in ("time_s", "processor_s"))
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "run.json", "results.json"}
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["search"], run["settings"]) == ("drawing", {"seed": 4})
    assert run["train"]["validation_fraction"] == 0.3
    assert run_search("drawing", SMALL, settings, **options, report=reports.append) == results
    assert len(reports) == 3


def test_reports_of_an_interrupted_search_that_cannot_be_read_are_named(
    drawing: None, tmp_path: Path
) -> None:
    (tmp_path / "told.jsonl").write_text("half of a\n")
    with pytest.raises(InputError, match=r"told\.jsonl: .*; remove it to go on without what was"):
        run_search("drawing", SMALL, DrawingSettings(), **THIRD, directory=tmp_path)


def test_a_directory_of_another_kind_of_search_is_refused(drawing: None, tmp_path: Path) -> None:
    run_search("drawing", SMALL, DrawingSettings(), **THIRD, directory=tmp_path)
    with pytest.raises(
        InputError, match=r"run\.json\.search: .*'probe'.*; remove it to start again"
    ):
        run_search("probe", SMALL, ProbeSettings(), **THIRD, directory=tmp_path)
    message = r"^search: must be one of sedona, probe, slopes, drawing, but"
    with pytest.raises(InputError, match=message):
        run_search("luck", SMALL, DrawingSettings(), **THIRD, directory=tmp_path)
