"""What a rank does: meet the others, build its block, train it, and say if that fails."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import Field

from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError, SedonaError, UnwritableError, lost_memory_error
from sedona_nni.files import Document
from sedona_nni.machine import keep_freed_memory, peak_resident_mib
from sedona_nni.models import FeatureShape
from sedona_nni.models.pretrained import fingerprint_of_weights
from sedona_nni.plugins import load_plugins
from sedona_nni.task import Task
from sedona_nni.training.evaluation import Evaluation
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.loop import DivergedError, TrainResult, train
from sedona_nni.training.parallel.layout import Layout
from sedona_nni.training.parallel.rank_stage import LostRank, RankStage
from sedona_nni.training.parallel.rehearsal import step_peak_mib
from sedona_nni.training.parallel.watch import Failure, Watch
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["Job", "Outcome", "RankReport", "exception_of", "run_rank"]

_FOREVER = timedelta(days=365)  # a rank may compute as long as it likes; the watch sees to the rest
_BETTER_REASON_S = 2.0  # for the one that fails to say why, before a neighbour says that it is gone
_SILENCE_S = 2.5  # a rank says every second that it is alive
_SAME = 1e-4  # of the sums of weights: random numbers are rounded differently on other processors


class Job(Document):
    """All that a rank has to know.

    Attributes:
        task: Backbone and data.
        decoupling: Where the backbone is cut, and what teaches its blocks.
        settings: How to train; ``settings.parallel`` is given.
        devices: Of each rank, e.g. ``cpu`` or ``cuda:1``.
        threads: CPU threads of each rank.
        workers: Processes that read image files, of a rank that looks at images.
        directory: Where to keep checkpoints and the trained network, if anywhere.
        plugins: What to load first.
    """

    task: Task
    decoupling: Decoupling
    settings: TrainSettings
    devices: list[str]
    threads: int
    workers: int | None = None
    directory: str | None = None
    plugins: list[str] = Field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> Job:
        """Return the job that a text describes; its plug-ins are loaded first.

        Raises:
            InputError: if one cannot be loaded.
        """
        fields = json.loads(text)
        load_plugins(fields["plugins"], Path.cwd())
        return cls.model_validate(fields)

    def load_splits(self) -> Splits:
        """Return the images.

        Raises:
            InputError: if they are not there.
        """
        return load_splits(self.task, self.settings.validation_fraction, workers=self.workers)

    @property
    def layout(self) -> Layout:
        """How the training is divided."""
        assert self.settings.parallel is not None
        return Layout(self.settings.parallel.replicas_of(self.decoupling.num_blocks))


@dataclass(frozen=True)
class RankReport:
    """What a rank has needed.

    Attributes:
        block: Its block, from 0.
        step_peak_mib: The most that a step of training allocates for its block, MiB, see
            `sedona_nni.training.parallel.rehearsal`.
        peak_resident_mib: The most memory that its process had, MiB.
        peak_allocated_mib: The most that its GPU allocated; None on a CPU.
        sent_bytes: Features and errors that it sent.
        processor_s: Seconds of processors that its process used, all its threads together.
    """

    block: int
    step_peak_mib: float
    peak_resident_mib: float
    peak_allocated_mib: float | None
    sent_bytes: int
    processor_s: float


@dataclass(frozen=True)
class Outcome:
    """What a training in parallel came to.

    Attributes:
        trained: As of one process.
        ranks: What each needed.
    """

    trained: TrainResult
    ranks: list[RankReport]

    def as_json(self) -> dict[str, Any]:
        """Return it in plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outcome:
        """Undo `as_json`."""
        trained = dict(value["trained"])
        test = Evaluation(**trained.pop("test"))
        return cls(TrainResult(test=test, **trained), [RankReport(**r) for r in value["ranks"]])


