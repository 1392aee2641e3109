"""Recorded traces: what searches, probings and trainings computed when they were recorded.

A change of the code that is not meant to change numbers must leave them as they are:

    make traces        records anew; a file whose values are the same to the bit is left alone

So ``make traces && git diff --exit-code tests/traces`` says whether a machine computes what it did
before, to the bit. On another machine sums are rounded otherwise; `test_traces` allows for that.

Everything is small, seeded and in float64: torch's default is changed while a trace is computed, so
that weights are drawn so, and images become so when the mean of their channels, a tensor of that
default, is subtracted. Where the code asks for float32 by name (validation's logits, and those that
a probing judges), it is that.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from probed import run_probes
from torch import nn

# All that is named here of the library is imported here, to be found when something moves
from sedona_nni.data.batches import BatchStream
from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.choice import discretise, leaders, pareto_front
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.cost import (
    block_costs,
    count_parameters,
    relaxed_cost,
    summarise_blocks,
)
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.files import write_atomically
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.relaxed_training import build_relaxed
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.task import Task
from sedona_nni.training.loop import train
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["NEEDS_MKL", "TRACES", "compute", "main", "recorded"]

FOLDER = Path(__file__).parent
Values = dict[str, Any]

RESNET = Task(
    backbone="resnet18", width_multiplier=0.25, dataset="digits", image_size=16, train_limit=160
)
VGG = Task(backbone="vgg11", width_multiplier=0.25, dataset="digits", train_limit=120)
AUX = ("conv1", "mlp-sr", "conv2")


def _search(task: Task, **settings: Any) -> Values:
    """Return the numbers of every step, alpha and beta after each of the 5 meta-steps."""
    how = SearchSettings(
        **{
            "pretrain_steps": 4,
            "meta_steps": 5,
            "inner_steps": 2,
            "batch_size": 16,
            "validation_batch_size": 48,
            "meta_lr": 0.3,  # so large that boundaries soon differ, and the valves with them
            "memory_size": 3,
            "seed": 7,
            **settings,
        }
    )
    splits = load_splits(task, how.validation_fraction)
    torch.manual_seed(how.seed)
    search = Search(RelaxedNetwork(task_backbone(task), AUX), how)
    batches = BatchStream(splits.train, how.batch_size, how.seed, "cpu").iterate()
    validation = BatchStream(
        splits.validation, how.validation_batch_size, how.seed, "cpu"
    ).iterate()
    pretraining, meta_steps = [], []
    while not search.done:
        numbers = search.advance(batches, validation)
        if search.step <= how.pretrain_steps:
            pretraining.append(numbers)
        else:
            result = search.result(task.dataset)
            meta_steps.append({**numbers, "alpha": result.alpha, "beta": result.beta})
    search.show_most_trained()
    return {
        "pretraining": pretraining,
        "meta_steps": meta_steps,
        "batches_used": [search.train_batches_used, search.validation_batches_used],
        "weights": _norm(search.network),
    }


def search_sgd() -> Values:
    """SGD below, Adam above."""
    return _search(RESNET, inner_steps=3)


def search_adam() -> Values:
    """Adam below and above; at most two snapshots, of which the worst goes."""
    return _search(RESNET, optimizer="adam", lr=0.01, memory_size=2, eviction="worst")


def search_meta_sgd() -> Values:
    """SGD with momentum above, which, other than Adam, follows the hypergradient's length; and no
    pre-training."""
    return _search(
        RESNET,
        pretrain_steps=0,
        lr_steps=8,
        memory_size=1,
        meta_optimizer="sgd",
        meta_momentum=0.5,
        meta_lr=8.0,
        lr=0.02,  # at 0.1, without pre-training, errors of rounding grow a millionfold
    )


def search_release_mode() -> Values:
    """As the authors' release computes it."""
    return _search(RESNET, release_mode=True)


def search_dropout() -> Values:
    """A backbone with dropout, whose masks must be drawn from the same seeds."""
    return _search(VGG)


def probing() -> Values:
    """All losses of a probing, and what is discretised from them."""
    task = RESNET.model_copy(update={"train_limit": 120})
    how = TrainSettings(epochs=3, batch_size=32, validation_fraction=0.2)
    found = run_probes(task, how, ProbeSettings(cost=12, seed=3), aux=AUX[:2])
    result = ProbeResult.model_validate(found["search_result"])
    return {
        **{name: found[name] for name in ("steps", "trainings", "images", "default")},
        "losses": result.losses,
        "undivided": result.undivided,
        "decouplings": _discretised(task, result, ("1.6/K", "0.9")),
    }


def _discretised(task: Task, result: SearchOutcome, bounds: Sequence[str]) -> Values:
    """Return the decouplings for several K, without and with a bound."""
    with torch.device("meta"):
        costs = compute_in_macs(task_backbone(task), result.aux_choices)
    found = {}
    for num_blocks in (2, 3, 4):
        found[f"K={num_blocks}"] = discretise(result, num_blocks).key
        for share in bounds:
            bound = BlockBound(costs, share)
            found[f"K={num_blocks}, bound {share}"] = discretise(result, num_blocks, bound).key
    return found


