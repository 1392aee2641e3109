"""SEDONA under NNI's one-shot machinery and Lightning."""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.search_spaces import DecouplingSpace
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.strategies import Sedona

from nni.nas.evaluator.pytorch import Classification, DataLoader  # isort: skip
from nni.nas.execution import SequentialExecutionEngine  # isort: skip
from nni.nas.experiment import NasExperiment  # isort: skip
from nni.nas.space import RawFormatModelSpace  # isort: skip

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


# NNI closes its log file late, and its atexit hook runs once more
@pytest.mark.slow(reason="an experiment of several trials")
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


@pytest.mark.slow(reason="an experiment of several trials")
def test_export_of_a_space_without_k_cuts_where_local_wins() -> None:
    space = blob_space(None)
    strategy = Sedona(**SETTINGS.model_dump(exclude={"validation_batch_size"}))
    models = RawFormatModelSpace.from_model(space, classification())
    strategy(models, SequentialExecutionEngine())
    (model,) = strategy.list_models()
    cuts = [i for i, (local, up) in enumerate(strategy.search_result.alpha) if local > up]
    assert space.decoupling(model.sample).cuts == cuts


@pytest.mark.slow(reason="an experiment of several trials")
@pytest.mark.parametrize("stop_after", [1, 4, 5, 8])
def test_search_on_torch_data_sets_goes_on_to_the_same_result(
    stop_after: int, tmp_path: Path
) -> None:
    whole = blob_search()
    with pytest.raises(Stop):
        blob_search(tmp_path, stop_after)
    torch.manual_seed(stop_after)  # nothing may depend on the global generator
    assert blob_search(tmp_path) == whole


@pytest.mark.slow(reason="an experiment of several trials")
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


@pytest.mark.slow(reason="an experiment of several trials")
def test_it_finds_what_the_search_of_the_library_finds() -> None:
    strategy = Sedona(**SETTINGS.model_dump(exclude={"validation_batch_size"}))
    models = RawFormatModelSpace.from_model(blob_space(), classification())
    strategy(models, SequentialExecutionEngine())
    torch.manual_seed(SETTINGS.seed)
    network = RelaxedNetwork(blob_space().backbone(), ["conv1", "mlp"])
    search = Search(network, strategy.settings)
    search.run(*strategy.images)
    assert search.result("unnamed") == strategy.search_result


def test_ctrl_c_is_a_keyboard_interrupt_and_can_be_pressed_again() -> None:
    handler = signal.getsignal(signal.SIGINT)
    strategy = Sedona(
        **SETTINGS.model_dump(exclude={"validation_batch_size"}),
        on_progress=lambda numbers: signal.raise_signal(signal.SIGINT),
    )
    models = RawFormatModelSpace.from_model(blob_space(), classification())
    with pytest.raises(KeyboardInterrupt):
        strategy(models, SequentialExecutionEngine())
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.slow(reason="an experiment of several trials")
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
