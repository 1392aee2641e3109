import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sedona_nni.data.batches import Batch
from sedona_nni.data.sets import BatchStream, load_splits
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.cost import count_parameters
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.machine import usable_cores
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.task import Task
from sedona_nni.training import loop
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone
from sedona_nni.trials import train as trial
from sedona_nni.trials.train import evaluate_saved, run_training

TASK = Task(width_multiplier=0.25, train_limit=200)
SETTINGS = TrainSettings(epochs=2, batch_size=50, lr=0.02, ensemble=2)
DECOUPLING = Decoupling(backbone="vgg11", cuts=[2, 4], aux=["conv1", "predsim"])


class Killed(Exception):
    pass


def without_clock(numbers: dict[str, float]) -> dict[str, float]:
    # Of the process, not of the training
    of_process = {"time_s", "processor_s", "images_per_s", "peak_resident_mib"}
    return {name: value for name, value in numbers.items() if name not in of_process}


def test_further_kinds_of_cuts_are_counted(tmp_path: Path) -> None:
    further = Decoupling(backbone="vgg11", cuts=[2, 4], aux=["conv1+image", "conv1+overlap"])
    settings = TrainSettings(epochs=1, batch_size=50)
    results = run_training(TASK, further, settings, report=lambda _: None, directory=tmp_path)
    network = build_decoupled(task_backbone(TASK), further)
    assert results["parameters"] == count_parameters(network)
    compute = Compute.model_validate(results["compute"])
    assert sum(compute.blocks(further)) == results["macs"]


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_results_and_files(tmp_path: Path) -> None:
    reported: list[dict[str, float]] = []
    results = run_training(TASK, DECOUPLING, SETTINGS, report=reported.append, directory=tmp_path)
    assert set(results) == {
        "default",
        "loss",
        "test_accuracy",
        "test_loss",
        "test_ensemble_accuracy",
        "best_epoch",
        "parameters",
        "macs",
        "peak_memory_mib",
        "ideal_peak_memory_mib",
        "peak_resident_mib",
        "device",
        "cores",
        "time_s",
        "processor_s",
        "images",
        "images_per_s",
        "ideal_speedup",
        "data",
        "history",
        "compute",
        "sizes",
    }
    assert results["default"] == max(numbers["default"] for numbers in reported)
    built = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    network = build_decoupled(built, DECOUPLING)
    assert results["images"] == 2 * 4 * 50  # a tenth of 200 validates; batches are always full
    assert results["images_per_s"] == results["images"] / results["time_s"]
    assert 0 < results["processor_s"] < torch.get_num_threads() * results["time_s"] + 0.1
    assert results["peak_resident_mib"] > 100 + results["peak_memory_mib"]  # with torch
    threads = min(torch.get_num_threads(), usable_cores())
    assert (results["device"], results["cores"]) == ("cpu", threads)
    assert results["history"]["epoch"] == [1, 2]
    for name in ("default", "block_2_accuracy", "train_loss"):
        assert results["history"][name] == pytest.approx([row[name] for row in reported], rel=1e-4)
    compute = Compute.model_validate(results["compute"])
    assert sum(compute.blocks(DECOUPLING)) == results["macs"]
    assert results["ideal_speedup"] == 1 / compute.largest_share(DECOUPLING)
    assert results["sizes"] == [shape.size for shape in built.shapes]
    assert results["parameters"] == sum(p.numel() for p in network.parameters())

    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "run.json",
        "decoupling.json",
        "images.json",
        "model.safetensors",
        "results.json",
    }
    assert Decoupling.load(tmp_path / "decoupling.json") == DECOUPLING
    assert json.loads((tmp_path / "results.json").read_text()) == results
    saved = evaluate_saved(tmp_path)
    for name in ("test_accuracy", "test_loss", "test_ensemble_accuracy"):
        assert saved[name] == results[name]
    assert saved["block_3_accuracy"] == results["test_accuracy"]
    assert "block_1_accuracy" in saved

    def report_again(numbers: dict[str, float]) -> None:
        raise AssertionError("a finished training must not be repeated")

    again = run_training(TASK, DECOUPLING, SETTINGS, report=report_again, directory=tmp_path)
    assert again == results


