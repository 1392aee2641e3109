"""Cuts of further kinds: what a block is given beside the features that cross below it.

Notation (block k of layers i+1..j above the cut at boundary i, which has an auxiliary network):
    h_i    what layer i returns; no gradient passes from h_i down
    x      the images;  g  what the block below is given: its own input, or x
    C      encoder: mean over space down to the size of h_i, 3x3 convolution to the width of h_i,
           batch norm whose scale begins at 0

    plain       block k is given h_i
    image       h_i + C(x): *context*
    previous    h_i + C(g): context from one block further down
    overlap     block k learns through layer i as well: it is given h_{i-1}, and layer i's weights
                follow the gradient of l_{k-1} + l_k, their sum over both blocks

A context is a part of the network for good: C learns from l_k, and is computed in inference, too.
As its scale begins at 0, the network begins as the one of plain cuts. An overlap costs nothing in
inference: there layer i is one layer. In training block k computes it a second time, from h_{i-1},
so that activations of one block at a time are alive; its batch norms count a batch once. It is
updated with the upper of its blocks, after both backward passes.

Both need what is elsewhere, images, features or weights, so that blocks with such cuts are trained
in one process, by parallel greedy learning.

Sources: context from images or features below, encoded and added: ContSup, arXiv 2312.07636.
Neighbouring blocks that share a layer: Xiong et al., "LoCo", NeurIPS 2020; Su et al., "HPFF", ECCV
2024, with cascades of blocks. The encoder, and one shared layer, are ours.
"""

from __future__ import annotations

from torch import Tensor, nn

from sedona_nni.models import FeatureShape, initialise

__all__ = ["Context"]


class Context(nn.Module):
    """C: encodes images or lower features in the shape of what crosses a boundary.

    Attributes:
        source: Shape of what is encoded.
        shape: Shape of what crosses.

    Examples:
        >>> import torch
        >>> from sedona_nni import FeatureShape
        >>> from sedona_nni.decouplings.cut_kinds import Context
        >>> context = Context(FeatureShape(3, 32), FeatureShape(64, 8))
        >>> encoded = context(torch.rand(2, 3, 32, 32))
        >>> encoded.shape, float(encoded.abs().max())  # it begins with nothing
        (torch.Size([2, 64, 8, 8]), 0.0)
    """

    def __init__(self, source: FeatureShape, shape: FeatureShape) -> None:
        """Draw the weights of one, from torch's global generator."""
        super().__init__()
        self.source, self.shape = source, shape
        norm = nn.BatchNorm2d(shape.channels)
        self.encoder = nn.Sequential(
            nn.AdaptiveAvgPool2d((shape.height, shape.width)),
            nn.Conv2d(source.channels, shape.channels, 3, padding=1, bias=False),
            norm,
        )
        initialise(self)
        nn.init.zeros_(norm.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Map images, or features of the shape ``source``, to features of the shape ``shape``."""
        return self.shape.from_maps(self.encoder(self.source.as_maps(features)))
