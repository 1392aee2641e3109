"""Search for decouplings of a backbone on a data set and say what came of it.

A directory that was searched in holds ``run.json`` (what was searched) and ``results.json``; while
the search is under way its checkpoint and ``progress.json`` in place of the latter.
"""

from __future__ import annotations

import sedona_nni.search_spaces  # noqa: F401  before any other part of nni.nas, whose warnings it silences

# isort: split

import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import ModelStatus, RawFormatModelSpace
from rich.console import Console
from rich.progress import TaskID

from sedona_nni.data.batches import BatchStream, ImageSet
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.cost import count_parameters, peak_memory_mib, relaxed_cost
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.files import check_output_folder, read_json, reading, write_json
from sedona_nni.models import ACTIVATIONS
from sedona_nni.models.placement import place
from sedona_nni.progress import progress_bar
from sedona_nni.search_spaces import DecouplingSpace
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.search import Search, SearchSettings
from sedona_nni.strategies.evaluator import ImageLoader
from sedona_nni.strategies.one_shot import Sedona
from sedona_nni.task import Task
from sedona_nni.training.evaluation import Evaluation, evaluate
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.finished import finished_results
from sedona_nni.trials.run import RUN_FILE, Run

__all__ = ["run_search"]


class _Run(Run):
    """All that defines a search, as ``run.json``."""

    aux: tuple[str, ...]
    settings: SearchSettings


def run_search(
    task: Task,
    settings: SearchSettings,
    *,
    aux: Sequence[str],
    device: torch.device | str = "cpu",
    workers: int | None = None,
    report: Callable[[dict[str, float]], None] = lambda numbers: None,
    directory: Path | None = None,
    num_reports: int = 75,
) -> dict[str, Any]:
    """Search with `strategies.Sedona` and measure what it costs.

    Called again with the same directory it continues an interrupted search, and of a finished one
    it returns the results again.

    Args:
        task: Backbone and data.
        settings: How to search.
        aux: Names of the auxiliary networks to choose from.
        device: Where.
        workers: Processes that read image files, see `sedona_nni.data.batches.FolderImages`.
        report: Called about ``num_reports`` times with ``step`` of ``steps``; ``decided`` (mean of
            |a^loc - a^up|); ``default`` and ``loss``, the validation accuracy and loss of the final
            head with the weights that have been trained most; and the means over the steps since
            the last report of what else `searches.sedona.search.Search.advance` returns. Before the
            first meta-step ``meta_loss`` is ``loss``: what it is without a look ahead.
        directory: Where to keep checkpoints and leave the results.
        num_reports: How often to validate, report and save, evenly spaced; by default every 1.3 %
            of the steps: a smooth curve for little validation.

    Returns:
        ``search_result``, the document that decouplings for every K derive from; ``default`` and
        ``loss`` as reported last, with the same weights ``test_accuracy`` and ``test_loss``;
        ``decided``; ``parameters`` and ``macs`` (per image) of backbone and all auxiliary networks;
        ``peak_memory_mib`` of a meta-step on ``device`` with weights, optimizer state and one
        snapshot; ``time_s`` of the search; ``images`` that its steps took, those that validated
        included; ``data``, the fingerprint of the data set, see `sedona_nni.data.identity`;
        ``history``, of what was reported: ``step``, ``default`` and ``meta_loss``; and
        ``relaxation``, about as often from the end of pre-training on: ``step``, ``a_loc`` (each
        time L-1 numbers) and ``aux``, the softmax of beta (each time L-1 rows of C), to 4 decimals.

    Raises:
        InputError: if a name is unknown, numbers do not fit the backbone, or the directory holds
            another search.
    """
    device = torch.device(device)
    finished = None if directory is None else finished_results(directory)
    if directory is not None and finished is None:
        check_output_folder("directory", directory)
    splits = load_splits(task, settings.validation_fraction, workers=workers)
    run = _Run(task=task, aux=tuple(aux), settings=settings, data=splits.identity)
    if directory is not None:
        run.check_goes_on(directory, "search")
    if finished is not None:
        return finished

    space = DecouplingSpace(
        task.backbone,
        aux,
        num_classes=splits.num_classes,
        in_channels=splits.in_channels,
        image_size=splits.image_size,
        width_multiplier=task.width_multiplier,
        activation=ACTIVATIONS[task.activation],
        stem=task.stem,
    )
    if directory is not None:
        run.save(directory / RUN_FILE)

    monitor = _Monitor(splits, settings, device, report, directory, num_reports)
    with monitor.bar:
        strategy = Sedona(
            dataset=task.dataset,
            data=None if run.data is None else run.data.fingerprint,
            directory=None if directory is None else directory / "checkpoint",
            checkpoint_every=monitor.every,
            on_progress=lambda numbers: monitor.progress(strategy.search, numbers),
            **settings.model_dump(),
        )
        evaluator = _evaluator(splits, settings, device)
        strategy(RawFormatModelSpace.from_model(space, evaluator), _InThisProcess())

    network, result = strategy.search.network, strategy.search_result
    validation, test = (
        _judge(strategy.search, part, device) for part in (splits.validation, splits.test)
    )
    results = {
        "default": validation.accuracies[-1],
        "loss": validation.loss,
        "test_accuracy": test.accuracies[-1],
        "test_loss": test.loss,
        "decided": float(abs(2 * result.a_loc() - 1).mean()),
        "parameters": count_parameters(network),
        "macs": relaxed_cost(network.backbone, network.aux_choices).macs,
        "peak_memory_mib": _peak_memory_mib(space, splits, settings, device),
        "time_s": monitor.time_s,
        "images": sum(
            used * BatchStream(part, wanted, 0, "cpu").batch_size
            for used, part, wanted in (
                (strategy.search.train_batches_used, splits.train, settings.batch_size),
                (
                    strategy.search.validation_batches_used,
                    splits.validation,
                    settings.validation_batch_size,
                ),
            )
        ),
        "data": None if run.data is None else run.data.fingerprint,
        **monitor.kept,
        "search_result": result.model_dump(mode="json"),
    }
    if directory is not None:
        write_json(directory / "results.json", results)
        (directory / "progress.json").unlink()
        shutil.rmtree(directory / "checkpoint")
    return results


