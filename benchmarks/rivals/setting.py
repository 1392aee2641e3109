"""What all rivals compute: one network, one batch, one decoupling."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from sedona_nni.data.batches import Batch
from sedona_nni.decouplings.balance import balanced_decoupling
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks, uniform_cuts
from sedona_nni.decouplings.layer_time import compute_in_time
from sedona_nni.decouplings.memory import StepForm, compute_in_memory
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, build_backbone, num_layers
from sedona_nni.models.placement import lay_out
from sedona_nni.searches.documents import document_path, load_decoupling
from sedona_nni.teachers.auxiliary import check_auxiliary

__all__ = ["LR", "MOMENTUM", "RivalSetting", "choose_cuts", "loss", "sgd"]

LR = 0.01
MOMENTUM = 0.9
_CUTS = "uniform, published, balanced, macs, memory, or boundaries by commas"


class RivalSetting(BaseModel):
    """What is computed, and how often.

    Attributes:
        backbone: Name of the backbone.
        width_multiplier: Factor on every width.
        image_size: Height and width of the images, pixels.
        num_classes: Number of classes.
        batch_size: Images of a step, of all processes together.
        cuts: Boundaries, K-1 of them.
        aux: The auxiliary network at each.
        threads: Of back-propagation in one process, where it may use all cores.
        processes: Of what is parallel without cuts, n.
        accumulate: Parts that the batch is split into where gradients are accumulated.
        microbatches: Numbers of parts that a pipeline with exact gradients is tried with.
        warm_up: Steps between the first one and those that count.
        steps: Steps that count, of each repeat.
        timeout_s: How long a process may wait for another, and all of a side's together take
            ten times as long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    width_multiplier: float = Field(default=1.0, gt=0)
    image_size: int = Field(default=32, ge=8)
    num_classes: int = Field(default=10, ge=2)
    batch_size: int = Field(default=32, ge=2)
    cuts: tuple[int, ...]
    aux: str = "conv1"
    threads: int = Field(default=2, ge=1)
    processes: int = Field(default=2, ge=1)
    accumulate: int = Field(default=4, ge=2)
    microbatches: tuple[int, ...] = (4, 8)
    warm_up: int = Field(default=3, ge=1)
    steps: int = Field(default=10, ge=1)
    timeout_s: float = Field(default=120, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_auxiliary(self.aux)
        self.decoupling.blocks(num_layers(self.backbone, self.image_size))
        parts = (("accumulate", self.accumulate), ("processes", self.processes))
        for name, number in (*parts, *(("microbatches", each) for each in self.microbatches)):
            # A batch norm cannot learn from a single image
            if self.batch_size % number or self.batch_size // number < 2:
                raise ValueError(
                    f"{name} must divide batch_size, {self.batch_size}, into parts of 2 images or "
                    f"more, but got {number}"
                )
        return self

    @cached_property
    def decoupling(self) -> Decoupling:
        """The cuts with their auxiliary networks."""
        return Decoupling(
            backbone=self.backbone, cuts=list(self.cuts), aux=[self.aux] * len(self.cuts)
        )

    @property
    def num_blocks(self) -> int:
        """K."""
        return len(self.cuts) + 1

    @property
    def total_steps(self) -> int:
        """Steps of a process: the first, some to warm up, those that count, one for its memory."""
        return 1 + self.warm_up + self.steps + 1

    def network(self) -> Backbone:
        """Build the backbone, always with the same weights."""
        torch.manual_seed(0)
        return _backbone(self.model_dump())

    def batch(self) -> Batch:
        """Draw the batch, always the same: images in the layout of trainings, and labels."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        images = lay_out(torch.randn(shape, generator=generator))
        return images, torch.randint(self.num_classes, (self.batch_size,), generator=generator)

    def share(self, rank: int) -> Batch:
        """Return the part of the batch that one of n processes has."""
        images, labels = self.batch()
        return lay_out(images.chunk(self.processes)[rank]), labels.chunk(self.processes)[rank]

    def cut_bytes(self) -> list[int]:
        """Return how many bytes of features a batch has at each cut, in float32."""
        with torch.device("meta"):
            boundaries = self.network().boundaries
        shapes = (boundaries[cut] for cut in self.cuts)
        return [4 * self.batch_size * shape.numbers for shape in shapes]


def _backbone(fields: dict[str, Any]) -> Backbone:
    names = ("num_classes", "image_size", "width_multiplier")
    return build_backbone(fields["backbone"], **{name: fields[name] for name in names})


def sgd(module: nn.Module) -> torch.optim.SGD:
    """Return the optimizer that all rivals have, fused but for FSDP2, where torch has none."""
    parameters = [*module.parameters()]
    # Of a DTensor, whose class takes half a second to import
    sharded = any(hasattr(each, "device_mesh") for each in parameters)
    return torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, fused=not sharded)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy, shape ()."""
    return F.cross_entropy(logits, labels)


def choose_cuts(text: str, num_blocks: int, aux: str, **fields: Any) -> tuple[int, ...]:
    """Return the K-1 cuts that ``--cuts`` says.

    Args:
        text: ``uniform``; ``published``, those that SEDONA's published search found; ``balanced``,
            those of which the largest block takes least time, by times measured here on one
            thread, ``macs`` likewise by multiply-accumulates, ``memory`` by what a step takes of
            memory; or boundaries by commas.
        num_blocks: K.
        aux: Auxiliary network at each cut, which is counted in its block.
        fields: The other fields of the setting.

    Raises:
        InputError: if it is none of these, or does not fit the backbone or K.
    """
    backbone = fields["backbone"]
    layers = num_layers(backbone, fields["image_size"])
    check_num_blocks(num_blocks, layers)
    check_auxiliary(aux)
    if text == "uniform":
        return tuple(uniform_cuts(layers, num_blocks))
    if text == "published":
        return tuple(load_decoupling(document_path(f"published:{backbone}"), num_blocks).cuts)
    if text in ("balanced", "macs", "memory"):
        return tuple(balanced_decoupling(_compute(text, aux, fields), num_blocks, aux).cuts)
    try:
        cuts = tuple(int(each) for each in text.split(","))
    except ValueError:
        raise InputError.rule("--cuts", f"must be {_CUTS}", text) from None
    if len(cuts) != num_blocks - 1:
        raise InputError.rule("--cuts", f"must be K-1 = {num_blocks - 1} of them", text)
    return cuts


def _compute(text: str, aux: str, fields: dict[str, Any]) -> Compute:
    if text != "balanced":
        with torch.device("meta"):
            backbone = _backbone(fields)
        if text == "macs":
            return compute_in_macs(backbone, [aux])
        optimizer = partial(torch.optim.SGD, lr=LR, momentum=MOMENTUM)
        form = StepForm(batch_size=fields["batch_size"], optimizer=optimizer)
        return compute_in_memory(backbone, [aux], form)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        device, batch_size = torch.device("cpu"), fields["batch_size"]
        return compute_in_time(_backbone(fields), [aux], device=device, batch_size=batch_size)
    finally:
        torch.set_num_threads(threads)
