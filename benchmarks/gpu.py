"""All that should be seen once on a GPU, within a given time: what is right, how fast, how much.

Parts, each with a share of the time that is left when its turn comes; what one part does not need
is left to those after it:

    training  a step of ResNet-50 on 224 pixels in bf16: back-propagation, the same with every layer
              checkpointed or in four parts, K = 2 and K = 4; its memory beside the predicted one
    models    a step of models from elsewhere, likewise: as they are, cut everywhere but as one
              block, K = 4; and `gpu_models`
    checks    `gpu_checks`
    search    steps of a search; from them the length of the published one
    probing   steps of probes; from them the length of a probing that costs one training
    ranks     `gpu_ranks`: each block in a process of its own
    steps     relaxed step and meta-step beside the plain form, in turn
    release   the same beside the authors' release, if there is a clone of it

After every measurement all that is known is written. A measurement that fails is recorded with its
error; what there was no time for is recorded as not run; and the next goes on. Nothing but torch,
torchvision, NumPy, safetensors, pydantic, typer and rich is needed, not even that this project is
installed. On a CPU all of it runs at small sizes, to try the command itself.
"""

from __future__ import annotations

import gc
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn import functional as F

from benchmarks.gpu_checks import CHECKS, NotApplicable, blobs
from benchmarks.gpu_models import MODEL_CHECKS
from benchmarks.gpu_ranks import RANK_CHECKS
from benchmarks.record import Header, publish
from benchmarks.release import check_release, release
from benchmarks.search_steps import StepSetting, naively, ours
from benchmarks.side_by_side import OUT_OF_MEMORY, Side, compare, is_lack_of_memory, seconds
from benchmarks.view import Table
from sedona_nni.data.batches import BatchStream
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.cost import peak_memory_mib
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.memory import compute_in_memory, peaks_of_step
from sedona_nni.decouplings.rules import decoupling_by_rule
from sedona_nni.errors import InputError
from sedona_nni.files import write_json
from sedona_nni.model_name import ModelName
from sedona_nni.models import Backbone, FeatureShape, build_backbone
from sedona_nni.models.placement import place
from sedona_nni.models.sources import build_model
from sedona_nni.searches.probing.probing import ProbeSettings, local_losses, probe_steps, probes
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.training.methods import build_method
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.step_form import step_form

__all__ = ["FULL", "PARTS", "SMALL", "Part", "Sizes", "run"]