class _InThisProcess(SequentialExecutionEngine):
    """Runs the search right here.

    NNI's engine does so, too, but while it runs it takes away the channel by which the trial around
    it reports, and it leaves the trial with other parameters.
    """

    def submit_models(self, *models: Any) -> None:
        for model in models:
            model.execute()
            model.status = ModelStatus.Trained


def _evaluator(splits: Splits, settings: SearchSettings, device: torch.device) -> Any:
    """Return an evaluator that only says where to search and on which images, and is silent."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return Lightning(
        LightningModule(),
        trainer,
        train_dataloaders=ImageLoader(splits.train, settings.batch_size),
        val_dataloaders=ImageLoader(splits.validation, settings.validation_batch_size),
    )


class _Monitor:
    """Watches a search: keeps the time, shows a bar in a terminal, reports now and then.

    Attributes:
        every: Steps between reports.
        time_s: Seconds that the search had taken at the last report, earlier sessions included.
        kept: ``history`` and ``relaxation``, see `run_search`.
        bar: The bar; a context manager.
    """

    def __init__(
        self,
        splits: Splits,
        settings: SearchSettings,
        device: torch.device,
        report: Callable[[dict[str, float]], None],
        directory: Path | None,
        num_reports: int,
    ) -> None:
        self._validation = splits.validation
        self._device = device
        self._report = report
        self._file = None if directory is None else directory / "progress.json"
        self._total = settings.pretrain_steps + settings.meta_steps
        self.every = max(1, self._total // num_reports)
        self._keep_every = max(1, settings.meta_steps // num_reports)
        self.time_s = 0.0
        self.kept: dict[str, dict[str, list[Any]]] = {
            "history": {"step": [], "default": [], "meta_loss": []},
            "relaxation": {"step": [], "a_loc": [], "aux": []},
        }
        if self._file is not None and self._file.exists():
            with reading(self._file, "remove it to go on without what it kept for reports"):
                stored = read_json(self._file)
                self.time_s, self.kept = float(stored["time_s"]), stored["kept"]
        self._started = time.perf_counter() - self.time_s
        self._seen: dict[str, list[float]] = {}
        self.bar = progress_bar(Console(stderr=True, force_terminal=sys.stderr.isatty()))
        self._task: TaskID | None = None

    def progress(self, search: Search, numbers: dict[str, float]) -> None:
        """Take note of the numbers of a step."""
        step = search.step
        if self._task is None:  # an interrupted search goes on from where it was
            self._task = self.bar.add_task("search", completed=step - 1, total=self._total, best="")
        self.bar.update(self._task, completed=step)
        for name, number in numbers.items():
            self._seen.setdefault(name, []).append(number)
        self._keep_relaxation(search)
        if step % self.every and step < self._total:
            return
        judged = _judge(search, self._validation, self._device)
        means = {name: sum(seen) / len(seen) for name, seen in self._seen.items()}
        self._seen.clear()
        self._report(
            {
                "default": judged.accuracies[-1],
                "loss": judged.loss,
                "meta_loss": judged.loss,
                **means,
                "decided": numbers["decided"],
                "step": step,
                "steps": self._total,
            }
        )
        loss = means.get("meta_loss", judged.loss)
        self._keep("history", step, default=judged.accuracies[-1], meta_loss=loss)
        self.time_s = time.perf_counter() - self._started
        if self._file is not None:
            write_json(self._file, {"step": step, "time_s": self.time_s, "kept": self.kept})

    def _keep_relaxation(self, search: Search) -> None:
        settings = search.settings
        done = search.step - settings.pretrain_steps
        if done >= 0 and (done % self._keep_every == 0 or search.done):
            with torch.no_grad():
                a_loc = search.network.alpha.softmax(1)[:, 0]
                aux = search.network.beta.softmax(1)
            self._keep("relaxation", search.step, a_loc=a_loc.tolist(), aux=aux.tolist())

    def _keep(self, table: str, step: int, **values: Any) -> None:
        """Add a row, unless it is there: an interruption may have lost the step's checkpoint."""
        columns = self.kept[table]
        if step in columns["step"]:
            return
        for name, value in {"step": step, **values}.items():
            columns[name].append(_rounded(value))