def discretising() -> Values:
    """The decouplings of a search result and of a probing: integers, the same on every CPU."""
    task = Task(backbone="vgg19", dataset="digits")
    with torch.device("meta"):
        backbone = task_backbone(task)
    costs = compute_in_macs(backbone, AUX)
    boundaries = range(backbone.num_layers - 1)
    searched = SearchResult(
        backbone=task.backbone,
        dataset=task.dataset,
        aux_choices=list(AUX),
        alpha=[(math.sin(3 * i + 1), 0.3 * math.cos(7 * i)) for i in boundaries],
        beta=[[math.sin(5 * i + c) for c in range(len(AUX))] for i in boundaries],
    )
    probed = ProbeResult(
        backbone=task.backbone,
        dataset=task.dataset,
        aux_choices=list(AUX),
        losses=[
            [1.5 + math.sin(2 * i + 3 * c) / 3 - i / 20 for c in range(len(AUX))]
            for i in boundaries
        ],
        undivided=1.0,
    )
    found: Values = {"search, any K": discretise(searched, 0).key}
    for name, result in {"search": searched, "probing": probed}.items():
        found[name] = _discretised(task, result, ("1.5/K",))
        for num_blocks in (2, 4):
            bound = BlockBound(costs, "2/K")
            found[f"{name}, leaders, K={num_blocks}"] = [
                [each.key for each in leaders(result, num_blocks, 6)],
                [each.key for each in leaders(result, num_blocks, 6, bound)],
            ]
            found[f"{name}, front, K={num_blocks}"] = [
                [point.decoupling.key, point.evidence, point.largest_share]
                for point in pareto_front(result, num_blocks, costs)
            ]
    return found


def costs() -> Values:
    """Parameters and MACs of the blocks of two backbones: integers, the same on every CPU."""
    found: Values = {}
    for name, cuts in {"vgg13": [1, 4, 7], "resnet50": [2, 7, 12]}.items():
        task = Task(backbone=name, dataset="digits")
        with torch.device("meta"):
            backbone = task_backbone(task)
        blocks = block_costs(backbone, Decoupling(backbone=name, cuts=cuts, aux=list(AUX)))
        found[name] = {
            "blocks": [asdict(block) for block in blocks],
            "parameters": count_parameters(backbone),
            "relaxed": asdict(relaxed_cost(backbone, AUX)),
            **summarise_blocks(blocks),
        }
    return found


def _train(
    settings: Values,
    cuts: Sequence[int] = (2, 5),
    aux: Sequence[str] = ("conv1", "mlp-sr"),
    task: Task = RESNET,
) -> Values:
    """Return what 3 epochs of a training report, and what it came to."""
    how = TrainSettings(**_TRAINING | settings)
    torch.manual_seed(how.seed)
    decoupling = Decoupling(backbone=task.backbone, cuts=list(cuts), aux=list(aux))
    return _trained(build_decoupled(task_backbone(task), decoupling), task, how)


_TRAINING: Values = {"epochs": 3, "batch_size": 32, "validation_fraction": 0.2, "seed": 5}


def _trained(network: DecoupledNetwork, task: Task, settings: TrainSettings) -> Values:
    splits = load_splits(task, settings.validation_fraction)
    epochs: list[dict[str, float]] = []
    trained = train(network, splits, settings, report=epochs.append)
    return {
        "epochs": epochs,
        "best_epoch": trained.best_epoch,
        "validation_accuracy": trained.validation_accuracy,
        "validation_loss": trained.validation_loss,
        "test": {k: v for k, v in asdict(trained.test).items() if k != "classified"},
        "weights": [_norm(block) for block in network.blocks],
    }


def train_backprop() -> Values:
    """No cuts."""
    return _train({}, cuts=(), aux=())


def train_greedy() -> Values:
    """Parallel greedy learning."""
    return _train({"method": "greedy", "ensemble": 3})


def train_greedy_dropout() -> Values:
    """The same of a backbone with dropout; the mask of a step depends on the seed and the step."""
    return _train({"method": "greedy"}, cuts=(1, 4), aux=("conv2", "conv1"), task=VGG)


def train_sequential() -> Values:
    """One block after the other, 3 epochs each."""
    return _train({"method": "sequential"})


def train_asynchronous() -> Values:
    """Turns go around; no batch is drawn more than twice."""
    return _train(
        {"method": {"name": "asynchronous", "order": "round-robin", "buffer": 2, "max_draws": 2}}
    )


def train_asynchronous_random() -> Values:
    """Turns are drawn at random, and the second block is slow."""
    return _train({"method": {"name": "asynchronous", "slow_block": 2, "slowdown": 1.5}})


