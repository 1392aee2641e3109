"""SEDONA and decoupled greedy learning: where to cut a network into blocks that train alone.

What is here is what a user needs, and stays; everything comes when it is first asked for, so that
importing this costs nothing. A search on scikit-learn's digits, and a training of what it found:

    >>> import sedona_nni as sn
    >>> task = sn.Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=200)
    >>> settings = sn.SearchSettings(pretrain_steps=4, meta_steps=2, batch_size=20)
    >>> network = sn.RelaxedNetwork(sn.task_backbone(task), ["conv1", "mlp-sr"])
    >>> found = sn.search(network, sn.load_splits(task, settings.validation_fraction), settings)
    >>> decoupling = sn.discretise(found, num_blocks=3)

or one of one's own

    >>> decoupling = sn.Decoupling(backbone="dgl-cnn4", cuts=[0, 1], aux=["conv1", "mlp-sr"])
    >>> decoupling.in_words()
    'cut after layer 0 (conv1) and 1 (mlp-sr)'
    >>> backbone = sn.task_backbone(task)
    >>> round(sn.describe(backbone, decoupling)["ideal_speedup"], 2)
    1.41
    >>> network = sn.build_decoupled(backbone, decoupling)
    >>> splits = sn.load_splits(task, validation_fraction=0.2)
    >>> trained = sn.train(network, splits, sn.TrainSettings(epochs=1, batch_size=20))
    >>> 0 <= trained.test.accuracies[-1] <= 1
    True

The rooms behind it, each of which imports only those before it: `models`, `teachers`,
`decouplings`, `data`, `training`, `searches`, `reporting`. None of them knows NNI, Lightning or
Optuna; `search_spaces`, `strategies` and `trials` plug them into these, and `command_line` is above
all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sedona_nni.data.batches import MemoryImages
    from sedona_nni.data.dataset import ImageParts, register_dataset
    from sedona_nni.data.sets import Splits, dataset_names, load_splits
    from sedona_nni.decouplings.balance import balanced_decoupling
    from sedona_nni.decouplings.bounds import BlockBound
    from sedona_nni.decouplings.choice import FrontPoint, discretise, leaders, pareto_front
    from sedona_nni.decouplings.compute import Compute, compute_in_macs
    from sedona_nni.decouplings.cost import describe
    from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
    from sedona_nni.decouplings.decoupling import Decoupling, random_decoupling
    from sedona_nni.decouplings.memory import compute_in_memory, peaks_of_step
    from sedona_nni.decouplings.outcome import SearchOutcome
    from sedona_nni.decouplings.rules import decoupling_by_rule
    from sedona_nni.decouplings.split import split_points, stage_modules
    from sedona_nni.errors import InputError, SedonaError
    from sedona_nni.models import (
        Backbone,
        BackboneContext,
        FeatureShape,
        Layer,
        as_backbone,
        backbone_names,
        build_backbone,
        register_backbone,
    )
    from sedona_nni.searches.documents import load_decoupling, load_outcome
    from sedona_nni.searches.kind import (
        SEARCHES,
        Findings,
        SearchKind,
        SearchSetup,
        register_search,
    )
    from sedona_nni.searches.probing.probing import ProbeSettings
    from sedona_nni.searches.probing.result import ProbeResult
    from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
    from sedona_nni.searches.sedona.release import import_release
    from sedona_nni.searches.sedona.result import SearchResult
    from sedona_nni.searches.sedona.search import search
    from sedona_nni.searches.sedona.settings import SearchSettings
    from sedona_nni.searches.slopes.kind import SlopeSettings
    from sedona_nni.searches.slopes.result import SlopeResult
    from sedona_nni.task import Task
    from sedona_nni.teachers.auxiliary import (
        AuxiliaryContext,
        AuxiliaryNetwork,
        Teacher,
        auxiliary_names,
        register_auxiliary,
    )
    from sedona_nni.training.evaluation import Evaluation, evaluate
    from sedona_nni.training.loop import DivergedError, TrainResult, train
    from sedona_nni.training.methods.method import TrainingMethod, register_method
    from sedona_nni.training.settings import TrainSettings
    from sedona_nni.training.step_form import step_form
    from sedona_nni.training.task_backbone import task_backbone
    from sedona_nni.training.weights import export, load_weights

__version__ = "0.1.0"

__all__ = [
    "SEARCHES",
    "AuxiliaryContext",
    "AuxiliaryNetwork",
    "Backbone",
    "BackboneContext",
    "BlockBound",
    "Compute",
    "DecoupledNetwork",
    "Decoupling",
    "DivergedError",
    "Evaluation",
    "FeatureShape",
    "Findings",
    "FrontPoint",
    "ImageParts",
    "InputError",
    "Layer",
    "MemoryImages",
    "ProbeResult",
    "ProbeSettings",
    "RelaxedNetwork",
    "SearchKind",
    "SearchOutcome",
    "SearchResult",
    "SearchSettings",
    "SearchSetup",
    "SedonaError",
    "SlopeResult",
    "SlopeSettings",
    "Splits",
    "Task",
    "Teacher",
    "TrainResult",
    "TrainSettings",
    "TrainingMethod",
    "__version__",
    "as_backbone",
    "auxiliary_names",
    "backbone_names",
    "balanced_decoupling",
    "build_backbone",
    "build_decoupled",
    "compute_in_macs",
    "compute_in_memory",
    "dataset_names",
    "decoupling_by_rule",
    "describe",
    "discretise",
    "evaluate",
    "export",
    "import_release",
    "leaders",
    "load_decoupling",
    "load_outcome",
    "load_splits",
    "load_weights",
    "pareto_front",
    "peaks_of_step",
    "random_decoupling",
    "register_auxiliary",
    "register_backbone",
    "register_dataset",
    "register_method",
    "register_search",
    "search",
    "split_points",
    "stage_modules",
    "step_form",
    "task_backbone",
    "train",
]

_BEHIND = {
    "data.batches": ("MemoryImages",),
    "data.dataset": ("ImageParts", "register_dataset"),
    "data.sets": ("Splits", "dataset_names", "load_splits"),
    "decouplings.balance": ("balanced_decoupling",),
    "decouplings.bounds": ("BlockBound",),
    "decouplings.choice": ("FrontPoint", "discretise", "leaders", "pareto_front"),
    "decouplings.compute": ("Compute", "compute_in_macs"),
    "decouplings.cost": ("describe",),
    "decouplings.decoupled": ("DecoupledNetwork", "build_decoupled"),
    "decouplings.decoupling": ("Decoupling", "random_decoupling"),
    "decouplings.memory": ("compute_in_memory", "peaks_of_step"),
    "decouplings.outcome": ("SearchOutcome",),
    "decouplings.rules": ("decoupling_by_rule",),
    "decouplings.split": ("split_points", "stage_modules"),
    "errors": ("InputError", "SedonaError"),
    "models": (
        "Backbone",
        "BackboneContext",
        "FeatureShape",
        "Layer",
        "as_backbone",
        "backbone_names",
        "build_backbone",
        "register_backbone",
    ),
    "searches.documents": ("load_decoupling", "load_outcome"),
    "searches.kind": ("SEARCHES", "Findings", "SearchKind", "SearchSetup", "register_search"),
    "searches.probing.probing": ("ProbeSettings",),
    "searches.probing.result": ("ProbeResult",),
    "searches.sedona.relaxation": ("RelaxedNetwork",),
    "searches.sedona.release": ("import_release",),
    "searches.sedona.result": ("SearchResult",),
    "searches.sedona.search": ("search",),
    "searches.sedona.settings": ("SearchSettings",),
    "searches.slopes.kind": ("SlopeSettings",),
    "searches.slopes.result": ("SlopeResult",),
    "task": ("Task",),
    "teachers.auxiliary": (
        "AuxiliaryContext",
        "AuxiliaryNetwork",
        "Teacher",
        "auxiliary_names",
        "register_auxiliary",
    ),
    "training.evaluation": ("Evaluation", "evaluate"),
    "training.loop": ("DivergedError", "TrainResult", "train"),
    "training.methods.method": ("TrainingMethod", "register_method"),
    "training.settings": ("TrainSettings",),
    "training.step_form": ("step_form",),
    "training.task_backbone": ("task_backbone",),
    "training.weights": ("export", "load_weights"),
}
_MODULES = {name: module for module, names in _BEHIND.items() for name in names}

if not TYPE_CHECKING:  # else any name would be right

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
