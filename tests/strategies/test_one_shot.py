"""SEDONA under NNI's one-shot machinery and Lightning, and the search trial that runs it."""

from __future__ import annotations

import copy
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
from torch import Tensor
from torch.utils.data import Dataset

from sedona_nni.data.batches import Batch, BatchStream
from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.models import num_layers
from sedona_nni.search_spaces import DecouplingSpace
from sedona_nni.searches.sedona import search as sedona_search
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.strategies import Sedona
from sedona_nni.task import Task
from sedona_nni.trials.search import run_search

import nni  # isort: skip
from nni.nas.evaluator.pytorch import Classification, DataLoader  # isort: skip
from nni.nas.execution import SequentialExecutionEngine  # isort: skip
from nni.nas.experiment import NasExperiment  # isort: skip
from nni.nas.space import RawFormatModelSpace  # isort: skip
from nni.runtime.trial_command_channel import (  # isort: skip
    TrialCommandChannel,
    get_default_trial_command_channel,
    set_default_trial_command_channel,
)

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


class Stop(Exception):
    """Interrupts a search."""


class Blobs(Dataset):
    """Images of two classes that differ in brightness, with noise from torch's generator."""

    def __init__(self, count: int, brightness: float = 0.0) -> None:
        self.count = count
        self.brightness = brightness

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= self.count:
            raise IndexError
        return torch.randn(3, 32, 32) + index % 2 + self.brightness, index % 2


def blob_space(num_blocks: int | None = 3) -> DecouplingSpace:
    return DecouplingSpace(
        "vgg11", ["conv1", "mlp"], num_classes=2, num_blocks=num_blocks, width_multiplier=0.0625
    )