_PUBLISHED_IMAGES = 45_000  # that CIFAR-10's trainings learn from
_HANGS_S = 60.0  # three times what a training in parallel takes with one GPU for all


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        backbones: Of the relaxed and the meta-steps; the first is searched and probed as well.
        aux: Auxiliary networks at each boundary.
        batch_sizes: Of these steps.
        inner_steps: T.
        validation_batch_size: Of the meta-steps beside the plain form.
        width: Width multiplier of all but ``training``.
        image_size: Likewise, pixels.
        training: Backbone, pixels, width multiplier, classes and batch size of the training step.
        models: Names, pixels, classes and batch size of the steps of models from elsewhere.
        search: Batch size, validation batch size, pre-training steps and meta-steps.
        probe_steps: Steps of each probe.
        probes: At most so many probes are timed; by default all.
        repeats: Measurements of each value, as far as there is time; one at least.
    """

    backbones: tuple[str, ...] = ("vgg19", "resnet50", "resnet152")
    aux: tuple[str, ...] = ("conv1", "conv2", "conv3", "conv4")
    batch_sizes: tuple[int, ...] = (64, 128)
    inner_steps: int = 5
    validation_batch_size: int = 256
    width: float = 1.0
    image_size: int = 32
    training: tuple[str, int, float, int, int] = ("resnet50", 224, 4.0, 1000, 128)
    models: tuple[tuple[str, ...], int, int, int] = (
        ("torchvision:resnet50", "torchvision:convnext_tiny", "torchvision:vit_b_16"),
        224,
        1000,
        64,
    )
    search: tuple[int, int, int, int] = (128, 1024, 8, 4)
    probe_steps: int = 12
    probes: int | None = None
    repeats: int = 5


FULL = Sizes()
SMALL = Sizes(
    backbones=("dgl-cnn4",),
    aux=("conv1", "conv2"),
    batch_sizes=(4,),
    inner_steps=1,
    validation_batch_size=4,
    width=0.125,
    image_size=16,
    training=("resnet18", 32, 0.25, 4, 8),
    models=(("torchvision:mobilenet_v3_small",), 32, 4, 4),
    search=(4, 4, 3, 2),
    probe_steps=1,
    probes=2,
    repeats=1,
)


class _TimeUp(BaseException):
    """A part has had its time; not an error, so that nothing takes it for one."""


class Part:
    """A part under way: where it computes, how long it may, and where its values go.

    Attributes:
        ends_at: When its time is up, by `time.perf_counter`.
    """

    def __init__(
        self, device: torch.device, sizes: Sizes, seconds: float, release: Path | None
    ) -> None:
        self.device = device
        self.sizes = sizes
        self.release = release
        self.values: dict[str, Any] = {}
        self.write: Callable[[], None] = lambda: None
        self.ends_at = time.perf_counter() + seconds

    @property
    def left_s(self) -> float:
        """Seconds until its time is up."""
        return self.ends_at - time.perf_counter()

    def measure(self, name: str, measurement: Callable[[], dict[str, Any]]) -> None:
        """Note what a measurement returns, or why there is nothing; write it down."""
        started = time.perf_counter()
        found: dict[str, Any]
        try:
            found = measurement() if self.left_s > 0 else {"not_run": "no time was left"}
        except NotApplicable as reason:
            found = {"not_run": str(reason)}
        except Exception as error:
            found = {"error": _in_words(error)}
        except _TimeUp:
            self.values[name] = {"not_run": "there was not enough time"}
            raise
        found["took_s"] = round(time.perf_counter() - started, 2)
        self.values[name] = found
        self.write()  # first: after some errors of kernels a process can do no more on its GPU
        self._tidy()

    def timed(self, **prepare: Callable[[], Callable[[], object]]) -> dict[str, Any]:
        """Time computations that take turns; the first of each warms up and tells the memory.

        Returns:
            Under each name ``median_s``, ``values_s`` and ``peak_allocated_mib`` (with weights and
            all else that preparing made), or ``failure``; and ``ratio`` of the second to the first.
        """
        found: dict[str, Any] = {}
        ready: dict[str, Callable[[], object]] = {}
        for name, build in prepare.items():
            try:
                found[name] = {"peak_allocated_mib": self._peak(name, build, ready), "values_s": []}
            except Exception as error:
                if not is_lack_of_memory(error):
                    raise
                found[name] = {"failure": OUT_OF_MEMORY}
                ready.pop(name, None)
            self._tidy()
        for turn in range(self.sizes.repeats):
            for name in list(ready)[:: 1 if turn % 2 == 0 else -1]:
                gc.collect()
                found[name]["values_s"].append(seconds(ready[name], self.device))
            if self.left_s < sum(found[name]["values_s"][-1] for name in ready):
                break
        for name in ready:
            found[name]["median_s"] = statistics.median(found[name]["values_s"])
        medians = [side.get("median_s") for side in found.values()]
        if len(medians) == 2 and all(medians):
            found["ratio"] = medians[1] / medians[0]
        return found

    def _peak(
        self,
        name: str,
        build: Callable[[], Callable[[], object]],
        ready: dict[str, Callable[[], object]],
    ) -> float:
        def first() -> None:
            ready[name] = build()
            ready[name]()

        return peak_memory_mib(first, self.device)

    def _tidy(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def run(
    head: Header,
    device: torch.device,
    sizes: Sizes,
    minutes: float,
    *,
    record: str,
    directory: Path,
    parts: Sequence[str] | None = None,
    release_path: Path | None = None,
    as_json: bool = False,
) -> list[str]:
    """Do the parts and keep them as a record.

    Args:
        head: Of the record.
        device: Where.
        sizes: How large.
        minutes: How long all of it may take.
        record: Name of the record.
        directory: Where it is written, from the start on.
        parts: Names of `PARTS`, by default all that can be done.
        release_path: A clone of the authors' release.
        as_json: Whether to print JSON instead of tables.

    Returns:
        What failed.

    Raises:
        InputError: if there is no such part.
    """
    end = time.perf_counter() + 60 * minutes
    document: dict[str, Any] = {"minutes": minutes, "sizes": vars(sizes), "parts": {}}
    possible = [name for name in PARTS if release_path or name != "release"]
    for name in parts or ():
        if name not in possible:
            raise InputError.rule("--parts", f"must be of {', '.join(possible)}", name)
    chosen = {name: PARTS[name] for name in parts or possible}

    def write() -> None:
        content = {"header": head.model_dump(mode="json"), **document}
        write_json(directory / f"{record}.json", content)

    waiting = sum(share for share, _ in chosen.values())
    for name, (share, do) in chosen.items():
        allowed = max(0.0, end - time.perf_counter()) * share / waiting
        waiting -= share
        part = Part(device, sizes, allowed, release_path)
        state: dict[str, Any] = {"state": "under way", "values": part.values}
        document["parts"][name] = state
        part.write = write
        write()
        started = time.perf_counter()
        try:
            with _at_most(allowed):
                do(part)
            state["state"] = "done"
        except _TimeUp:
            state["state"] = "cut short"
        except Exception as error:
            state |= {"state": "failed", "error": _in_words(error)}
        state |= {"allowed_s": round(allowed, 1), "took_s": round(time.perf_counter() - started, 1)}
        part._tidy()
        write()
    publish(
        head,
        document,
        [_table(name, state) for name, state in document["parts"].items()],
        as_json=as_json,
        record=record,
        directory=directory,
    )
    return [
        *(name for name, state in document["parts"].items() if state["state"] == "failed"),
        *(
            f"{name}: {what}"
            for name, state in document["parts"].items()
            for what, values in state["values"].items()
            if "error" in values
        ),
    ]


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise `_TimeUp` in what takes longer."""

    def ring(*_: object) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def _in_words(error: Exception) -> str:
    """Return kind and message of an error, and where it was raised."""
    place_ = traceback.extract_tb(error.__traceback__)[-1]
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0]} ({Path(place_.filename).name}:{place_.lineno})"


