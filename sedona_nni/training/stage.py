"""Which blocks of a network are trained in this process, and what passes between processes.

A *stage* is a run of neighbouring blocks. In one process it is the whole network, and nothing
passes. In a training in parallel each process, a *rank*, has a stage of its own, see
`sedona_nni.training.parallel.rank_stage.RankStage`. The loop, the methods and the evaluation say
here what they would hand on, and so are the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.files import read_tensors, reading, write_atomically

__all__ = ["CHECKPOINTS", "CHECKPOINT_FILE", "Stage"]

CHECKPOINT_FILE = "checkpoint.pt"
CHECKPOINTS = "checkpoint"
"""The folder of a training's checkpoints where there are several processes."""


class Stage:
    """All blocks of a network, in one process.

    Attributes:
        first: Index of the first block here, from 0.
        num_blocks: K, the blocks of the whole network.
        replica: Which of the processes of the same blocks this is, from 0.
    """

    replica = 0

    def __init__(self, num_blocks: int, first: int = 0) -> None:
        self.num_blocks = num_blocks
        self.first = first

    @property
    def tells(self) -> bool:
        """Whether this process is the one that shows how far the training is."""
        return True

    def rows(self, batch: Tensor) -> Tensor:
        """Return the part of a batch, (B, ...), that is learned from here."""
        return batch

    def shared(self, block: Block) -> Block:
        """Return a block as it learns: together with its replicas, if it has any."""
        return block

    def merge(self, network: DecoupledNetwork) -> None:
        """Give the replicas of each block the mean of their batch norms' running statistics."""

    def open(self, sizes: Sequence[int]) -> None:
        """Get ready for a pass: so many batches will go through the network, of these sizes."""

    def receive(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the block below has sent of the next batch, or the images themselves.

        Args:
            images: The batch, (B, C, S, S); blank where the first block is elsewhere.
        """
        return (images,)

    def send(self, *tensors: Tensor) -> None:
        """Send what this stage has made of a batch to the block above, if there is one."""

    def receive_error(self) -> Tensor:
        """Return the next error that the block above has sent."""
        raise NotImplementedError("nothing is above all blocks")

    def send_error(self, error: Tensor) -> None:
        """Send an error to the block below."""
        raise NotImplementedError("nothing is below all blocks")

    def feed(self, steps: int, features: Tensor, labels: Tensor) -> None:
        """Let the block above have a batch as soon as it takes one, unless a later one is there by
        then; waits for nobody.

        Args:
            steps: How many steps the first block has begun, as far as is known here.
            features: What this stage made of the batch.
            labels: Its labels.
        """
        raise NotImplementedError("nothing is above all blocks")

    def arrivals(self, most: int, *, wait: bool) -> Sequence[tuple[int, Tensor, Tensor]]:
        """Return what the block below has fed since the last call, oldest first.

        Args:
            most: Only the newest of them.
            wait: Whether to wait until there is something.
        """
        raise NotImplementedError("nothing is below all blocks")

    def exchange(self, value: Any) -> list[Any]:
        """Return what every process passes here, in the order of their blocks.

        Args:
            value: Fit for JSON, non-finite numbers included.
        """
        return [value]

    def up_to(self, num_blocks: int) -> Stage:
        """Return the way to the others for a pass through the lowest blocks alone."""
        return Stage(num_blocks, self.first)

    def mean_by_block(self, values: Sequence[Sequence[float]]) -> list[float]:
        """Return one number for each of the K blocks, from what `exchange` has returned.

        Args:
            values: For each process the numbers of its blocks; those of one block are averaged.
        """
        return [number for own in values for number in own]

    def load(self, directory: Path) -> tuple[Path, dict[str, Any]] | None:
        """Return the last checkpoint in a directory, with its file's path; None without one.

        Raises:
            InputError: if it cannot be read.
        """
        path = directory / CHECKPOINT_FILE
        if (directory / CHECKPOINTS).exists():
            raise InputError(
                f"directory: {directory / CHECKPOINTS} was made by a training in parallel; go on "
                "as it was begun, or remove it to start again"
            )
        if not path.exists():
            return None
        with reading(path, "remove it to start again"):
            return path, read_tensors(path)

    def save(self, directory: Path, epoch: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint in place of the last one.

        Args:
            directory: Where.
            epoch: After which epoch, from 1.
            state: Tensors and plain values.
        """
        write_atomically(directory / CHECKPOINT_FILE, lambda path: torch.save(state, path))

    def gather_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the whole network's weights by name, in one of the processes, else None.

        Args:
            weights: Those of this stage, on the CPU, named as if it were the whole network.
        """
        return weights
