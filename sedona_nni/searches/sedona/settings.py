"""How SEDONA searches: the options of its two levels."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from sedona_nni.searches.sedona.weight_memory import Eviction
from sedona_nni.seed import Seed

__all__ = ["SearchSettings", "StudyOptions"]


class SearchSettings(BaseModel):
    """How to search; the defaults are the release's for CIFAR-10, but for ``eviction``.

    Attributes:
        pretrain_steps: Training steps of the relaxed network before the first meta-step. With 0
            there is nothing to choose from: the first meta-step starts from the initial weights
            at the rate ``lr``, each other one from where the last one's training step ended.
            ``memory_size`` must be 1 then, and ``lr_steps`` given.
        meta_steps: Updates of alpha and beta.
        inner_steps: T, training steps that each meta-step looks ahead.
        batch_size: Training images per step, or all where there are fewer.
        validation_batch_size: Validation images per meta-step.
        optimizer: ``sgd`` or ``adam`` for the weights.
        lr: Learning rate at the first step of training.
        lr_min: Learning rate from step ``lr_steps`` on; a cosine lies between.
        lr_steps: Training steps until then; by default those of pre-training.
        momentum: Momentum of ``sgd``.
        weight_decay: Factor of the L2 penalty's gradient, for the weights.
        label_smoothing: eps of `sedona_nni.teachers.losses.LabelSmoothing`, in all losses.
        meta_optimizer: ``adam`` or ``sgd`` for alpha and beta, or ``frank_wolfe``, see
            `sedona_nni.searches.sedona.frank_wolfe`, which has no learning rate or penalty.
        meta_num_blocks: K of ``frank_wolfe``, which goes towards decouplings into so many blocks.
        meta_lr: The meta-optimizer's learning rate.
        meta_betas: Decay rates of ``adam``'s moments.
        meta_momentum: Momentum of ``sgd`` as the meta-optimizer.
        meta_weight_decay: Factor of the L2 penalty's gradient, for alpha and beta.
        memory_size: Snapshots that the weight memory holds. With 1, all meta-steps follow the one
            trajectory that pre-training ended with.
        num_snapshots: Moments of pre-training that are offered to the memory, evenly spaced.
        eviction: Which snapshot a full memory lets go, see `weight_memory.WeightMemory`.
        release_mode: Compute as the authors' release does, see `release_mode`.
        mix: What beta mixes: ``logits`` of the auxiliary networks, or their ``losses``, see
            `mixed_losses`.
        start_a_loc: a^loc of every boundary at the start. The paper's 0.5 is half way between cut
            and not cut; a small one is close to the undivided network.
        perturbation_steps: With more than 0 the choice is by perturbation, not by the size of alpha
            and beta: at the end, each boundary in turn is not cut, and cut with each auxiliary
            network, for so many training steps, at rates from ``lr`` to ``lr_min`` once more, see
            `sedona_nni.searches.sedona.perturbation`.
        validation_fraction: Share of the training images that validate.
        tf32: Let a GPU round the factors of convolutions and products of matrices to TF32, 10 bits
            of mantissa. In a small case the hypergradient was then off by a tenth, else by 4e-6
            (record gpu_h200). Of no account on a CPU.
        cuda_graphs: Have a GPU launch the kernels of a step by itself, see
            `sedona_nni.searches.sedona.cuda_graphs`: for networks so small that it waits for
            Python. Needs more memory. Of no account on a CPU.
        seed: Decides initial weights, order of the images, augmentation, dropout and snapshots.

    Examples:
        >>> from sedona_nni import SearchSettings
        >>> settings = SearchSettings(pretrain_steps=200, meta_steps=20, batch_size=32)
        >>> settings.inner_steps, settings.optimizer
        (5, 'sgd')
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pretrain_steps: int = Field(default=40_000, ge=0)
    meta_steps: int = Field(default=2_000, ge=1)
    inner_steps: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=2)  # batch norm cannot learn from a single image
    validation_batch_size: int = Field(default=1024, ge=1)
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    lr_min: float = Field(default=0.001, ge=0)
    lr_steps: int | None = Field(default=None, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, le=0.5)
    meta_optimizer: Literal["adam", "sgd", "frank_wolfe"] = "adam"
    meta_num_blocks: int | None = Field(default=None, ge=2)
    meta_lr: float = Field(default=0.01, gt=0)
    meta_betas: tuple[float, float] = (0.5, 0.999)
    meta_momentum: float = Field(default=0.0, ge=0, lt=1)
    meta_weight_decay: float = Field(default=1e-6, ge=0)
    memory_size: int = Field(default=50, ge=1)
    num_snapshots: int = Field(default=500, ge=1)
    eviction: Eviction = "spread"
    release_mode: bool = False
    mix: Literal["logits", "losses"] = "logits"
    start_a_loc: float = Field(default=0.5, gt=0, lt=1)
    perturbation_steps: int = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.4, gt=0, lt=1)
    tf32: bool = False
    cuda_graphs: bool = False
    seed: Seed = 2021

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min must be at most lr, {self.lr}, but got {self.lr_min}")
        if self.pretrain_steps == 0 and self.memory_size != 1:
            raise ValueError(
                f"memory_size must be 1 without pre-training, but got {self.memory_size}"
            )
        if self.pretrain_steps == 0 and self.lr_steps is None:
            raise ValueError("lr_steps must be given without pre-training")
        if self.release_mode and self.mix != "logits":
            raise ValueError(f"mix must be logits in release mode, but got {self.mix}")
        if (self.meta_optimizer == "frank_wolfe") != (self.meta_num_blocks is not None):
            raise ValueError(
                "meta_num_blocks must be given for meta_optimizer frank_wolfe, and for no other, "
                f"but got {self.meta_num_blocks} for {self.meta_optimizer}"
            )
        if not all(0 <= beta < 1 for beta in self.meta_betas):
            raise ValueError(
                f"meta_betas must be from 0 to below 1, but got {list(self.meta_betas)}"
            )
        return self


class StudyOptions(BaseModel):
    """How much to search in a study.

    Attributes:
        pretrain_share: Pre-training steps, as a share of a training's steps.
        meta_share: Meta-steps, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pretrain_share: float = Field(default=0.5, gt=0)
    meta_share: float = Field(default=0.1, gt=0)
