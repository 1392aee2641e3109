"""Decoupled neural interfaces: at each cut a small network guesses the gradient to come.

Notation:
    B, K    images of a batch, blocks
    h_k     what block k hands up, (B, C, S, S); h_0 are the images
    l       mean loss of the final head over the batch
    s_k     the *synthesizer* above block k < K: s_k(h_k), or s_k(h_k, labels), guesses dl/dh_k
    g_k     what s_k is told that it should have guessed

A step goes upwards once. Block k computes h_k, receives s_k as if it were the gradient and goes
backward at once; the last block goes backward from l. What that makes of its input teaches the
synthesizer below, which learns from its squared error:

    g_{k-1} = (dh_k/dh_{k-1})^T s_k for k < K,      g_{K-1} = dl/dh_{K-1}
    e_k     = 1/B sum_b |s_k - g_k|^2 of image b

So only the uppermost synthesizer ever sees a true gradient, the others the guesses of the next one.

When weights change: block k and s_k share an optimizer, which moves both as soon as g_k is there.
Nothing later in the step reads them, so every gradient of a step is taken at the weights from
before it, and an optimizer per block equals the published single Adam over all weights: Adam and
SGD treat each weight by itself.

The scale of e_k is the release's, de_k/ds_k = 2/B (s_k - g_k): the sum over a map, not its mean.
Adam, with which the method was published, does not notice. Under SGD the mean would divide a
synthesizer's learning rate by C S S, another number at every cut; the sum diverges at usual rates.
Sources: Jaderberg et al., "Decoupled Neural Interfaces using Synthetic Gradients", ICML 2017 (DNI,
and with labels cDNI); the comparison in the release of Belilovsky et al., ICML 2020.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.cost import Cost, count_parameters
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.image_size import height_and_width
from sedona_nni.models import initialise
from sedona_nni.models.feature_shape import shape_of_features
from sedona_nni.teachers.losses import class_shares
from sedona_nni.training.method_settings import MethodSettings
from sedona_nni.training.methods.method import TrainingMethod, register_method, rewind
from sedona_nni.training.precision import autocast
from sedona_nni.training.settings import TrainSettings

__all__ = ["Synthesizer", "SyntheticGradients", "SyntheticGradientsSettings"]


class SyntheticGradientsSettings(MethodSettings):
    """Synthetic gradients: DNI, and with labels cDNI.

    Attributes:
        name: ``dni``, or ``cdni`` whose synthesizers also see the labels.
        synthesizer_width: Width between a synthesizer's convolutions, by default that of the
            features at its cut.
    """

    name: Literal["dni", "cdni"] = "dni"
    uses_auxiliary: ClassVar[bool] = False
    synthesizer_width: int | None = Field(default=None, ge=1)

    @property
    def not_parallel(self) -> str | None:
        """See `MethodSettings.not_parallel`."""
        return "a synthesizer learns in the same step from what the block above makes of its guess"


class Synthesizer(nn.Module):
    """Three 5x5 convolutions that guess a gradient; before training the guess is zero.

    Batch norm and ReLU follow the first two. For cDNI a linear map of the one-hot labels is added
    to each pixel of what the first returns. Padding keeps the size of the map, even a single pixel.
    """

    def __init__(self, channels: int, width: int, num_classes: int | None) -> None:
        """Draw the weights from torch's global generator.

        Args:
            channels: C of the features.
            width: That between the convolutions.
            num_classes: How many classes the labels have; None where they are not to be used.
        """
        super().__init__()
        self.first = nn.Conv2d(channels, width, 5, padding=2, bias=False)
        self.context = nn.Linear(num_classes, width, bias=False) if num_classes else None
        self.rest = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.last = nn.Conv2d(width, channels, 5, padding=2)
        initialise(self)
        nn.init.zeros_(self.last.weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Guess the gradient at features (B, C, S, S) with labels (B,), in the features' shape."""
        inner: Tensor = self.first(features)
        if self.context is not None:
            code = class_shares(labels, self.context.in_features).to(features.dtype)
            inner = inner + self.context(code)[:, :, None, None]
        guess: Tensor = self.last(self.rest(inner))
        return guess


