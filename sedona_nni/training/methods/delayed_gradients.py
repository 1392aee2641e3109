"""Delayed gradients: blocks go backward at the same time, each for another batch.

Notation:
    K        blocks, numbered from 1
    w_k^t    weights of block k before step t, t = 0, 1, ...
    h_k^s    what block k made of batch s, with the weights w_1^s ... w_k^s
    l^s      loss of the final head for batch s with the weights w^s
    e_k^s    dl^s/dh_k^s, the *error*
    b        ``beta``, by which errors shrink at each cut; 1 by default
    M        ``update_every``; 1 by default

At step t all blocks go forward with batch t, one after the other. Then block k goes backward for
batch s = t - (K - k), with the error that block k+1 found at step t-1, and hands its own on:

    (g_k^t, e_{k-1}^s / b) = (dh_k^s/d(w_k^s, h_{k-1}^s))^T e_k^s
    w_k^{t+1} = update(w_k^t, g_k^t)

The last block's gradient is not delayed, the first one's by K-1 steps. While a block has not been
sent an error, in the first K-k steps, it waits. Gradients still under way at the end of training
are lost. With K = 1, b = 1 and M = 1 this is back-propagation.

Each is the gradient at the weights w^s with which batch s went forward (DDG), although block k has
been updated K-k times since. A block's optimizer changes weights in place, which a graph that waits
would notice and refuse. So block k < K goes forward with a copy of its weights that belongs to the
graph, and keeps K-k of them beside the activations.

With ``replay`` (Features Replay) block k keeps the inputs h_{k-1}^s alone and goes forward a second
time when the error has come, with the weights of then, w_k^t instead of w_k^s: one graph at a time
and no copies of weights, for a third more computing. The dropout of the first time is drawn again,
and running statistics do not follow the batch twice.

With M > 1 (ADL) a block is updated with the mean of its last M gradients, and stays as it is in
between: of its weights a gradient is K-k steps old, but only (K-k)/M updates. The rate's schedule
goes on with every step.

Sources: Huo, Gu, Yang and Huang, "Decoupled Parallel Backpropagation with Convergence Guarantee",
ICML 2018, algorithm 1 (DDG); Huo, Gu and Huang, "Training Neural Networks Using Features Replay",
NeurIPS 2018, algorithm 1; Zhuang, Wang, Liu and Lin, "Fully Decoupled Neural Network Learning Using
Delayed Gradients", TNNLS 2021 (shrinking; its delays on the way up are not ours); Zhuang, Weng, Luo
and Toh, "Accumulated Decoupled Learning with Gradient Staleness Mitigation for Convolutional
Neural Networks", ICML 2021.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.training.method_settings import MethodSettings
from sedona_nni.training.methods.method import TrainingMethod, register_method
from sedona_nni.training.precision import autocast
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage

__all__ = ["DelayedGradients", "DelayedGradientsSettings"]


class DelayedGradientsSettings(MethodSettings):
    """Delayed gradients.

    Attributes:
        beta: By which an error is multiplied at each cut on its way down, as FDG does against the
            older gradients of lower blocks.
        replay: Whether blocks go forward a second time, with their weights of then, instead of
            keeping activations and copies of weights: Features Replay.
        update_every: After how many gradients a block is updated, with their mean: ADL.
    """

    name: Literal["ddg"] = "ddg"
    uses_auxiliary: ClassVar[bool] = False
    beta: float = Field(default=1.0, gt=0, le=1)
    replay: bool = Field(default=False, strict=True)
    update_every: int = Field(default=1, ge=1)

    @property
    def not_parallel(self) -> str | None:
        """See `MethodSettings.not_parallel`."""
        return None


@dataclass(frozen=True)
class _Pass:
    """A block's forward pass that waits for its error.

    Attributes:
        inputs: What the block below returned, (B, C, S, S), or the images.
        seed: What torch's generators were seeded with before it.
        weights: The copy of the block's weights that it used, by name; none where it is replayed.
        outputs: Its result, with the graph; None where it is replayed.
    """

    inputs: Tensor
    seed: int
    weights: Mapping[str, Tensor]
    outputs: Tensor | None


@register_method(DelayedGradientsSettings)
class DelayedGradients(TrainingMethod):
    """DDG, FDG's shrinking, Features Replay, ADL.

    Attributes:
        waiting: The forward passes of each block here but the network's last whose errors are to
            come, oldest first.
        errors: What the block above found at the last step, in the same order; None before the
            first, and while the error of a block in another process has not been received.
        gradients: Those of each block here since its last update, added up, one per parameter, or
            None where there are none.
        num_gradients: How many they are, by block.
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
        assert isinstance(settings.method, DelayedGradientsSettings)
        self.options = settings.method
        gradients = settings.epochs * steps_per_epoch - (self.stage.num_blocks - 1)  # of the lowest
        if self.options.update_every > max(1, gradients):
            rule = f"must be at most {max(1, gradients)}, the gradients of the lowest block in all"
            raise InputError.rule("method.update_every", rule, self.options.update_every)
        self.optimize(network.blocks)
        self._last = self.stage.num_blocks - 1 - self.stage.first  # as if it were among those here
        lower = network.blocks[: self._last]
        self.waiting: list[deque[_Pass]] = [deque() for _ in lower]
        self.errors: list[Tensor | None] = [None for _ in lower]
        self.gradients: list[list[Tensor | None]] = [
            [None for _ in block.parameters()] for block in network.blocks
        ]
        self.num_gradients = [0 for _ in network.blocks]
        self._copies: list[Mapping[str, Tensor] | None] = [None for _ in lower]
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
            features = self._forward(place, features, seed)
            if place + 1 == len(self.network.blocks):
                # Before the error, which the block above sends while it waits for these features
                self.stage.send(features)
            if len(self.waiting[place]) > self._last - place:
                waited = self.waiting[place].popleft()
                if waited.outputs is None:
                    waited = self._replayed(block, waited)
                self._backward(place, waited, self._error(place))
        self._go_on()
        return {}

    def _learn(self, features: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Let the last block learn along the gradient of its loss, which is returned."""
        torch.manual_seed(seed)
        top = self.network.blocks[self._last]
        inputs = features.detach().requires_grad_(self.stage.num_blocks > 1)
        with autocast(self.device, self.settings.amp):
            loss, _ = top.local_loss(top(inputs), labels, self.criterion)
        scaled = self.scalers[self._last].scale(loss)
        self._descend(self._last, scaled, inputs, [*top.parameters()])
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

    def _forward(self, place: int, features: Tensor, seed: int) -> Tensor:
        """Return what a block makes of a batch, and keep what its backward pass will need."""
        block = self.network.blocks[place]
        if self.options.replay:
            inputs = features.detach()
            torch.manual_seed(seed)
            with torch.no_grad(), autocast(self.device, self.settings.amp):
                outputs = block(inputs)
            self.waiting[place].append(_Pass(inputs, seed, {}, None))
            return cast(Tensor, outputs)
        copies = self._copies[place]
        if copies is None:  # else the block has not been updated since
            copies = self._copies[place] = _copied(dict(block.named_parameters()))
        latest = self._passed(block, features, copies, seed)
        self.waiting[place].append(latest)
        assert latest.outputs is not None
        return latest.outputs.detach()

    def _passed(
        self,
        block: Block,
        inputs: Tensor,
        weights: Mapping[str, Tensor],
        seed: int,
        buffers: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> _Pass:
        """Run a block with weights, and with buffers, other than its own, if given."""
        torch.manual_seed(seed)
        is_first = self.stage.first == 0 and block is self.network.blocks[0]
        inputs = inputs.detach().requires_grad_(not is_first)
        with autocast(self.device, self.settings.amp):
            outputs = functional_call(block, {**weights, **buffers}, (inputs,))
        return _Pass(inputs, seed, weights, outputs)

    def _replayed(self, block: Block, waited: _Pass) -> _Pass:
        """Return a forward pass once more, with the weights that the block has now."""
        weights = dict(block.named_parameters())
        return self._passed(block, waited.inputs, weights, waited.seed, _apart(block))

    def _backward(self, place: int, waited: _Pass, error: Tensor) -> None:
        """Let a block learn along the gradient of a forward pass."""
        assert waited.outputs is not None
        error = self.scalers[place].scale(error).to(waited.outputs.dtype)
        self._descend(place, waited.outputs, waited.inputs, [*waited.weights.values()], error)

    def _descend(
        self,
        place: int,
        outputs: Tensor,
        inputs: Tensor,
        weights: Sequence[Tensor],
        error: Tensor | None = None,
    ) -> None:
        """Go backward, send the error of a block's inputs down, and update it if it is time."""
        wanted = [tensor for tensor in [*weights, inputs] if tensor.requires_grad]
        found: Iterator[Tensor] = iter(())
        if wanted:  # else all of the lowest block is frozen
            found = iter(torch.autograd.grad(outputs, wanted, error, allow_unused=True))
        gradients = [next(found) if weight.requires_grad else None for weight in weights]
        if inputs.requires_grad:
            self._send(place, next(found))
        sums = self.gradients[place]
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                before = sums[index]
                sums[index] = gradient if before is None else before + gradient
        self.num_gradients[place] += 1
        if self.num_gradients[place] == self.options.update_every:
            self._move(place)

    def _send(self, place: int, gradient: Tensor) -> None:
        """Hand the error of a block's input down, for the next step: unscaled, as each block has a
        scale of its own."""
        error = gradient.to(self.dtype) * (self.options.beta / self.scalers[place].get_scale())
        if place:
            self.errors[place - 1] = error
        else:
            self.stage.send_error(error)

    def _move(self, place: int) -> None:
        """Update a block along the mean of its gradients since the last time."""
        sums, parameters = self.gradients[place], self.network.blocks[place].parameters()
        for index, parameter in enumerate(parameters):
            total = sums[index]
            if total is not None:
                number = self.num_gradients[place]
                parameter.grad = total if number == 1 else total / number
            sums[index] = None
        self.num_gradients[place] = 0
        if place < self._last:
            self._copies[place] = None
        if all(parameter.grad is None for parameter in self.network.blocks[place].parameters()):
            return  # all of it is frozen
        self.scalers[place].step(self.optimizers[place])
        self.scalers[place].update()
        self.optimizers[place].zero_grad()

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        """Take K+M steps: in the last, all graphs are there and all optimizers have a state.

        Of the network's last blocks alone it takes fewer.
        """
        self.start_epoch(1)
        for _ in range(self._last + 1 + self.options.update_every):
            self.step(images, labels)

    def state_dict(self) -> dict[str, Any]:
        """Return also what the forward passes that wait were made from, the errors, and gradients
        that wait for an update."""
        for place, queue in enumerate(self.waiting):
            if len(queue) == self._last - place:  # else none is on its way
                self._fetch(place)
        waiting = [
            [{"inputs": p.inputs, "weights": {**p.weights}, "seed": p.seed} for p in queue]
            for queue in self.waiting
        ]
        state = {**super().state_dict(), "waiting": waiting, "errors": self.errors}
        if self.options.update_every > 1:
            state |= {"gradients": self.gradients, "num_gradients": self.num_gradients}
        return state

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over a state; the graphs of the forward passes that wait are made again."""
        super().load_state_dict(state_dict)
        self.errors = [_on(self.device, error) for error in state_dict["errors"]]
        if self.options.update_every > 1:
            self.gradients = [
                [_on(self.device, gradient) for gradient in own] for own in state_dict["gradients"]
            ]
            self.num_gradients = [*state_dict["num_gradients"]]
        self.network.train()
        lower = self.network.blocks[: self._last]
        for index, (block, saved) in enumerate(zip(lower, state_dict["waiting"], strict=True)):
            self.waiting[index] = deque(self._made_again(block, each) for each in saved)

    def _made_again(self, block: Block, saved: Mapping[str, Any]) -> _Pass:
        """Return a forward pass that waits, from what was saved of it."""
        inputs, seed = saved["inputs"].to(self.device), saved["seed"]
        if self.options.replay:
            return _Pass(inputs, seed, {}, None)
        trained = dict(block.named_parameters())
        weights = {
            name: weight.to(self.device).requires_grad_(trained[name].requires_grad)
            for name, weight in saved["weights"].items()
        }
        return self._passed(block, inputs, weights, seed, _apart(block))


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that learn where the tensors do."""
    return {
        name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
        for name, tensor in tensors.items()
    }


def _apart(block: Block) -> dict[str, Tensor]:
    """Return copies of a block's buffers: with its own, batch norms would count a batch twice."""
    return {name: buffer.clone() for name, buffer in block.named_buffers()}
