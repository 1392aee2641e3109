"""Asynchronous greedy learning: blocks that do not wait for each other.

Between two blocks stands a *replay buffer*: the lower block puts what it returns into it, the upper
one draws from it when it gets to its next update, however often or seldom that is. So a block may
run ahead of the one below, learning again from what it has seen, or lag behind and miss some.

In one process this is simulated. Time is a sequence of *turns*. In a turn one block is updated
once, the first block from the next batch of images, any other from a draw of the buffer below, and
its output goes into the buffer above. Whose turn it is, is drawn at random, a slowed block less
often than the others, or goes around. Each block has its own count of updates and its own schedule.
One that has made all its updates goes on to feed the one above, in evaluation mode; training ends
with the epoch in which every block has made all. An *epoch* is one pass of the first block over the
images, and a step is one turn of the first block with the turns of the others before its next.

At the start, and again when a block's learning rate falls at a milestone, every block has two turns
in a row, from the lowest up. That fills the buffers with what the present weights make.

With a process for each block nothing is simulated. The first block takes one batch after another,
any other draws from the buffer below as fast as it can, which fills as outputs arrive; what is not
taken in time is replaced by what comes next. Only the end of an epoch brings the blocks together,
for validation. So a slow block holds up nobody, and the outcome depends on how fast each is: it is
another one every time.

Source: Belilovsky et al., ICML 2020, the experiments on asynchronous training. Departures: draws
from a full buffer are in the order that is described, where the published code takes the oldest
entry for the newest; a buffer of one batch counts draws, too; the learning rate falls exactly at
its milestone, there two passes later, and momentum is kept then; the cross-entropy is plain, there
of probabilities clamped at 1e-5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from sedona_nni.data.batches import Batch
from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.training.method_settings import MethodSettings
from sedona_nni.training.methods.method import TrainingMethod, register_method
from sedona_nni.training.precision import autocast
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage

__all__ = ["AsynchronousLearning", "AsynchronousSettings", "ReplayBuffer"]


class AsynchronousSettings(MethodSettings):
    """Greedy learning of blocks that do not wait for each other.

    Attributes:
        buffer: Batches that are kept between a block and the next.
        max_draws: How often a block learns from the same batch of a buffer. If all have been drawn
            so often, it skips its turn. By default there is no limit.
        order: Whose turn it is in one process: ``random``, or ``round-robin`` from the lowest to
            the highest.
        slow_block: Number, from 1, of a block that has fewer turns there than the others.
        slowdown: The others have so many times as many, on average.
    """

    name: Literal["asynchronous"] = "asynchronous"
    takes_block_steps: ClassVar[bool] = True
    buffer: int = Field(default=1, ge=1)
    max_draws: int | None = Field(default=None, ge=1)
    order: Literal["random", "round-robin"] = "random"
    slow_block: int | None = Field(default=None, ge=1)
    slowdown: float = Field(default=1.0, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.slow_block is None) != (self.slowdown == 1):
            raise ValueError(
                "slow_block must come with a slowdown above 1, "
                f"but got {self.slow_block} and {self.slowdown}"
            )
        if self.slow_block is not None and self.order != "random":
            raise ValueError(f"slow_block must come with random order, but got {self.order}")
        return self

    @property
    def not_parallel(self) -> str | None:
        """See `MethodSettings.not_parallel`."""
        simulated = self.slow_block is not None or self.order != "random"
        reason = "order and slow_block say whose turn it is in one process, not in several"
        return reason if simulated else None

    def check(self, aux: Sequence[str]) -> None:
        """See `MethodSettings.check`; the slowed block must exist, too."""
        super().check(aux)
        if self.slow_block is not None and self.slow_block > len(aux) + 1:
            rule = f"must be at most the number of blocks, {len(aux) + 1}"
            raise InputError.rule("slow_block", rule, self.slow_block)


class ReplayBuffer:
    """The last batches that a block has returned, each with the number of times it was drawn.

    Drawn is, of the batches that were drawn least often, the newest.

    Args:
        size: Batches that are kept.
        max_draws: How often each may be drawn; None for any number of times.
        device: Where batches are brought that are loaded.
    """

    def __init__(
        self, size: int, max_draws: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.size = size
        self.max_draws = max_draws
        self.device = device
        self._batches: deque[Batch] = deque(maxlen=size)  # from the oldest to the newest
        self._draws: deque[int] = deque(maxlen=size)

    @property
    def newest(self) -> Batch:
        """The batch that was put in last."""
        return self._batches[-1]

    @property
    def is_open(self) -> bool:
        """Whether a batch may be drawn."""
        return bool(self._draws) and min(self._draws) != self.max_draws

    def put(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch; a full buffer loses its oldest."""
        self._batches.append((features, labels))
        self._draws.append(0)

    def draw(self) -> Batch | None:
        """Return a batch, which stays in the buffer; None if none may be drawn."""
        if not self.is_open:
            return None
        fewest = min(self._draws)
        newest = max(place for place, draws in enumerate(self._draws) if draws == fewest)
        self._draws[newest] += 1
        return self._batches[newest]

    def state_dict(self) -> dict[str, Any]:
        """Return the batches and their draws."""
        return {"batches": list(self._batches), "draws": list(self._draws)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over a buffer's content."""
        for features, labels in state_dict["batches"]:
            self._batches.append((features.to(self.device), labels.to(self.device)))
        self._draws.extend(state_dict["draws"])


@register_method(AsynchronousSettings)
class AsynchronousLearning(TrainingMethod):
    """Asynchronous greedy learning.

    Attributes:
        buffers: One below each block here but the network's first.
        updates: How many updates each block here has made.
    """

    def __init__(
        self,
        network: DecoupledNetwork,
        settings: TrainSettings,
        splits: Splits,
        steps_per_epoch: int,
        stage: Stage | None = None,
    ) -> None:
        """See `TrainingMethod`."""
        super().__init__(network, settings, splits, steps_per_epoch, stage)
        self.optimize(network.blocks)
        options = settings.method
        assert isinstance(options, AsynchronousSettings)
        num_blocks = len(network.blocks)
        self.buffers = [
            ReplayBuffer(options.buffer, options.max_draws, self.device)
            for _ in range(num_blocks - (self.stage.first == 0))
        ]
        self.parts += self.buffers
        self.updates = [0] * num_blocks
        self._all_updates = settings.epochs * steps_per_epoch
        self._milestones = {epoch * steps_per_epoch for epoch in settings.milestones}
        self._two_each = [index for index in range(num_blocks) for _ in range(2)]
        self._planned = self._two_each[1:]  # the first turn is what the first step begins with
        self._last = 0
        self._steps = self._known_steps = 0  # of the first block: to be awaited, and heard of
        self._random = options.order == "random"
        self._shares = torch.ones(num_blocks)
        if options.slow_block is not None:
            self._shares[options.slow_block - 1] /= options.slowdown
        self._generator = torch.Generator()
        self._generator.manual_seed(int(torch.randint(2**62, ())))

    def finished(self, epochs: int) -> bool:
        """Return whether every block has made all its updates."""
        done = all(self._is_done(index) for index in range(len(self.updates)))
        return all(self.stage.exchange(done))

    def start_epoch(self, epoch: int) -> None:
        """Bring the blocks that still learn into training mode."""
        for index, block in enumerate(self.network.blocks):
            block.train(not self._is_done(index))

    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        """Give the first block a turn with the batch, then the others until its next turn."""
        losses: dict[int, list[Tensor]] = {}
        index, batch = 0, (images, labels)
        if len(self.network.blocks) < self.stage.num_blocks:
            return self._step_beside_others(batch)
        while True:
            loss = self._turn(index, batch)
            if loss is not None:
                losses.setdefault(index, []).append(loss)
            index = self._next()
            if index == 0:
                return {block: torch.stack(own).mean() for block, own in losses.items()}

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        """Let every block learn, fill the buffers, and give each block one more turn."""
        super().rehearse(images, labels)
        for buffer in self.buffers:
            features, labels = buffer.newest
            for _ in range(buffer.size):
                buffer.put(features.clone(), labels.clone())
        for index in range(len(self.updates)):
            self._turn(index, (images, labels))

    def numbers(self) -> dict[str, float]:
        """Return the last block's rate, ``lr``, and the epochs that each block has learned."""
        epochs = {
            f"block_{index + 1}_epochs": updates / self.steps_per_epoch
            for index, updates in enumerate(self.updates, self.stage.first)
        }
        return {**super().numbers(), **epochs}

    def state_dict(self) -> dict[str, Any]:
        """See `TrainingMethod.state_dict`; the buffers' content is part of it."""
        return {
            **super().state_dict(),
            "updates": self.updates,
            "planned": self._planned,
            "last": self._last,
            "steps": self._steps,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """See `TrainingMethod.load_state_dict`."""
        super().load_state_dict(state_dict)
        self.updates = state_dict["updates"]
        self._planned = state_dict["planned"]
        self._last = state_dict["last"]
        self._steps = self._known_steps = state_dict.get("steps", 0)
        self._generator.set_state(state_dict["generator"])

    def _is_done(self, index: int) -> bool:
        return self.updates[index] >= self._all_updates

    def _next(self) -> int:
        """Return whose turn is next."""
        if self._planned:
            self._last = self._planned.pop(0)
        elif self._random:
            self._last = int(torch.multinomial(self._shares, 1, generator=self._generator))
        else:
            self._last = (self._last + 1) % len(self.updates)
        return self._last

    def _turn(self, index: int, first: Batch) -> Tensor | None:
        """Let a block learn; return its loss, None if it did not.

        Args:
            index: The block.
            first: What the first block learns from.
        """
        below = index - (self.stage.first == 0)  # the buffer's place
        batch = first if below < 0 else self.buffers[below].draw()
        if batch is None:
            return None
        features, labels = batch
        block = self.network.blocks[index]
        loss = None
        if self._is_done(index):
            with torch.no_grad(), autocast(self.device, self.settings.amp):
                features = block(features)
        else:
            features, loss, _ = self.block_step(index, features, labels)
            self.schedules[index].step()
            self.updates[index] += 1
            if self._is_done(index):
                block.eval()
            if self.updates[index] in self._milestones:
                self._planned = list(self._two_each)
        if below + 1 < len(self.buffers):
            self.buffers[below + 1].put(features, labels)
        elif self.stage.first + index + 1 < self.stage.num_blocks:
            self.stage.feed(self._known_steps, features, labels)
        return loss

    def _step_beside_others(self, batch: Batch) -> dict[int, Tensor]:
        """Give the only block here turns until the first one, wherever it is, has had its own.

        One that lags behind has none, as that has had it already.
        """
        self._steps += 1
        first, losses = self.stage.first, []
        if first == 0:
            self._known_steps = self._steps
        while first == 0 or not self._is_behind():
            loss = self._turn(0, batch)
            if loss is not None:
                losses.append(loss)
            if first == 0:
                break
        if 0 < first < self.stage.num_blocks - 1 and self._steps % self.steps_per_epoch == 0:
            nothing = torch.empty(0)  # but that the epoch has ended, for which those above wait
            self.stage.feed(self._known_steps, nothing, nothing)
        return {first: torch.stack(losses).mean()} if losses else {}

    def _is_behind(self) -> bool:
        """Take in what has arrived; return whether the first block has begun this step."""
        (below,) = self.buffers
        # If nothing may be drawn, there is nothing to do but to wait
        idle = self._known_steps < self._steps and not below.is_open
        for steps, features, labels in self.stage.arrivals(below.size, wait=idle):
            self._known_steps = max(self._known_steps, steps)
            if len(labels):
                below.put(features, labels)
        return self._known_steps >= self._steps