def test_what_another_has_ended_meanwhile_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a training in the same folder gets ready."""
    ended = []

    def load_while_another_trains(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(trial, "load_splits", load_splits)
        ended.append(run_training(TASK, DECOUPLING, SETTINGS, directory=tmp_path))
        return load_splits(*arguments, **options)

    monkeypatch.setattr(trial, "load_splits", load_while_another_trains)
    reported: list[dict[str, float]] = []
    found = run_training(TASK, DECOUPLING, SETTINGS, report=reported.append, directory=tmp_path)
    assert reported == []
    assert [found] == ended


@pytest.mark.slow(reason="two trainings")
def test_interrupted_and_continued(tmp_path: Path) -> None:
    expected = run_training(TASK, DECOUPLING, SETTINGS)

    def die(numbers: dict[str, float]) -> None:
        raise Killed

    with pytest.raises(Killed):
        run_training(TASK, DECOUPLING, SETTINGS, report=die, directory=tmp_path)
    found = run_training(TASK, DECOUPLING, SETTINGS, directory=tmp_path)
    assert without_clock(found) == without_clock(expected)


class Counting(BatchStream):
    """Counts the images that are drawn from it."""

    drawn = 0

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        for images, labels in super().iterate(start):
            Counting.drawn += len(images)
            yield images, labels


@pytest.mark.slow(reason="starts or interrupts whole searches")
@pytest.mark.parametrize("method", ["greedy", "sequential", "asynchronous"])
def test_images_are_those_that_were_taken(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where batches are smaller than was asked for, as there are no more images."""
    monkeypatch.setattr(Counting, "drawn", 0)
    monkeypatch.setattr(loop, "BatchStream", Counting)
    changes = {"epochs": 1, "batch_size": 1024, "method": method}
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **changes})
    task = TASK.model_copy(update={"width_multiplier": 0.125, "train_limit": 80})
    assert run_training(task, DECOUPLING, settings)["images"] == Counting.drawn


def initial_weights(decoupling: Decoupling, seed: int) -> list[torch.Tensor]:
    """The backbone's weights before training, layer by layer."""
    network = initial_network(TASK, decoupling, seed)
    layers = [layer for block in network.blocks for layer in block.layers]
    return [parameter for layer in layers for parameter in layer.parameters()]


def test_initial_weights_depend_on_the_seed_and_not_on_the_decoupling() -> None:
    torch.manual_seed(1)
    cut = initial_weights(DECOUPLING, seed=5)
    torch.manual_seed(2)
    whole = initial_weights(Decoupling(backbone="vgg11"), seed=5)
    assert all(torch.equal(a, b) for a, b in zip(cut, whole, strict=True))
    other = initial_weights(DECOUPLING, seed=6)
    assert not torch.equal(cut[0], other[0])


@pytest.mark.slow(reason="steps of large networks")
def test_peak_memory_contains_what_a_step_needs() -> None:
    """At least weights, momentum and one block's gradients; cutting saves activations."""
    task = Task(train_limit=200)
    settings = TrainSettings(epochs=1, batch_size=100)
    splits = load_splits(task, settings.validation_fraction)

    def peak(decoupling: Decoupling, **changes: Any) -> float:
        run = trial.TrainingRun(
            task=task, decoupling=decoupling, settings=settings.model_copy(update=changes)
        )
        return trial.step_memory_mib(run, splits, torch.device("cpu"))

    whole = peak(Decoupling(backbone="vgg11"))
    network = initial_network(task, Decoupling(backbone="vgg11"), 0)
    weights_mib = 4 * count_parameters(network) / 2**20
    activations: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        activations.append(tensor.numel() * tensor.element_size())
        return tensor

    images, _ = next(BatchStream(splits.train, 100, 0, "cpu").iterate())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network.train()(images)
    bounds = (2 * weights_mib, 3 * weights_mib + sum(activations) / 2**20)
    assert bounds[0] < whole < bounds[1]
    for more in ({"optimizer": "adam"}, {"ema_decay": 0.5}):  # a second moment, or the averages
        assert whole < peak(Decoupling(backbone="vgg11"), **more) - 0.9 * weights_mib
    blocks = Decoupling(backbone="vgg11", cuts=[0, 1, 3], aux=["mlp-sr"] * 3)
    assert peak(blocks) < 0.9 * whole
    assert peak(blocks) > weights_mib