@register_method(SyntheticGradientsSettings)
class SyntheticGradients(TrainingMethod):
    """DNI and cDNI; with one block back-propagation.

    Attributes:
        synthesizers: One above each block but the last.
        examples: What each of these blocks makes of one blank image, to know its shape.
    """

    def __init__(
        self,
        network: DecoupledNetwork,
        settings: TrainSettings,
        splits: Splits,
        steps_per_epoch: int,
    ) -> None:
        """See `TrainingMethod`."""
        super().__init__(network, settings, splits, steps_per_epoch)
        options = settings.method
        assert isinstance(options, SyntheticGradientsSettings)
        height, width = height_and_width(splits.image_size)
        image = next(network.parameters()).new_zeros(1, splits.in_channels, height, width)
        with torch.no_grad():
            *self.examples, _ = network.eval().features(image)
        for block, features in enumerate(self.examples):
            crossing = shape_of_features(features.shape[1:], splits.image_size)
            if crossing.layout != "map":  # convolutions would have nothing to slide over
                rule = f"must be another where no maps cross the cuts, as above block {block + 1}"
                raise InputError.rule("method", rule, options.name)
        self.synthesizers = nn.ModuleList(
            Synthesizer(
                channels := features.shape[1],
                options.synthesizer_width or channels,
                splits.num_classes if options.name == "cdni" else None,
            )
            for features in self.examples
        ).to(image)
        lower = zip(network.blocks[:-1], self.synthesizers, strict=True)
        self.optimize([*(nn.ModuleList(pair) for pair in lower), network.blocks[-1]])
        self.parts.append(self.synthesizers)

    def start_epoch(self, epoch: int) -> None:
        """Let the synthesizers learn, too."""
        super().start_epoch(epoch)
        self.synthesizers.train()

    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        """Update every block and synthesizer once from the batch."""
        blocks = self.network.blocks
        features = images
        guess: Tensor | None = None
        for index, block in enumerate(blocks):
            rewind()
            scale = self.scalers[index].get_scale()
            inputs = features.detach().requires_grad_(index > 0)
            with autocast(self.device, self.settings.amp):
                features = block(inputs)
            guess_below = guess
            if index < len(self.synthesizers):
                # In full precision: gradients of a mean over the batch are too small for half
                guess = self.synthesizers[index](features.detach().to(images.dtype), labels)
                if features.requires_grad:  # not of the images alone by frozen weights
                    features.backward((scale * guess.detach()).to(features.dtype))
            else:
                with autocast(self.device, self.settings.amp):
                    loss, _ = block.local_loss(features, labels, self.criterion)
                self.scalers[index].scale(loss).backward()
            if guess_below is not None:
                assert inputs.grad is not None
                arrived = inputs.grad.to(images.dtype) / scale
                error = (guess_below - arrived).square().sum() / len(images)
                self.scalers[index - 1].scale(error).backward()
                self._move(index - 1)
        self._move(len(blocks) - 1)
        for schedule in self.schedules:
            schedule.step()
        return {len(blocks) - 1: loss.detach()}

    def _move(self, index: int) -> None:
        """Update a block, and its synthesizer, along the gradients that it has."""
        self.scalers[index].step(self.optimizers[index])
        self.scalers[index].update()
        self.optimizers[index].zero_grad()

    def extra_cost(self) -> Cost:
        """Return the cost of the synthesizers."""
        from torch.utils.flop_counter import FlopCounterMode  # which imports Triton

        label = torch.zeros(1, dtype=torch.long, device=self.device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            for features, synthesizer in zip(self.examples, self.synthesizers.eval(), strict=True):
                synthesizer(features, label)
        return Cost(count_parameters(self.synthesizers), counter.get_total_flops() // 2)