# ---- The parts -----------------------------------------------------------------------------------


def _checks(part: Part) -> None:
    for name, check in CHECKS.items():
        part.measure(name, partial(check, part.device))


def _ranks(part: Part) -> None:
    def within_time(check: Callable[[torch.device], dict[str, float]]) -> dict[str, float]:
        try:
            with _at_most(_HANGS_S):
                return check(part.device)
        except _TimeUp:
            raise AssertionError(f"was not done after {_HANGS_S:g} s") from None

    for name, check in RANK_CHECKS.items():
        part.measure(name, partial(within_time, check))


_TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "back-propagation": ("backprop", {}),
    "checkpointed": ("backprop", {"checkpoint": "layers"}),
    "accumulated x4": ("backprop", {"accumulate": 4}),
    "K = 2": ("uniform:2:conv1", {}),
    "K = 4": ("uniform:4:conv1", {}),
    "K = 4 by memory": ("memory-balanced:4:conv1", {}),
    "K = 4 by memory, accumulated x4": ("memory-balanced:4:conv1", {"accumulate": 4}),
}


def _training(part: Part) -> None:
    for shown, (rule, changes) in _TRAININGS.items():
        settings = TrainSettings.model_validate(
            {"batch_size": part.sizes.training[-1], "amp": "bf16", **changes}
        )
        part.measure(shown, partial(_measured_training, part, rule, settings, part.sizes.training))


def _models(part: Part) -> None:
    for name, check in MODEL_CHECKS.items():
        part.measure(name, partial(check, part.device))
    names, size, classes, batch_size = part.sizes.models
    settings = TrainSettings(batch_size=batch_size, amp="bf16")
    for name in names:
        part.measure(f"{name}, uncut", partial(_measured_model, part, name))
        for shown, rule in (("one block", "backprop"), ("K = 4", "uniform:4:conv1")):
            form = (name, size, 1.0, classes, batch_size)
            step = partial(_measured_training, part, rule, settings, form)
            part.measure(f"{name}, {shown}", step)


def _measured_model(part: Part, name: str) -> dict[str, Any]:
    """Time a step of a model that nobody has cut, in the same layout and precision."""
    _, size, classes, batch_size = part.sizes.models
    settings = TrainSettings(batch_size=batch_size, amp="bf16")

    def prepare() -> Callable[[], object]:
        splits = blobs(batch_size, size=size, num_classes=classes)
        images, labels = next(BatchStream(splits.train, batch_size, 0, part.device).iterate())
        torch.manual_seed(0)
        model = build_model(ModelName.parse(name), num_classes=classes, image_size=size)
        place(model, part.device).train()
        optimizer = torch.optim.SGD(model.parameters(), settings.lr, 0.9, nesterov=True)

        def step() -> None:
            with torch.autocast(part.device.type, torch.bfloat16):
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    (found,) = part.timed(step=prepare).values()
    if "median_s" in found:
        found["images_per_s"] = batch_size / found["median_s"]
    return cast(dict[str, Any], found)