def run_rank(
    job: Job,
    store: dist.Store,
    rank: int,
    *,
    leads_host: bool,
    report: Callable[[dict[str, float]], None],
    is_orphaned: Callable[[], bool],
    is_launched: bool,
    splits: Splits | None = None,
) -> Outcome:
    """Train a block; return what the whole training came to.

    Args:
        job: What to do.
        store: Where all ranks meet.
        rank: Which of them this is.
        leads_host: Whether it is the first on its host.
        report: As of `training.loop.train`; called by rank 0.
        is_orphaned: Says whether the process that started this one is gone.
        is_launched: Whether a launcher has started this process, see `Watch`.
        splits: The images, if they have been loaded.

    Raises:
        SedonaError: if the training fails, here or elsewhere. The others know by then.
    """
    assert job.settings.parallel is not None
    layout = job.layout
    words = layout.in_words(rank)
    watch = Watch(
        store.clone(),
        layout,
        rank,
        patience_s=job.settings.parallel.patience_s,
        is_orphaned=is_orphaned,
        is_launched=is_launched,
    )
    defect: Exception | None = None
    try:
        outcome = _train(job, layout, store, rank, leads_host, report, splits)
        store.add("ended", 1)
        _wait_for_all(store, layout.num_ranks)
        watch.stop()
        return outcome
    except LostRank as error:
        time.sleep(_BETTER_REASON_S)
        failure = Failure("LostRank", str(error) or _who_is_gone(watch, layout))
    except DivergedError as error:  # which all ranks find out
        failure = Failure("DivergedError", str(error))
    except SedonaError as error:
        kinds = (UnwritableError, InputError, SedonaError)
        kind = next(each.__name__ for each in kinds if isinstance(error, each))
        failure = Failure(kind, f"{words}: {error}")
    except (OSError, MemoryError) as error:  # as of a machine that has no room for more
        time.sleep(_BETTER_REASON_S)
        failure = Failure("LostRank", f"{words}: {type(error).__name__}: {error}")
    except Exception as error:  # a defect, or what another's end has caused here
        time.sleep(_BETTER_REASON_S)
        reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        if lost_memory_error(error):
            failure = Failure("LostRank", f"{words}: {reason}")
        else:
            failure, defect = Failure("SedonaError", f"{words}: {reason}"), error
    recorded = watch.fail(store, failure)
    if defect is not None and recorded == failure:
        traceback.print_exception(defect)
    raise exception_of(recorded)


def _who_is_gone(watch: Watch, layout: Layout) -> str:
    """Say which ranks are gone, of whom all that is known is that they do not answer."""
    time.sleep(_SILENCE_S)
    words = " and ".join(map(layout.in_words, watch.silent(_SILENCE_S)))
    return f"{words} is gone" if words else "another rank is gone"


def exception_of(failure: Failure) -> SedonaError:
    """Return the error that a failure stands for."""
    kinds: dict[str, type[SedonaError]] = {
        kind.__name__: kind for kind in (InputError, UnwritableError, DivergedError, LostRank)
    }
    return kinds.get(failure.kind, SedonaError)(failure.message)


def _train(
    job: Job,
    layout: Layout,
    store: dist.Store,
    rank: int,
    leads_host: bool,
    report: Callable[[dict[str, float]], None],
    splits: Splits | None,
) -> Outcome:
    device = torch.device(job.devices[rank])
    torch.set_num_threads(job.threads)
    keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # Else nccl ends the process when a neighbour is gone, before the watch has said who it was
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    settings, block = job.settings, layout.block(rank)
    whole = initial_network(job.task, job.decoupling, job.settings.seed)
    sums = {
        name: float(w.detach().abs().sum(dtype=torch.float64))
        for name, w in whole.named_parameters()
    }
    network = DecoupledNetwork([whole.blocks[block]])
    del whole  # before any memory is needed for training
    splits = splits or job.load_splits()
    if block > 0:
        splits = splits.without_images()
    rows = len(layout.rows(rank, settings.of(len(splits.train)).batch_size))
    stage_alone = Stage(layout.num_blocks, block)
    entering = _entering(job, block)
    peak = step_peak_mib(network, entering, rows, splits, settings, stage_alone, device)
    _meet(job, layout, store, rank, splits, sums)
    assert settings.parallel is not None
    wire = torch.bfloat16 if settings.parallel.wire == "bf16" else torch.float32
    dist.init_process_group(
        "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=layout.num_ranks,
        timeout=_FOREVER,
    )
    stage = RankStage(layout, rank, device, wire=wire, leads_host=leads_host)
    trained = train(
        network,
        splits,
        settings,
        device=device,
        report=report if rank == 0 else lambda numbers: None,
        directory=None if job.directory is None else Path(job.directory),
        stage=stage,
    )
    on_gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    own = RankReport(
        block, peak, peak_resident_mib(), on_gpu, stage.bytes_sent, trained.processor_s
    )
    return Outcome(trained, [RankReport(**each) for each in stage.exchange(asdict(own))])