def _rounded(value: Any) -> Any:
    """Round numbers, also those in lists, to 4 decimals."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 4)


def _judge(search: Search, images: ImageSet, device: torch.device) -> Evaluation:
    """Try the final head of the undivided backbone, as far as it has been trained."""
    search.show_most_trained()
    backbone = search.network.backbone
    undivided = build_decoupled(backbone, Decoupling(backbone=backbone.name))
    settings = TrainSettings(label_smoothing=search.settings.label_smoothing)
    return evaluate(undivided, images, settings, device)


def _peak_memory_mib(
    space: DecouplingSpace, splits: Splits, settings: SearchSettings, device: torch.device
) -> float:
    """Run a meta-step of a network of its own, made within the measurement."""
    short = settings.model_copy(update={"pretrain_steps": 1, "meta_steps": 1})
    train = BatchStream(splits.train, settings.batch_size, 0, device).iterate()
    validation = BatchStream(splits.validation, settings.validation_batch_size, 0, device).iterate()
    batches = (
        [next(train) for _ in range(settings.inner_steps + 2)],
        [next(validation) for _ in range(2)],
    )

    def one_meta_step() -> Search:
        network = place(RelaxedNetwork(space.backbone(), space.aux_choices), device)
        search = Search(network, short)
        used = [iter(part) for part in batches]
        while not search.done:
            search.advance(*used)
        return search

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return peak_memory_mib(one_meta_step, device)