def _measured_training(
    part: Part, rule: str, settings: TrainSettings, trained: tuple[str, int, float, int, int]
) -> dict[str, Any]:
    """Time a step, and count its memory, predicted and as it is."""
    name, size, width, classes, batch_size = trained
    form = step_form(settings, part.device)

    def backbone() -> Backbone:
        return build_backbone(name, num_classes=classes, image_size=size, width_multiplier=width)

    with torch.device("meta"):
        bare = backbone()
        memory = partial(compute_in_memory, bare, form=form)
        cut = decoupling_by_rule(
            rule, name, bare.num_layers, lambda unit, aux: memory(aux_names=[aux])
        )
        network = build_decoupled(bare, cut)
    predicted = peaks_of_step(network, FeatureShape(bare.in_channels, size), form)

    def prepare() -> Callable[[], object]:
        splits = blobs(batch_size, size=size, num_classes=classes)
        images, labels = next(BatchStream(splits.train, batch_size, 0, part.device).iterate())
        torch.manual_seed(0)
        network = place(build_decoupled(backbone(), cut), part.device)
        method = build_method(network, settings, splits, 1000)
        method.start_epoch(1)
        return partial(method.step, images, labels)

    (found,) = part.timed(step=prepare).values()
    found["cuts"] = ", ".join(map(str, cut.cuts)) or "none"
    found["predicted_mib"] = predicted.one_process / 2**20
    if "median_s" in found:
        found["images_per_s"] = batch_size / found["median_s"]
    return cast(dict[str, Any], found)


def _searched(sizes: Sizes) -> Backbone:
    """Return the backbone that is searched and probed, with its weights from torch's generator."""
    return build_backbone(
        sizes.backbones[0],
        num_classes=10,
        image_size=sizes.image_size,
        width_multiplier=sizes.width,
    )


def _search(part: Part) -> None:
    part.measure(part.sizes.backbones[0], partial(_measured_search, part))


def _measured_search(part: Part) -> dict[str, Any]:
    """Time the steps of a search; the first of either kind warms up, the last takes a snapshot."""
    batch_size, validation_batch_size, pretrain_steps, meta_steps = part.sizes.search
    settings = SearchSettings(
        pretrain_steps=pretrain_steps,
        meta_steps=meta_steps,
        inner_steps=part.sizes.inner_steps,
        batch_size=batch_size,
        validation_batch_size=validation_batch_size,
        num_snapshots=1,
    )
    splits = blobs(4 * max(batch_size, validation_batch_size), size=part.sizes.image_size)
    train, validation = (
        BatchStream(splits.train, size, seed, part.device).iterate()
        for seed, size in enumerate((batch_size, validation_batch_size))
    )

    def search(settings: SearchSettings) -> list[float]:
        torch.manual_seed(0)
        backbone = _searched(part.sizes)
        search = Search(place(RelaxedNetwork(backbone, part.sizes.aux), part.device), settings)
        advance = partial(search.advance, train, validation)
        return [seconds(advance, part.device) for _ in range(search.total_steps)]

    short = settings.model_copy(update={"pretrain_steps": 1, "meta_steps": 1})
    peak = peak_memory_mib(partial(search, short), part.device)
    taken = search(settings)
    pretraining, meta = taken[1 : pretrain_steps - 1], taken[pretrain_steps + 1 :]
    step_s, meta_step_s = statistics.median(pretraining), statistics.median(meta)
    published = SearchSettings()
    whole_s = published.pretrain_steps * step_s + published.meta_steps * meta_step_s
    return {
        "pretraining_step_s": step_s,
        "meta_step_s": meta_step_s,
        "published_search_h": whole_s / 3600,
        "peak_allocated_mib": peak,
        "values_s": taken,
    }


def _probing(part: Part) -> None:
    part.measure(part.sizes.backbones[0], partial(_measured_probing, part))