def _entering(job: Job, block: int) -> FeatureShape:
    """Return the shape of what enters a block."""
    with torch.device("meta"):
        backbone = task_backbone(job.task)
    if block == 0:
        return backbone.images
    return backbone.shapes[job.decoupling.cuts[block - 1]]


def _wait_for_all(store: dist.Store, count: int) -> None:
    """Let nobody take leave of somebody who still reads from him."""
    with contextlib.suppress(RuntimeError):  # of torch's store: its host has seen that all have
        while store.add("ended", 0) < count:
            time.sleep(0.01)


def _meet(
    job: Job,
    layout: Layout,
    store: dist.Store,
    rank: int,
    splits: Splits,
    sums: Mapping[str, float],
) -> None:
    """Wait for all ranks, and see that all were started for the same.

    Raises:
        InputError: if this one was started for something else than rank 0, or twice.
        LostRank: if one is missing.
    """
    assert job.settings.parallel is not None
    start_s = job.settings.parallel.start_s
    if store.add(f"started/{rank}", 1) > 1:
        raise InputError("must be started once, but another process is this rank")
    store.set(f"hello/{rank}", json.dumps(_hello(job, splits, sums)))
    started = time.monotonic()
    others = range(layout.num_ranks)
    while missing := [other for other in others if not store.check([f"hello/{other}"])]:
        if time.monotonic() - started > start_s:
            words = ", ".join(map(layout.in_words, missing))
            raise LostRank(f"{words} did not start within {start_s:g} s")
        time.sleep(0.01)
    ours, theirs = (json.loads(store.get(f"hello/{each}")) for each in (rank, 0))
    for name in {**theirs["same"], **ours["same"]}:
        here, there = ours["same"].get(name), theirs["same"].get(name)
        if here != there:
            raise InputError.rule(name, f"must be that of rank 0, {there!r}", here)
    for name, here in ours["sums"].items():
        there = theirs["sums"].get(name, 0.0)
        if abs(here - there) > _SAME * max(abs(here), abs(there)):
            rule = f"must have initial weights like those of rank 0, with a sum of {there:.6g}"
            raise InputError.rule(name, rule, float(f"{here:.6g}"))


def _hello(job: Job, splits: Splits, sums: Mapping[str, float]) -> dict[str, Any]:
    """Return what has to be equal, by names as users write them, and nearly equal."""
    same: dict[str, Any] = {
        "version of sedona-nni": _own_version(),
        "version of torch": torch.__version__,
        "version of Python": platform.python_version().rpartition(".")[0],
        "decoupling": job.decoupling.key,
        "data": None if splits.identity is None else splits.identity.fingerprint,
    }
    if job.task.weights is not None:
        same["task.weights"] = fingerprint_of_weights(Path(job.task.weights))
    _flatten("task", job.task.model_dump(mode="json", exclude={"data_dir", "weights"}), same)
    _flatten("train", job.settings.model_dump(mode="json"), same)
    return {"same": same, "sums": sums}


def _own_version() -> str:
    """Return the version of this project, as far as it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sedona-nni")
    except PackageNotFoundError:
        return "none, it is not installed"


def _flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for inner, each in value.items():
            _flatten(f"{name}.{inner}", each, into)
    else:
        into[name] = value