def classification(brightness: float = 0.0) -> Classification:
    """Return an ordinary evaluator of NNI's."""
    return Classification(
        num_classes=2,
        train_dataloaders=DataLoader(Blobs(20, brightness), batch_size=8),
        val_dataloaders=DataLoader(Blobs(12), batch_size=4),
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def blob_search(directory: Path | None = None, stop_after: int | None = None) -> SearchResult:
    def progress(numbers: dict[str, float]) -> None:
        if numbers["step"] == stop_after:
            raise Stop
        if stop_after is None:
            strategy.search.show_most_trained()  # which must not change anything

    strategy = Sedona(
        **SETTINGS.model_dump(exclude={"validation_batch_size"}),
        directory=directory,
        checkpoint_every=2,
        on_progress=progress,
    )
    models = RawFormatModelSpace.from_model(blob_space(), classification())
    strategy(models, SequentialExecutionEngine())
    return strategy.search_result


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread: these networks are too small to share, and others may compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    measured = ("time_s", "peak_memory_mib")
    return {name: value for name, value in results.items() if name not in measured}


# NNI closes its log file late, and its atexit hook runs once more
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nas_experiment_runs_and_exports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    space = blob_space()
    strategy = Sedona(**SETTINGS.model_dump(exclude={"validation_batch_size"}), dataset="blobs")
    experiment = NasExperiment(space, classification(), strategy)
    experiment.config.experiment_working_directory = tmp_path
    experiment.run()
    try:
        (sample,) = experiment.export_top_models(formatter="dict")
        (network,) = experiment.export_top_models(formatter="instance")
        result = strategy.search_result
    finally:
        experiment.stop()
    assert result.dataset == "blobs"
    assert sample == space.sample(discretise(result, 3))
    assert isinstance(network, DecoupledNetwork)
    assert [len(b.layers) for b in network.blocks] == [
        len(b) for b in discretise(result, 3).blocks(8)
    ]
    assert result.provenance["settings"]["batch_size"] == 8  # the loaders'
    assert result.provenance["settings"]["validation_batch_size"] == 4
    (model,) = experiment._engine.list_models()
    assert model.metric == pytest.approx(0.5, abs=0.5)  # the evaluator's validation was run


def test_export_of_a_space_without_k_cuts_where_local_wins() -> None:
    space = blob_space(None)
    strategy = Sedona(**SETTINGS.model_dump(exclude={"validation_batch_size"}))
    models = RawFormatModelSpace.from_model(space, classification())
    strategy(models, SequentialExecutionEngine())
    (model,) = strategy.list_models()
    cuts = [i for i, (local, up) in enumerate(strategy.search_result.alpha) if local > up]
    assert space.decoupling(model.sample).cuts == cuts


@pytest.mark.parametrize("stop_after", [1, 4, 5, 8])
def test_search_on_torch_data_sets_goes_on_to_the_same_result(
    stop_after: int, tmp_path: Path
) -> None:
    whole = blob_search()
    with pytest.raises(Stop):
        blob_search(tmp_path, stop_after)
    torch.manual_seed(stop_after)  # nothing may depend on the global generator
    assert blob_search(tmp_path) == whole


def test_same_seed_same_search_and_another_seed_another(uninterrupted: dict[str, Any]) -> None:
    torch.manual_seed(123)
    again = run_search("sedona", TASK, SETTINGS, **OPTIONS)
    assert outcome(again) == outcome(uninterrupted)
    other = run_search("sedona", TASK, SETTINGS.model_copy(update={"seed": 8}), **OPTIONS)
    assert other["search_result"]["alpha"] != uninterrupted["search_result"]["alpha"]


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


@pytest.mark.parametrize("stop_after", [1, 5, 8])
def test_interrupted_trial_goes_on_to_the_same_result(
    stop_after: int, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    reported: list[dict[str, float]] = []

    def report(numbers: dict[str, float]) -> None:
        reported.append(numbers)
        if len(reported) == stop_after + 1:
            raise Stop

    with pytest.raises(Stop):
        run_search("sedona", TASK, SETTINGS, **OPTIONS, report=report, directory=tmp_path)
    before_s = json.loads((tmp_path / "progress.json").read_text())["time_s"]
    resumed: list[dict[str, float]] = []
    results = run_search(
        "sedona", TASK, SETTINGS, **OPTIONS, report=resumed.append, directory=tmp_path
    )
    assert outcome(results) == outcome(uninterrupted)
    assert [numbers["step"] for numbers in resumed] == list(range(stop_after + 1, 10))
    assert results["time_s"] > before_s > 0
    assert resumed[0] == reported[-1]  # the step that was lost is repeated to the bit


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
    assert steps[0] == "1"
    assert len(steps) <= 9  # the second process did not start over
    results = run_search("sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path)
    assert outcome(results) == outcome(uninterrupted)


def test_finished_trial_returns_its_results_again(
    tmp_path: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run_search("sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "results.json"}
    monkeypatch.setattr(Search, "steps", None)  # nothing is done again
    assert run_search("sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path) == results
    assert results["search_result"] == uninterrupted["search_result"]


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


def test_what_is_judged_has_been_trained_most(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def progress(numbers: dict[str, float]) -> None:
        network = strategy.search.network.backbone
        if numbers["step"] == SETTINGS.pretrain_steps:
            seen.append(copy.deepcopy(network.state_dict()))
        if numbers["step"] == SETTINGS.pretrain_steps + 1:
            assert numbers["lr"] > SETTINGS.lr_min  # the meta-step started from an earlier moment
            assert not same(network.state_dict(), seen[0])
            strategy.search.show_most_trained()
            assert same(network.state_dict(), seen[0])

    def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
        return all(torch.equal(one[name], other[name]) for name in one if "num_batches" not in name)

    options = SETTINGS.model_dump(exclude={"validation_batch_size"}) | {"seed": 1}
    strategy = Sedona(**options, on_progress=progress)
    models = RawFormatModelSpace.from_model(blob_space(), classification())
    strategy(models, SequentialExecutionEngine())
    assert seen


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


class Recorder(TrialCommandChannel):
    """What a trial would send to NNI's manager."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def send_metric(
        self, type: Any, parameter_id: Any, trial_job_id: str, sequence: int, value: Any
    ) -> None:
        self.sent.append((type, parameter_id, value))

    def receive_parameter(self) -> Any:
        return {"parameter_id": 17, "parameters": {"stage": "search"}}


def test_reports_reach_the_manager_of_the_trial_around_the_search() -> None:
    before, channel = get_default_trial_command_channel(), Recorder()
    set_default_trial_command_channel(channel)
    try:
        nni.get_next_parameter()
        run_search("sedona", TASK, SETTINGS, **OPTIONS, report=nni.report_intermediate_result)
        nni.report_final_result(1.0)
    finally:
        set_default_trial_command_channel(before)
    assert len(channel.sent) == 10
    assert {parameter_id for _, parameter_id, _ in channel.sent} == {17}


def test_ctrl_c_is_a_keyboard_interrupt_and_can_be_pressed_again(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def press(numbers: dict[str, float]) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_search("sedona", TASK, SETTINGS, **OPTIONS, report=press, directory=tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"meta_step": 5}, "Sedona.meta_step: unknown field"),
        ({"inner_steps": 0}, "Sedona.inner_steps: "),
        ({"batch_size": 16}, "Sedona.batch_size: must be the loader's, 8, but got 16"),
        ({"validation_fraction": 0.1}, r"Sedona\.validation_fraction: must be left out, because"),
        ({"checkpoint_every": 0}, r"Sedona\.checkpoint_every: must be at least 1, but got 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    models = RawFormatModelSpace.from_model(blob_space(), classification())
    with pytest.raises(InputError, match=f"^{message}"):
        Sedona(**options)(models, SequentialExecutionEngine())


def test_directory_of_another_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        blob_search(tmp_path, stop_after=4)
    strategy = Sedona(seed=3, directory=tmp_path)
    with pytest.raises(InputError, match="must be 5 to continue"):
        strategy(
            RawFormatModelSpace.from_model(blob_space(), classification()),
            SequentialExecutionEngine(),
        )
    finished = tmp_path / "finished"
    blob_search(finished)
    brighter = RawFormatModelSpace.from_model(blob_space(), classification(brightness=0.1))
    options = SETTINGS.model_dump(exclude={"validation_batch_size"})
    with pytest.raises(InputError, match="data: the images must be those that "):
        Sedona(**options, directory=finished)(brighter, SequentialExecutionEngine())
    run_search("sedona", TASK, SETTINGS, **OPTIONS, directory=tmp_path / "trial")
    for task, settings in [
        (TASK, SETTINGS.model_copy(update={"meta_lr": 0.2})),
        (TASK.model_copy(update={"split_seed": 1}), SETTINGS),
    ]:
        with pytest.raises(InputError, match="holds another search"):
            run_search("sedona", task, settings, **OPTIONS, directory=tmp_path / "trial")


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