def train_synthetic_gradients() -> Values:
    """Synthesizers that do not see the labels."""
    return _train({"method": "dni", "optimizer": "adam", "lr": 0.01}, aux=("none", "none"))


def train_synthetic_gradients_of_labels() -> Values:
    """Synthesizers that see the labels."""
    method = {"name": "cdni", "synthesizer_width": 6}
    return _train({"method": method, "optimizer": "adam", "lr": 0.01}, aux=("none", "none"))


def train_delayed_gradients() -> Values:
    """DDG."""
    return _train({"method": "ddg", "lr": 0.05}, aux=("none", "none"))


def _train_relaxed(**how: Any) -> Values:
    settings = TrainSettings(**_TRAINING | {"batch_size": 64})
    torch.manual_seed(settings.seed)
    backbone = task_backbone(RESNET)
    boundaries = range(backbone.num_layers - 1)
    found = SearchResult(
        backbone=RESNET.backbone,
        dataset=RESNET.dataset,
        aux_choices=list(AUX),
        alpha=[(math.sin(3 * i), math.cos(2 * i)) for i in boundaries],
        beta=[[math.sin(i + c) for c in range(len(AUX))] for i in boundaries],
        provenance={"settings": how},
    )
    return _trained(build_relaxed(backbone, found), RESNET, settings)


def train_relaxed() -> Values:
    """The relaxed network, with a given alpha and beta."""
    return _train_relaxed()


def train_relaxed_release_mode() -> Values:
    """The same as the authors' release does it."""
    return _train_relaxed(release_mode=True)


def train_options_of_sgd() -> Values:
    """Nesterov's momentum, a warm-up, batches of few classes, PredSim, an ensemble."""
    return _train(
        {
            "nesterov": True,
            "warmup_epochs": 1,
            "classes_per_batch": 4,
            "class_limited_epochs": 2,
            "ensemble": 2,
            "augmentation": "none",
        },
        aux=("predsim", "cnn"),
    )


def train_options_of_adamw() -> Values:
    """AdamW, milestones, averages, clipped gradients, mixup, no smoothing of labels."""
    return _train(
        {
            "optimizer": "adamw",
            "lr": 0.01,
            "weight_decay": 0.05,
            "schedule": "multistep",
            "milestones": [1, 2],
            "lr_decay": 0.3,
            "ema_decay": 0.8,
            "clip_norm": 0.5,
            "mixup": 0.4,
            "label_smoothing": 0,
        }
    )


TRACES: dict[str, Callable[[], Values]] = {
    trace.__name__: trace
    for trace in (
        search_sgd,
        search_adam,
        search_meta_sgd,
        search_release_mode,
        search_dropout,
        probing,
        discretising,
        costs,
        train_backprop,
        train_greedy,
        train_greedy_dropout,
        train_sequential,
        train_asynchronous,
        train_asynchronous_random,
        train_synthetic_gradients,
        train_synthetic_gradients_of_labels,
        train_delayed_gradients,
        train_relaxed,
        train_relaxed_release_mode,
        train_options_of_sgd,
        train_options_of_adamw,
    )
}

NEEDS_MKL = {
    "search_dropout",
    "train_greedy_dropout",
    "train_asynchronous_random",
    "train_options_of_adamw",
}
"""Traces of dropout, of turns or of mixing: torch without MKL, as on ARM, draws other ones from the
same seed."""


def _norm(module: nn.Module) -> float:
    """Return the Euclidean norm of all parameters."""
    return math.sqrt(sum(float(p.detach().square().sum()) for p in module.parameters()))


@contextmanager
def _double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def compute(name: str) -> Values:
    """Return the values of a trace; torch's default and generators are left as they were."""
    with _double_precision(), torch.random.fork_rng(devices=[]):
        values: Values = json.loads(json.dumps(TRACES[name]()))  # floats stay as they are
    return values


def recorded(name: str) -> Values:
    """Return the recorded values of a trace."""
    values: Values = json.loads(_file(name).read_text())["values"]
    return values


def _file(name: str) -> Path:
    return FOLDER / f"{name}.json"


def _text(document: Values) -> str:
    """Return readable JSON: sorted, and every list of plain values on one line."""
    text = json.dumps(document, indent=1, sort_keys=True)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def main() -> None:
    """Record all traces, on one thread."""
    torch.set_num_threads(1)
    describe = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(describe, cwd=FOLDER, check=True, capture_output=True, text=True)
    for name in TRACES:
        values = compute(name)
        if _file(name).exists() and recorded(name) == values:
            print(f"{name}: the same to the bit")
            continue
        document = {
            "commit": commit.stdout.strip(),
            "torch": torch.__version__,
            "trace": (TRACES[name].__doc__ or "").strip(),
            "values": values,
        }
        text = _text(document)
        write_atomically(_file(name), lambda path, text=text: path.write_text(text))
        print(f"{name}: recorded")


if __name__ == "__main__":
    main()
