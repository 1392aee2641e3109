"""The two steps that a search consists of, each by this library and in the plain form.

relaxed step: one training step of the relaxed network, forward, backward and update.
meta-step: the hypergradient, from T training batches and a validation batch; neither the update of
alpha and beta that it is for, which is no work, nor the relaxed step that follows it in a search.

All sides compute on the same sizes, in float32, with SGD (momentum 0.9, weight decay 1e-4), labels
smoothed by 0.1 and random images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from benchmarks import naive
from sedona_nni.data.batches import Batch
from sedona_nni.models import Backbone, build_backbone, num_layers
from sedona_nni.models.placement import place
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd, TrainingState
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.teachers.auxiliary import check_auxiliary
from sedona_nni.teachers.losses import LabelSmoothing

__all__ = ["LR", "MOMENTUM", "WEIGHT_DECAY", "StepSetting", "naively", "ours"]

LR = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
_SMOOTHING = 0.1


class StepSetting(BaseModel):
    """What is computed.

    Attributes:
        step: Which of the two steps.
        backbone: Name of the backbone.
        aux: Names of the auxiliary networks at each boundary.
        batch_size: Training images per step.
        inner_steps: T; of no account for the relaxed step.
        validation_batch_size: Validation images; likewise.
        image_size: Height and width of the images, pixels.
        width_multiplier: Factor on every width.
        num_classes: Number of classes.
        device: ``cpu`` or ``cuda``.
        release_path: A clone of the authors' release, for the side that runs it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: Literal["meta-step", "relaxed-step"]
    backbone: str = "vgg19"
    aux: tuple[str, ...] = ("conv1", "conv2", "conv3", "conv4")
    batch_size: int = Field(default=64, ge=2)
    inner_steps: int = Field(default=5, ge=1)
    validation_batch_size: int = Field(default=256, ge=1)
    image_size: int = Field(default=32, ge=8)
    width_multiplier: float = Field(default=1.0, gt=0)
    num_classes: int = Field(default=10, ge=2)
    device: Literal["cpu", "cuda"] = "cpu"
    release_path: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        num_layers(self.backbone)
        for name in self.aux:
            check_auxiliary(name)
        return self

    @field_validator("release_path")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.resolve()

    def document(self) -> dict[str, Any]:
        """Return it for a record, which names no place of this machine."""
        return self.model_dump(mode="json", exclude={"release_path"})

    def network(self) -> Backbone:
        """Build the backbone, with weights drawn from torch's generator."""
        return build_backbone(
            self.backbone,
            num_classes=self.num_classes,
            image_size=self.image_size,
            width_multiplier=self.width_multiplier,
        )

    def batch(self, size: int) -> Batch:
        """Draw random images, (size, 3, image_size, image_size), and labels."""
        images = torch.randn(size, 3, self.image_size, self.image_size)
        labels = torch.randint(self.num_classes, (size,))
        return images.to(self.device), labels.to(self.device)

    def batches(self) -> tuple[list[Batch], Batch]:
        """Draw the T training batches and the validation batch."""
        train = [self.batch(self.batch_size) for _ in range(self.inner_steps)]
        return train, self.batch(self.validation_batch_size)


def ours(setting: StepSetting) -> Callable[[], object]:
    """Prepare the step as the library computes it."""
    torch.manual_seed(0)
    network = place(RelaxedNetwork(setting.network(), setting.aux), setting.device)
    optimizer = Sgd(MOMENTUM, WEIGHT_DECAY)
    problem = InnerProblem(network, optimizer, LabelSmoothing(_SMOOTHING))
    start = problem.state()
    train_batches, validation_batch = setting.batches()
    if setting.step == "relaxed-step":
        return partial(_train_on, problem, [start], train_batches[0])
    lrs = [LR] * len(train_batches)
    return partial(hypergradient, problem, start, train_batches, validation_batch, lrs=lrs, seed=0)


def _train_on(problem: InnerProblem, state: list[TrainingState], batch: Batch) -> None:
    state[0], _ = problem.step(state[0], batch, LR, seed=0)


def naively(setting: StepSetting) -> Callable[[], object]:
    """Prepare the step in its plain form, see `benchmarks.naive`."""
    torch.manual_seed(0)
    network = naive.NaiveNetwork(setting.network(), setting.aux).to(setting.device)
    boundaries = len(network.auxiliaries)
    alpha, beta = (
        torch.zeros(boundaries, choices, device=setting.device, requires_grad=True)
        for choices in (2, len(setting.aux))
    )
    train_batches, validation_batch = setting.batches()
    criterion = LabelSmoothing(_SMOOTHING)
    if setting.step == "relaxed-step":
        trained = torch.optim.SGD(
            network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        fixed = alpha.detach(), beta.detach()
        return partial(naive.relaxed_step, network, trained, *fixed, train_batches[0], criterion)

    def differentiate() -> tuple[torch.Tensor, ...]:
        weights = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
        loss = naive.meta_loss(
            network,
            weights,
            {name: torch.zeros_like(weight)[None] for name, weight in weights.items()},
            {name: b for name, b in network.named_buffers() if "running" in name},
            alpha,
            beta,
            train_batches,
            validation_batch,
            criterion,
            Sgd(MOMENTUM, WEIGHT_DECAY),
            lrs=[LR] * len(train_batches),
            seed=0,
        )
        return torch.autograd.grad(loss, [alpha, beta])

    return differentiate
