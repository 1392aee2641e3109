"""What it takes to cut a model of others, and what a cut model costs in each training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from benchmarks.side_by_side import seconds
from benchmarks.view import Table
from sedona_nni.errors import InputError
from sedona_nni.models.cutting.cut_model import plan_cut

__all__ = ["MODELS", "cut_steps", "cutting_table"]


def _vit_tiny(image_size: int) -> nn.Module:
    return models.VisionTransformer(
        image_size=image_size,
        patch_size=8,
        num_layers=12,
        num_heads=3,
        hidden_dim=192,
        mlp_dim=768,
        num_classes=10,
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "vit-tiny": _vit_tiny,
    "convnext-tiny": lambda _: models.convnext_tiny(num_classes=10),
    "resnet50": lambda _: models.resnet50(num_classes=10),
}
"""Image size, pixels -> model of 10 classes."""


def cut_steps(
    names: Sequence[str], image_size: int, batch_size: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Time training steps of models, plain and cut at every unit, after one that does not count.

    Both are the same modules and weights, and take turns: plain first, then cut first, and so on.
    A step is forward pass, cross-entropy and backward pass in float32 on the CPU.

    Args:
        names: Of `MODELS`.
        image_size: Height and width, pixels; a multiple of 8 for ``vit-tiny``.
        batch_size: Images in a step.
        repeats: Turns that count.

    Returns:
        Of each model ``layers``, how many; ``plan_s``, seconds to find where and how it is cut;
        ``cut_s``, to cut it by that plan; ``plain_s`` and ``cut_steps_s``, each of so many steps;
        and ``ratio``, the median of cut over plain in the same turn.

    Raises:
        InputError: if a name is not one of them.
    """
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise InputError.rule("--models", f"must be of {', '.join(MODELS)}", unknown[0])
    built = {name: MODELS[name](image_size) for name in names}
    return {name: _measure(model, image_size, batch_size, repeats) for name, model in built.items()}


def _measure(model: nn.Module, image_size: int, batch_size: int, repeats: int) -> dict[str, Any]:
    images = torch.rand(batch_size, 3, image_size, image_size)
    labels = torch.arange(batch_size) % 10
    started = time.perf_counter()
    plan = plan_cut(model, images)
    planned = time.perf_counter()
    cut = plan.cut(model)
    ended = time.perf_counter()

    def step_of(network: nn.Module) -> Callable[[], object]:
        def step() -> None:
            model.zero_grad()
            F.cross_entropy(network(images), labels).backward()

        return step

    steps = {"plain_s": step_of(model), "cut_steps_s": step_of(cut)}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-1, repeats):
        for name in steps if turn % 2 == 0 else reversed(steps):
            value = seconds(steps[name], images.device)
            if turn >= 0:
                taken[name].append(value)
    ratios = [cut_s / plain for plain, cut_s in zip(*taken.values(), strict=True)]
    return {
        "layers": len(cut.layers),
        "plan_s": planned - started,
        "cut_s": ended - planned,
        **taken,
        "ratio": statistics.median(ratios),
    }


def cutting_table(title: str, found: dict[str, dict[str, Any]]) -> Table:
    """Return what `cut_steps` returned for readers."""
    rows = [
        [
            name,
            str(of["layers"]),
            f"{of['plan_s']:.2f}",
            f"{of['cut_s']:.3f}",
            *(f"{statistics.median(of[side]):.4f}" for side in ("plain_s", "cut_steps_s")),
            f"{of['ratio']:.3f}",
        ]
        for name, of in found.items()
    ]
    headings = ["model", "layers", "plan, s", "cut, s", "plain, s", "cut up, s", "ratio"]
    return Table(title, headings, rows)
