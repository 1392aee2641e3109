"""The compute of layers and auxiliary networks, measured as time on a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.decouplings.compute import Compute, by_place, provenance_of
from sedona_nni.models import Backbone, FeatureShape
from sedona_nni.models.form import form_of
from sedona_nni.models.placement import place
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.teachers.auxiliary import (
    Around,
    AuxiliaryNetwork,
    Seen,
    build_auxiliary,
    places,
    taught,
)

__all__ = ["compute_in_time"]

_WARM_UPS = 2
_REPEATS = 7


def compute_in_time(
    backbone: Backbone, aux_names: Iterable[str], *, device: torch.device, batch_size: int
) -> Compute:
    """Measure a forward and a backward pass of each layer and each auxiliary network.

    Each runs alone, in training mode, float32 and the layout of trainings, on random numbers. The
    gradient is taken with respect to its weights and, but for the first layer, its input; of the
    head and of auxiliary networks it is that of their loss. The time is the median of 7 runs after
    2 to warm up. All take turns, so that a busy moment of the machine meets all alike. What has the
    same form and input shape shares one measurement. Optimizer steps, and moving features from
    block to block, are not included.

    Args:
        backbone: With weights; it is moved to ``device``, and its batch norms see the numbers.
        aux_names: Auxiliary networks to measure at every boundary.
        device: Where.
        batch_size: Samples per pass.

    Returns:
        Nanoseconds per batch.

    Raises:
        InputError: if a name is unknown.
    """
    names = [name for name in aux_names if name != NO_AUXILIARY]
    labels = torch.arange(batch_size, device=device) % backbone.num_classes
    passes: dict[Hashable, Callable[[], object]] = {}

    def noise(shape: FeatureShape) -> Tensor:
        return shape.laid_out(torch.randn(shape.of_batch(batch_size), device=device))

    def layer_pass(
        layer: nn.Module, images: bool, before: FeatureShape, after: FeatureShape
    ) -> None:
        inputs, cotangent = noise(before).requires_grad_(not images), noise(after)
        wanted = [*layer.parameters(), *([] if images else [inputs])]
        passes[form_of(layer), images, before] = lambda: torch.autograd.grad(
            layer(inputs), wanted, cotangent
        )

    def loss_pass(
        key: Hashable, classifier: nn.Module, before: FeatureShape, around: Around | None = None
    ) -> None:
        place(classifier, device).train()
        inputs = noise(before).requires_grad_()
        wanted = [*(p for p in classifier.parameters() if p.requires_grad), inputs]
        seen = None if around is None else Seen(noise(around.images), noise(around.inputs))

        def loss() -> Tensor:
            if isinstance(classifier, AuxiliaryNetwork):
                return taught(classifier, inputs, labels, F.cross_entropy, seen)[0]
            return F.cross_entropy(classifier(inputs), labels)

        passes[key] = lambda: torch.autograd.grad(loss(), wanted, allow_unused=True)

    place(backbone, device).train()
    shapes = [backbone.images, *backbone.shapes]
    keys = [(form_of(layer), i == 0, shapes[i]) for i, layer in enumerate(backbone.layers)]
    boundaries = range(backbone.num_layers - 1)
    standing = [{name: places(backbone, i, name) for name in names} for i in boundaries]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for i, layer in enumerate(backbone.layers):
            layer_pass(layer, i == 0, shapes[i], shapes[i + 1])
        loss_pass("head", backbone.head, shapes[-1])
        for name, context in dict.fromkeys(
            (name, each) for here in standing for name, all_ in here.items() for each in all_
        ):
            network = build_auxiliary(name, context)
            loss_pass((name, context), network, context.shape, context.around)
        taken = _median_ns(passes, device)
    layers = [taken[key] for key in keys]
    layers[-1] += taken["head"]
    return Compute(
        backbone=backbone.name,
        unit="ns",
        layers=layers,
        **by_place(
            [
                {name: [taken[name, each] for each in all_] for name, all_ in here.items()}
                for here in standing
            ]
        ),
        provenance={
            **provenance_of(backbone),
            "batch_size": batch_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "repeats": _REPEATS,
            "torch": torch.__version__,
        },
    )


def _median_ns(
    passes: Mapping[Hashable, Callable[[], object]], device: torch.device
) -> dict[Hashable, int]:
    taken: dict[Hashable, list[int]] = {key: [] for key in passes}
    for repeat in range(_WARM_UPS + _REPEATS):
        for key, run in passes.items():
            _synchronise(device)
            start = time.perf_counter_ns()
            run()
            _synchronise(device)
            if repeat >= _WARM_UPS:
                taken[key].append(time.perf_counter_ns() - start)
    return {key: round(median(times)) for key, times in taken.items()}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
