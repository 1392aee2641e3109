"""Delayed gradients: blocks go backward at the same time, each for another batch (DDG).

Notation:
    K        blocks, numbered from 1
    w_k^t    weights of block k before step t, t = 0, 1, ...
    h_k^s    what block k made of batch s, with the weights w_1^s ... w_k^s
    l^s      loss of the final head for batch s with the weights w^s
    e_k^s    dl^s/dh_k^s, the *error*

At step t all blocks go forward with batch t, one after the other. Then block k goes backward for
batch s = t - (K - k), with the error that block k+1 found at step t-1, and hands its own on:

    (dl^s/dw_k^s, e_{k-1}^s) = (dh_k^s/d(w_k^s, h_{k-1}^s))^T e_k^s
    w_k^{t+1} = update(w_k^t, dl^s/dw_k^s)

The last block's gradient is not delayed, the first one's by K-1 steps. While a block has not been
sent an error, in the first K-k steps, it waits. Gradients still under way at the end of training
are lost. With K = 1 this is back-propagation.

Each is the gradient at the weights w^s with which batch s went forward, as published, although
block k has been updated K-k times since. A block's optimizer changes weights in place, which a
graph that waits would notice and refuse. So block k < K goes forward with a copy of its weights
that belongs to the graph, and keeps K-k of them beside the activations. To go forward a second time
instead would keep inputs in place of activations, but costs a third of the method's time, and its
need of memory is what it is known for.
Source: Huo, Gu, Yang and Huang, "Decoupled Parallel Backpropagation with Convergence Guarantee",
ICML 2018, algorithm 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork
from sedona_nni.training.method_settings import MethodSettings
from sedona_nni.training.methods.method import TrainingMethod, register_method
from sedona_nni.training.precision import autocast
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage

__all__ = ["DelayedGradients", "DelayedGradientsSettings"]


class DelayedGradientsSettings(MethodSettings):
    """Delayed gradients; it has no options."""

    name: Literal["ddg"] = "ddg"
    uses_auxiliary: ClassVar[bool] = False

    @property
    def not_parallel(self) -> str | None:
        """See `MethodSettings.not_parallel`."""
        return None


@dataclass(frozen=True)
class _Pass:
    """A block's forward pass that waits for its error.

    Attributes:
        inputs: What the block below returned, (B, C, S, S), or the images.
        weights: The copy of the block's weights that it used, by name.
        seed: What torch's generators were seeded with before it.
        outputs: Its result, with the graph.
    """

    inputs: Tensor
    weights: dict[str, Tensor]
    seed: int
    outputs: Tensor


@register_method(DelayedGradientsSettings)
class DelayedGradients(TrainingMethod):
    """DDG.

    Attributes:
        waiting: The forward passes of each block here but the network's last whose errors are to
            come, oldest first.
        errors: What the block above found at the last step, in the same order; None before the
            first, and while the error of a block in another process has not been received.
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
        self._last = self.stage.num_blocks - 1 - self.stage.first  # as if it were among those here
        lower = network.blocks[: self._last]
        self.waiting: list[deque[_Pass]] = [deque() for _ in lower]
        self.errors: list[Tensor | None] = [None for _ in lower]
        self.dtype = next(network.parameters()).dtype

    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        """Go forward with one batch, and backward with another one in each block.

        A block is updated before the next goes forward; its result was there before.
        """
        seed = torch.initial_seed()
        (features,) = self.stage.receive(images)
        for place, block in enumerate(self.network.blocks):
            if place == self._last:
                return {self.stage.first + place: self._learn(features, labels, seed)}
            latest = self._forward(block, features, dict(block.named_parameters()), seed)
            features = latest.outputs.detach()
            if place + 1 == len(self.network.blocks):
                # Before the error, which the block above sends while it waits for these features
                self.stage.send(features)
            self.waiting[place].append(latest)
            if len(self.waiting[place]) > self._last - place:
                self._backward(place, self.waiting[place].popleft(), self._error(place))
        self._go_on()
        return {}

    def _learn(self, features: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Update the last block along the gradient of its loss, which is returned."""
        torch.manual_seed(seed)
        top, scaler = self.network.blocks[self._last], self.scalers[self._last]
        inputs = features.detach().requires_grad_(self.stage.num_blocks > 1)
        with autocast(self.device, self.settings.amp):
            loss, _ = top.local_loss(top(inputs), labels, self.criterion)
        scaler.scale(loss).backward()
        if inputs.grad is not None:
            self._send(self._last, inputs.grad)
        self._move(self._last)
        self._go_on()
        return loss.detach()

    def _go_on(self) -> None:
        for schedule in self.schedules:
            schedule.step()

    def _error(self, place: int) -> Tensor:
        """Return the error that is due at a block, and that is then used up."""
        self._fetch(place)
        error, self.errors[place] = self.errors[place], None
        assert error is not None
        return error

    def _fetch(self, place: int) -> None:
        """See to it that the error that is due at a block is here."""
        if self.errors[place] is None:
            self.errors[place] = self.stage.receive_error()

    def _forward(
        self,
        block: Block,
        inputs: Tensor,
        weights: Mapping[str, Tensor],
        seed: int,
        buffers: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> _Pass:
        """Run a block with a copy of weights, and with buffers other than its own if given."""
        torch.manual_seed(seed)
        is_first = self.stage.first == 0 and block is self.network.blocks[0]
        inputs = inputs.detach().requires_grad_(not is_first)
        copies = {name: weight.detach().clone() for name, weight in weights.items()}
        for copy in copies.values():
            copy.requires_grad_()
        with autocast(self.device, self.settings.amp):
            outputs = functional_call(block, {**copies, **buffers}, (inputs,))
        return _Pass(inputs, copies, seed, outputs)

    def _backward(self, place: int, waited: _Pass, error: Tensor) -> None:
        """Update a block along the gradient of a forward pass, and send its error down."""
        error = self.scalers[place].scale(error).to(waited.outputs.dtype)
        wanted = [*waited.weights.values()]
        if waited.inputs.requires_grad:
            wanted.append(waited.inputs)
        gradients = torch.autograd.grad(waited.outputs, wanted, error)
        parameters = self.network.blocks[place].parameters()
        for parameter, gradient in zip(parameters, gradients, strict=False):
            parameter.grad = gradient
        if waited.inputs.requires_grad:
            self._send(place, gradients[-1])
        self._move(place)

    def _send(self, place: int, gradient: Tensor) -> None:
        """Hand the error of a block's input down, for the next step: unscaled, as each block has a
        scale of its own."""
        error = gradient.to(self.dtype) / self.scalers[place].get_scale()
        if place:
            self.errors[place - 1] = error
        else:
            self.stage.send_error(error)

    def _move(self, place: int) -> None:
        """Update a block along the gradient that it has."""
        self.scalers[place].step(self.optimizers[place])
        self.scalers[place].update()
        self.optimizers[place].zero_grad()

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        """Take K+1 steps: in the last, all graphs are there and all optimizers have a state."""
        self.start_epoch(1)
        for _ in range(len(self.network.blocks) + 1):
            self.step(images, labels)

    def state_dict(self) -> dict[str, Any]:
        """Return also what the forward passes that wait were made from, and the errors."""
        for place, queue in enumerate(self.waiting):
            if len(queue) == self._last - place:  # else none is on its way
                self._fetch(place)
        waiting = [
            [{"inputs": p.inputs, "weights": p.weights, "seed": p.seed} for p in queue]
            for queue in self.waiting
        ]
        return {**super().state_dict(), "waiting": waiting, "errors": self.errors}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over a state; the graphs of the forward passes that wait are made again."""
        super().load_state_dict(state_dict)
        self.errors = [e if e is None else e.to(self.device) for e in state_dict["errors"]]
        self.network.train()
        lower = self.network.blocks[: self._last]
        for index, (block, saved) in enumerate(zip(lower, state_dict["waiting"], strict=True)):
            buffers = dict(block.named_buffers())
            self.waiting[index] = deque(
                self._forward(
                    block,
                    made_from["inputs"].to(self.device),
                    {name: weight.to(self.device) for name, weight in made_from["weights"].items()},
                    made_from["seed"],
                    # Else batch norms would count these batches twice
                    {name: buffer.clone() for name, buffer in buffers.items()},
                )
                for made_from in saved
            )
