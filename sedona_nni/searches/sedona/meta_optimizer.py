"""The outer level's optimizers: how alpha and beta follow their hypergradient.

    m' = mu m + g~;  x' = x - lr m'                                   SGD, g~ = g + wd x
    m' = b1 m + (1 - b1) g~;  v' = b2 v + (1 - b2) g~^2;
    x' = x - lr m^ / (sqrt(v^) + eps), with bias-corrected m^, v^     Adam

They are torch's own functions of tensors. Its optimizers that call them would import its compiler
for each search, which takes a second and some 100 MiB, and is never used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

__all__ = ["MetaAdam", "MetaOptimizer", "MetaSgd"]


class MetaOptimizer(ABC):
    """Moves alpha and beta.

    Attributes:
        arch: Alpha, (L-1, 2), and beta, (L-1, C), which it changes.
        state: What it remembers for each of the two, by name: what a checkpoint keeps.
    """

    def __init__(self, alpha: Tensor, beta: Tensor) -> None:
        self.arch = alpha, beta
        self.state: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}

    @abstractmethod
    def step(self, to_alpha: Tensor, to_beta: Tensor) -> None:
        """Do a step.

        Args:
            to_alpha: The gradient of the validation loss with respect to alpha.
            to_beta: Likewise.
        """


class MetaSgd(MetaOptimizer):
    """SGD.

    Args:
        alpha: See `MetaOptimizer`.
        beta: Likewise.
        lr: The learning rate.
        momentum: mu.
        weight_decay: wd.
    """

    def __init__(
        self, alpha: Tensor, beta: Tensor, *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(alpha, beta)
        self._lr, self._momentum, self._weight_decay = lr, momentum, weight_decay

    @torch.no_grad()
    def step(self, to_alpha: Tensor, to_beta: Tensor) -> None:
        """See `MetaOptimizer.step`."""
        moments = [state.get("momentum_buffer") for state in self.state]
        sgd(
            [*self.arch],
            [to_alpha, to_beta],
            moments,
            foreach=False,
            lr=self._lr,
            momentum=self._momentum,
            weight_decay=self._weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for state, moment in zip(self.state, moments, strict=True):
            if moment is not None:
                state["momentum_buffer"] = moment


class MetaAdam(MetaOptimizer):
    """Adam.

    Args:
        alpha: See `MetaOptimizer`.
        beta: Likewise.
        lr: The learning rate.
        betas: b1 and b2.
        weight_decay: wd.
    """

    def __init__(
        self,
        alpha: Tensor,
        beta: Tensor,
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        super().__init__(alpha, beta)
        self._lr, self._betas, self._weight_decay = lr, betas, weight_decay

    @torch.no_grad()
    def step(self, to_alpha: Tensor, to_beta: Tensor) -> None:
        """See `MetaOptimizer.step`."""
        for state, logits in zip(self.state, self.arch, strict=True):
            if not state:
                state |= {"exp_avg": torch.zeros_like(logits), "step": torch.zeros(())}
                state["exp_avg_sq"] = torch.zeros_like(logits)
        adam(
            [*self.arch],
            [to_alpha, to_beta],
            [state["exp_avg"] for state in self.state],
            [state["exp_avg_sq"] for state in self.state],
            [],
            [state["step"] for state in self.state],
            foreach=False,
            lr=self._lr,
            beta1=self._betas[0],
            beta2=self._betas[1],
            weight_decay=self._weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