def _measured_probing(part: Part) -> dict[str, Any]:
    """Time a few steps of as many probes as there is time for."""
    published = TrainSettings()
    settings = ProbeSettings()
    short = settings.short(published)
    with torch.device("meta"):
        compute = compute_in_macs(_searched(part.sizes), part.sizes.aux)
    per_epoch = -(-_PUBLISHED_IMAGES // published.batch_size)
    steps, _ = probe_steps(compute, settings.cost, published.epochs * per_epoch)
    splits = blobs(8 * short.batch_size, size=part.sizes.image_size)
    candidates = list(probes(compute.backbone, len(compute.layers), part.sizes.aux))
    macs = [compute.blocks(each)[0] for each in candidates]

    def probe(number: int, steps: int) -> float:
        torch.manual_seed(0)
        backbone = _searched(part.sizes)
        once = partial(
            local_losses, backbone, candidates[number], splits, short, steps, part.device
        )
        return seconds(once, part.device)

    few = part.sizes.probe_steps
    probe(0, 1)  # warms up
    done, macs_done, taken_s, longest_s = 0, 0, 0.0, 0.0
    # From all depths alike, should the time not suffice for all
    for number in sorted(range(len(candidates)), key=lambda number: (number % 5, number)):
        if done == part.sizes.probes or (done and part.left_s < 2 * longest_s):
            break
        longer_s, shorter_s = probe(number, 1 + few), probe(number, 1)
        longest_s = max(longest_s, longer_s + shorter_s)
        taken_s += max(0.0, longer_s - shorter_s) / few
        macs_done += macs[number]
        done += 1
    step_s = taken_s * sum(macs) / macs_done / len(candidates)
    return {
        "probes": len(candidates),
        "probes_timed": done,
        "step_s": step_s,
        "steps_of_each": steps,
        "probing_h": steps * len(candidates) * step_s / 3600,
    }


def _settings(part: Part) -> Iterator[tuple[str, StepSetting]]:
    for batch_size in part.sizes.batch_sizes:
        for backbone in part.sizes.backbones:
            for step in ("relaxed-step", "meta-step"):
                setting = StepSetting.model_validate(
                    {
                        "step": step,
                        "backbone": backbone,
                        "aux": part.sizes.aux,
                        "batch_size": batch_size,
                        "inner_steps": part.sizes.inner_steps,
                        "validation_batch_size": part.sizes.validation_batch_size,
                        "width_multiplier": part.sizes.width,
                        "image_size": part.sizes.image_size,
                        "device": part.device.type,
                        "release_path": part.release,
                    }
                )
                yield f"{step} of {backbone}, batch {batch_size}", setting


def _steps(part: Part) -> None:
    for name, setting in _settings(part):
        both = partial(part.timed, ours=partial(ours, setting), naive=partial(naively, setting))
        part.measure(name, both)


def _release(part: Part) -> None:
    def beside(setting: StepSetting) -> dict[str, Any]:
        check_release(setting)
        threads = torch.get_num_threads()
        sides = [
            Side(name, prepare, setting, part.device.type, threads)
            for name, prepare in (("ours", ours), ("release", release))
        ]
        return compare(sides, repeats=min(3, part.sizes.repeats))

    for name, setting in _settings(part):
        part.measure(name, partial(beside, setting))


PARTS: dict[str, tuple[float, Callable[[Part], None]]] = {
    "training": (1, _training),
    "models": (2, _models),
    "checks": (1.5, _checks),
    "search": (1, _search),
    "probing": (1, _probing),
    "ranks": (4, _ranks),
    "steps": (3, _steps),
    "release": (1.5, _release),
}


# ---- For readers ---------------------------------------------------------------------------------


def _table(name: str, state: dict[str, Any]) -> Table:
    rows = [
        [f"{what}: {value}", shown]
        for what, values in state["values"].items()
        for value, shown in _shown(values)
    ]
    if "error" in state:
        rows.append(["error", state["error"]])
    title = f"{name}: {state['state']}, {state['took_s']:.0f} of {state['allowed_s']:.0f} s"
    return Table(title, ["what", "result"], rows)


def _shown(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and values for readers; lists are for machines."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", shown) for inner, shown in _shown(value))
        elif name != "took_s" and not isinstance(value, list):
            yield name, f"{value:,.4g}" if isinstance(value, float) else str(value)