@pytest.mark.slow(reason="trainings of every method")
def test_peak_memory_is_that_of_the_method() -> None:
    """Buffers count when they are full; a block that learns alone has the least to keep."""
    task = Task(train_limit=200)
    cuts = Decoupling(backbone="vgg11", cuts=[0, 1, 3], aux=["mlp-sr"] * 3)
    splits = load_splits(task, 0.1)

    def peak(method: Any) -> float:
        settings = TrainSettings.model_validate({"batch_size": 100, "method": method})
        run = trial.TrainingRun(task=task, decoupling=cuts, settings=settings)
        return trial.step_memory_mib(run, splits, torch.device("cpu"))

    shapes = [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    batch_mib = sum(4 * 100 * c * h * w for c, h, w in shapes) / 2**20
    few, many = (peak({"name": "asynchronous", "buffer": m}) for m in (2, 5))
    assert many - few == pytest.approx(3 * batch_mib, rel=0.01)
    assert peak("sequential") < peak("greedy") < few


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_another_training_is_not_overwritten(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    run_training(TASK, DECOUPLING, settings, directory=tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    for arguments in (
        (TASK, Decoupling(backbone="vgg11"), settings),
        (TASK, DECOUPLING, SETTINGS),
        (TASK.model_copy(update={"split_seed": 1}), DECOUPLING, settings),
    ):
        with pytest.raises(InputError, match="holds another training"):
            run_training(*arguments, directory=tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before


def test_a_batch_is_at_most_all_images(tmp_path: Path) -> None:
    """In what is foretold as in what is trained: 180 images are left of 200."""
    given = {**SETTINGS.model_dump(), "epochs": 1}
    all_, more = (
        run_training(TASK, DECOUPLING, TrainSettings.model_validate({**given, "batch_size": size}))
        for size in (180, 10**7)
    )
    assert more["ideal_peak_memory_mib"] == all_["ideal_peak_memory_mib"]
    assert more["default"] == all_["default"]


def test_what_has_ended_is_found_whatever_its_batch(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 500, "epochs": 1})
    found = run_training(TASK, DECOUPLING, settings, directory=tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["settings"]["batch_size"] == 500
    assert run_training(TASK, DECOUPLING, settings, directory=tmp_path) == found


@pytest.mark.parametrize(
    "given",
    [
        {"batch_size": 8, "accumulate": 4, "parallel": {"replicas": 2}},
        {"batch_size": 12, "views": 2, "accumulate": 2, "parallel": {"replicas": 2}},
    ],
)
def test_batches_that_cannot_be_divided_are_one_line(given: dict[str, Any]) -> None:
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **given})
    with pytest.raises(InputError, match=r"^parallel\.replicas: must"):
        run_training(TASK, DECOUPLING, settings)


def test_what_is_foretold_of_a_large_batch_is_of_the_images_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In parts that replicas can divide: of 90 images twice, 180, in parts of 12 for two."""
    seen: list[TrainSettings] = []

    def check(task: Task, decoupling: Decoupling, settings: TrainSettings, devices: Any) -> None:
        seen.append(settings)
        raise InputError("enough")

    monkeypatch.setattr(trial, "check_fits", check)
    given = {"batch_size": 600, "views": 2, "accumulate": 3, "parallel": {"replicas": 2}}
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **given})
    with pytest.raises(InputError, match=r"^enough$"):
        run_training(TASK.model_copy(update={"train_limit": 100}), DECOUPLING, settings)
    assert [each.batch_size for each in seen] == [180]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"parallel": {"replicas": 7}}, r"parallel\.replicas: must divide the batch of 180 images"),
        (
            {"views": 3, "accumulate": 7},
            r"train: batch_size must be a multiple of views times accumulate, 21, .*, but got 540; "
            "there are 180 training images$",
        ),
    ],
)
def test_so_small_a_batch_has_to_be_parted(given: dict[str, Any], rule: str) -> None:
    given = {**SETTINGS.model_dump(), "batch_size": 42 * 7 * 10, **given}
    settings = TrainSettings.model_validate(given)
    with pytest.raises(InputError, match=rule):
        run_training(TASK, DECOUPLING, settings)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"parallel": "blocks"}, "parallel: must be no for a relaxed network"),
        ({"checkpoint": "layers"}, "checkpoint: must be no for a relaxed network"),
        ({"transport": 0.5}, "transport: must be 0 for a relaxed network"),
    ],
)
def test_what_wants_blocks_is_refused_of_a_relaxed_network(
    given: dict[str, Any], rule: str
) -> None:
    found = SearchResult(
        backbone="vgg11",
        dataset="digits",
        aux_choices=["conv1"],
        alpha=[(0, 0)] * 7,
        beta=[[0.0]] * 7,
    )
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **given})
    with pytest.raises(InputError, match=f"^{rule}"):
        run_training(TASK, found, settings)


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    for task, decoupling in (
        (TASK, Decoupling(backbone="vgg11", cuts=[9], aux=["conv1"])),
        (TASK, Decoupling(backbone="vgg19")),
        (TASK.model_copy(update={"dataset": "nothing"}), DECOUPLING),
        (TASK.model_copy(update={"backbone": "vgg12"}), DECOUPLING),
    ):
        with pytest.raises(InputError):
            run_training(task, decoupling, SETTINGS, directory=directory)
    assert not directory.exists()


def test_saved_models_that_cannot_be_tested(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json: cannot be read"):
        evaluate_saved(tmp_path)
    run = {
        "task": TASK.model_dump(exclude={"stem"}),  # as it was before there was a choice
        "decoupling": DECOUPLING.model_dump(),
        "settings": SETTINGS.model_dump(),
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        evaluate_saved(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        evaluate_saved(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**run, "extra": 1}))
    with pytest.raises(InputError, match=r"run\.json\.extra: unknown field"):
        evaluate_saved(tmp_path)


@pytest.mark.slow(reason="starts or interrupts whole searches")
def test_damaged_records_are_one_line_and_stay(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    task = TASK.model_copy(update={"width_multiplier": 0.125, "train_limit": 80})
    run_training(task, DECOUPLING, settings, directory=tmp_path)
    for name, remedy in (("results.json", "to compute it again"), ("run.json", "to start again")):
        path = tmp_path / name
        whole = path.read_bytes()
        for content in (whole[:20], b"", b"[1]", b"{}"):
            path.write_bytes(content)
            with pytest.raises(InputError, match=rf"{name}.*; remove it {remedy}$") as raised:
                run_training(task, DECOUPLING, settings, directory=tmp_path)
            assert "\n" not in str(raised.value)
            assert path.read_bytes() == content
        path.write_bytes(whole)


def test_a_directory_that_is_none_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(trial, "load_splits")
    (tmp_path / "file").write_text("kept")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="directory: must be a folder"):
            run_training(TASK, DECOUPLING, SETTINGS, directory=directory)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_long_history_is_thinned_and_keeps_both_ends() -> None:
    epochs = [{"epoch": float(n), "default": n / 3} for n in range(1, 1001)]
    epochs[-1]["extra"] = 0.123456789
    kept = trial.thinned_history(epochs)
    assert len(kept["epoch"]) == 100
    assert (kept["epoch"][0], kept["epoch"][-1]) == (1, 1000)
    assert kept["default"][1] == 3.6667  # of epoch 11
    assert kept["extra"] == [None] * 99 + [0.12346]
